"""What a backfill would read and replace, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from jobs.backfill import hours, publication, sources
from jobs.backfill.margins import Margins
from jobs.backfill.running import TABLES
from jobs.backfill.sources import Listings
from jobs.backfill.work import Work
from jobs.pipeline.config import Pipeline

#: Of the table, whatever the width of the console.
_WIDTH = 120


def show(
    pipeline: Pipeline, listings: Listings, output: Path, planned: Work, edges: Margins
) -> None:
    """Print it. `pipeline`, `listings`: of `sources.replayed` and `sources.listed`.

    Raises ConfigError as the join would before it starts, OSError, PointerError.
    """
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("replaces from", "to", "reads from", "to", "that is", "in place of"):
        grid.add_column(head, no_wrap=True)
    of_table: dict[str, list[Path]] = {table: [] for table in TABLES}
    notes: list[str] = []
    for piece in planned.slices:
        span = edges.of(hours.read(piece.first, "from"), hours.read(piece.end, "to"))
        source = sources.cut(pipeline, *span, goes_on=sources.go_on(listings, span[1]))
        read, notes = sources.described(source, listings), sources.notes(source, listings)
        files: list[Path] = []
        for table in TABLES:
            found = publication.replaced(output, table, piece.first, piece.end)
            of_table[table] += found
            files += found
        whole = sources.are_whole(pipeline)
        begin, end = ("-", "-") if whole else map(hours.text, span)
        grid.add_row(piece.first, piece.end, begin, end, read, _much(files))
    console = Console(highlight=False, width=_WIDTH)
    console.print(grid)
    of_all = "; ".join(f"{t.replace('_', ' ')}: {_much(files)}" for t, files in of_table.items())
    console.print(f"in place of {of_all}", soft_wrap=True)
    for note in notes:  # of the last slice
        console.print(f"warning: {note}", soft_wrap=True)
    console.print(f"generations go to {output / planned.folder}; nothing was done", soft_wrap=True)


def _much(files: Sequence[Path]) -> str:
    size = sum(file.stat().st_size for file in files) / 1e6
    return f"{len(files):,} file{'' if len(files) == 1 else 's'}, {size:,.1f} MB"
