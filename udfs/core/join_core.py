"""The join: what becomes of requests and actions (docs/join-semantics.md). Pure.

Events, what is known of their key, and the watermark go in; decisions come out. Nothing here
asks a clock, keeps anything between calls, or performs what it decides: the adapter
(`udfs.operators.join`) loads and stores state, sets timers and emits. Times are epoch ms.

    request_arrives   accept it (and wake me at its deadline), or reject it
    action_arrives    hold it (and wake me …), or decide now
    decide            at a wake-up: give actions to requests, emit rows, settle what is due, name
                      late actions, let go of orphans and of old tombstones
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.events import ActionEvent, RequestEvent, RequestFront, unpack_front
from udfs.core.emission import (
    FOREVER,
    Claimed,
    Emitted,
    View,
    rows_at_deadline,
    rows_before_deadline,
)
from udfs.core.matching import (
    JoinRules,
    LateReason,
    identity,
    late_reason,
    matches,
    outranked,
    without_twins,
)
from udfs.core.state_codec import VERSION, StoredRequest

__all__ = ["FOREVER", "Decisions", "Hold", "JoinRules", "LateAction", "Settled", "action_arrives"]


@dataclass(slots=True)
class Settled:
    """A request whose labels are decided for good.

    `joined`: how many actions it took. `unexposed`, `immature`: how many of its impressions never
    got a row, for that reason.
    """

    request: StoredRequest
    joined: int
    unexposed: int
    immature: int


@dataclass(slots=True)
class LateAction:
    """An action that came too late for a sample, which is named by request and position."""

    action: ActionEvent
    request: StoredRequest
    position: int
    reason: LateReason


@dataclass(slots=True)
class Decisions:
    """What `decide` found, to be performed by the adapter.

    `emitted`: rows, in their order. `changed`: requests to be stored anew (now tombstones, or with
    more rows or more `used`); `forgotten`: ids of tombstones to be removed. `held`: the actions
    that remain held, None when they are as before. `wake_at`: times to be woken at.
    """

    emitted: list[Emitted] = field(default_factory=list)
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
    twin: StoredRequest | None,
    watermark: int,
    rules: JoinRules,
) -> StoredRequest | str:
    """Rules 4 and 6: the request to be stored (wake at its deadline, and at `emit_at`), or the
    reason to reject it.

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
        [],
        False,
        event.body,
        emit_at=rules.first_moment(event.event_time, watermark),
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
    if awaited and rules.on_arrival:
        known_at = action.event_time + rules.skew
        return Hold(known_at) if known_at > watermark else None
    return Hold(None if awaited else claim_deadline)


def decide(
    known: Sequence[StoredRequest],
    held: Sequence[ActionEvent],
    now: int,
    rules: JoinRules,
    *,
    arrived: ActionEvent | None = None,
    at_end: bool = False,
    limit: int | None = FOREVER,
) -> Decisions:
    """All that is due at `now` for one key: a timer's time, or the watermark when `arrived` came.

    `at_end`: the input has ended. `limit`: how far labels are vouched for (rules 10, 11; None:
    minus infinity). `known` are changed in place.
    """
    decisions = Decisions()
    stored = len(held)
    if arrived is not None:
        held = [*held, arrived]
    fronts = {r.request_id: _read_front(r) for r in known if not r.settled}
    standing, decisions.duplicates = without_twins(held)
    used = {name for request in known if request.settled for name in request.used}
    if used:
        decisions.duplicates += [action for name, action in standing if name in used]
        standing = [(name, action) for name, action in standing if name not in used]

    ready = [r for r in known if not r.settled and (r.deadline <= now or _may_emit(r, now))]
    ready.sort(key=lambda r: (r.deadline, r.event_time, r.request_id))
    due = [r for r in ready if r.deadline <= now]
    changed: dict[str, StoredRequest] = {}
    for request in ready:
        if request.deadline > now or request.versions:
            claimed = _claimed(request, known, standing, rules, now).actions
            if request.versions and not _news(claimed, now, arrived, rules):
                continue
            view = View(now, claimed, limit, at_end)
            front = fronts[request.request_id]
            if _emit_early(request, front, view, standing, rules, decisions):
                changed[request.request_id] = request
    for request in due:
        claim = _claimed(request, known, standing, rules, now)
        standing = claim.others
        view = View(now, claim.actions, limit, at_end)
        _settle(request, fronts[request.request_id], view, claim.names, rules, decisions)
        changed[request.request_id] = request

    left = _still_held(standing, known, now, rules, decisions, changed)
    for request in known:
        if request.settled and request.forget_time <= now:
            decisions.forgotten.append(request.request_id)
            changed.pop(request.request_id, None)
    decisions.changed = list(changed.values())
    if len(left) != stored or arrived in left:
        decisions.held = left
    # The timers of the held: set when they came, or left to a request that has settled now.
    if due:
        decisions.wake_at.update(rules.claim_deadline(action.event_time) for action in left)
        decisions.wake_at.update(r.forget_time for r in due)
    return decisions


def _emit_early(
    request: StoredRequest,
    front: RequestFront,
    view: View,
    standing: Sequence[tuple[int, ActionEvent]],
    rules: JoinRules,
    decisions: Decisions,
) -> bool:
    """Rule 14 before the deadline; whether `request` has changed."""
    opening = not request.versions
    emitted = rows_before_deadline(request, front, view, rules)
    if emitted is not None:
        decisions.emitted.append(emitted)
    if opening and rules.on_arrival:
        # the actions that came before the request; those after it have set theirs
        known_at = (action.event_time + rules.skew for _, action in standing)
        decisions.wake_at.update(at for at in known_at if at > view.now)
    return opening or emitted is not None


def _settle(
    request: StoredRequest,
    front: RequestFront,
    view: View,
    used: list[int],
    rules: JoinRules,
    decisions: Decisions,
) -> None:
    """Rule 3. Makes `request` a tombstone."""
    final = rows_at_deadline(request, front, view, rules)
    if final.emitted is not None:
        decisions.emitted.append(final.emitted)
    decisions.settled.append(Settled(request, len(used), final.unexposed, final.immature))
    request.settled, request.used = True, used
    request.emit_at, request.versions, request.last = None, [], {}
    if not rules.keep_features:
        request.body = b""


def _still_held(
    standing: Sequence[tuple[int, ActionEvent]],
    known: Sequence[StoredRequest],
    now: int,
    rules: JoinRules,
    decisions: Decisions,
    changed: dict[str, StoredRequest],
) -> list[ActionEvent]:
    """Rules 4 and 5: names late actions, lets go of orphans, and returns the rest."""
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
    return left


def _read_front(request: StoredRequest) -> RequestFront:
    """A pending request's user and items lie in its body only, until now."""
    front = unpack_front(request.body)
    request.user_id, request.items = front.user_id, front.items
    return front


def _news(claimed: Claimed, now: int, arrived: ActionEvent | None, rules: JoinRules) -> bool:
    """Rule 14: whether an action becomes known to a request now, which alone is a change. The key
    is also woken for its other requests.
    """
    for of_kind in claimed.values():
        for actions in of_kind.values():
            for action in actions:
                if arrived is None and action.event_time + rules.skew == now:
                    return True
                if arrived is not None and action is arrived:
                    return True
    return False


def _may_emit(request: StoredRequest, now: int) -> bool:
    return request.emit_at is not None and request.emit_at <= now


class _Claim(NamedTuple):
    """What is known to a request, by kind and position; its identities; and all others."""

    actions: dict[str, dict[int, list[ActionEvent]]]
    names: list[int]
    others: list[tuple[int, ActionEvent]]


def _claimed(
    request: StoredRequest,
    known: Sequence[StoredRequest],
    standing: list[tuple[int, ActionEvent]],
    rules: JoinRules,
    now: int,
) -> _Claim:
    """At its deadline these are all that match it, and that no later request takes."""
    claim = _Claim({}, [], [])
    for name, action in standing:
        if (
            action.event_time + rules.skew <= now
            and matches(action, request, rules)
            and not (rules.key == "user_id" and outranked(action, request, known, rules))
        ):
            # the lowest position that shows the item
            position = request.items.index(action.item_id)
            claim.actions.setdefault(action.action, {}).setdefault(position, []).append(action)
            claim.names.append(name)
        else:
            claim.others.append((name, action))
    return claim


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
