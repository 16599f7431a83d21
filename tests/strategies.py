"""Timelines made up by hypothesis, or by a seed, that sit on the edges of the rules.

Both come from one description, `build`, which asks a `Choose` for every choice: hypothesis answers
with draws (and can shrink), `random.Random` with numbers from a seed.

Windows are a few milliseconds long, so that edges of different rules meet. Times are drawn from the
edges of what is there already (t ± S, t + W_k, D, C, X, each ± 1). Every event has a time at which
it arrives, usually near its own; watermarks are put on the same axis. So most events are in time,
some early, and some late by an amount that matters.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from hypothesis import strategies as st

from tests.timeline import Action, Event, Key, Label, Request, Rules, Timeline, Watermark

T = TypeVar("T")

#: The time of the first request.
START = 1_000

_NEEDS_VALUE: tuple[Label, ...] = ("sum", "max", "last")


class Choose(Protocol):
    """Where choices come from: one of `options`, the first being the plainest."""

    def __call__(self, options: Sequence[T], /) -> T: ...


def rules_for(key: Key) -> tuple[Rules, ...]:
    """A handful of configurations; together they have every aggregate and every option."""
    two = {"click": 10, "buy": 25}
    return (
        Rules(key, {"click": 10}, {"click": "any"}),
        Rules(key, two, {"click": "count", "buy": "sum"}),
        Rules(key, two, {"click": "any", "buy": "last"}, skew=3),
        Rules(key, two, {"click": "max", "buy": "count"}, lateness=4, immature="drop"),
        Rules(key, two, {"click": "sum", "buy": "max"}, skew=3, lateness=4),
        Rules(key, {"click": 10, "buy": 10}, {"click": "last", "buy": "any"}, skew=12),
        Rules(key, two, {"click": "count", "buy": "any"}, skew=1, horizon=0),
        Rules(key, two, {"click": "any", "buy": "sum"}, lateness=2, horizon=12),
        Rules(key, two, {"click": "last", "buy": "sum"}, skew=2, horizon=90, immature="drop"),
        Rules(key, {"click": 0, "buy": 7}, {"click": "count", "buy": "any"}, horizon=30),
    )


# -- the description -------------------------------------------------------------------------------


def build(choose: Choose, rules: Rules, *, size: int = 4, in_bounds: bool = False) -> Timeline:
    """One timeline of up to `size` requests and twice as many actions, and copies of both.

    `in_bounds`: nothing comes after a watermark that has reached it, ids are not used again, and
    copies are exact. Then the order of arrival must not matter (2, 13).
    """
    requests = _requests(choose, rules, size, reuse=not in_bounds)
    actions = _actions(choose, rules, requests, 2 * size, reuse=not in_bounds)
    events: list[Request | Action] = [*requests, *actions]
    for _ in range(choose((0, 0, 1, 2, 3))):
        events.append(choose(events))
    return arrange(choose, rules, events, in_bounds=in_bounds)


def arrange(
    choose: Choose, rules: Rules, events: Sequence[Request | Action], *, in_bounds: bool = False
) -> Timeline:
    """Put events, watermarks and an end into an order of arrival."""
    arrivals: list[tuple[int, int, Event]] = []
    watermarks: set[int] = set()
    edges = sorted({edge for event in events for edge in _edges(event, rules)})
    for event in events:
        at = event.event_time + _lag(choose, rules, event, in_bounds)
        arrivals.append((at, 1, event))
        if choose((False, True)):
            watermarks.add(at)  # the last moment: it arrives just behind this watermark
    for _ in range(choose((0, 1, 2, 4))):
        watermarks.add(choose(edges) + choose((0, -1, 1)))
    flow = choose(("steady", "steady", "steady", "held back", "none"))
    if flow == "none":
        watermarks.clear()
    elif flow == "held back" and watermarks:
        # one stream holds time back, and then lets go
        lowest, highest = choose(sorted(watermarks)), max(watermarks)
        watermarks = {wm for wm in watermarks if wm <= lowest or wm == highest}
    arrivals += [(wm, 0, Watermark(wm)) for wm in watermarks]
    arrivals.sort(key=lambda arrival: arrival[:2])

    reached = max(watermarks, default=None)
    ends = [edge + d for edge in edges for d in (0, -1, 1)]
    later = [end for end in ends if reached is None or end >= reached]
    progress = reached if choose((True, False, False)) or not later else choose(later)
    return Timeline(tuple(event for _, _, event in arrivals), progress)


def _requests(choose: Choose, rules: Rules, size: int, reuse: bool) -> list[Request]:
    out: list[Request] = []
    for n in range(choose(range(1, size + 1))):
        time, request_id, user = START, f"r{n}", choose(("u1", "u1", "u1", "u1", "u1", "u2"))
        if out:
            other = choose(out)
            near = _gaps(rules)
            gaps = (*near, *near, *near, *_far(rules)) if reuse else near
            time = other.event_time + choose(gaps)
            if reuse and choose((False, False, False, False, True)):
                request_id, user = other.request_id, choose((other.user_id, user))
                time = other.event_time + choose((0, 1, *_far(rules)))
        items = choose((("i1",), ("i1", "i2"), ("i2", "i1", "i1"), ("i1",), ("i2", "i3")))
        out.append(Request(request_id, user, time, items))
    return out


def _gaps(rules: Rules) -> tuple[int, ...]:
    """Between requests: equal and near, and at the end of a window, where one leaves off."""
    return (0, 1, 2, rules.skew, rules.skew + 1, *(w + 1 for w in rules.windows.values()), 5)


def _far(rules: Rules) -> tuple[int, ...]:
    """Between requests, one of which is settled, or forgotten, by the time of the other."""
    forgotten = rules.forget_time(0)
    return (rules.deadline(0) - 1, rules.deadline(0), forgotten - 1, forgotten, forgotten + 1)


def _actions(
    choose: Choose, rules: Rules, requests: Sequence[Request], size: int, reuse: bool
) -> list[Action]:
    out: list[Action] = []
    for n in range(choose(range(size + 1))):
        kind = choose(tuple(rules.windows))
        anchor = choose(requests)
        if reuse and out and choose((False, False, False, True)):
            out.append(_near_twin(choose, rules, choose(out)))
            continue
        window, horizon, skew = rules.windows[kind], rules.remembered, rules.skew
        offsets = (
            window // 2,
            *(0, -skew, window),  # the edges of the match
            *(-skew - 1, window + 1, 1 - skew, window - 1),
            *(horizon, horizon + 1, (window + horizon) // 2),
        )
        values: tuple[float | None, ...] = (1.0, 0.1, -3.0, 0.2, 1e16)
        if rules.labels[kind] not in _NEEDS_VALUE:
            values = (None, *values)
        out.append(
            Action(
                event_id=choose((None, f"e{n}")),
                user_id=choose((anchor.user_id, anchor.user_id, anchor.user_id, "u1", "u2")),
                item_id=choose((*anchor.items, *anchor.items, "i1", "i9")),
                request_id=choose(_request_ids(rules, anchor)),
                action=kind,
                value=choose(values),
                event_time=anchor.event_time + choose(offsets),
            )
        )
    return out


def _request_ids(rules: Rules, anchor: Request) -> tuple[str | None, ...]:
    """What an action may say of its request: as the key it is mostly right, else it is ignored."""
    if rules.key == "user_id":
        return (None, None, anchor.request_id, "r0")
    return (anchor.request_id, anchor.request_id, anchor.request_id, anchor.request_id, "r0", "r9")


def _near_twin(choose: Choose, rules: Rules, other: Action) -> Action:
    """The same action once more, but for something that makes it another, or does not."""
    return choose(
        (
            other,
            replace(other, event_time=other.event_time + choose((1, -1, 2 * rules.longest))),
            replace(other, value=choose((2.0, -2.0))),
            replace(other, item_id=choose(("i1", "i2"))),
            replace(other, user_id=choose(("u1", "u2"))),
            replace(other, event_id=None),
        )
    )


def _edges(event: Request | Action, rules: Rules) -> tuple[int, ...]:
    """Times at which something may become of an event."""
    time = event.event_time
    if isinstance(event, Request):
        windows = (time + window for window in rules.windows.values())
        return (time, rules.deadline(time), rules.forget_time(time), *windows)
    return (time, rules.claim_deadline(time))


def _lag(choose: Choose, rules: Rules, event: Request | Action, in_bounds: bool) -> int:
    """How long after its own time an event arrives, ms; below 0: the watermark is behind."""
    early = (-1, -2, -rules.longest, -rules.forget_time(0))
    if in_bounds:
        return choose(early)
    late = rules.deadline(0) if isinstance(event, Request) else rules.claim_deadline(0)
    forgotten = rules.forget_time(0)
    return choose(
        (
            *(0, 0, -1, *early, 1, 5),
            *(late - 1, late, late + 1),
            *(rules.deadline(0), rules.deadline(0) + 1),
            *(forgotten - 1, forgotten, rules.longest + forgotten),
        )
    )


# -- hypothesis, and seeds -------------------------------------------------------------------------


def _drawing(draw: st.DrawFn) -> Choose:
    def choose(options: Sequence[T], /) -> T:
        return options[draw(st.integers(0, len(options) - 1))]

    return choose


@st.composite
def timelines(
    draw: st.DrawFn, key: Key, *, rules: Rules | None = None, in_bounds: bool = False
) -> tuple[Timeline, Rules]:
    """A timeline and the rules it is made for: one of `rules_for(key)`, unless given."""
    choose = _drawing(draw)
    chosen = choose(rules_for(key)) if rules is None else rules
    return build(choose, chosen, in_bounds=in_bounds), chosen


@st.composite
def rearranged(draw: st.DrawFn, key: Key) -> tuple[Timeline, Timeline, Rules]:
    """Two orders of arrival of the same events, both within the bounds, with the same progress."""
    choose = _drawing(draw)
    rules = choose(rules_for(key))
    one = build(choose, rules, in_bounds=True)
    events = [event for event in one.events if not isinstance(event, Watermark)]
    other = arrange(choose, rules, events, in_bounds=True)
    progress = max((t.progress for t in (one, other) if t.progress is not None), default=None)
    return replace(one, progress=progress), replace(other, progress=progress), rules


def random_timelines(
    n: int, seed: int, key: Key, rules: Rules | None = None, *, in_bounds: bool = False
) -> list[tuple[Timeline, Rules]]:
    """`n` timelines from a seed, all with the same rules (drawn from the seed, unless given)."""
    rng = random.Random(seed)
    choose = rng.choice
    chosen = choose(rules_for(key)) if rules is None else rules
    return [(build(choose, chosen, in_bounds=in_bounds), chosen) for _ in range(n)]
