"""What a join must give, worked out from complete lists (docs/join-semantics.md).

This is the second opinion on the join core; it shares neither code nor method with it: there is
no state that changes from event to event, nothing is removed from anywhere. Every event is first
annotated with when it came and the watermark it saw. Then it is asked, over all requests at once:
was it accepted, who claims this action, what names it if nobody does. Slow and plain on purpose;
the numbers in comments are the sections of the document.

The one thing that is told as a story is a group of twins (6): their fates hang on each other.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeVar

from tests.timeline import (
    END,
    Action,
    ActionIdentity,
    LateAction,
    Outcome,
    Rejection,
    Request,
    Row,
    Rules,
    Timeline,
    Watermark,
)

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

_NEEDS_VALUE = ("sum", "max", "last")


@dataclass(frozen=True)
class _Came:
    """When something arrived: its index in the timeline, and the watermark it saw."""

    index: int
    watermark: float  # -inf before the first


@dataclass(frozen=True)
class _SeenRequest:
    request: Request
    came: _Came

    @property
    def rank(self) -> tuple[int, str]:
        """2: the latest wins, at equal times the greater id. Python compares by code points."""
        return (self.request.event_time, self.request.request_id)


@dataclass(frozen=True)
class _SeenAction:
    action: Action
    came: _Came


@dataclass(frozen=True)
class _Fate:
    """What becomes of an action, and the (virtual) time of that decision.

    Events that saw a watermark of `at` or more came after it; so did everything later in the list
    for a decision that was made on arrival, where `at` is the watermark of that moment.
    """

    at: float
    what: Literal["joined", "after_settle", "outside_window", "orphan"]
    request: _SeenRequest | None = None


def expected(timeline: Timeline, rules: Rules) -> Outcome:
    """The outcome of `timeline` under `rules`.

    Raises ValueError for a timeline that cannot be: watermarks that go back, or a progress short of
    a watermark that was announced.
    """
    requests, actions, watermarks = _annotate(timeline)
    rejected: list[Rejection] = []

    accepted: dict[str, list[_SeenRequest]] = {}
    for key, group in _grouped(requests, lambda r: _request_key(r.request, rules)).items():
        kept, refused = _accept(group, rules)
        accepted[key] = kept
        rejected += [Rejection("features", why, r.request) for r, why in refused]

    usable: list[_SeenAction] = []
    for seen in actions:
        reason = _unusable(seen.action, rules)
        if reason is None:
            usable.append(seen)
        else:
            rejected.append(Rejection("actions", reason, _named(seen.action, rules)))

    joined: dict[_SeenRequest, list[Action]] = defaultdict(list)
    late: list[LateAction] = []
    for twins in _grouped(usable, lambda a: _twin_key(a.action, rules)).values():
        candidates = accepted.get(_action_key(twins[0].action, rules), [])
        for seen, fate in _tell(twins, candidates, rules):
            action, claimant = seen.action, fate.request if fate else None
            if fate is None:
                rejected.append(Rejection("actions", "duplicate_action", _named(action, rules)))
            elif claimant is None:
                rejected.append(Rejection("actions", "orphan_action", _named(action, rules)))
            elif fate.what == "joined":
                joined[claimant].append(action)
            else:
                late.append(_late(action, claimant.request, fate, rules))

    settled = [r for group in accepted.values() for r in group]
    rows: list[Row] = []
    dropped = 0
    for seen_request in settled:
        made = _rows(seen_request.request, joined[seen_request], watermarks, timeline, rules)
        if rules.immature == "drop" and not all(made[0].mature.values()):
            dropped += len(made)  # 11
        else:
            rows += made

    counters = {
        "requests": len(requests),
        "settled": len(settled),
        "impressions": sum(len(r.request.items) for r in settled),
        "rows": len(rows),
        "immature_dropped": dropped,
        "actions": len(actions),
        "joined": sum(map(len, joined.values())),
        "late": len(late),
    }
    for reason, count in sorted(Counter(r.reason for r in rejected).items()):
        counters[f"rejected.{reason}"] = count
    return Outcome(tuple(rows), tuple(late), tuple(rejected), counters)


# -- arrival ---------------------------------------------------------------------------------------


def _annotate(
    timeline: Timeline,
) -> tuple[list[_SeenRequest], list[_SeenAction], list[int]]:
    """A record sees the watermark that was last announced, with everything due at it done."""
    requests: list[_SeenRequest] = []
    actions: list[_SeenAction] = []
    watermarks: list[int] = []
    for index, event in enumerate(timeline.events):
        came = _Came(index, watermarks[-1] if watermarks else -math.inf)
        if isinstance(event, Watermark):
            if event.time < came.watermark:
                raise ValueError(f"the watermark goes back to {event.time}")
            watermarks.append(event.time)
        elif isinstance(event, Request):
            requests.append(_SeenRequest(event, came))
        else:
            actions.append(_SeenAction(event, came))
    if watermarks and (timeline.progress is None or timeline.progress < watermarks[-1]):
        raise ValueError(f"progress {timeline.progress} is short of the watermark {watermarks[-1]}")
    return requests, actions, watermarks


def _grouped(things: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """By key; within a group still in the order of arrival."""
    groups: dict[K, list[T]] = defaultdict(list)
    for thing in things:
        groups[key(thing)].append(thing)
    return groups


# -- keys and names --------------------------------------------------------------------------------


def _request_key(request: Request, rules: Rules) -> str:
    return request.request_id if rules.key == "request_id" else request.user_id


def _action_key(action: Action, rules: Rules) -> str:
    """2. Only asked of usable actions, which have the request id if it is the key."""
    return (action.request_id or "") if rules.key == "request_id" else action.user_id


def _named(action: Action, rules: Rules) -> ActionIdentity:
    return ActionIdentity(
        key=_action_key(action, rules),
        event_id=action.event_id,
        action=action.action,
        item_id=action.item_id,
        value=action.value,
        event_time=action.event_time,
    )


def _twin_key(action: Action, rules: Rules) -> tuple[object, ...]:
    """6: the event id, or without one everything but the value. Among actions of one join key."""
    key = _action_key(action, rules)
    if action.event_id is not None:
        return (key, action.event_id)
    a = action
    return (key, a.user_id, a.item_id, a.request_id, a.action, a.event_time)


def _unusable(action: Action, rules: Rules) -> str | None:
    """The reasons of sample-format.md that an action can have once it is decoded."""
    if rules.key == "request_id" and action.request_id is None:
        return "missing_field"  # 2
    if action.action not in rules.windows:
        return "unknown_action"
    if action.value is None and rules.labels[action.action] in _NEEDS_VALUE:
        return "missing_value"  # 7
    return None


# -- requests (3, 4, 6) ----------------------------------------------------------------------------


def _accept(
    group: Sequence[_SeenRequest], rules: Rules
) -> tuple[list[_SeenRequest], list[tuple[_SeenRequest, str]]]:
    """Which requests of one join key count, and why the others do not."""
    kept: list[_SeenRequest] = []
    refused: list[tuple[_SeenRequest, str]] = []
    for seen in group:
        request, watermark = seen.request, seen.came.watermark
        # 6: pending and tombstoned are one stretch, from arrival until X_r. Before lateness.
        twin = any(
            other.request.request_id == request.request_id
            and watermark < rules.forget_time(other.request.event_time)
            for other in kept
        )
        if twin:
            refused.append((seen, "duplicate_request"))
        elif watermark >= rules.deadline(request.event_time):  # 4
            refused.append((seen, "late_request"))
        else:
            kept.append(seen)
    return kept, refused


# -- actions (1, 2, 4, 5, 6) -----------------------------------------------------------------------


def _after_request(action: Action, request: Request, rules: Rules) -> bool:
    """1 and 5: the item is shown, and the action is not before the request but for the skew."""
    return action.item_id in request.items and request.event_time - rules.skew <= action.event_time


def _matches(action: Action, request: Request, rules: Rules) -> bool:
    """1, both ends included. Requests and actions of one join key are taken for granted."""
    upper = request.event_time + rules.windows[action.action]
    return _after_request(action, request, rules) and action.event_time <= upper


def _within_horizon(action: Action, request: Request, rules: Rules) -> bool:
    """5: what makes it `outside_window` where it does not match."""
    upper = request.event_time + rules.remembered
    return _after_request(action, request, rules) and action.event_time <= upper


def _fate(seen: _SeenAction, candidates: Sequence[_SeenRequest], rules: Rules) -> _Fate:
    """What becomes of an action that has no twin, given every accepted request of its key."""
    fates = [*_claims(seen, candidates, rules), *_namings(seen, candidates, rules)]
    if fates:
        # it counts once: the first decision stands, and at one moment requests settle first
        return min(fates, key=lambda fate: (fate.at, fate.what != "joined"))
    decided = max(rules.claim_deadline(seen.action.event_time), seen.came.watermark)
    return _Fate(decided, "orphan")  # 4


def _claims(seen: _SeenAction, candidates: Sequence[_SeenRequest], rules: Rules) -> Iterable[_Fate]:
    """3: the requests that join it when they settle, if it is still there."""
    matching = [r for r in candidates if _matches(seen.action, r.request, rules)]
    for r in matching:
        deadline = rules.deadline(r.request.event_time)
        in_time = seen.came.watermark < deadline
        # 2: a later one takes it, if that was known by then
        outranked = rules.key == "user_id" and any(
            other.rank > r.rank and other.came.watermark < deadline for other in matching
        )
        if in_time and not outranked:
            yield _Fate(deadline, "joined", r)


def _namings(
    seen: _SeenAction, candidates: Sequence[_SeenRequest], rules: Rules
) -> Iterable[_Fate]:
    """5: when, and as what, a tombstone names it, if no request has claimed it before."""
    action, watermark = seen.action, seen.came.watermark
    named: list[tuple[_SeenRequest, Literal["after_settle", "outside_window"]]] = []
    for r in candidates:
        if _matches(action, r.request, rules):
            named.append((r, "after_settle"))
        elif _within_horizon(action, r.request, rules):
            named.append((r, "outside_window"))

    if rules.key == "request_id":
        # at once: when it comes, or when its request settles with the action in its hands
        for r, reason in named:
            settles = rules.deadline(r.request.event_time)
            if watermark < settles:
                yield _Fate(settles, reason, r)
            elif watermark < rules.forget_time(r.request.event_time):
                yield _Fate(watermark, reason, r)
        return

    # when no request can claim it any more; the tombstones that are due at C_a go just after it
    claim_deadline = rules.claim_deadline(action.event_time)
    if claim_deadline > watermark:
        alive = [
            (r, reason)
            for r, reason in named
            if rules.deadline(r.request.event_time) <= claim_deadline
            and rules.forget_time(r.request.event_time) >= claim_deadline
        ]
    else:
        alive = [
            (r, reason)
            for r, reason in named
            if rules.deadline(r.request.event_time)
            <= watermark
            < rules.forget_time(r.request.event_time)
        ]
    if alive:
        best, reason = max(alive, key=lambda pair: (pair[1] == "after_settle", pair[0].rank))
        yield _Fate(max(claim_deadline, watermark), reason, best)


def _tell(
    twins: Sequence[_SeenAction], candidates: Sequence[_SeenRequest], rules: Rules
) -> Iterable[tuple[_SeenAction, _Fate | None]]:
    """6: the fates of the actions of one identity, in the order of arrival; None: a duplicate.

    A twin that comes while the one before it is undecided meets it before anything else is asked:
    the lesser of the two goes on.
    """
    standing = twins[0]
    fate = _fate(standing, candidates, rules)
    for twin in twins[1:]:
        watermark = twin.came.watermark
        if watermark < fate.at:  # the standing one is held
            if _least(twin.action) < _least(standing.action):
                yield standing, None
                standing, fate = twin, _fate(twin, candidates, rules)
            else:
                yield twin, None
        elif fate.request is not None and watermark < rules.forget_time(
            fate.request.request.event_time
        ):
            yield twin, None  # used by a request that is remembered
        else:
            yield standing, fate  # forgotten: the twin is an action like any other
            standing, fate = twin, _fate(twin, candidates, rules)
    yield standing, fate


def _least(action: Action) -> tuple[object, ...]:
    """6: by (time, kind, item, value); no value is less than any."""
    value = (action.value is not None, action.value or 0.0)
    return (action.event_time, action.action, action.item_id, value)


def _late(action: Action, request: Request, fate: _Fate, rules: Rules) -> LateAction:
    assert fate.what in ("after_settle", "outside_window")
    return LateAction(
        sample=(request.request_id, request.items.index(action.item_id)),  # 1: lowest position
        request_time=request.event_time,
        identity=_named(action, rules),
        delay=action.event_time - request.event_time,
        reason=fate.what,
    )


# -- rows (3, 7, 11) -------------------------------------------------------------------------------


def _rows(
    request: Request,
    joined: Sequence[Action],
    watermarks: Sequence[int],
    timeline: Timeline,
    rules: Rules,
) -> list[Row]:
    deadline = rules.deadline(request.event_time)
    settled_at = next((wm for wm in watermarks if wm >= deadline), None)
    progress = -math.inf if timeline.progress is None else timeline.progress
    mature = {
        kind: settled_at is not None or request.event_time + window <= progress  # 11
        for kind, window in rules.windows.items()
    }
    rows: list[Row] = []
    for position, item in enumerate(request.items):
        labels: dict[str, int | float | None] = {}
        delays: dict[str, int | None] = {}
        for kind in rules.windows:
            mine = [
                a
                for a in joined
                if a.action == kind
                and a.item_id == item
                and request.items.index(item) == position  # 1: the lowest position has them all
            ]
            labels[kind] = _label(rules.labels[kind], mine)
            times = [a.event_time for a in mine]
            delays[kind] = min(times) - request.event_time if times else None
        rows.append(
            Row(
                request_id=request.request_id,
                user_id=request.user_id,
                item_id=item,
                position=position,
                event_time=request.event_time,
                labels=labels,
                delays=delays,
                mature=mature,
                settled_at=END if settled_at is None else settled_at,
            )
        )
    return rows


def _label(label: str, actions: Sequence[Action]) -> int | float | None:
    """7. Sums in fractions, which are exact, rounded once."""
    values = [a.value for a in actions if a.value is not None]
    if label == "any":
        return int(bool(actions))
    if label == "count":
        return len(actions)
    if label == "sum":
        return float(sum(map(Fraction, values), Fraction()))
    if not actions:
        return None
    if label == "max":
        return max(values)
    latest = max(a.event_time for a in actions)
    return max(a.value for a in actions if a.event_time == latest and a.value is not None)
