"""What is easier to see than to read: how cost grows, and a rate over time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.join.cases import BEST, GROWTH, Growth
from benchmarks.join.kept import on, place_of
from benchmarks.join.large_state import DEFAULTS, OURS
from benchmarks.join.report import LARGE_TITLE, NAMES, costs

_COLOURS = {"ours": "#1b6ca8", "over": "#c0603b"}
#: From the smallest state to the largest.
_SIZES = ("#7fb3d5", "#1b4f72")


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


def draw_large(runs: list[dict[str, Any]], folder: Path) -> list[tuple[str, str]]:
    """Writes the plot of the rate while state outgrows memory, if there are runs: its title and its
    file's name.
    """
    if not runs:
        return []
    # lines of two processors would look alike
    runs = on(place_of(runs[-1]), runs)
    path = folder / "large-state.svg"
    with _figure("requests taken in (thousand)", "requests/s", path, above=True) as axis:
        for run in (run for run in runs if run["options"] in (DEFAULTS, OURS)):
            axis.plot(
                [requests / 1e3 for requests, _ in run["rates"]],
                [rate for _, rate in run["rates"]],
                "--" if run["options"] == DEFAULTS else "-",
                color=_SIZES[sorted({one["pending"] for one in runs}).index(run["pending"])],
                linewidth=1.4,
                label=f"{run['pending'] // 1_000}k pending, {run['options']}",
            )
    return [(LARGE_TITLE, "large-state.svg")]


_Point = tuple[float, list[float]]


def _draw(growth: Growth, lines: dict[Any, list[_Point]], path: Path) -> None:
    with _figure(f"{growth.title} ({growth.unit})", "CPU µs an impression", path) as axis:
        for plan, points in lines.items():
            colour = _COLOURS[plan]
            sizes, medians = [size for size, _ in points], [median(runs) for _, runs in points]
            axis.plot(sizes, medians, "-", color=colour, linewidth=1.6, label=NAMES[plan])
            for size, of_runs in points:
                at = [size] * len(of_runs)
                axis.plot(at, of_runs, "o", color=colour, markersize=3, alpha=0.6)
        sizes = [size for size, _ in growth.sizes]
        if min(sizes) > 0 and max(sizes) / min(sizes) > 20:
            axis.set_xscale("log")
            axis.set_xticks(sizes, [f"{size:g}" for size in sizes])
            axis.minorticks_off()


@contextmanager
def _figure(x: str, y: str, path: Path, *, above: bool = False) -> Iterator[Any]:
    """Axes to draw on; the file is written when they are left. `above`: where the legend is."""
    import matplotlib as mpl

    mpl.use("svg")
    # the same figures give the same file
    mpl.rcParams["svg.hashsalt"] = "sample-stitch"
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3.4), layout="constrained")
    yield axis
    axis.set_ylim(bottom=0)
    if above:
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    else:
        axis.legend(frameon=False)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(color="#ddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
