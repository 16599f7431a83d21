"""Whether an output has rows that a snapshot knows nothing of.

A job that goes on from the snapshot would write them a second time. The names of files tell: each
has the start of the job that wrote it, and the number of the checkpoint that it was begun after
(`udfs/jvm/ParquetFiles.java`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from jobs.pipeline import places
from jobs.pipeline.output_guard import JOINED
from jobs.pipeline.restore import Snapshot
from jobs.pipeline.runs import Run

_NAME = re.compile(r"(?:compacted-)?part-(?P<run>[0-9a-f]{12})-(?P<after>\d+)-")
#: Of a store that is not this machine's, as many of the newest days of a table are looked through:
#: there a listing takes long, and newer rows are nearly always in newer hours.
_DAYS_OF_A_STORE = 3


def newer_file(
    output: str,
    snapshot: str,
    starts: Sequence[Run],
    number: Callable[[str], int | None],
    tables: Sequence[str] = JOINED.tables,
) -> str | None:
    """The place of a visible file that came after a snapshot, if there is one.

    Args:
        output: place of the output.
        snapshot: place of the snapshot.
        starts: the starts of jobs into this output (`runs.known`).
        number: tells a snapshot's checkpoint number, or None if that cannot be known.
        tables: the names of the tables in the output.

    None, too, when the snapshot is of no job that is known here, or of a release that did not write
    down the names of its files. Raises PlaceError.
    """
    names = _descended(snapshot, starts)
    number_of_it = number(snapshot) if names else None
    if number_of_it is None:
        return None
    for table in tables:
        for name, place in _visible(places.below(output, table)):
            found = _NAME.match(name)
            if found and found["run"] in names and int(found["after"]) >= number_of_it:
                return place
    return None


def _descended(snapshot: str, starts: Sequence[Run]) -> set[str]:
    """What the files are named by of the job that made the snapshot, and of the jobs that went on
    from its snapshots, and so forth.
    """
    jobs: set[str] = set()
    names: set[str] = set()
    for run in starts:  # oldest first
        made_it = Snapshot(snapshot, 0).of_job(run.job)
        went_on = run.restored is not None and any(
            Snapshot(run.restored, 0).of_job(job) for job in jobs
        )
        if made_it or went_on:
            jobs.add(run.job)
            if run.files is not None:
                names.add(run.files)
    return names


def _visible(table: str) -> Iterator[tuple[str, str]]:
    """Name and place of each file in the partitions of a table, newest day first."""
    days = [e for e in places.entries(table) if e.is_folder and e.name.startswith("dt=")]
    newest = sorted(days, key=lambda day: day.name, reverse=True)
    for day in newest[:_DAYS_OF_A_STORE] if places.is_uri(table) else newest:
        for hour in places.entries(day.place):
            for entry in places.entries(hour.place) if hour.is_folder else ():
                if not entry.is_folder:
                    yield entry.name, entry.place
