"""Which request an action belongs to (docs/join-semantics.md 1, 2, 5, 6). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from xxhash import xxh3_64_intdigest

from schemas.actions import ActionKind
from schemas.events import ActionEvent
from schemas.samples import FinalEmit
from udfs.core.state_codec import StoredRequest

LateReason = Literal["after_settle", "outside_window"]


@dataclass(frozen=True)
class JoinRules:
    """What the configuration says about the join; durations in ms, `horizon` None is 2 W.

    `first_emit_after`, `on_arrival` and `final_emit` are rule 14's, `exposure` (a kind) and
    `drop_unexposed` rule 8's, `drop_immature` rule 11's. `keep_features`: tombstones keep them, for
    late actions to carry.
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
    windows: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ValueError("a join needs at least one action kind")
        object.__setattr__(self, "windows", {k.name: k.window_ms for k in self.kinds})

    @cached_property
    def longest_window(self) -> int:
        """W."""
        return max(self.windows.values())

    @cached_property
    def late_horizon(self) -> int:
        """H."""
        return 2 * self.longest_window if self.horizon is None else self.horizon

    def deadline(self, request_time: int) -> int:
        """D_r: when a request of this time settles."""
        return request_time + self.longest_window + self.skew + self.lateness

    def first_moment(self, request_time: int, watermark: int) -> int | None:
        """When a request that is accepted at `watermark` may get its first rows; None: when it
        settles.
        """
        if self.first_emit_after is None and not self.on_arrival:
            return None
        moment = max(request_time + (self.first_emit_after or 0) + self.skew, watermark + 1)
        return moment if moment < self.deadline(request_time) else None

    def claim_deadline(self, action_time: int) -> int:
        """C_a: from here on no request that may still be accepted can claim the action."""
        return action_time + 2 * self.skew + self.longest_window + self.lateness

    def forget_time(self, deadline: int) -> int:
        """X_r: when the tombstone of a request with this deadline goes."""
        return deadline + self.late_horizon + self.skew


def may_follow(action: ActionEvent, request: StoredRequest, rules: JoinRules) -> bool:
    """The item was shown, and not after the action (but for the skew); no upper bound yet."""
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
    """Rule 5: as what the tombstone of `request` names the action, if it does."""
    if matches(action, request, rules):
        return "after_settle"
    if action.event_time <= request.event_time + rules.late_horizon and may_follow(
        action, request, rules
    ):
        return "outside_window"
    return None


def outranked(
    action: ActionEvent, request: StoredRequest, known: Iterable[StoredRequest], rules: JoinRules
) -> bool:
    """Rule 2, `user_id`: a later request, already known, takes the action."""
    rank = (request.event_time, request.request_id)
    return any(
        not other.settled
        and (other.event_time, other.request_id) > rank
        and matches(action, other, rules)
        for other in known
    )


def identity(action: ActionEvent) -> int:
    """Rule 6: what makes two records the same action, as an unsigned 64-bit hash."""
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


def without_twins(
    held: Sequence[ActionEvent],
) -> tuple[list[tuple[int, ActionEvent]], list[ActionEvent]]:
    """Rule 6 among held actions: the least of each identity (with it), and the duplicates."""
    least: dict[int, ActionEvent] = {}
    duplicates: list[ActionEvent] = []
    for action in held:
        name = identity(action)
        twin = least.get(name)
        if twin is None:
            least[name] = action
        elif _order(action) < _order(twin):
            duplicates.append(twin)
            least[name] = action
        else:
            duplicates.append(action)
    return list(least.items()), duplicates


def _order(action: ActionEvent) -> tuple[object, ...]:
    """By (time, kind, item, value); no value is less than any."""
    value = (action.value is not None, action.value or 0.0)
    return (action.event_time, action.action, action.item_id, value)
