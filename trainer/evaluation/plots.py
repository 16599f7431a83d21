"""The plots of the evaluation, as SVG text that is put into the page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timezone
from typing import Any, NamedTuple

import numpy as np
from matplotlib import dates as _untyped_dates
from matplotlib.axes import Axes
from matplotlib.ticker import (
    EngFormatter,
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from presentation.plots import KINDS, SOFT, axes_of, style, svg
from trainer.evaluation.counting import BINS, LIMIT
from trainer.evaluation.measures import Doubles

_dates: Any = _untyped_dates

_LINES = ("-", (0, (4, 2)), (0, (1, 1.5)))
#: Times from here on are beyond the calendar.
YEAR_10000_MS = 253_402_300_800_000
# the least number of positives in a group of the reliability diagram; fewer are noise
_POSITIVES = 10
_GROUPS = 15
# ticks at multiples that are easy to read
_STEPS = (1, 2, 2.5, 5, 10)


class Series(NamedTuple):
    """A measure of one action. `starts`: of windows, epoch ms, ascending. None: not defined."""

    action: str
    starts: Sequence[int]
    values: Sequence[float | None]


def over_time(
    title: str,
    series: Sequence[Series],
    window_ms: int,
    *,
    line_at: float | None = None,
    counts: bool = False,
) -> str:
    """A measure over the windows: a line per action, and a level line at the perfect value.

    A line is interrupted where windows are missing. Values of the first windows that are far above
    all others are drawn at the upper edge, as triangles.
    """
    with style():
        figure, axes = axes_of(5.4, 2.8)
        every = [v for one in series for v in one.values if v is not None]
        if line_at is not None:
            axes.axhline(line_at, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        top = _upper_edge(every, line_at)
        for number, one in enumerate(series):
            colour, line = _look(number)
            at, values = _with_gaps(one, window_ms)
            marker = "o" if len(one.starts) <= 30 else None
            axes.plot(
                *(at, values),
                color=colour,
                linestyle=line,
                linewidth=1.8,
                marker=marker,
                markersize=3.5,
                label=one.action,
            )
            if top is not None:
                beyond = values > top
                axes.plot(
                    *(at[beyond], np.full(int(beyond.sum()), top)),
                    color=colour,
                    linestyle="none",
                    marker="^",
                    markersize=6,
                    clip_on=False,
                )
        _value_axis(axes, every, top, line_at, counts=counts)
        _time_axis(axes, sorted({start for one in series for start in one.starts}), window_ms)
        axes.set_title(title, loc="left", fontweight="bold")
        return svg(figure, title)


def reliability(histograms: Sequence[tuple[str, Doubles]]) -> str:
    """Observed against predicted probability, in groups of about equal weight, a line per action.

    `histograms`: of the logits, (2, BINS) each. The prediction of a bin is that of its middle.
    """
    with style():
        figure, axes = axes_of(5.4, 2.8)
        seen = []
        for number, (action, histogram) in enumerate(histograms):
            predicted, observed = groups(histogram)
            colour, line = _look(number)
            axes.plot(
                *(predicted, observed),
                color=colour,
                linestyle=line,
                linewidth=1.4,
                marker="o",
                markersize=4,
                label=action,
            )
            seen += [*predicted, *observed]
        title = "Reliability"
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel("predicted")
        axes.set_ylabel("observed")
        if seen:
            first, last = min(seen) / 1.5, min(max(seen) * 1.5, 1.0)
            axes.plot([first, last], [first, last], color=SOFT, lw=1, ls=(0, (4, 3)), zorder=1)
            for axis, scale, limit in (
                (axes.xaxis, axes.set_xscale, axes.set_xlim),
                (axes.yaxis, axes.set_yscale, axes.set_ylim),
            ):
                scale("log")
                limit(first, last)
                subs = (1.0, 2.0, 5.0) if last / first < 200 else (1.0,)
                axis.set_major_locator(LogLocator(subs=subs, numticks=12))
                axis.set_major_formatter(FuncFormatter(_share))
                axis.set_minor_locator(NullLocator())
                axis.set_minor_formatter(NullFormatter())
        return svg(figure, title)


def groups(histogram: Doubles) -> tuple[list[float], list[float]]:
    """Mean prediction and share of positives, for groups of neighbouring bins.

    Each group has about a 15th of the weight, and at least 10 positives. Bins at the upper end that
    do not make a group are added to the last one.
    """
    middle = (np.arange(BINS) + 0.5) * (2 * LIMIT / BINS) - LIMIT
    prediction = 1 / (1 + np.exp(-middle))
    weight = histogram.sum(axis=0)
    share = weight.sum() / _GROUPS
    made: list[list[float]] = []
    now = [0.0, 0.0, 0.0]  # weight, predictions, positives
    for at in np.flatnonzero(weight):
        now[0] += weight[at]
        now[1] += weight[at] * prediction[at]
        now[2] += histogram[1, at]
        if now[0] >= share and now[2] >= _POSITIVES:
            made.append(now)
            now = [0.0, 0.0, 0.0]
    if now[0] and made:
        made[-1] = [a + b for a, b in zip(made[-1], now, strict=True)]
    elif now[2]:
        made.append(now)
    return [g[1] / g[0] for g in made], [g[2] / g[0] for g in made]


def legend_style(number: int) -> tuple[str, str]:
    """The look of the line of the n-th action: CSS colour, and SVG dashes."""
    dashes = ("", "6 3", "2 2")[number // len(KINDS) % len(_LINES)]
    return f"var(--kind-{number % len(KINDS)})", dashes


def _look(number: int) -> tuple[str, Any]:
    return KINDS[number % len(KINDS)], _LINES[number // len(KINDS) % len(_LINES)]


def _upper_edge(values: Sequence[float], line_at: float | None) -> float | None:
    """Where to cut the plot at the top, or None.

    The first windows of a new model can be many times the others.
    """
    if len(values) < 8:
        return None
    usual = float(np.quantile(values, 0.9))
    low = float(min(values))
    edge = usual + 0.5 * (usual - low)
    if line_at is not None:
        edge = max(edge, line_at + 0.2 * (line_at - low))
    return edge if max(values) > edge + 2 * (edge - low) else None


def _value_axis(
    axes: Axes, values: Sequence[float], top: float | None, line_at: float | None, *, counts: bool
) -> None:
    if counts:
        axes.set_ylim(0, 1.08 * max(values, default=1) or 1)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS, integer=True))
        return
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    shown = [v for v in values if top is None or v <= top]
    if line_at is not None:
        shown.append(line_at)
    if shown:
        low, high = min(shown), max(*shown, top or shown[0])
        # so that a negligible difference does not fill the plot
        margin = max(0.08 * (high - low), 0.01, 0.01 * abs(high))
        axes.set_ylim(low - margin, high + (0 if top else margin))


def _time_axis(axes: Axes, starts: Sequence[int], window_ms: int) -> None:
    if not starts or starts[0] < 0 or starts[-1] >= YEAR_10000_MS:
        # no times, or times beyond the calendar
        axes.xaxis.set_major_locator(NullLocator())
        return
    at = _days(starts)
    margin = max((at[-1] - at[0]) * 0.03, window_ms / 86_400_000 / 2)
    axes.set_xlim(at[0] - margin, at[-1] + margin)
    axes.set_xlabel("start of the window, UTC")
    if len(starts) <= 3:
        axes.xaxis.set_major_locator(FixedLocator(at.tolist()))
        axes.xaxis.set_major_formatter(_dates.DateFormatter("%d %b %H:%M", tz=timezone.utc))
        return
    locator = _dates.AutoDateLocator(tz=timezone.utc, minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(_dates.ConciseDateFormatter(locator, tz=timezone.utc))


def _with_gaps(one: Series, window_ms: int) -> tuple[Doubles, Doubles]:
    """Days and values, with NaN between windows that are not neighbours."""
    at = _days(one.starts)
    values = np.array([np.nan if v is None else v for v in one.values], np.float64)
    after = np.flatnonzero(np.diff(one.starts) > window_ms) + 1
    return np.insert(at, after, at[after] if len(at) else []), np.insert(values, after, np.nan)


def _days(starts: Sequence[int]) -> Doubles:
    # matplotlib's dates: days since 1970
    return np.asarray(starts, np.float64) / 86_400_000


def _share(value: float, _: object = None) -> str:
    return f"{value * 100:.10g}%"
