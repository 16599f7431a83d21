"""Deletes the files of rows that were replaced a while ago, and folders that nothing names.

Nobody can know which readers there are. So the time since a row was replaced decides: longer than
any reader takes from its look at the pointer to its last file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from configuration.stores import Folder
from jobs.backfill import hours, tree, work
from jobs.pipeline import places
from schemas import generations
from schemas.generations import GENERATIONS, POINTER, Generation, hour_of

#: With what was made from them.
TABLES = ("samples", "late_actions", "rejected", "corrections")


@dataclass
class Removed:
    """What was deleted. `hours`: of a table each."""

    hours: int = 0
    folders: int = 0


def remove(output: Folder, before: datetime) -> Removed:
    """Delete what was replaced before that moment. Call it with the backfill's lock.

    What holds an hour stays, and so does what came to `rejected/` beside the generations since.
    Killed in between, it is simply done again. Raises PlaceError, OSError, PointerError.
    """
    made = generations.current(output).generations
    removed = Removed()
    for number, place in enumerate(["", *(generation.folder for generation in made)]):
        later = made[number:]  # those that came after this place
        for table in TABLES:
            root = output / place / table
            for partition, names in tree.partitions(root).items():
                hour = hour_of(partition) or ""
                by = next((g for g in later if g.has(hour)), None)
                if by is None or _published(by) >= before:
                    continue
                if not place and table == "rejected":
                    listed = {name for g in later if g.has(hour) for name in g.rejected}
                    gone = [name for name in names if f"{table}/{partition}/{name}" in listed]
                    for name in gone:
                        places.delete(root / partition / name)
                    removed.hours += bool(gone)
                else:
                    places.delete(root / partition)
                    removed.hours += 1
    kept = [g for n, g in enumerate(made) if not _is_over(g, made[n + 1 :], before)]
    if len(kept) < len(made):
        places.write(output / POINTER, generations.encode(kept))
    planned = work.load(output)
    named = {g.folder for g in kept} | {s.folder for s in (planned.slices if planned else ())}
    for entry in tree.folders(output / GENERATIONS):
        for one in tree.folders(entry):
            if f"{GENERATIONS}/{entry.name}/{one.name}" not in named:
                places.delete(one)
                removed.folders += 1
        if not any(name.startswith(f"{GENERATIONS}/{entry.name}/") for name in named):
            places.delete(entry)
    return removed


def _is_over(generation: Generation, later: Sequence[Generation], before: datetime) -> bool:
    """Whether all of its hours were replaced before that moment."""
    first = hours.read(generation.first, POINTER)
    end = hours.read(generation.end, POINTER)
    return all(
        any(g.has(hour) and _published(g) < before for g in later)
        for hour in hours.between(first, end)
    )


def _published(generation: Generation) -> datetime:
    return datetime.fromisoformat(generation.published)
