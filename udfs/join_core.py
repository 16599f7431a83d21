"""The join: what becomes of requests and actions (docs/join-semantics.md). Pure.

Events, what is known of their key, and the watermark go in; decisions come out. Nothing here
asks a clock, keeps anything between calls, or performs what it decides: the adapter
(`udfs.join_function`) loads and stores state, sets timers and emits. Times are epoch ms.

    request_arrives   accept it (and wake me at its deadline), or reject it
    action_arrives    hold it (and wake me …), or decide now
    decide            at a wake-up: settle what is due, give actions to requests, name
                      late ones, let go of orphans and of old tombstones
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.events import ActionEvent, RequestBody, RequestEvent
from udfs import labels
from udfs.matching import (
    JoinRules,
    LateReason,
    identity,
    late_reason,
    matches,
    outranked,
    without_twins,
)
from udfs.state_codec import VERSION, StoredRequest, unpack_body

__all__ = ["Decisions", "Hold", "JoinRules", "LateAction", "Settled", "action_arrives"]


class KindLabels(NamedTuple):
    """One kind's columns of a settled request: a value for each impression, in order."""

    values: list[labels.Value]
    delays_ms: list[int | None]
    mature: bool


@dataclass(slots=True)
class Settled:
    """A request whose samples are made. `kinds` are in the order of the rules.

    `at_end`: only the end of the input made it settle. `joined`: how many actions it took.
    """

    request: StoredRequest
    body: RequestBody
    kinds: list[KindLabels]
    at_end: bool
    joined: int


@dataclass(slots=True)
class LateAction:
    """An action that came too late for a sample, which is named by request and position."""

    action: ActionEvent
    request: StoredRequest
    position: int
    reason: LateReason


@dataclass(slots=True)
class Decisions:
    """What `decide` found. The adapter performs it, in this order.

    `changed`: requests to be stored anew (now tombstones, or with more `used`); `forgotten`: ids of
    tombstones to be removed. `held`: the actions that remain held, None when they are as before.
    `wake_at`: times to be woken at.
    """

    settled: list[Settled] = field(default_factory=list)
    late: list[LateAction] = field(default_factory=list)
    orphans: list[ActionEvent] = field(default_factory=list)
    duplicates: list[ActionEvent] = field(default_factory=list)
    changed: list[StoredRequest] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    held: list[ActionEvent] | None = None
    wake_at: set[int] = field(default_factory=set)


class Hold(NamedTuple):
    """Keep the action, and be woken at `wake_at` (None: a request's own deadline will do)."""

    wake_at: int | None


def request_arrives(
    event: RequestEvent,
    items: list[str],
    twin: StoredRequest | None,
    watermark: int,
    rules: JoinRules,
) -> StoredRequest | str:
    """Rules 4 and 6: the request to be stored (wake at its deadline), or the reason to reject it.

    `twin`: the request with its id under its key, if there is one, pending or settled.
    """
    if twin is not None:
        return "duplicate_request"
    deadline = rules.deadline(event.event_time)
    if deadline <= watermark:
        return "late_request"
    return StoredRequest(
        VERSION,
        event.request_id,
        event.event_time,
        deadline,
        rules.forget_time(deadline),
        items,
        False,
        event.body,
    )


def action_arrives(
    action: ActionEvent, known: Sequence[StoredRequest], watermark: int, rules: JoinRules
) -> Hold | None:
    """Hold it, or None: what becomes of it can be decided now (`decide`, with it among the held).

    `known`: the requests of its key. Most actions come while their request is pending, and cost no
    more than this.
    """
    name: int | None = None
    awaited = False
    for request in known:
        if not request.settled:
            # its deadline is not after C_a, so it wakes us in time, and sets a timer for what
            # is left then
            awaited = awaited or request.event_time <= action.event_time + rules.skew
            continue
        name = identity(action) if name is None else name
        if name in request.used or (
            rules.key == "request_id" and late_reason(action, request, rules)
        ):
            return None
    claim_deadline = rules.claim_deadline(action.event_time)
    if claim_deadline <= watermark:
        return None
    return Hold(None if awaited else claim_deadline)


def decide(
    known: Sequence[StoredRequest],
    held: Sequence[ActionEvent],
    now: int,
    rules: JoinRules,
    *,
    at_end: bool = False,
    progress: int | None = None,
) -> Decisions:
    """All that is due at `now` for one key: a timer's time, or the watermark when an action came.

    `at_end`: the input has ended, and `progress` (None: minus infinity) is what it reached; rows
    that settle now are mature only as far as that. `known` are changed in place where they settle.
    """
    decisions = Decisions()
    standing, decisions.duplicates = without_twins(held)
    used = {name for request in known if request.settled for name in request.used}
    if used:
        decisions.duplicates += [action for name, action in standing if name in used]
        standing = [(name, action) for name, action in standing if name not in used]

    due = [r for r in known if not r.settled and r.deadline <= now]
    due.sort(key=lambda r: (r.deadline, r.event_time, r.request_id))
    for request in due:
        standing = _settle(request, known, standing, rules, decisions, at_end, progress)

    changed = {r.request_id: r for r in due}
    left: list[ActionEvent] = []
    for name, action in standing:
        claim_deadline = rules.claim_deadline(action.event_time)
        at_once = rules.key == "request_id"
        if (claim_deadline > now and not at_once) or _may_be_claimed(action, known, rules):
            left.append(action)
            continue
        best = _named_by(action, known, rules)
        if best is not None:
            request, reason = best
            decisions.late.append(
                LateAction(action, request, request.items.index(action.item_id), reason)
            )
            request.used.append(name)
            changed[request.request_id] = request
        elif claim_deadline > now:
            left.append(action)
        else:
            decisions.orphans.append(action)

    for request in known:
        if request.settled and request.forget_time <= now:
            decisions.forgotten.append(request.request_id)
            changed.pop(request.request_id, None)
    decisions.changed = list(changed.values())
    if len(left) != len(held):
        decisions.held = left
    # The timers of the held: set when they came, or left to a request that has settled now.
    if due:
        decisions.wake_at = {rules.claim_deadline(action.event_time) for action in left}
        decisions.wake_at.update(r.forget_time for r in due)
    return decisions


def _settle(
    request: StoredRequest,
    known: Sequence[StoredRequest],
    standing: list[tuple[int, ActionEvent]],
    rules: JoinRules,
    decisions: Decisions,
    at_end: bool,
    progress: int | None,
) -> list[tuple[int, ActionEvent]]:
    """Rule 3. Makes `request` a tombstone; returns the actions that are still held."""
    claimed: dict[tuple[str, int], list[ActionEvent]] = {}
    left: list[tuple[int, ActionEvent]] = []
    used: list[int] = []
    for name, action in standing:
        if matches(action, request, rules) and not (
            rules.key == "user_id" and outranked(action, request, known, rules)
        ):
            # the lowest position that shows the item
            position = request.items.index(action.item_id)
            claimed.setdefault((action.action, position), []).append(action)
            used.append(name)
        else:
            left.append((name, action))

    n = len(request.items)
    kinds: list[KindLabels] = []
    for kind in rules.kinds:
        values: list[labels.Value] = [labels.without_action(kind)] * n
        delays: list[int | None] = [None] * n
        mature = not at_end or (
            progress is not None and request.event_time + kind.window_ms <= progress
        )
        kinds.append(KindLabels(values, delays, mature))
        for (name_of_kind, position), actions in claimed.items():
            if name_of_kind == kind.name:
                values[position], delays[position] = labels.label(kind, actions, request.event_time)
    body = unpack_body(request.body)
    decisions.settled.append(Settled(request, body, kinds, at_end, len(used)))
    request.settled = True
    request.user_id = body.user_id
    request.body = b""
    request.used = used
    return left


def _may_be_claimed(action: ActionEvent, known: Sequence[StoredRequest], rules: JoinRules) -> bool:
    """A pending request matches it. Past its C_a that can only be one that was accepted under
    longer windows or more lateness, before the configuration changed: it keeps its own deadline.
    """
    return any(not request.settled and matches(action, request, rules) for request in known)


def _named_by(
    action: ActionEvent, known: Sequence[StoredRequest], rules: JoinRules
) -> tuple[StoredRequest, LateReason] | None:
    """Rule 5: the tombstone that names a late action, and as what."""
    named = [
        (reason, request)
        for request in known
        if request.settled and (reason := late_reason(action, request, rules))
    ]
    if not named:
        return None
    reason, request = max(
        named, key=lambda n: (n[0] == "after_settle", n[1].event_time, n[1].request_id)
    )
    return request, reason
