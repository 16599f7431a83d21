"""What is easier to see than to read: staleness."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.trainer.plan import STALENESS

_TITLE = "Staleness: quality and time"
_NAME = "staleness.svg"


def draw(raw: dict[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Writes the plots; the title of the table each belongs to, and its file's name."""
    runs = raw["staleness"]
    names = [name for name in STALENESS if any(run["name"] == name for run in runs)]
    if len(names) < 2:
        return []
    import matplotlib as mpl

    mpl.use("svg")
    # the same figures give the same file
    mpl.rcParams["svg.hashsalt"] = "sample-stitch"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for axis, key, label in zip(
        axes, ("log_loss", "seconds"), ("log loss", "seconds"), strict=True
    ):
        for at, name in enumerate(reversed(names)):
            values = [run[key] for run in runs if run["name"] == name]
            axis.plot(values, [at] * len(values), "o", color="#9ab", markersize=4)
            axis.plot([median(values)], [at], "|", color="#124", markersize=14, markeredgewidth=2)
        axis.set_xlabel(label)
        axis.grid(axis="x", color="#ddd")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(names)), [STALENESS[n].title for n in reversed(names)])
    axes[1].set_xlim(left=0)
    figure.savefig(folder / _NAME, metadata={"Date": None})
    pyplot.close(figure)
    return [(_TITLE, _NAME)]
