"""What an action costs beside many others of its key, and an impression in a large request.

    python -m benchmarks.join.skew FOLDER [--total 200000] [--repeat 1]

Writes `skew.json`, `skew.md` and `skew.svg`. The figures are CPU seconds of the join's thread, so
waiting does not count. Warm-up does, and is the same in all runs, since all are of the same total.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.join.measure import RunError, join_seconds
from benchmarks.join.run_skew import Case, groups
from benchmarks.join.spec import Backend

BACKENDS: tuple[Backend, ...] = ("hashmap", "rocksdb")
SIZES = (10, 100, 1_000, 10_000)
ITEM_SIZES = (1, 20, 500, 5_000)
SHAPES = {
    "pending": "actions on one pending request",
    "waiting": "actions that wait for their request",
    "late": "late actions on one request",
    "user": "a hot user, 10 actions a request",
    "items": "items a request, by impression",
}
_COLOURS = dict(zip(SHAPES, ("#1b6ca8", "#c0603b", "#488a3f", "#7d3b8c", "#1b6ca8"), strict=True))


class Measured(NamedTuple):
    """One run. `microseconds`: of the join's thread, an action, or an impression for "items"."""

    shape: str
    backend: str
    size: int
    microseconds: float


def cases(total: int) -> list[Case]:
    """All of them. Raises ValueError for a total that some size does not divide into whole keys."""
    found = [
        Case(shape, backend, size, total)
        for shape in SHAPES
        for size in (ITEM_SIZES if shape == "items" else SIZES)
        for backend in BACKENDS
    ]
    for case in found:
        number, active = groups(case)
        if number * active * case.size != total:
            raise ValueError(f"{total} cannot be made of keys of {case.size}: take 200000 or 20000")
    return found


def measure(case: Case) -> Measured:
    """One run in a process of its own. Raises RunError."""
    with tempfile.TemporaryDirectory(prefix="sample-stitch-skew-") as folder:
        of_run = Case(case.shape, case.backend, case.size, case.total, folder)
        seconds = join_seconds("benchmarks.join.run_skew", of_run.to_json(), Path(folder))
    return Measured(case.shape, case.backend, case.size, 1e6 * seconds / case.total)


def by_line(results: Sequence[Measured]) -> dict[tuple[str, str], dict[int, list[float]]]:
    """The runs of each shape and backend, by size."""
    lines: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in results:
        lines[one.shape, one.backend][one.size].append(one.microseconds)
    return lines


def table(results: Sequence[Measured]) -> str:
    """Markdown: a row a shape and backend, a column a size; the median, with the least and the
    greatest if there are several runs.
    """
    lines = []
    found = by_line(results)
    for shapes, sizes, unit in (
        ([s for s in SHAPES if s != "items"], SIZES, "actions a key"),
        (["items"], ITEM_SIZES, "items a request"),
    ):
        lines += [
            f"| µs, by {unit} | backend | " + " | ".join(f"{size:,}" for size in sizes) + " |",
            "| -- | -- |" + " -: |" * len(sizes),
        ]
        for shape in shapes:
            for backend in BACKENDS:
                cells = [_cell(found[shape, backend][size]) for size in sizes]
                lines.append(f"| {SHAPES[shape]} | {backend} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(runs: list[float]) -> str:
    if not runs:
        return ""
    spread = f" ({min(runs):.1f} to {max(runs):.1f})" if len(runs) > 1 else ""
    return f"{median(runs):.1f}{spread}"


def draw(results: Sequence[Measured], path: Path) -> None:
    """The same as a picture: a line through the medians, a point for each run."""
    import matplotlib as mpl

    mpl.use("svg")
    # the same figures give the same file
    mpl.rcParams["svg.hashsalt"] = "sample-stitch"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for (shape, backend), of_size in by_line(results).items():
        axis, colour = axes[int(shape == "items")], _COLOURS[shape]
        sizes = sorted(of_size)
        medians = [median(of_size[size]) for size in sizes]
        style = "-" if backend == "hashmap" else "--"
        label = SHAPES[shape] if backend == "hashmap" else None
        axis.plot(sizes, medians, style, color=colour, linewidth=1.6, label=label)
        for size in sizes:
            runs = of_size[size]
            axis.plot([size] * len(runs), runs, "o", color=colour, markersize=3, alpha=0.6)
    for axis, name in zip(axes, ("actions a key", "items a request"), strict=True):
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel(f"{name} (solid: heap, dashed: RocksDB)")
        axis.set_ylabel("CPU µs of the join's thread, each")
        axis.grid(color="#ddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--total", type=int, default=200_000, help="actions, or impressions, a run")
    parser.add_argument("--repeat", type=int, default=1, help="turns of all cases")
    arguments = parser.parse_args()
    results: list[Measured] = []
    try:
        turn = cases(arguments.total)
        for case in turn * arguments.repeat:
            results.append(measure(case))
            print(json.dumps(results[-1]._asdict()), flush=True)
    except (RunError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    runs = json.dumps([one._asdict() for one in results], indent=1)
    (folder / "skew.json").write_text(runs + "\n")
    (folder / "skew.md").write_text(table(results))
    draw(results, folder / "skew.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
