"""Plots as SVG text to be put into a page (`presentation.page`).

Colours are the page's CSS variables, so that one picture serves light and dark: matplotlib is given
stand-ins, which are replaced in what it writes.
"""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PAPER, INK, SOFT = "#060606", "#010101", "#020202"
RULE, ACCENT, ADVISED = "#030303", "#040404", "#050505"
#: Lines that are told apart by colour: kinds of action.
KINDS = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006")
_VARIABLES = {
    PAPER: "--paper",
    INK: "--ink",
    SOFT: "--soft",
    RULE: "--rule",
    ACCENT: "--accent",
    ADVISED: "--advised",
} | {stand_in: f"--kind-{n}" for n, stand_in in enumerate(KINDS)}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
}


def style() -> AbstractContextManager[None]:
    """To be entered while a plot is made."""
    return mpl.rc_context(_STYLE)


def axes_of(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one plot and no background; inches, but a page scales it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def svg(figure: Figure, title: str) -> str:
    """The figure as an `<svg>` element; `title` is what a screen reader says."""
    out = io.StringIO()
    # ids are hashes: of a salt of its own, so that two pictures of one page do not share them
    with mpl.rc_context({"svg.hashsalt": title}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # its own size would not follow the page's width; the viewBox keeps the shape
    text = re.sub(
        r'^<svg [^>]*?(viewBox="[^"]+")[^>]*>',
        lambda found: f'<svg {found[1]} role="img" aria-label="{escape(title)}">',
        text,
    )
    text = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    return text
