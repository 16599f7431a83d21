"""The join: what becomes of requests and actions (docs/join-semantics.md). Pure.

An event, the state of its key and the watermark go in; decisions come out, and the key's state is
brought up to date. Nothing here asks a clock or performs what it decides: the rows, the timers and
the storing are done by whoever calls (`udfs.core.keyed_join`). Times are epoch ms.

    request_arrives   accept it (and wake me at its deadline), or refuse it
    action_arrives    hold it (and wake me …), or decide it now
    time_reaches      at a wake-up: write rows, settle what is due, name late actions, let go of
                      orphans and of old tombstones
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from schemas.events import ActionEvent, RequestEvent
from udfs.core.emission import (
    Emitted,
    View,
    positives,
    rows_at_deadline,
    rows_before_deadline,
)
from udfs.core.held import Held
from udfs.core.key_state import KeyState
from udfs.core.matching import JoinRules, LateReason, identity
from udfs.core.state_codec import VERSION, StoredRequest
from udfs.core.trust import ALWAYS, Trust

Refusal = Literal["duplicate_request", "late_request"]


class Accepted(msgspec.Struct):
    """The request must be stored. `wake_at`: when a timer must fire."""

    request: StoredRequest
    wake_at: tuple[int, ...]


class Refused(msgspec.Struct):
    """The request is rejected."""

    reason: Refusal


class Settled(msgspec.Struct):
    """A request whose labels are decided for good.

    `joined`: how many actions it took. `unexposed`, `immature`: how many of its impressions never
    got a row for that reason. `positives`: how many of them have an action, by kind other than the
    exposure's.
    """

    request: StoredRequest
    joined: int
    unexposed: int
    immature: int
    positives: Mapping[str, int]


class LateAction(msgspec.Struct):
    """An action that came too late for a sample. Request and position name the sample.

    `body` is that of the request, empty if tombstones do not keep it; None when it has to be read
    from state.
    """

    action: ActionEvent
    request: StoredRequest
    body: bytes | None
    position: int
    reason: LateReason


class Decisions(msgspec.Struct):
    """What was decided, to be performed by the caller. `emitted` are rows, in their order.
    `orphans`, `duplicates` and `excess` (rule 16) are rejected. `wake_at`: times to be woken at.
    """

    emitted: list[Emitted] = []
    settled: list[Settled] = []
    late: list[LateAction] = []
    orphans: list[ActionEvent] = []
    duplicates: list[ActionEvent] = []
    excess: list[ActionEvent] = []
    wake_at: set[int] = set()


class Hold(msgspec.Struct):
    """The action must be held.

    `wake_at`: when a timer must fire; None if a pending request has a timer that is early enough.
    """

    wake_at: int | None


def request_arrives(
    event: RequestEvent, twin: StoredRequest | None, watermark: int, rules: JoinRules
) -> Accepted | Refused:
    """Rules 4 and 6. `twin`: the request with its id under its key, if there is one, pending or
    settled.
    """
    if twin is not None:
        return Refused("duplicate_request")
    deadline = rules.deadline(event.event_time)
    if deadline <= watermark:
        return Refused("late_request")
    first_moment = rules.first_moment(event.event_time, watermark)
    request = StoredRequest(
        VERSION,
        event.request_id,
        event.event_time,
        deadline,
        rules.forget_time(deadline),
        [],
        False,
        event.body,
        emit_at=first_moment,
    )
    return Accepted(request, (deadline,) if first_moment is None else (deadline, first_moment))


def hold_without_asking(
    action: ActionEvent, known: Iterable[StoredRequest], watermark: int, rules: JoinRules
) -> Hold | None:
    """Whether an action can be held without looking at the other held actions of its key.

    None if it cannot. Most actions arrive while their request is pending, and cost no more than
    this. `known`: all requests of the key. The caller knows that there is room (rule 16).
    """
    earliest = None
    for request in known:
        if request.settled:
            return None
        if earliest is None or request.event_time < earliest:
            earliest = request.event_time
    return _hold(action, earliest, watermark, rules)


def _hold(
    action: ActionEvent, earliest: int | None, watermark: int, rules: JoinRules
) -> Hold | None:
    """How an action is held; None if it must be decided now.

    `earliest`: the least event time of the pending requests of its key; None if there are none.
    """
    claim_deadline = rules.claim_deadline(action.event_time)
    if claim_deadline <= watermark:
        return None
    known_at = action.event_time + rules.skew
    if earliest is None or earliest > known_at:
        return Hold(claim_deadline)
    # That request's deadline is not after C_a. Its timer fires in time, and sets timers for the
    # actions that are held then.
    if not rules.on_arrival:
        return Hold(None)
    return Hold(known_at) if known_at > watermark else None


def action_arrives(key: KeyState, action: ActionEvent, watermark: int, trust: Trust) -> Decisions:
    """Hold the action, or decide it now. `trust`: up to when labels can be trusted."""
    rules, decisions = key.rules, Decisions()
    key.become_known(watermark)
    name = identity(action)
    if name in key.used:
        decisions.duplicates = [*key.take_duplicates(), action]
        return decisions
    if not key.has_room_for(name):
        decisions.duplicates, decisions.excess = key.take_duplicates(), [action]
        return decisions
    held = key.hold(action, name)
    decisions.duplicates = key.take_duplicates()
    if held.gone:
        return decisions
    hold = _hold(action, key.pending.earliest(), watermark, rules)
    if hold is None or (rules.key == "request_id" and key.named_by(action) is not None):
        if rules.on_arrival and action.event_time + rules.skew <= watermark:
            request = key.is_known(held)
            if request is not None and request.versions:
                _emit_early(key, request, View(watermark, {}, trust, False), decisions)
        if key.claimant(action) is None:
            _let_go(key, held, watermark, decisions)
        if not held.gone:
            key.held.unwatched(held)
        return decisions
    if rules.on_arrival:
        key.held.will_be_known(held)
    if hold.wake_at is not None:
        decisions.wake_at.add(hold.wake_at)
    if hold.wake_at != rules.claim_deadline(action.event_time):
        key.held.unwatched(held)
    return decisions


def time_reaches(
    key: KeyState, now: int, *, at_end: bool = False, trust: Trust = ALWAYS
) -> Decisions:
    """Everything that is due at `now`, the time of a timer. `at_end`: the input has ended."""
    decisions = Decisions()
    known = key.become_known(now)
    decisions.duplicates = key.take_duplicates()

    due = key.take_deadlines(now)
    early = [r for r in key.take_openings(now) if r.deadline > now]
    early += _with_news(key, known, now)
    if len(early) > 1:
        early.sort(key=lambda r: (r.deadline, r.event_time, r.request_id))
    for request in early:
        _emit_early(key, request, View(now, {}, trust, at_end), decisions)
    for request in due:
        _settle(key, request, View(now, {}, trust, at_end), decisions)
        decisions.wake_at.add(request.forget_time)
    if key.held:
        _look_at_the_held(key, bool(due), now, decisions)
    key.take_forgotten(now)
    key.is_fresh = False
    return decisions


def _look_at_the_held(key: KeyState, settled: bool, now: int, decisions: Decisions) -> None:
    """Rules 4 and 5 for the actions that are still held.

    `settled`: requests have just settled.
    """
    rules = key.rules
    retry = key.take_overdue() if settled else []
    if rules.key == "request_id" and (settled or key.is_fresh):
        retry = list(key.held)  # rule 5 decides these as soon as there is a tombstone
    for held in [*retry, *key.held.take_unclaimed(now - rules.claim_deadline(0))]:
        if held.gone:
            continue
        if key.claimant(held.action) is None:
            _let_go(key, held, now, decisions)
        elif rules.claim_deadline(held.action.event_time) <= now:
            key.is_overdue(held)
    if settled:
        # The actions that relied on the timers of these requests need timers of their own.
        earliest = key.pending.earliest()
        until = None if earliest is None else earliest - rules.skew - 1
        for held in key.held.take_unwatched(until):
            claim_deadline = rules.claim_deadline(held.action.event_time)
            if claim_deadline > now:
                decisions.wake_at.add(claim_deadline)
    # Whoever comes next has a timer already, unless the windows have become longer since it was
    # set: then it may have been this one, and came too early.
    first, pending = key.held.first_unclaimed(), key.pending.earliest()
    if first is not None and (pending is None or first < pending - rules.skew):
        decisions.wake_at.add(rules.claim_deadline(first))


def _with_news(key: KeyState, known: Iterable[Held], now: int) -> list[StoredRequest]:
    """Rule 14: the opened requests for which an action becomes known at exactly this time."""
    news: dict[str, StoredRequest] = {}
    for held in known:
        if held.action.event_time + key.rules.skew == now and key.held.stands(held):
            request = key.claimant(held.action)
            if request is not None and request.versions:
                news[request.request_id] = request
    return list(news.values())


def _emit_early(key: KeyState, request: StoredRequest, view: View, decisions: Decisions) -> None:
    """Rule 14 before the deadline."""
    rules, opening = key.rules, not request.versions
    view = View(view.now, key.tallies(request, view.now), view.trust, view.at_end)
    front = key.fronts.get(request.request_id)
    emitted = rows_before_deadline(request, front, view, rules)
    if emitted is not None:
        decisions.emitted.append(emitted)
    if opening and rules.on_arrival:
        # Actions that came before the request have no timer for the time when they become known.
        decisions.wake_at.update(key.times_to_be_known(request, view.now))
    if opening or emitted is not None:
        key.change(request)


def _settle(key: KeyState, request: StoredRequest, view: View, decisions: Decisions) -> None:
    """Rule 3. The request becomes a tombstone."""
    claimed = key.claimed(request, view.now)
    view = View(view.now, key.tally(claimed), view.trust, view.at_end)
    final = rows_at_deadline(request, key.fronts.get(request.request_id), view, key.rules)
    if final.emitted is not None:
        decisions.emitted.append(final.emitted)
    found = positives(view.known, key.rules)
    decisions.settled.append(Settled(request, len(claimed), final.unexposed, final.immature, found))
    key.settle(request, claimed)


def _let_go(key: KeyState, held: Held, now: int, decisions: Decisions) -> None:
    """Rules 4 and 5, for an action that no pending request matches: a late action, or an orphan.

    With `key = "request_id"` it stays held until C_a if it is not late.
    """
    action = held.action
    is_over = key.rules.claim_deadline(action.event_time) <= now
    named = key.named_by(action) if is_over or key.rules.key == "request_id" else None
    if named is not None:
        request, reason = named
        position = request.items.index(action.item_id)
        decisions.late.append(LateAction(action, request, request.body, position, reason))
        key.name_late(held, request)
    elif is_over:
        decisions.orphans.append(action)
        key.held.release(held)
