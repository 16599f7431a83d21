"""Makes joined slices the rows of their hours, all at once: one put of the output's pointer.

Nothing is moved or renamed but that one small file, so a crash leaves the old state or the new one,
on a local disk and on an object store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from jobs.backfill.work import Work
from jobs.pipeline import places
from schemas import generations
from schemas.generations import POINTER, Generation, hour_of


def publish(output: Path, work: Work) -> None:
    """Readers that look from now on see the slices. Done before, it does nothing.

    Raises PlaceError, OSError, PointerError.
    """
    if is_published(output, work):
        return
    before = generations.current(output).generations
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    new = [
        Generation(
            folder=piece.folder,
            first=piece.first,
            end=piece.end,
            published=now,
            rejected=tuple(
                sorted(
                    path
                    for path, hour in _tree(output, "rejected")
                    if piece.first <= hour < piece.end
                )
            ),
        )
        for piece in work.slices
    ]
    places.write(str(output / POINTER), generations.encode([*before, *new]))


def is_published(output: Path, work: Work) -> bool:
    """Whether the pointer has the slices. Raises OSError, PointerError."""
    named = {made.folder for made in generations.current(output).generations}
    return named >= {piece.folder for piece in work.slices}


def replaced(output: Path, table: str, first: str, end: str) -> list[Path]:
    """The files that readers take now for these hours."""
    of = generations.current(output)
    return [
        path
        for partition, paths in generations.partitions(output, table, of).items()
        if first <= (hour_of(partition) or "") < end
        for path in paths
    ]


def _tree(output: Path, table: str) -> Iterator[tuple[str, str]]:
    """The data files beside the generations, relative to the output, each with its hour."""
    for place, _, names in os.walk(output / table):
        hour = hour_of(Path(place).relative_to(output / table).as_posix())
        if hour is not None:
            for name in names:
                if not name.startswith((".", "_")):
                    yield (Path(place, name).relative_to(output).as_posix(), hour)
