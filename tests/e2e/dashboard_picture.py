"""A picture of the dashboard's panels with what a Prometheus has, without Grafana."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from services.prometheus import Prometheus, Series
from tests.e2e import watched

COLUMNS = 4
#: Seconds between two points.
STEP = 2.0
UNITS = {
    "rps": EngFormatter(unit="/s", sep=""),
    "s": EngFormatter(unit="s"),
    "bytes": EngFormatter(unit="B"),
    "short": EngFormatter(sep=""),
    "percentunit": PercentFormatter(xmax=1.0, decimals=0),
}


def draw(prom: Prometheus, job: str, start: float, end: float, to: Path) -> None:
    """All panels between two times (seconds since the epoch), and when alerts fired, as PNG."""
    panels: dict[str, list[watched.Query]] = {}
    for query in watched.queries(job):
        panels.setdefault(query.panel, []).append(query)
    rows = math.ceil(len(panels) / COLUMNS)
    with mpl.rc_context({"font.size": 7, "axes.grid": True, "grid.linewidth": 0.3}):
        figure = Figure(figsize=(4.2 * COLUMNS, 2.9 * rows + 2.4), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=[2.9 * rows, 2.4])
        above, below = parts
        for place, (title, queries) in enumerate(panels.items(), start=1):
            axes = above.add_subplot(rows, COLUMNS, place)
            _head(axes, title, end - start)
            axes.yaxis.set_major_formatter(UNITS[queries[0].unit])
            for query in queries:
                for series in prom.query_range(query.expression, start, end, STEP):
                    label = query.name(dict(series.labels))
                    label = label if len(label) < 40 else f"{label[:37]}…"
                    axes.plot(*_line(series, start), linewidth=1, label=label)
            if axes.lines:
                at: Any = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.1)}
                axes.legend(fontsize=5.5, frameon=False, ncols=2, **at)
        axes = below.add_subplot()
        _head(axes, "Alerts that fire, with the test's short thresholds", end - start)
        firing = prom.query_range('ALERTS{alertstate="firing"}', start, end, STEP)
        names = sorted({series.labels["alertname"] for series in firing}, reverse=True)
        for series in firing:
            minutes, _ = _line(series, start)
            height = names.index(series.labels["alertname"])
            axes.plot(minutes, [height] * len(minutes), "s", markersize=3.5, color="firebrick")
        axes.set_yticks(range(len(names)), names)
        figure.savefig(to, dpi=110)


def _head(axes: Any, title: str, seconds: float) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlim(0, seconds / 60)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter("{x:g} min")


def _line(series: Series, start: float) -> tuple[list[float], list[float]]:
    """Minutes and values, with a NaN where points are missing, so that the line has a gap there."""
    minutes, values, last = [], [], math.inf
    for time, value in series.points:
        if time - last > 1.5 * STEP:
            minutes.append((last - start) / 60)
            values.append(math.nan)
        minutes.append((time - start) / 60)
        values.append(value)
        last = time
    return minutes, values
