"""Timelines made up by hypothesis, or by a seed, that sit on the edges of the rules.

Both come from one description, `build`, which asks a `Choose` for every choice: hypothesis answers
with draws (and can shrink), `random.Random` with numbers from a seed.

`rules_for` has joins of the plain `wait`, `policies_for` what the other rules make of them (8 to
11, and 14), and `any_rules` draws every setting by itself.

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

from tests.timeline import (
    MANY,
    Action,
    EmitPositives,
    Event,
    FinalEmit,
    Key,
    Label,
    LabelSilence,
    Request,
    Rules,
    Sampling,
    SamplingRule,
    Timeline,
    Watermark,
)

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
        Rules(key, two, {"click": "count", "buy": "any"}, skew=1, horizon=25),
        Rules(key, two, {"click": "any", "buy": "sum"}, lateness=2, horizon=30),
        Rules(key, two, {"click": "last", "buy": "sum"}, skew=2, horizon=90, immature="drop"),
        Rules(key, {"click": 1, "buy": 7}, {"click": "count", "buy": "any"}, horizon=30),
    )


def preset(policy: str, rules: Rules, d: int = 0) -> Rules:
    """`rules` under one of the policies of docs/emission-policies.md; d is for two of them."""
    match policy:
        case "wait":
            return rules
        case "fake_negative":
            return replace(
                rules, first_emit_after=0, emit_positives="on_arrival", final_emit="never"
            )
        case "es_dfm":
            return replace(
                rules, first_emit_after=d, emit_positives="on_arrival", final_emit="never"
            )
        case "defer":
            return replace(rules, first_emit_after=d, emit_positives="on_arrival")
    raise ValueError(policy)


_BY_FEATURE = (
    SamplingRule(0.3, feature="item", equals="i1"),
    SamplingRule(0.0, feature="first", equals=1),  # fits nothing: 1 is not true
    SamplingRule(0.6, feature="size", equals=2),
    SamplingRule(1.0, feature="next", equals="i3"),
)
_BY_EXPOSURE = (
    SamplingRule(0.2, negative="unexposed", feature="first", equals=True),
    SamplingRule(0.7, negative="exposed"),
)


def policies_for(key: Key) -> dict[str, Rules]:
    """Configurations by what they are for; together they have every setting of rules 8 to 14."""
    two = {"click": 10, "buy": 25}
    three = {"view": 12, **two}
    plain = Rules(key, two, {"click": "any", "buy": "sum"})
    counts = Rules(key, two, {"click": "count", "buy": "last"}, skew=3, lateness=4)
    seen = Rules(
        key, three, {"view": "any", "click": "count", "buy": "sum"}, skew=2, exposure="view"
    )
    # a view of 0 seconds is a view that changes no label
    for_seconds = replace(seen, labels={"view": "sum", "click": "any", "buy": "max"})
    return {
        "fake_negative": preset("fake_negative", plain),
        "fake_negative, skew": preset("fake_negative", counts),
        "es_dfm": preset("es_dfm", counts, 5),
        "defer": preset("defer", replace(plain, skew=1), 10),
        "defer, immature drop": preset("defer", replace(counts, immature="drop"), 7),
        "if_changed": replace(preset("es_dfm", plain, 8), final_emit="if_changed"),
        "if_changed at settling": replace(
            counts, first_emit_after=6, final_emit="if_changed", immature="drop"
        ),
        "on_arrival without a first row": replace(
            plain, skew=2, emit_positives="on_arrival", final_emit="never"
        ),
        "on_arrival and all at settling": replace(counts, emit_positives="on_arrival"),
        "wait, unexposed dropped": replace(seen, immature="drop"),
        "wait, unexposed marked and sampled": replace(
            seen, unexposed="mark", sampling=Sampling(0.5, 11, _BY_EXPOSURE)
        ),
        "es_dfm, unexposed dropped": replace(
            preset("es_dfm", for_seconds, 4), immature="drop", lateness=3
        ),
        "on_arrival, unexposed dropped": replace(
            for_seconds, emit_positives="on_arrival", final_emit="if_changed"
        ),
        "defer, unexposed dropped, sampled": replace(
            preset("defer", for_seconds, 6), sampling=Sampling(0.4, 5, (_BY_EXPOSURE[1],))
        ),
        "fake_negative, marked and sampled": replace(
            preset("fake_negative", seen),
            unexposed="mark",
            sampling=Sampling(0.3, 2**60, _BY_EXPOSURE),
        ),
        "defer, sampled": replace(preset("defer", counts, 5), sampling=Sampling(0.5, 3)),
        "if_changed, sampled by features": replace(
            preset("es_dfm", plain, 3),
            final_emit="if_changed",
            sampling=Sampling(0.9, 1, _BY_FEATURE),
        ),
        "wait, label silence": replace(plain, silence=LabelSilence(6, out_of_orderness=3)),
        "defer, label silence for a while": replace(
            preset("defer", counts, 5), silence=LabelSilence(4, 9, 2)
        ),
        "es_dfm, silence marked": replace(
            preset("es_dfm", seen, 5), immature="drop", silence=LabelSilence(3, 0, 1)
        ),
        "wait, two actions a key": replace(counts, skew=1, max_actions=2),
        "defer, three actions a key": replace(preset("defer", counts, 5), max_actions=3),
        "fake_negative, an action a key": replace(preset("fake_negative", seen), max_actions=1),
        "fake_negative, silence at once": replace(
            preset("fake_negative", replace(counts, immature="drop")), silence=LabelSilence(0, 20)
        ),
    }


def any_rules(choose: Choose, key: Key) -> Rules:
    """Every setting by itself, the plainest first."""
    kinds = choose((("click",), ("click", "buy"), ("click", "buy", "view")))
    windows = {k: choose((10, 25, 7, 1)) for k in kinds}
    labels: tuple[Label, ...] = ("any", "count", "sum", "max", "last")
    longest = max(windows.values())
    firsts = [d for d in (0, 1, 5, longest - 1) if d < longest]
    silence = choose((None, None, None, "without end", "limited"))
    rates = (0.5, 0.0, 1.0, 0.9)
    exposure = choose((None, *kinds))
    by_exposure = (*_BY_EXPOSURE, *_BY_FEATURE) if exposure is not None else _BY_FEATURE
    rules = choose(((), (), _BY_FEATURE, by_exposure[:2], by_exposure))
    first_emit_after = choose((None, *firsts))
    emit_positives: EmitPositives = choose(("at_settle", "on_arrival", "on_arrival"))
    final_emits: tuple[FinalEmit, ...] = ("always", "if_changed", "never")
    if first_emit_after is not None and emit_positives == "at_settle":
        final_emits = ("always", "if_changed")  # "never" would lose positives, and is refused
    return Rules(
        key,
        windows,
        {k: choose(labels) for k in kinds},
        skew=choose((0, 0, 1, 3, 12)),
        lateness=choose((0, 0, 1, 4)),
        horizon=choose((None, longest, 90)),
        immature=choose(("mark", "drop")),
        first_emit_after=first_emit_after,
        emit_positives=emit_positives,
        final_emit=choose(final_emits),
        exposure=exposure,
        unexposed=choose(("drop", "mark")),
        sampling=choose((Sampling(), Sampling(choose(rates), choose((0, 7)), rules))),
        silence=None
        if silence is None
        else LabelSilence(
            choose((5, 0, 1, 30)),
            None if silence == "without end" else choose((0, 3, 20)),
            choose((0, 2)),
        ),
        max_actions=choose((MANY, MANY, MANY, 1, 2, 3, 5)),
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
    if rules.silence is not None and not in_bounds:
        # 11: P is over both streams, and time went on without the actions
        shown = [event.event_time for event in events if isinstance(event, Action)]
        progress = min(max(shown), progress) if shown and progress is not None else None
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
            *_about_first(rules),
        )
        values: tuple[float | None, ...] = (1.0, 0.1, -3.0, 0.2, 1e16)
        if _emits_early(rules):
            values = (1.0, 0.0, -1.0, 2.0, 0.1)  # also those that cancel, or change nothing
        if rules.labels[kind] not in _NEEDS_VALUE:
            values = (None, *values)
        made = Action(
            event_id=choose((None, f"e{n}")),
            user_id=choose((anchor.user_id, anchor.user_id, anchor.user_id, "u1", "u2")),
            item_id=choose((*anchor.items, *anchor.items, "i1", "i9")),
            request_id=choose(_request_ids(rules, anchor)),
            action=kind,
            value=choose(values),
            event_time=anchor.event_time + choose(offsets),
        )
        if not reuse and any(replace(made, value=other.value) == other for other in out):
            made = replace(made, event_id=f"e{n}")  # else it might be a copy that differs
        out.append(made)
    return out


def _emits_early(rules: Rules) -> bool:
    return rules.first_emit_after is not None or rules.emit_positives == "on_arrival"


def _about_first(rules: Rules) -> tuple[int, ...]:
    """14: from the request to an action that is just known at the first moment, or just not, and
    to one that is known when it settles.
    """
    if not _emits_early(rules):
        return ()
    first = rules.first_emit_after or 0
    return (first, first, first + 1, first - 1, first + 3, 2, 4, rules.longest)


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
        first = (time + d + rules.skew for d in _about_first(rules)[:1])
        return (time, rules.deadline(time), rules.forget_time(time), *windows, *first)
    known = (time + rules.skew,) if _emits_early(rules) else ()
    quiet = (time + rules.silence.after,) if rules.silence is not None else ()
    return (time, rules.claim_deadline(time), *known, *quiet)


def _lag(choose: Choose, rules: Rules, event: Request | Action, in_bounds: bool) -> int:
    """How long after its own time an event arrives, ms; below 0: the watermark is behind."""
    early = (-1, -2, -rules.longest, -rules.forget_time(0))
    if in_bounds:
        return choose(early)
    late = rules.deadline(0) if isinstance(event, Request) else rules.claim_deadline(0)
    forgotten = rules.forget_time(0)
    first = (rules.first_emit_after or 0) + rules.skew
    near: tuple[int, ...] = ()
    if _emits_early(rules):
        near = (first - 1, first, first + 1, rules.skew, 2)
    return choose(
        (
            *(0, 0, -1, *early, 1, 5, *near, *near),
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
def timelines_under_any_rules(
    draw: st.DrawFn, key: Key, *, in_bounds: bool = False
) -> tuple[Timeline, Rules]:
    """A timeline, and rules of which every setting is drawn."""
    choose = _drawing(draw)
    rules = any_rules(choose, key)
    return build(choose, rules, in_bounds=in_bounds), rules


@st.composite
def rearranged(
    draw: st.DrawFn, key: Key, *, any_setting: bool = False
) -> tuple[Timeline, Timeline, Rules]:
    """Two orders of arrival of the same events, both within the bounds, with the same progress.

    The rules are of `rules_for(key)`, or with `any_setting` of `any_rules`. A silence is not ended
    by `max_hold` then: what goes out marked hangs on how far the streams are apart (10). And no key
    has too many actions, since the order decides which these are (16).
    """
    choose = _drawing(draw)
    rules = any_rules(choose, key) if any_setting else choose(rules_for(key))
    if rules.silence is not None:
        rules = replace(rules, silence=replace(rules.silence, max_hold=None))
    rules = replace(rules, max_actions=MANY)
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
