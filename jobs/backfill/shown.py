"""What a backfill would read and replace, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from configuration.stores import Folder
from jobs.backfill import hours, sources
from jobs.backfill.margins import Margins
from jobs.backfill.running import TABLES
from jobs.backfill.sources import Listings
from jobs.backfill.work import Work
from jobs.pipeline.config import Pipeline
from schemas import generations

#: Of the table, whatever the width of the console.
_WIDTH = 120


def show(
    pipeline: Pipeline, listings: Listings, output: Folder, planned: Work, edges: Margins
) -> None:
    """Print it. `pipeline`, `listings`: of `sources.replayed` and `sources.listed`.

    Raises ConfigError as the join would before it starts, OSError, PointerError.
    """
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("replaces from", "to", "reads from", "to", "that is", "in place of"):
        grid.add_column(head, no_wrap=True)
    of = generations.current(output)
    there = {table: generations.names(output, table, of) for table in TABLES}
    of_table: dict[str, list[int]] = {table: [] for table in TABLES}
    notes: list[str] = []
    for piece in planned.slices:
        span = edges.of(hours.read(piece.first, "from"), hours.read(piece.end, "to"))
        source = sources.cut(pipeline, *span, goes_on=sources.go_on(listings, span[1]))
        read, notes = sources.described(source, listings), sources.notes(source, listings)
        sizes: list[int] = []
        for table, names in there.items():
            replaced = [name for name in names if piece.first <= _hour(name) < piece.end]
            found = [(output / name).stat().st_size for name in replaced]
            of_table[table] += found
            sizes += found
        whole = sources.are_whole(pipeline)
        begin, end = ("-", "-") if whole else map(hours.text, span)
        grid.add_row(piece.first, piece.end, begin, end, read, _much(sizes))
    console = Console(highlight=False, width=_WIDTH)
    console.print(grid)
    of_all = "; ".join(f"{t.replace('_', ' ')}: {_much(sizes)}" for t, sizes in of_table.items())
    console.print(f"in place of {of_all}", soft_wrap=True)
    for note in notes:  # of the last slice
        console.print(f"warning: {note}", soft_wrap=True)
    console.print(f"generations go to {output / planned.folder}; nothing was done", soft_wrap=True)


def _hour(name: str) -> str:
    return generations.hour_of(generations.partition_in(name)) or ""


def _much(sizes: Sequence[int]) -> str:
    return f"{len(sizes):,} file{'' if len(sizes) == 1 else 's'}, {sum(sizes) / 1e6:,.1f} MB"
