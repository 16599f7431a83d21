"""Makes joined slices the rows of their hours, all at once: one put of the output's pointer.

Nothing is moved or renamed but that one small file, so a crash leaves the old state or the new one,
on a local disk and on an object store.
"""

from __future__ import annotations

from datetime import datetime, timezone

from configuration.stores import Folder
from jobs.backfill import tree
from jobs.backfill.work import Work
from jobs.pipeline import places
from schemas import generations
from schemas.generations import POINTER, Generation, hour_of


def publish(output: Folder, work: Work) -> None:
    """Readers that look from now on see the slices. Done before, it does nothing.

    Raises PlaceError, OSError, PointerError.
    """
    if is_published(output, work):
        return
    before = generations.current(output).generations
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    rejected = [
        (hour_of(partition) or "", f"rejected/{partition}/{name}")
        for partition, names in tree.partitions(output / "rejected").items()
        for name in names
        if not name.startswith((".", "_"))
    ]
    new = [
        Generation(
            folder=piece.folder,
            first=piece.first,
            end=piece.end,
            published=now,
            rejected=tuple(
                sorted(path for hour, path in rejected if piece.first <= hour < piece.end)
            ),
        )
        for piece in work.slices
    ]
    places.write(output / POINTER, generations.encode([*before, *new]))


def is_published(output: Folder, work: Work) -> bool:
    """Whether the pointer has the slices. Raises OSError, PointerError."""
    named = {made.folder for made in generations.current(output).generations}
    return named >= {piece.folder for piece in work.slices}
