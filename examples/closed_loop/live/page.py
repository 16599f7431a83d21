"""The page at the end: what the loop has shown, with plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from examples.closed_loop.live.check import Check
from examples.closed_loop.live.journal import Arm, Difference, Shown, rate
from examples.closed_loop.live.readings import Reading
from examples.closed_loop.live.terminal import duration, number
from presentation.page import document, figure, table
from presentation.plots import KINDS, SOFT, axes_of, style, svg

_DAY_MS = 86_400_000
#: Clicks are counted over so much time for one point of a plot.
_STEP_MS = 3 * 3_600_000
_COLOURS: dict[Arm, str] = {"learning": KINDS[0], "frozen": KINDS[1]}


@dataclass(frozen=True)
class Result:
    """All that the page shows. `begin`: of the world; `frozen_at`: both epoch ms of the world.

    `faults`: what was killed, and when. `unaccounted`: of the audit. `scores`: the trainer's AUC
    and calibration by window: (epoch ms, AUC, calibration).
    """

    shown: Sequence[Shown]
    readings: Sequence[Reading]
    check: Check
    difference: Difference
    unaccounted: int
    begin: int
    frozen_at: int
    new_interest_at: int | None
    faults: Sequence[tuple[str, int]]
    scores: Sequence[tuple[int, float | None, float | None]]
    seen_kind: str
    minutes: float


def render(result: Result) -> str:
    """The page as HTML."""
    parts = [
        "<h1>The closed loop</h1>",
        f'<p class="soft">{escape(_what(result))}</p>',
        f"<p>{escape(_verdict(result))}</p>",
        _summary(result),
        '<h2>Over time</h2><div class="plots">',
        *(figure(plot) for plot in _plots(result)),
        "</div>",
        "<h2>Labels</h2>",
        "<p>First actions of users on items, and what became of them. What is beyond its window is"
        " no label, and nothing else is missing.</p>",
        _labels(result.check),
    ]
    if result.check.examples:
        wrong = [(example,) for example in result.check.examples]
        parts += ['<p class="warn">Wrong:</p>', table(("",), wrong)]
    if result.faults:
        rows = [(what, f"day {_day(result, at):.2f}") for what, at in result.faults]
        parts += ["<h2>Faults</h2>", table(("killed", "when"), rows)]
    return document("The closed loop", parts)


def _what(result: Result) -> str:
    days = (result.shown[-1].time - result.begin) / _DAY_MS
    return (
        f"{len(result.shown):,} requests of {days:.1f} days of the world, in {result.minutes:.0f}"
        " minutes. Users are split in two arms. Both were ranked by the newest model until day"
        f" {_day(result, result.frozen_at):.2f}; from then on one of them by the model of that day."
    )


def _verdict(result: Result) -> str:
    """Whether learning pays, in one sentence."""
    found = result.difference
    says = "more" if found.value > 0 else "fewer"
    excludes = "excludes" if found.low > 0 or found.high < 0 else "contains"
    return (
        f"The learning arm has {abs(found.value):.3f} clicks a request {says} than the frozen arm;"
        f" the 95 % interval, {found.low:.3f} to {found.high:.3f}, {excludes} zero."
    )


def _summary(result: Result) -> str:
    after = [one for one in result.shown if one.time > result.frozen_at]
    rows = []
    for arm in _COLOURS:
        of_arm = [one for one in after if one.arm == arm]
        clicks = rate(of_arm, result.seen_kind)
        expected = sum(one.expected for one in of_arm)
        best = sum(one.best for one in of_arm)
        rows.append(
            (
                arm,
                f"{clicks.requests:,}",
                f"{clicks.clicks:,}",
                "-" if clicks.ctr is None else f"{clicks.ctr:.2%}",
                f"{clicks.clicks / max(clicks.requests, 1):.3f}",
                f"{expected / best:.1%}" if best else "-",
            )
        )
    heads = ("since then", "requests", "clicks", "CTR", "clicks a request", "of the best ranking")
    checks = [
        ("audit", f"{result.unaccounted:,} unaccounted for"),
        ("samples", f"{result.check.rows:,}"),
        (
            "beside the world's truth",
            f"{result.check.missing:,} missing, {result.check.stray:,} stray,"
            f" {result.check.wrong:,} wrong",
        ),
        ("requests lost with a ranking service", f"{result.check.lost_requests:,}"),
        ("model age, median", duration(_median_age(result))),
    ]
    return table(heads, rows) + table(("checked", ""), checks)


def _median_age(result: Result) -> int | None:
    ages = [
        one.time - one.model_time
        for one in result.shown
        if one.arm == "learning" and one.model_time is not None and one.time >= result.frozen_at
    ]
    return int(np.median(ages)) if ages else None


def _labels(check: Check) -> str:
    rows = [
        (
            kind,
            f"{one.made:,}",
            f"{one.labels:,}",
            f"{one.made - one.in_window:,}",
            f"{one.in_window - one.labels:,}",
            f"{one.complete:.2%}",
        )
        for kind, one in check.kinds.items()
    ]
    heads = ("kind", "made", "labels", "beyond the window", "missing", "complete")
    return table(heads, rows)


# -- plots -----------------------------------------------------------------------------------------


def _plots(result: Result) -> list[str]:
    return [
        _plot(result, "CTR", _draw_ctr, percent=True),
        _plot(result, "expected clicks, of the best ranking's", _draw_regret, percent=True),
        _plot(result, "age of the model that ranks, hours", _draw_age),
        _plot(result, "AUC of clicks", _draw_auc),
        _plot(result, "calibration of clicks", _draw_calibration),
        _plot(result, "requests that wait for labels", _draw_pending),
    ]


def _plot(
    result: Result, title: str, draw: Callable[[Axes, Result], None], *, percent: bool = False
) -> str:
    with style():
        drawn, axes = axes_of(5.4, 2.8)
        draw(axes, result)
        axes.axvline(_day(result, result.frozen_at), color=SOFT, linewidth=1, linestyle=":")
        if result.new_interest_at is not None:
            at = _day(result, result.new_interest_at)
            axes.axvline(at, color=SOFT, linewidth=1, linestyle="--")
        for _, when in result.faults:
            axes.plot(
                *(_day(result, when), 0, "x"),
                color=SOFT,
                clip_on=False,
                transform=axes.get_xaxis_transform(),
            )
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("day")
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
        return svg(drawn, title)


def _day(result: Result, at: int) -> float:
    return (at - result.begin) / _DAY_MS


def _by_step(result: Result, arm: Arm) -> list[tuple[float, list[Shown]]]:
    """The middle of each step in days, and the arm's requests within it."""
    found: dict[int, list[Shown]] = {}
    for one in result.shown:
        if one.arm == arm:
            found.setdefault((one.time - result.begin) // _STEP_MS, []).append(one)
    return [((step + 0.5) * _STEP_MS / _DAY_MS, found[step]) for step in sorted(found)]


def _draw_ctr(axes: Axes, result: Result) -> None:
    for arm, colour in _COLOURS.items():
        points = [
            (at, ctr)
            for at, shown in _by_step(result, arm)
            if (ctr := rate(shown, result.seen_kind).ctr) is not None
        ]
        axes.plot(*zip(*points, strict=True), color=colour, label=arm, linewidth=1.8)


def _draw_regret(axes: Axes, result: Result) -> None:
    for arm, colour in _COLOURS.items():
        points = [
            (at, sum(one.expected for one in shown) / sum(one.best for one in shown))
            for at, shown in _by_step(result, arm)
        ]
        axes.plot(*zip(*points, strict=True), color=colour, label=arm, linewidth=1.8)


def _draw_age(axes: Axes, result: Result) -> None:
    for arm, colour in _COLOURS.items():
        points = [
            (_day(result, one.time), (one.time - one.model_time) / 3_600_000)
            for one in result.shown
            if one.arm == arm and one.model_time is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, label=arm, linewidth=1.2)


def _draw_auc(axes: Axes, result: Result) -> None:
    _draw_score(axes, result, [(at, auc) for at, auc, _ in result.scores])


def _draw_calibration(axes: Axes, result: Result) -> None:
    axes.axhline(1.0, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    _draw_score(axes, result, [(at, calibration) for at, _, calibration in result.scores])


def _draw_score(axes: Axes, result: Result, points: Sequence[tuple[int, float | None]]) -> None:
    known = [(_day(result, at), value) for at, value in points if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), color=KINDS[0], linewidth=1.8)


def _draw_pending(axes: Axes, result: Result) -> None:
    known = [(_day(result, r.now), r.pending) for r in result.readings if r.now and r.pending]
    if known:
        axes.plot(*zip(*known, strict=True), color=KINDS[0], linewidth=1.2)


def summary_lines(result: Result) -> list[str]:
    """What a terminal says at the end."""
    check = result.check
    return [
        _verdict(result),
        f"audit: {result.unaccounted:,} unaccounted for",
        f"samples: {check.rows:,}; beside the world's truth {check.missing:,} missing,"
        f" {check.stray:,} stray, {check.wrong:,} wrong",
        *(
            [f"{check.lost_requests:,} requests were lost with a ranking service that was killed"]
            if check.lost_requests
            else []
        ),
        *(
            f"{kind}: {one.made:,} made, {one.labels:,} are labels ({one.complete:.1%}),"
            f" {one.made - one.in_window:,} came after the window"
            for kind, one in check.kinds.items()
        ),
        f"median age of the model: {duration(_median_age(result))}",
        f"AUC {number(result.readings[-1].auc, 3)},"
        f" calibration {number(result.readings[-1].calibration, 3)}",
    ]
