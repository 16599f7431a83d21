"""The rows that a join must give, computed from complete lists (docs/join-semantics.md).

This is a second opinion on the join core. It shares neither code nor method with it: there is no
state that changes from event to event, and nothing is ever removed. First, every event gets the
time of its arrival and the watermark that it saw. Then questions are asked over all requests at
once: was this one accepted, who claims this action, and which tombstone names it if nobody does. It
is slow and simple on purpose. The numbers in comments are the sections of the document.

Two things are followed step by step, because each depends on the one before: the actions of a join
key, of which some are duplicates (6) or too many (16), and the versions of a sample (14).
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeVar

from xxhash import xxh3_64_intdigest

from tests.timeline import (
    END,
    Action,
    ActionIdentity,
    LateAction,
    Outcome,
    Rejection,
    Request,
    Row,
    RowKind,
    Rules,
    Timeline,
    Watermark,
    context_features,
    item_features,
)

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

_NEEDS_VALUE = ("sum", "max", "last")
_LARGEST = Fraction(2**1024 - 2**971)  # the largest finite float64


@dataclass(frozen=True)
class _Came:
    """When something arrived: its index in the timeline, and the watermark that it saw."""

    index: int
    watermark: float  # -inf before the first one


@dataclass(frozen=True)
class _Moment:
    """A moment at which rows may be made, at the (virtual) time `now`.

    `index`: the record whose arrival makes the moment, after everything due at `now`. None: the
    first watermark that reaches `now` makes it.
    """

    now: int
    index: int | None = None

    @property
    def order(self) -> tuple[int, int]:
        return (self.now, -1 if self.index is None else self.index)

    def follows(self, came: _Came) -> bool:
        """Whether the moment is after this arrival."""
        if self.index is None:
            return came.watermark < self.now
        return came.index <= self.index

    def is_past(self, at: float) -> bool:
        """Whether requests with this settling time have settled; earlier rows are made first."""
        return at < self.now if self.index is None else at <= self.now


@dataclass(frozen=True)
class _Clock:
    """The times after each event of a timeline, as lists by index."""

    source: list[float]  # the watermark of the sources
    actions: list[float]  # 10: A
    joined: list[float]  # 10: the watermark that the join sees
    progress: float  # 11: P


@dataclass(frozen=True)
class _SeenRequest:
    request: Request
    came: _Came

    @property
    def rank(self) -> tuple[int, str]:
        """2: the latest request wins; at equal times the greater id, compared by code points."""
        return (self.request.event_time, self.request.request_id)


@dataclass(frozen=True)
class _SeenAction:
    action: Action
    came: _Came


@dataclass(frozen=True)
class _Fate:
    """What becomes of an action, and the (virtual) time of that decision.

    Events that saw a watermark of `at` or more came after it. If the decision was made on arrival,
    `at` is the watermark at that moment, and everything later in the list came after it.
    """

    at: float
    what: Literal["joined", "after_settle", "outside_window", "orphan"]
    request: _SeenRequest | None = None


@dataclass(frozen=True)
class _Life:
    """A usable action and its fate. `fate` None: it is a duplicate of `twin`."""

    seen: _SeenAction
    fate: _Fate | None
    twin: _Came | None = None

    def stands(self, moment: _Moment) -> bool:
        """Whether the action is held at that moment, and is the least of its duplicates."""
        if not moment.follows(self.seen.came):
            return False
        if self.fate is None:
            assert self.twin is not None
            return not moment.follows(self.twin)
        return not moment.is_past(self.fate.at)


def expected(timeline: Timeline, rules: Rules) -> Outcome:
    """The outcome of `timeline` under `rules`.

    Raises ValueError for an impossible timeline: a watermark that goes back, or progress that is
    less than an announced watermark (except in a silent stream, under rule 10).
    """
    clock = _clock(timeline, rules)
    requests, actions = _annotate(timeline, clock)
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

    lives: dict[str, list[_Life]] = defaultdict(list)
    joined: dict[_SeenRequest, list[Action]] = defaultdict(list)
    late: list[LateAction] = []
    for key, of_key in _grouped(usable, lambda a: _action_key(a.action, rules)).items():
        told, excess = _tell(of_key, accepted.get(key, []), rules)
        for action in excess:
            rejected.append(Rejection("actions", "too_many_actions", _named(action, rules)))
        for life in told:
            lives[key].append(life)
            action, claimant = life.seen.action, life.fate.request if life.fate else None
            if life.fate is None:
                rejected.append(Rejection("actions", "duplicate_action", _named(action, rules)))
            elif claimant is None:
                rejected.append(Rejection("actions", "orphan_action", _named(action, rules)))
            elif life.fate.what == "joined":
                joined[claimant].append(action)
            else:
                late.append(_late(action, claimant.request, life.fate, rules))

    settled = [r for group in accepted.values() for r in group]
    samples: list[_Sample] = []
    for key, group in accepted.items():
        for seen_request in group:
            views = _views(seen_request, joined[seen_request], group, lives[key], clock, rules)
            samples += _samples(seen_request.request, views, rules)
    versions = [version for sample in samples for version in sample.versions]
    rows = [version.row for version in versions if version.written]

    counters = {
        "requests": len(requests),
        "settled": len(settled),
        "impressions": sum(len(r.request.items) for r in settled),
        "rows": len(rows),
        "sampled_out": len(versions) - len(rows),
        "unexposed": sum(sample.without == "unexposed" for sample in samples),
        "immature_dropped": sum(sample.without == "immature" for sample in samples),
        "actions": len(actions),
        "joined": sum(map(len, joined.values())),
        "late": len(late),
    }
    for reason, count in sorted(Counter(r.reason for r in rejected).items()):
        counters[f"rejected.{reason}"] = count
    return Outcome(tuple(rows), tuple(late), tuple(rejected), counters)


# -- time (10), and arrival ------------------------------------------------------------------------


def _clock(timeline: Timeline, rules: Rules) -> _Clock:
    source: list[float] = []
    actions: list[float] = []
    for event in timeline.events:
        wm, a = (source[-1], actions[-1]) if source else (-math.inf, -math.inf)
        if isinstance(event, Watermark):
            if event.time < wm:
                raise ValueError(f"the watermark goes back to {event.time}")
            wm = event.time
        elif isinstance(event, Action):
            a = max(a, event.event_time)
        source.append(wm)
        actions.append(a)
    progress = -math.inf if timeline.progress is None else timeline.progress
    if rules.silence is None and source and progress < source[-1]:
        raise ValueError(f"progress {timeline.progress} is short of the watermark {source[-1]}")
    joined = [_joined(i, source, actions, rules) for i in range(len(source))]
    return _Clock(source, actions, joined, progress)


def _joined(i: int, source: Sequence[float], actions: Sequence[float], rules: Rules) -> float:
    """10: the watermark that the join sees after event i."""
    wm, silence = source[i], rules.silence
    if silence is None:
        return wm
    begin: float | None = None  # A at the start of the present silence
    for j in range(i, -1, -1):
        if actions[j] >= source[j]:
            break
        if source[j] > actions[j] + silence.after:
            begin = actions[j]
    if begin is None:
        return wm
    hold = math.inf if silence.max_hold is None else silence.max_hold
    caught_up = actions[i] - silence.out_of_orderness
    return min(wm, max(begin + silence.after, caught_up, wm - hold))


def _annotate(timeline: Timeline, clock: _Clock) -> tuple[list[_SeenRequest], list[_SeenAction]]:
    """A record sees the last announced watermark, after everything due at it."""
    requests: list[_SeenRequest] = []
    actions: list[_SeenAction] = []
    for index, event in enumerate(timeline.events):
        came = _Came(index, clock.joined[index - 1] if index else -math.inf)
        if isinstance(event, Request):
            requests.append(_SeenRequest(event, came))
        elif isinstance(event, Action):
            actions.append(_SeenAction(event, came))
    return requests, actions


def _grouped(things: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """The records by key; within a group still in the order of arrival."""
    groups: dict[K, list[T]] = defaultdict(list)
    for thing in things:
        groups[key(thing)].append(thing)
    return groups


# -- keys and names --------------------------------------------------------------------------------


def _request_key(request: Request, rules: Rules) -> str:
    return request.request_id if rules.key == "request_id" else request.user_id


def _action_key(action: Action, rules: Rules) -> str:
    """2. Only for usable actions, which have the request id if it is the key."""
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
    """6: the event id, or without one everything but the value. Within one join key."""
    key = _action_key(action, rules)
    if action.event_id is not None:
        return (key, action.event_id)
    a = action
    return (key, a.user_id, a.item_id, a.request_id, a.action, a.event_time)


def _unusable(action: Action, rules: Rules) -> str | None:
    """The reasons of sample-format.md for rejecting an action that could be decoded."""
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
    """Which requests of one join key are accepted, and why the others are not."""
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
    """1 and 5: the request shows the item, and is not after the action by more than the skew."""
    return action.item_id in request.items and request.event_time - rules.skew <= action.event_time


def _matches(action: Action, request: Request, rules: Rules) -> bool:
    """1, both ends included. The caller has checked that the join keys are equal."""
    upper = request.event_time + rules.windows[action.action]
    return _after_request(action, request, rules) and action.event_time <= upper


def _within_horizon(action: Action, request: Request, rules: Rules) -> bool:
    """5: makes the action `outside_window` if it does not match."""
    upper = request.event_time + rules.remembered
    return _after_request(action, request, rules) and action.event_time <= upper


def _fate(seen: _SeenAction, candidates: Sequence[_SeenRequest], rules: Rules) -> _Fate:
    """The fate of an action without duplicates, given every accepted request of its key."""
    fates = [*_claims(seen, candidates, rules), *_namings(seen, candidates, rules)]
    if fates:
        # the first decision is final; at one moment requests settle first
        return min(fates, key=lambda fate: (fate.at, fate.what != "joined"))
    decided = max(rules.claim_deadline(seen.action.event_time), seen.came.watermark)
    return _Fate(decided, "orphan")  # 4


def _claims(seen: _SeenAction, candidates: Sequence[_SeenRequest], rules: Rules) -> Iterable[_Fate]:
    """3: the requests that join the action when they settle, if it is still held."""
    matching = [r for r in candidates if _matches(seen.action, r.request, rules)]
    for r in matching:
        deadline = rules.deadline(r.request.event_time)
        in_time = seen.came.watermark < deadline
        # 2: a later request takes it, if it was known by then
        outranked = rules.key == "user_id" and any(
            other.rank > r.rank and other.came.watermark < deadline for other in matching
        )
        if in_time and not outranked:
            yield _Fate(deadline, "joined", r)


def _namings(
    seen: _SeenAction, candidates: Sequence[_SeenRequest], rules: Rules
) -> Iterable[_Fate]:
    """5: when, and as what, a tombstone names the action, if no request has claimed it."""
    action, watermark = seen.action, seen.came.watermark
    named: list[tuple[_SeenRequest, Literal["after_settle", "outside_window"]]] = []
    for r in candidates:
        if _matches(action, r.request, rules):
            named.append((r, "after_settle"))
        elif _within_horizon(action, r.request, rules):
            named.append((r, "outside_window"))

    if rules.key == "request_id":
        # at once: when it arrives, or when its request settles while the action is held
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
    actions: Sequence[_SeenAction], candidates: Sequence[_SeenRequest], rules: Rules
) -> tuple[list[_Life], list[Action]]:
    """6 and 16: the fates of the actions of one join key, and those for which there is no room.

    They are told in the order of arrival. A duplicate that arrives while the one before is
    undecided is compared with it first, and the lesser of the two stays.
    """
    lives: list[_Life] = []
    excess: list[Action] = []
    latest: dict[tuple[object, ...], tuple[_SeenAction, _Fate]] = {}
    for seen in actions:
        name, watermark = _twin_key(seen.action, rules), seen.came.watermark
        before = latest.get(name)
        if before is None or not _counts(before[1], watermark, rules):
            if sum(_counts(f, watermark, rules) for _, f in latest.values()) >= rules.max_actions:
                excess.append(seen.action)
                continue
            if before is not None:  # its request is forgotten, so the duplicate is ordinary
                lives.append(_Life(*before))
            latest[name] = seen, _fate(seen, candidates, rules)
            continue
        standing, fate = before
        if watermark < fate.at and _least(seen.action) < _least(standing.action):
            lives.append(_Life(standing, None, seen.came))
            latest[name] = seen, _fate(seen, candidates, rules)
        else:  # the standing one is held, or a remembered request has used it
            lives.append(_Life(seen, None, seen.came))
    lives += [_Life(*standing) for standing in latest.values()]
    return lives, excess


def _counts(fate: _Fate, watermark: float, rules: Rules) -> bool:
    """16: whether it is held at this watermark, or was used by a request that is remembered."""
    if watermark < fate.at:
        return True
    used_by = fate.request
    return used_by is not None and watermark < rules.forget_time(used_by.request.event_time)


def _least(action: Action) -> tuple[object, ...]:
    """6: the least by (time, kind, item, value); no value is less than any value."""
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


# -- moments (14), and what is seen at them (10, 11) -----------------------------------------------


@dataclass(frozen=True)
class _View:
    """A request at one of its moments. `limit`: up to when labels can be trusted (10, 11)."""

    what: Literal["first", "change", "deadline"]
    now: int
    known: list[Action]
    made_at: int | Literal["end"]
    limit: float


def _views(
    r: _SeenRequest,
    joined: list[Action],
    group: Sequence[_SeenRequest],
    lives: Sequence[_Life],
    clock: _Clock,
    rules: Rules,
) -> list[_View]:
    """All moments of a request, in order. `group` and `lives` are of its join key."""
    views: list[_View] = []
    early = _early_moments(r, lives, rules)
    for moment in early:
        known = [life for life in lives if _knows(r, life, moment, group, rules)]
        opening = moment == early[0]
        if not opening and not any(moment == _becomes_known(life, rules) for life in known):
            continue  # the action was taken, or has a lesser duplicate
        what: Literal["first", "change"] = "change"
        if opening and rules.first_emit_after is not None:
            what = "first"
        actions = [life.seen.action for life in known]
        views.append(_View(what, moment.now, actions, *_seen_at(moment, clock, rules)))
    end = _Moment(rules.deadline(r.request.event_time))
    return [*views, _View("deadline", end.now, joined, *_seen_at(end, clock, rules))]


def _early_moments(r: _SeenRequest, lives: Sequence[_Life], rules: Rules) -> list[_Moment]:
    """The moments before the deadline: the first one, and each possible change."""
    time, deadline = r.request.event_time, rules.deadline(r.request.event_time)
    on_arrival = rules.emit_positives == "on_arrival"
    if rules.first_emit_after is None and not on_arrival:
        return []
    first = time + (rules.first_emit_after or 0) + rules.skew
    if r.came.watermark >= first:
        first = int(r.came.watermark) + 1
    if first >= deadline:
        return []
    opening = _Moment(first)
    mine = [life for life in lives if on_arrival and _matches(life.seen.action, r.request, rules)]
    changes = {_becomes_known(life, rules) for life in mine}
    later = [m for m in changes if opening.order < m.order and _before(m, deadline)]
    return [opening, *sorted(later, key=lambda moment: moment.order)]


def _before(moment: _Moment, deadline: int) -> bool:
    """Whether the request is pending; at one time it settles last, and what arrives comes later."""
    return moment.now <= deadline if moment.index is None else moment.now < deadline


def _becomes_known(life: _Life, rules: Rules) -> _Moment:
    """When the action's time is reached, or on its arrival if that is later."""
    action, came = life.seen.action, life.seen.came
    at = action.event_time + rules.skew
    return _Moment(at) if came.watermark < at else _Moment(int(came.watermark), came.index)


def _knows(
    r: _SeenRequest, life: _Life, moment: _Moment, group: Sequence[_SeenRequest], rules: Rules
) -> bool:
    """Whether an action is known to a request that is pending."""
    action = life.seen.action
    taken = rules.key == "user_id" and any(
        other.rank > r.rank
        and moment.follows(other.came)
        and _matches(action, other.request, rules)
        for other in group
    )
    return (
        life.stands(moment)
        and _matches(action, r.request, rules)
        and not taken
        and action.event_time + rules.skew <= moment.now
    )


def _seen_at(moment: _Moment, clock: _Clock, rules: Rules) -> tuple[int | Literal["end"], float]:
    """The watermark at which this moment is reached, and up to when labels can be trusted then."""
    index = moment.index
    # an action moves A only after its own arrival
    behind = bisect_left(clock.joined, moment.now) if index is None else index - 1
    at_end = behind == len(clock.joined)
    limit = clock.progress if at_end else math.inf
    if rules.silence is not None:
        reached = clock.actions[min(behind, len(clock.actions) - 1)] if clock.actions else -math.inf
        limit = min(limit, reached + rules.silence.after)
    return END if at_end else int(clock.joined[behind]), limit


# -- samples, and their versions (7, 8, 9, 11, 14) -------------------------------------------------


@dataclass(frozen=True)
class _Version:
    row: Row
    written: bool  # 9


@dataclass(frozen=True)
class _Sample:
    """The versions of a sample; if there are none, why."""

    versions: list[_Version]
    without: Literal["unexposed", "immature"] | None


def _samples(request: Request, views: Sequence[_View], rules: Rules) -> list[_Sample]:
    return [_sample(request, position, views, rules) for position in range(len(request.items))]


def _sample(request: Request, position: int, views: Sequence[_View], rules: Rules) -> _Sample:
    versions: list[_Version] = []
    put_off = False
    without: Literal["unexposed", "immature"] | None = None
    for view in views:
        item = request.items[position]
        known = [
            a
            for a in view.known
            # 1: the lowest position has them all
            if a.item_id == item and request.items.index(item) == position
        ]
        version = _version(request, position, view, known, len(versions), rules)
        row = version.row
        last = versions[-1].row.labels if versions else _labels([], rules)
        if view.what == "first":
            wanted = True
        elif view.what == "change":
            wanted = row.labels != last or put_off
        else:
            wanted = (
                not versions
                or rules.final_emit == "always"
                or (rules.final_emit == "if_changed" and row.labels != last)
            )
        without = None
        if rules.unexposed == "drop" and row.exposed is False:
            without = "unexposed"
        elif view.made_at == END and rules.immature == "drop" and _immature(row, rules):
            without = "immature"
        if wanted and without is None:
            versions.append(version)
        put_off = (put_off or wanted) and not versions
    return _Sample(versions, None if versions else without)


def _immature(row: Row, rules: Rules) -> bool:
    """11: whether the sample is not written at the end because it is immature."""
    if row.kind == "final":
        return not all(row.mature.values())
    if row.kind == "positive" or rules.first_emit_after is None:
        return False
    return row.observed_ms is None or row.observed_ms < rules.first_emit_after


def _version(
    request: Request,
    position: int,
    view: _View,
    known: Sequence[Action],
    revision: int,
    rules: Rules,
) -> _Version:
    """The row of an impression with the known actions `known`."""
    time = request.event_time
    observed: int | None = None
    if view.limit >= time:  # 14
        observed = int(min(view.now - rules.skew - time, rules.longest, view.limit - time))
    negative = all(a.action == rules.exposure for a in known)  # 9
    exposed = None if rules.exposure is None else bool(known)  # 8
    kind: RowKind = "final"
    if view.what != "deadline":
        kind = "provisional" if view.what == "first" or negative else "positive"
    rate = _rate(request, position, exposed, rules) if negative else 1.0
    row = Row(
        request_id=request.request_id,
        user_id=request.user_id,
        item_id=request.items[position],
        position=position,
        event_time=time,
        labels=_labels(known, rules),
        delays={
            k: min((a.event_time - time for a in known if a.action == k), default=None)
            for k in rules.windows
        },
        mature={k: observed is not None and w <= observed for k, w in rules.windows.items()},
        made_at=view.made_at,
        observed_ms=observed,
        revision=revision,
        kind=kind,
        exposed=exposed,
        sampling_rate=rate,
    )
    written = not negative or u(sample_id(request, position), rules.sampling.seed) < Fraction(rate)
    return _Version(row, written)


def _rate(request: Request, position: int, exposed: bool | None, rules: Rules) -> float:
    """9: the rate of a negative, by the first rule that matches."""
    values = context_features(request) | item_features(request, position)
    for rule in rules.sampling.rules:
        value = values[rule.feature] if rule.feature is not None else None
        fits = rule.feature is None or (type(value), value) == (type(rule.equals), rule.equals)
        if rule.negative == "exposed":
            fits = fits and exposed is not False
        if rule.negative == "unexposed":
            fits = fits and exposed is False
        if fits:
            return rule.rate
    return rules.sampling.rate


def u(sample: int, seed: int) -> Fraction:
    """9: the position of a sample in [0, 1)."""
    as_bytes = (sample % 2**64).to_bytes(8, "little")
    return Fraction(xxh3_64_intdigest(as_bytes, seed=seed), 2**64)


def sample_id(request: Request, position: int) -> int:
    """The name of an impression (sample-format.md), signed."""
    front = struct.pack("<QQ", xxh3_64_intdigest(request.request_id.encode()), position)
    digest = xxh3_64_intdigest(front + request.items[position].encode())
    return (digest + 2**63) % 2**64 - 2**63


def _labels(actions: Sequence[Action], rules: Rules) -> dict[str, int | float | None]:
    return {k: _label(rules.labels[k], [a for a in actions if a.action == k]) for k in rules.labels}


def _label(label: str, actions: Sequence[Action]) -> int | float | None:
    """7. Sums are exact fractions, rounded once, and limited to the range of float64."""
    values = [a.value for a in actions if a.value is not None]
    if label == "any":
        return int(bool(actions))
    if label == "count":
        return len(actions)
    if label == "sum":
        exact = sum(map(Fraction, values), Fraction())
        return float(min(max(exact, -_LARGEST), _LARGEST))
    if not actions:
        return None
    if label == "max":
        return max(values)
    latest = max(a.event_time for a in actions)
    return max(a.value for a in actions if a.event_time == latest and a.value is not None)
