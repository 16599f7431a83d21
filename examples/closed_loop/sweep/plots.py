"""The plots of docs/how-long-to-wait.md, as SVG files."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from examples.closed_loop.headless.referee import BEFORE_H
from examples.closed_loop.sweep.cells import POLICIES, WINDOWS, Cell
from examples.closed_loop.sweep.report import Results, interval, regret_of

_COLOURS = {
    "wait": "#124559",
    "fake_negative": "#c2571a",
    "es_dfm": "#4a7c3a",
    "defer": "#7a3b8f",
}


def draw(results: Results, folder: Path) -> list[Path]:
    """Write the plots; the files. The same results give the same files."""
    style = {"svg.hashsalt": "sample-stitch", "font.size": 9, "svg.fonttype": "none"}
    paths = [folder / "how-long-regret.svg", folder / "how-long-new-interest.svg"]
    with mpl.rc_context(style):  # type: ignore[arg-type]
        for path, figure in zip(paths, (regret(results), new_interest(results)), strict=True):
            figure.savefig(path, metadata={"Date": None})
    return paths


def regret(results: Results) -> Figure:
    """Regret by window, a line for each policy, with 95 % intervals."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for n, policy in enumerate(POLICIES):
        values = [
            interval([regret_of(run) for run in results[Cell(window, policy)]])
            for window in WINDOWS
        ]
        at = [x + 0.06 * (n - 1.5) for x in range(len(WINDOWS))]
        means, halves = ([100 * v[k] for v in values] for k in (0, 1))
        axes.errorbar(
            *(at, means, halves),
            color=_COLOURS[policy],
            marker="o",
            markersize=4,
            linewidth=1.2,
            capsize=2,
            label=policy,
        )
    axes.set_xticks(range(len(WINDOWS)), WINDOWS)
    axes.set_xlabel("window of a click")
    axes.set_ylabel("clicks lost against the best ranking, %")
    axes.set_ylim(bottom=0)
    _tidy(axes)
    axes.legend(frameon=False, ncols=2)
    return figure


def new_interest(results: Results) -> Figure:
    """The share of the best ranking's clicks after the new interest begins, in steps of 2 h."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    shown = (Cell("1h", "wait"), Cell("6h", "wait"), Cell("1d", "wait"), Cell("6h", "defer"))
    dashes = ("-", "--", ":", "-")
    for cell, dash in zip(shown, dashes, strict=True):
        hours, shares = [], []
        for begin in range(0, BEFORE_H + 34, 2):
            clicks = sum(sum(run.new_clicks[begin : begin + 2]) for run in results[cell])
            best = sum(sum(run.new_best[begin : begin + 2]) for run in results[cell])
            if best:
                hours.append(begin + 1 - BEFORE_H)
                shares.append(100 * clicks / best)
        label = f"{cell.policy} {cell.window}"
        axes.plot(hours, shares, dash, color=_COLOURS[cell.policy], label=label, linewidth=1.4)
    axes.axvline(0, color="#999", linewidth=0.8)
    axes.set_xlabel("hours after the new interest began")
    axes.set_ylabel("of the best ranking's clicks, %")
    axes.set_ylim(0, 100)
    _tidy(axes)
    axes.legend(frameon=False, ncols=2, loc="lower right")
    return figure


def _tidy(axes: mpl.axes.Axes) -> None:
    axes.grid(axis="y", color="#ddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
