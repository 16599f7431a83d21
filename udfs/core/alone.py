"""A short way for the ordinary timer: one request settles, with all that is held. Pure.

Most requests are alone under their key, or have nothing to do with the others. Building a
`KeyState` would cost more than deciding this. The decisions are the same as with one
(docs/join-semantics.md 3).
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.events import ActionEvent, unpack_front
from udfs.core.emission import View, positives, rows_at_deadline
from udfs.core.join_core import Decisions, Settled
from udfs.core.key_state import Tallies, add_to
from udfs.core.matching import JoinRules, identity
from udfs.core.state_codec import LogEntry, StoredRequest
from udfs.core.trust import Trust


def settle_alone(
    requests: Sequence[StoredRequest],
    log: Sequence[LogEntry],
    now: int,
    rules: JoinRules,
    *,
    at_end: bool,
    trust: Trust,
) -> tuple[StoredRequest, Decisions] | None:
    """The tombstone of the request that settles at `now` (epoch ms), and what was decided. The
    tombstone is to be stored, and the log to be cleared. None: it is not that simple, so a
    `KeyState` has to decide. Nothing was changed then.

    `requests`: all of the key, with their bodies.
    """
    request = _only_one_with_something_to_do(requests, now)
    if request is None:
        return None
    if log and (rules.on_arrival or (len(requests) > 1 and not _is_the_only_pending(requests))):
        return None
    assert request.body is not None
    front = unpack_front(request.body)
    used: list[int] = []
    known: Tallies = {}
    if log:
        first, last, items = request.event_time - rules.skew, now - rules.skew, front.items
        for entry in log:
            if not isinstance(entry, ActionEvent):
                return None
            window, time = rules.windows.get(entry.action), entry.event_time
            if (
                window is None
                or not first <= time <= min(last, request.event_time + window)
                or entry.item_id not in items
            ):
                return None
            used.append(identity(entry))
            add_to(known, rules, items.index(entry.item_id), entry)
        if len(set(used)) < len(used) or not _unused(used, requests):
            return None
    request.user_id, request.items = front.user_id, front.items
    final = rows_at_deadline(request, front, View(now, known, trust, at_end), rules)
    request.settle(used, keep_features=rules.keep_features)
    found = positives(known, rules)
    decisions = Decisions(
        emitted=[] if final.emitted is None else [final.emitted],
        settled=[Settled(request, len(used), final.unexposed, final.immature, found)],
        wake_at={request.forget_time},
    )
    return request, decisions


def _only_one_with_something_to_do(
    requests: Sequence[StoredRequest], now: int
) -> StoredRequest | None:
    """The request that settles, if no other settles, opens or is forgotten at the same time."""
    found = None
    for request in requests:
        if request.settled:
            if request.forget_time <= now:
                return None
        elif request.deadline <= now:
            if found is not None or request.forget_time <= now:
                return None
            found = request
        elif request.emit_at is not None and request.emit_at <= now and not request.versions:
            return None
    return found


def _unused(actions: list[int], requests: Sequence[StoredRequest]) -> bool:
    return all(not r.used or set(r.used).isdisjoint(actions) for r in requests)


def _is_the_only_pending(requests: Sequence[StoredRequest]) -> bool:
    return sum(not request.settled for request in requests) == 1
