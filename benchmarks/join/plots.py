"""What is easier to see than to read: how cost grows."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.join.cases import BEST, GROWTH, Growth
from benchmarks.join.report import NAMES, costs

_COLOURS = {"ours": "#1b6ca8", "over": "#c0603b"}


def draw(runs: list[dict[str, Any]], folder: Path) -> list[tuple[str, str]]:
    """Writes a plot for each growth that has runs: its title and its file's name."""
    drawn = []
    for growth in GROWTH:
        by_size = costs(growth, runs)
        if len(by_size) > 1:
            lines = {plan: [(size, of[plan]) for size, of in by_size.items()] for plan in BEST}
            _draw(growth, lines, folder / f"growth-{growth.name}.svg")
            drawn.append((growth.title, f"growth-{growth.name}.svg"))
    return drawn


_Point = tuple[float, list[float]]


def _draw(growth: Growth, lines: dict[Any, list[_Point]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    # the same figures give the same file
    mpl.rcParams["svg.hashsalt"] = "sample-stitch"
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3.4), layout="constrained")
    for plan, points in lines.items():
        colour = _COLOURS[plan]
        sizes, medians = [size for size, _ in points], [median(of_runs) for _, of_runs in points]
        axis.plot(sizes, medians, "-", color=colour, linewidth=1.6, label=NAMES[plan])
        for size, of_runs in points:
            axis.plot([size] * len(of_runs), of_runs, "o", color=colour, markersize=3, alpha=0.6)
    sizes = [size for size, _ in growth.sizes]
    if min(sizes) > 0 and max(sizes) / min(sizes) > 20:
        axis.set_xscale("log")
        axis.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axis.minorticks_off()
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
    axis.set_xlabel(f"{growth.title} ({growth.unit})")
    axis.set_ylabel("CPU µs an impression")
    axis.grid(color="#ddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
