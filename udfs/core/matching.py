"""Which request an action belongs to (docs/join-semantics.md 1, 2, 5, 6). Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from xxhash import xxh3_64_intdigest

from schemas.actions import ActionKind, Label
from schemas.events import ActionEvent
from schemas.samples import FinalEmit
from udfs.core.state_codec import StoredRequest

LateReason = Literal["after_settle", "outside_window"]

#: More actions than any key can have.
UNLIMITED = 2**63 - 1


@dataclass(frozen=True)
class JoinRules:
    """What the configuration says about the join. Durations are in ms; `horizon` None means 2 W.

    `first_emit_after`, `on_arrival` and `final_emit` belong to rule 14, `exposure` (the name of a
    kind) and `drop_unexposed` to rule 8, `drop_immature` to rule 11. With `keep_features`
    tombstones keep the features, so that late actions can carry them. `max_actions` is rule 16's N.
    """

    key: Literal["request_id", "user_id"]
    kinds: tuple[ActionKind, ...]
    skew: int = 0
    lateness: int = 0
    horizon: int | None = None
    first_emit_after: int | None = None
    on_arrival: bool = False
    final_emit: FinalEmit = "always"
    exposure: str | None = None
    drop_unexposed: bool = True
    drop_immature: bool = False
    keep_features: bool = False
    max_actions: int = UNLIMITED
    windows: dict[str, int] = field(init=False, repr=False, compare=False)
    labels: dict[str, Label] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ValueError("a join needs at least one action kind")
        object.__setattr__(self, "windows", {k.name: k.window_ms for k in self.kinds})
        object.__setattr__(self, "labels", {k.name: k.label for k in self.kinds})

    @cached_property
    def longest_window(self) -> int:
        """W, in ms."""
        return max(self.windows.values())

    @cached_property
    def late_horizon(self) -> int:
        """H, in ms."""
        return 2 * self.longest_window if self.horizon is None else self.horizon

    def deadline(self, request_time: int) -> int:
        """D_r: when a request of this time settles."""
        return request_time + self.longest_window + self.skew + self.lateness

    def first_moment(self, request_time: int, watermark: int) -> int | None:
        """When a request that is accepted at `watermark` may get its first rows.

        None: not before it settles.
        """
        if self.first_emit_after is None and not self.on_arrival:
            return None
        moment = max(request_time + (self.first_emit_after or 0) + self.skew, watermark + 1)
        return moment if moment < self.deadline(request_time) else None

    def claim_deadline(self, action_time: int) -> int:
        """C_a: from this time on no request that can still be accepted can claim the action."""
        return action_time + 2 * self.skew + self.longest_window + self.lateness

    def forget_time(self, deadline: int) -> int:
        """X_r: when the tombstone of a request with this deadline is removed."""
        return deadline + self.late_horizon + self.skew


def may_follow(action: ActionEvent, request: StoredRequest, rules: JoinRules) -> bool:
    """Whether the request shows the item, and is not after the action by more than the skew.

    There is no upper bound here.
    """
    return (
        request.event_time - rules.skew <= action.event_time
        and action.item_id in request.items
        and (rules.key == "user_id" or action.request_id == request.request_id)
    )


def matches(action: ActionEvent, request: StoredRequest, rules: JoinRules) -> bool:
    """Rule 1, both ends included. A kind that is no longer configured matches nothing."""
    window = rules.windows.get(action.action)
    return (
        window is not None
        and action.event_time <= request.event_time + window
        and may_follow(action, request, rules)
    )


def late_reason(action: ActionEvent, request: StoredRequest, rules: JoinRules) -> LateReason | None:
    """Rule 5: why the tombstone of `request` names the action; None if it does not name it."""
    if matches(action, request, rules):
        return "after_settle"
    if action.event_time <= request.event_time + rules.late_horizon and may_follow(
        action, request, rules
    ):
        return "outside_window"
    return None


def identity(action: ActionEvent) -> int:
    """Rule 6: two records with the same identity are the same action. An unsigned 64-bit hash."""
    if action.event_id is not None:
        parts: tuple[object, ...] = ("e", action.event_id)
    else:
        parts = (
            "t",
            action.user_id,
            action.item_id,
            action.request_id,
            action.action,
            action.event_time,
        )
    return xxh3_64_intdigest(repr(parts).encode("utf-8", "surrogatepass"))


def twin_order(action: ActionEvent) -> tuple[object, ...]:
    """Rule 6: of two duplicates the lesser stays. No value is less than any value."""
    value = (action.value is not None, action.value or 0.0)
    return (action.event_time, action.action, action.item_id, value)
