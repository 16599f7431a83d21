"""The curves, as SVG text to be put into a page.

Colours are the page's CSS variables, so that one picture serves light and dark: matplotlib is given
stand-ins, which are replaced in what it writes.
"""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from tools.advise_window.answers import Answers, KindAnswer
from tools.advise_window.cost import NICE_WAITS
from tools.summary.show import readable_ms

_PAPER, _INK, _SOFT = "#060606", "#010101", "#020202"
_RULE, _ACCENT, _ADVISED = "#030303", "#040404", "#050505"
_KINDS = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006")
_VARIABLES = {
    _PAPER: "--paper",
    _INK: "--ink",
    _SOFT: "--soft",
    _RULE: "--rule",
    _ACCENT: "--accent",
    _ADVISED: "--advised",
} | {stand_in: f"--kind-{n}" for n, stand_in in enumerate(_KINDS)}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "axes.grid": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.5,
}


def completeness(kind: KindAnswer) -> str:
    """The share of labels that are there after a wait: estimate, band, what was seen, windows."""
    estimate = kind.estimate
    marks = [kind.now.wait_ms]
    told = kind.advice.basis != "cannot tell"
    if told:
        marks.append(kind.advice.window_ms)
    first = estimate.best.wait(0.02)
    last = max(3 * max(marks), min(1.5 * estimate.reach, 4 * estimate.best.wait(0.99)))
    if not told:  # how wide the guess is
        last = max(last, 1.5 * min(kind.advice.high, 20 * estimate.reach))
    waits = np.geomspace(first, last, 400)
    band = estimate.completeness(waits)
    inside = waits <= estimate.reach
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(5.4, 3.3)
        axes.fill_between(waits, band.low, band.high, color=_ACCENT, alpha=0.2, linewidth=0)
        naive = estimate.share_of_seen(waits)
        axes.plot(waits, naive, color=_SOFT, linewidth=1, linestyle=":", label="of those seen")
        axes.plot(waits[inside], band.value[inside], color=_ACCENT, linewidth=2, label="observed")
        if not inside.all():
            from_here = max(int(inside.sum()) - 1, 0)
            axes.plot(
                waits[from_here:],
                band.value[from_here:],
                color=_ACCENT,
                linewidth=2,
                linestyle=(0, (4, 2)),
                label="extrapolated",
            )
        _mark(axes, kind.now.wait_ms, "now", _SOFT, left=kind.now.wait_ms == min(marks))
        if told:
            _mark(axes, marks[1], "advised", _ADVISED, left=marks[1] < marks[0])
        axes.axhline(kind.advice.target, color=_SOFT, linewidth=0.8, linestyle=(0, (1, 3)))
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("wait after the request")
        axes.set_title(kind.kind, loc="left", fontweight="bold")
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.92), fontsize=8)
        _time_axis(axes, first, last)
        return _svg(figure, f"{kind.kind}: completeness by wait")


def policies(answers: Answers) -> str:
    """Of each kind's labels the share that the first row misses, by how old that row is."""
    ages = [cost.first_age_ms for cost in (*answers.costs_now, *answers.costs)]
    # a first row may come at once, and 0 has no place on a logarithmic axis
    first, last = max(min(min(ages), 2_000.0) / 2, 500.0), 5 * max(ages)
    over = answers.overheads.any_row
    age = np.geomspace(max(first, over * 1.02), last, 400)
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(7.6, 3.8)
        for number, kind in enumerate(answers.kinds):
            missed = 1 - kind.estimate.share(np.maximum(age - over, 1e-3))
            colour = _KINDS[number % len(_KINDS)]
            axes.plot(age, missed, color=colour, linewidth=2, label=kind.kind)
        marks = [
            (c.name.replace("es_dfm", "es_dfm / defer"), c.first_age_ms)
            for c in answers.costs_now
            if c.name.startswith(("fake", "es_dfm"))
        ]
        for text, age_ms in marks:
            at = max(age_ms, first)
            axes.axvline(at, color=_SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
            place = (at, 1.03, text)
            top = axes.get_xaxis_transform()
            axes.text(*place, transform=top, color=_INK, fontsize=8, rotation=25)
        now, advised = answers.costs_now[0].first_age_ms, answers.costs[0].first_age_ms
        _mark(axes, now, "wait, now", _SOFT, left=now <= advised)
        if advised != now:
            _mark(axes, advised, "wait, advised", _ADVISED, left=advised < now)
        axes.set_ylim(0, 1.0)
        axes.set_xlabel("age of a sample's first row")
        axes.set_ylabel("of its labels, missed")
        axes.legend(frameon=False, loc="lower left", fontsize=8)
        _time_axis(axes, first, last)
        return _svg(figure, "false negatives by age of the first row")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure, axes


def _mark(axes: Axes, at: float, text: str, colour: str, *, left: bool) -> None:
    """A line across, with its text on the side where no other is."""
    axes.axvline(at, color=colour, linewidth=1.4)
    axes.annotate(
        *(f"{text} {readable_ms(at)}", (at, 0.04)),
        xytext=(-4 if left else 4, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="bottom",
        color=_INK,
        fontsize=8,
        # under the curves of rare kinds there is no free place
        bbox={"facecolor": _PAPER, "edgecolor": "none", "pad": 1, "alpha": 0.8},
    )


def _time_axis(axes: Axes, first: float, last: float) -> None:
    """Logarithmic, with round times: about six."""
    axes.set_xscale("log")
    axes.set_xlim(first, last)
    nice = [at for at in (1.0, 10.0, 100.0, *NICE_WAITS) if first <= at <= last]
    axes.xaxis.set_major_locator(FixedLocator(nice[:: -(-len(nice) // 6) or 1]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ms, _: readable_ms(ms).replace(".0 ", " ")))


def _svg(figure: Figure, title: str) -> str:
    out = io.StringIO()
    # ids are hashes: of a salt of its own, so that two pictures of one page do not share them
    with mpl.rc_context({"svg.hashsalt": title}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # its own size would not follow the page's width; the viewBox keeps the shape
    svg = re.sub(
        r'^<svg [^>]*?(viewBox="[^"]+")[^>]*>', rf'<svg \1 role="img" aria-label="{title}">', svg
    )
    svg = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, f"var({variable})")
    return svg
