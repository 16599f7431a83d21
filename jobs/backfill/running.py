"""A backfill from its plan to its publication; it can be killed at any point, and go on.

| killed                      | what is there                | what the next run does            |
| --------------------------- | ---------------------------- | --------------------------------- |
| before the plan is written  | nothing                      | plans                             |
| while a slice is joined     | a folder that nothing names  | deletes it, joins the slice again |
| after a slice is joined     | the slice, in the plan       | goes on with the next one         |
| before the pointer is put   | all slices; the old rows     | puts the pointer                  |
| after it                    | the new rows; the plan       | what follows it; deletes the plan |
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from configuration.stores import Folder
from jobs.backfill import publication, tree, work
from jobs.backfill.work import Slice, Work
from jobs.pipeline import places
from schemas.generations import hour_of

#: Joins a slice into a folder, which is not there yet. Raises what the backfill is to fail with.
Join = Callable[[Slice, Folder], None]

TABLES = ("samples", "late_actions", "rejected")


def to_the_end(
    output: Folder,
    planned: Work,
    join: Join,
    joined: Callable[[Slice], None] = lambda _: None,
    published: Callable[[], None] = lambda: None,
) -> None:
    """Join the slices that are not joined yet, and publish them all.

    `joined` is told of each slice that is. `published` comes when readers see the slices, once more
    if the backfill is killed before its end. Raises what `join` does, PlaceError, OSError and
    PointerError.
    """
    if not planned.joined:
        work.save(output, planned)
    for piece in planned.slices:
        if piece.folder not in planned.joined:
            folder = output / piece.folder
            places.delete(folder)
            folder.parent.mkdir(parents=True, exist_ok=True)
            join(piece, folder)
            _keep_only(folder, piece)
            planned = msgspec.structs.replace(planned, joined=(*planned.joined, piece.folder))
            work.save(output, planned)
        joined(piece)
    publication.publish(output, planned)
    published()
    work.end(output)


def discard(output: Folder, planned: Work) -> None:
    """Forget work that is not published. Raises PlaceError, OSError, PointerError."""
    published = publication.is_published(output, planned)
    work.end(output)
    if not published:
        places.delete(output / planned.folder)


def _keep_only(folder: Folder, piece: Slice) -> None:
    """Delete what was only read for the slice's own hours. Nobody would read it."""
    for table in TABLES:
        for partition in tree.partitions(folder / table):
            if not piece.first <= (hour_of(partition) or "") < piece.end:
                places.delete(folder / table / partition)
