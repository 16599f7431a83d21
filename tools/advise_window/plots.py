"""The curves, as SVG text that is put into the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from presentation.plots import ACCENT, ADVISED, INK, KINDS, PAPER, SOFT, axes_of, style, svg
from tools.advise_window.answers import Answers, KindAnswer
from tools.advise_window.cost import NICE_WAITS
from tools.summary.show import readable_ms

#: The least distance of slanted labels, as a share of the plot's width.
_LABEL_WIDTH = 0.06


def completeness(kind: KindAnswer) -> str:
    """The share of labels that are there after a wait: estimate, band, what was seen, windows.

    Only for a kind that has an advice.
    """
    estimate = kind.estimate
    now = float(estimate.configured_ms)
    marks = [now, kind.advice.window_ms]
    first = estimate.wait(0.02)
    last = max(3 * max(marks), min(1.5 * estimate.reach, 4 * estimate.wait(0.99)))
    waits = np.geomspace(first, last, 400)
    band = estimate.completeness(waits)
    inside = waits <= estimate.reach
    with style():
        figure, axes = axes_of(5.4, 3.3)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.fill_between(waits, band.low, band.high, color=ACCENT, alpha=0.2, linewidth=0)
        naive = estimate.share_of_seen(waits)
        axes.plot(waits, naive, color=SOFT, linewidth=1, linestyle=":", label="of those seen")
        axes.plot(waits[inside], band.value[inside], color=ACCENT, linewidth=2, label="observed")
        if not inside.all():
            from_here = max(int(inside.sum()) - 1, 0)
            axes.plot(
                waits[from_here:],
                band.value[from_here:],
                color=ACCENT,
                linewidth=2,
                linestyle=(0, (4, 2)),
                label="extrapolated",
            )
        _mark(axes, now, "now", SOFT, row=0, left=True)
        _mark(axes, marks[1], "advised", ADVISED, row=1, left=True)
        axes.axhline(kind.advice.target, color=SOFT, linewidth=0.8, linestyle=(0, (1, 3)))
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("wait after the request")
        axes.set_title(kind.kind, loc="left", fontweight="bold")
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.92), fontsize=8)
        _time_axis(axes, first, last)
        return svg(figure, f"{kind.kind}: completeness by wait")


def policies(answers: Answers) -> str:
    """Per kind: the share of its labels that the first row misses, by the age of that row."""
    ages = [cost.first_age_ms for cost in (*answers.costs_now, *answers.costs)]
    # a first row may come at once, but a logarithmic axis has no 0
    first, last = max(min(min(ages), 2_000.0) / 2, 500.0), 5 * max(ages)
    over = answers.overheads.any_row
    age = np.geomspace(max(first, over * 1.02), last, 400)
    with style():
        figure, axes = axes_of(7.6, 3.8)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        for number, kind in enumerate(answers.kinds):
            if not kind.advice.told:
                continue
            missed = 1 - kind.estimate.share(np.maximum(age - over, 1e-3))
            colour = KINDS[number % len(KINDS)]
            axes.plot(age, missed, color=colour, linewidth=2, label=kind.kind)
        marks = [
            (c.name.replace("es_dfm", "es_dfm / defer"), c.first_age_ms)
            for c in answers.costs_now
            if c.name.startswith(("fake", "es_dfm"))
        ]
        _policy_marks(axes, [(text, max(age_ms, first)) for text, age_ms in marks], first, last)
        now, advised = answers.costs_now[0].first_age_ms, answers.costs[0].first_age_ms
        _mark(axes, now, "wait, now", SOFT, row=0, left=_share(now, first, last) > 0.5)
        if advised != now:
            _mark(
                *(axes, advised, "wait, advised", ADVISED),
                row=1,
                left=_share(advised, first, last) > 0.5,
            )
        axes.set_ylim(0, 1.0)
        axes.set_xlabel("age of a sample's first row")
        axes.set_ylabel("of its labels, missed")
        # beside the plot, because curves or marks go through every corner
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
        _time_axis(axes, first, last)
        return svg(figure, "false negatives by age of the first row")


def _share(at: float, first: float, last: float) -> float:
    """The position of a time on a logarithmic axis: 0 at its start, 1 at its end."""
    return math.log(at / first) / math.log(last / first)


def apart(places: Sequence[float], least: float) -> list[float]:
    """Ascending positions in [0, 1], moved up as little as possible to be `least` apart."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + least) if moved else place)
    return moved


def _policy_marks(
    axes: Axes, marks: Sequence[tuple[str, float]], first: float, last: float
) -> None:
    """A dashed vertical line at each age, with its text above the plot; texts do not overlap."""
    marks = sorted(marks, key=lambda mark: mark[1])
    places = [_share(at, first, last) for _, at in marks]
    for (text, at), place in zip(marks, apart(places, _LABEL_WIDTH), strict=True):
        axes.axvline(at, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.text(
            *(place, 1.03, text), transform=axes.transAxes, color=INK, fontsize=8, rotation=25
        )


def _mark(axes: Axes, at: float, text: str, colour: str, *, row: int, left: bool) -> None:
    """A vertical line, with its text on one side. Texts of different rows do not overlap."""
    axes.axvline(at, color=colour, linewidth=1.4)
    axes.annotate(
        *(f"{text} {readable_ms(at)}", (at, 0.04 + 0.08 * row)),
        xytext=(-4 if left else 4, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="bottom",
        color=INK,
        fontsize=8,
        # there is no free place under the curves of rare kinds
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1, "alpha": 0.8},
    )


def _time_axis(axes: Axes, first: float, last: float) -> None:
    """A logarithmic axis, with about six round times."""
    axes.set_xscale("log")
    axes.set_xlim(first, last)
    nice = [at for at in (1.0, 10.0, 100.0, *NICE_WAITS) if first <= at <= last]
    axes.xaxis.set_major_locator(FixedLocator(nice[:: -(-len(nice) // 6) or 1]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ms, _: readable_ms(ms).replace(".0 ", " ")))
