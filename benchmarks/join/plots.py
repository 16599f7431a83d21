"""What is easier to see than to read: how cost grows."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.join import kept
from benchmarks.join.cases import BEST, GROWTH, Growth
from benchmarks.join.report import NAMES, work

_COLOURS = {"ours": "#1b6ca8", "over": "#c0603b"}


def draw(runs: list[dict[str, Any]], folder: Path) -> list[tuple[str, str]]:
    """Writes a plot for each growth that has runs: its title and its file's name."""
    drawn = []
    for growth in GROWTH:
        lines = {plan: _points(runs, growth, plan) for plan in BEST}
        if all(len(points) > 1 for points in lines.values()):
            _draw(growth, lines, folder / f"growth-{growth.name}.svg")
            drawn.append((growth.title, f"growth-{growth.name}.svg"))
    return drawn


_Point = tuple[float, list[float]]


def _points(runs: list[dict[str, Any]], growth: Growth, plan: str) -> list[_Point]:
    """The size, and the CPU microseconds an impression of each run."""
    points = []
    for size, setting in growth.sizes:
        spec = setting.spec("ours")
        key = [getattr(spec, name) for name in kept.SETTING]
        costs = [
            work(run) / spec.impressions * 1e6
            for run in runs
            if run["plan"] == plan and [run[name] for name in kept.SETTING] == key
        ]
        if costs:
            points.append((size, costs))
    return points


def _draw(growth: Growth, lines: dict[Any, list[_Point]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    # the same figures give the same file
    mpl.rcParams["svg.hashsalt"] = "sample-stitch"
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3.4), layout="constrained")
    for plan, points in lines.items():
        colour = _COLOURS[plan]
        sizes, medians = [size for size, _ in points], [median(costs) for _, costs in points]
        axis.plot(sizes, medians, "-", color=colour, linewidth=1.6)
        for size, costs in points:
            axis.plot([size] * len(costs), costs, "o", color=colour, markersize=3, alpha=0.6)
        axis.annotate(
            NAMES[plan],
            (sizes[-1], medians[-1]),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
        )
    sizes = [size for size, _ in growth.sizes]
    if min(sizes) > 0 and max(sizes) / min(sizes) > 20:
        axis.set_xscale("log")
        axis.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axis.minorticks_off()
    axis.set_ylim(bottom=0)
    axis.set_xlabel(f"{growth.title} ({growth.unit})")
    axis.set_ylabel("CPU µs an impression")
    axis.grid(color="#ddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
