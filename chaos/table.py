"""The results as a table, for a person at a terminal and for docs/faults.md."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.table import Table

from chaos.result import Result
from chaos.run import DRAIN
from chaos.trainer_run import END

_COLUMNS = ("", "fault", "hit", "detected s", "running s", "caught up s", "rows", "differing")


def cells(result: Result) -> list[str]:
    """One line."""
    detected = "-" if result.detected_s is None else f"{result.detected_s:.1f}"
    differing = result.difference.count + (result.unaccounted or 0)
    return [
        str(result.number),
        result.fault,
        result.what,
        detected,
        f"{result.running_s:.1f}",
        f"{result.caught_up_s:.1f}",
        f"{result.difference.compared:,}",
        str(differing),
    ]


def terminal(results: Sequence[Result]) -> Table:
    """All of them, one a line."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for n, name in enumerate(_COLUMNS):
        table.add_column(name, justify="left" if n in (1, 2) else "right", no_wrap=True)
    for result in results:
        table.add_row(*cells(result))
    return table


def markdown(results: Sequence[Result]) -> str:
    """A line for each kind: how many were made, the median and the longest of the seconds, and how
    many rows became visible between the comparison before and the one after.
    """
    lines = [
        "| fault | made | detected s | running again s | caught up s | rows compared | differing |",
        "| -- | --: | --: | --: | --: | --: | --: |",
    ]
    new_rows = _new_rows(results)
    for name in dict.fromkeys(result.fault for result in results):
        of = [result for result in results if result.fault == name]
        rows = sum(n for n, r in zip(new_rows, results, strict=True) if r.fault == name)
        differing = sum(r.difference.count + (r.unaccounted or 0) for r in of)
        detected = _spread([r.detected_s for r in of if r.detected_s is not None])
        running = _spread([r.running_s for r in of])
        caught_up = _spread([r.caught_up_s for r in of])
        lines.append(
            f"| {name} | {len(of)} | {detected} | {running} | {caught_up} "
            f"| {rows:,} | {differing} |"
        )
    return "\n".join(lines) + "\n"


def _new_rows(results: Sequence[Result]) -> list[int]:
    """Of each, the rows that became visible after the comparison before it."""
    before, found = 0, []
    for result in results:
        found.append(result.difference.compared - before)
        # after the end of an output or a model there is a new one
        before = 0 if result.fault in (DRAIN, END) else result.difference.compared
    return found


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    if len(seconds) == 1:
        return f"{seconds[0]:.1f}"
    return f"{statistics.median(seconds):.1f} (to {max(seconds):.1f})"
