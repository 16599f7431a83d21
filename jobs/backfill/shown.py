"""What a backfill would read and replace, as a table."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from jobs.backfill import hours, publication, sources
from jobs.backfill.margins import Margins
from jobs.backfill.running import TABLES
from jobs.backfill.work import Work
from jobs.pipeline.config import Pipeline

#: Whatever the width of the console.
_WIDTH = 110


def show(pipeline: Pipeline, output: Path, planned: Work, edges: Margins) -> None:
    """Print it. Raises ConfigError as the join would before it starts, OSError, PointerError."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("replaces from", "to", "reads from", "to"):
        grid.add_column(head, no_wrap=True)
    grid.add_column("of the source", no_wrap=True)
    for table in TABLES:
        grid.add_column(table.replace("_", " "), justify="right", no_wrap=True)
    for piece in planned.slices:
        span = edges.of(hours.read(piece.first, "from"), hours.read(piece.end, "to"))
        read = sources.described(sources.cut(pipeline, *span))
        there = [publication.replaced(output, t, piece.first, piece.end) for t in TABLES]
        shown = [f"{len(files):,} files, {_size(files):,.1f} MB" for files in there]
        whole = sources.are_whole(pipeline)
        begin, end = ("-", "-") if whole else map(hours.text, span)
        grid.add_row(piece.first, piece.end, begin, end, read, *shown)
    console = Console(highlight=False, width=_WIDTH)
    console.print(grid)
    console.print(f"generations go to {output / planned.folder}; nothing was done", soft_wrap=True)


def _size(files: list[Path]) -> float:
    return sum(file.stat().st_size for file in files) / 1e6
