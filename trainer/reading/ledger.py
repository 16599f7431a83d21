"""Which committed files there are, in the order of reading, and how far reading has come.

The ledger only grows at its end. With it, three numbers name a batch, and what a run trains on is a
function of the ledger. A checkpoint stores only `Ledger.entries` and a `Cursor`.

A partition that was joined again has another generation of files (`schemas.generations`). The
ledger stays with the generation of which it has files already, so nothing is trained on twice
because it was replaced; `Wanted.anew` says otherwise.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
import pyarrow as pa

from configuration.stores import Folder, StorePath
from schemas import generations
from schemas.generations import Current, PointerError
from schemas.samples import LATE_ACTIONS
from trainer.reading.columns import absent
from trainer.reading.files import ReadError, check_columns, open_parquet

Stream = Literal["samples", "late_actions"]

#: A folder that changed so recently may change again within the same time stamp, so it is listed
#: again next time. Long enough for the time stamps of any file system and file server.
SETTLED_NS = 10 * 10**9

#: Data files below a stream's folder.
_DATA = re.compile(r"dt=[^/]*/hr=[^/]*/[^._/][^/]*")

#: `Ticket.rows` of a late file, whose corrections are not counted before they are made.
ALL = -1


class Entry(msgspec.Struct, frozen=True):
    """A committed file. `path` is relative to the root, with slashes. `size`: bytes.

    `rows` are those in the file: samples, or late actions. `row_groups`: rows of each. `absent`:
    columns that are declared, and that the file lacks: they are read as null.
    """

    stream: Stream
    path: str
    size: int
    rows: int
    row_groups: tuple[int, ...]
    absent: tuple[str, ...] = ()

    @property
    def partition(self) -> tuple[str, str]:
        """The generation (its folder; empty: none) and `dt=YYYY-MM-DD/hr=HH`, the hour of the
        request: the files that are about the same samples have the same.
        """
        return _split(self.path)[:2]


class Cursor(msgspec.Struct, frozen=True):
    """The next row to read. `row` is counted within the row group.

    What was read to its end is never pointed into: (entry + 1, 0, 0) stands for that, whether the
    ledger has such an entry already or not.
    """

    entry: int = 0
    row_group: int = 0
    row: int = 0


class Ticket(msgspec.Struct, frozen=True):
    """A batch: `rows` rows of an entry from row `start` of the file on; ALL: whatever it gives."""

    entry: int
    start: int
    rows: int


class Wanted(msgspec.Struct, frozen=True):
    """Which partitions are read. `first`, `end`: hours such as `2026-11-01T00` (UTC; the end is not
    in it), None: no bound. `anew`: those that were replaced since they were read are read again.
    """

    first: str | None = None
    end: str | None = None
    anew: bool = False

    def has(self, partition: str) -> bool:
        """Whether a partition such as `dt=2026-11-01/hr=00` is within the bounds."""
        hour = generations.hour_of(partition) or ""
        return (self.first or "") <= hour and (self.end is None or hour < self.end)


EVERYTHING = Wanted()


class Ledger:
    """`samples`: the declared columns of a file of samples (`schemas.samples.samples`). Files of an
    earlier declaration may lack some, see `trainer.reading.columns`.

    `entries`: those of an earlier run. `clock`: epoch ns; it only decides what may be left out of a
    look because nothing can have changed in it.
    """

    def __init__(
        self,
        samples: pa.Schema,
        entries: Iterable[Entry] = (),
        clock: Callable[[], int] = time.time_ns,
        wanted: Wanted = EVERYTHING,
    ) -> None:
        self.entries = list(entries)
        #: In all entries: samples and late actions.
        self.rows = sum(entry.rows for entry in self.entries)
        self._expected: dict[Stream, pa.Schema] = {"samples": samples, "late_actions": LATE_ACTIONS}
        self._known = {entry.path for entry in self.entries}
        self._wanted = wanted
        #: By partition, the generation of its last entry.
        self._read_from = {hour: made for made, hour in (e.partition for e in self.entries)}
        self._settled: dict[str, int] = {}
        self._clock = clock

    def discover(self, root: Folder) -> list[Entry]:
        """Append what is new under `root`, in the order in which it is to be read, and return it.

        The order of one look: hour of the request; samples before late actions; time of the file;
        natural order of the name. Raises ReadError for a file that is not what its name and place
        promise, and OSError for a folder that cannot be listed; the ledger is as before then.
        """
        now = self._clock()
        found: list[_Found] = []
        settled: dict[str, int] = {}
        # one look at the pointer, so that a period which is replaced meanwhile is of one state
        current = pointer(root)
        # Late actions first: the samples that they correct are committed before them, or with them.
        for stream in ("late_actions", "samples"):
            if isinstance(root, StorePath):
                found += self._stored(root, stream, current)
                continue
            for folder, modified in _partitions(root, stream, current, self._reads):
                if self._settled.get(folder) == modified:
                    continue
                found += self._files(root, stream, folder)
                if now - modified > SETTLED_NS:
                    settled[folder] = modified
        found.sort(key=_Found.order)
        new = [self._entry(root, file) for file in found]
        self._settled |= settled
        self._known.update(entry.path for entry in new)
        self._read_from |= {hour: made for made, hour in (entry.partition for entry in new)}
        self.rows += sum(entry.rows for entry in new)
        self.entries += new
        return new

    def _reads(self, made: str, partition: str, current: Current) -> bool:
        """Whether files of a partition are read from a generation."""
        if not self._wanted.has(partition):
            return False
        holder = current.folder(partition)
        return made == (holder if self._wanted.anew else self._read_from.get(partition, holder))

    def _files(self, root: Path, stream: Stream, folder: str) -> Iterator[_Found]:
        for file in _scan(root / folder):
            path = f"{folder}/{file.name}"
            if path in self._known or not file.is_file():
                continue
            stat = file.stat()
            yield _Found(stream, path, stat.st_size, stat.st_mtime_ns)

    def _stored(self, root: StorePath, stream: Stream, current: Current) -> Iterator[_Found]:
        # All at once, each time: in a store a folder has no time at which it changed.
        for place in current.places(stream):
            made = place.removesuffix(stream).rstrip("/")
            for name, status in (root / place).walk():
                path, partition = f"{place}/{name}", name.rpartition("/")[0]
                if (
                    path not in self._known
                    and _DATA.fullmatch(name)
                    and self._reads(made, partition, current)
                ):
                    yield _Found(stream, path, status.st_size, status.st_mtime_ns)

    def _entry(self, root: Folder, file: _Found) -> Entry:
        with open_parquet(root / file.path, file.path, file.size) as opened:
            lacking: tuple[str, ...] = ()
            if file.stream == "samples":
                lacking = absent(opened.schema_arrow, self._expected["samples"], file.path)
            else:
                check_columns(opened.schema_arrow, LATE_ACTIONS, file.path)
            footer = opened.metadata
            groups = tuple(footer.row_group(n).num_rows for n in range(footer.num_row_groups))
        return Entry(file.stream, file.path, file.size, sum(groups), groups, lacking)


class _Found(msgspec.Struct, frozen=True):
    stream: Stream
    path: str
    size: int
    modified: int

    def order(self) -> tuple[str, bool, int, list[str | int]]:
        _, partition, name = _split(self.path)
        pieces = re.split(r"(\d+)", name)
        natural: list[str | int] = [int(p) if n % 2 else p for n, p in enumerate(pieces)]
        # the name itself for names that differ in leading zeros only
        return partition, self.stream != "samples", self.modified, [*natural, name]


def _split(path: str) -> tuple[str, str, str]:
    """The generation, the partition and the name of a file."""
    *made, _, day, hour, name = path.split("/")
    return "/".join(made), f"{day}/{hour}", name


def pointer(root: Folder) -> Current:
    """What the output's pointer says (`schemas.generations`). Raises ReadError, OSError."""
    path = root / generations.POINTER
    try:
        return generations.decode(path.read_bytes(), str(path))
    except FileNotFoundError:
        return Current()
    except PointerError as error:
        raise ReadError(str(error)) from None


def has_samples(root: Folder, wanted: Wanted = EVERYTHING) -> bool:
    """Whether there is a file of samples to train on. Raises ReadError, OSError."""
    current = pointer(root)
    if not isinstance(root, StorePath):
        return any(map(wanted.has, generations.partitions(root, "samples", current)))
    return any(
        wanted.has(name.rpartition("/")[0]) and current.takes(f"{place}/{name}")
        for place in current.places("samples")
        for name, _ in (root / place).walk()
        if _DATA.fullmatch(name)
    )


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """The data files, by their names. A folder that does not exist is empty."""
    try:
        with os.scandir(folder) as listing:
            return [item for item in listing if item.name[0] not in "._"]
    except FileNotFoundError:
        return []


def _partitions(
    root: Path, stream: Stream, current: Current, reads: Callable[[str, str, Current], bool]
) -> Iterator[tuple[str, int]]:
    """Folders `<stream>/dt=…/hr=…` of which `reads` is true (of generation, partition, pointer),
    with the time of the last change in them, epoch ns.
    """
    for place in current.places(stream):
        made = place.removesuffix(stream).rstrip("/")
        for day in _scan(root / place):
            if not (day.name.startswith("dt=") and day.is_dir()):
                continue
            for hour in _scan(root / place / day.name):
                partition = f"{day.name}/{hour.name}"
                if (
                    hour.name.startswith("hr=")
                    and hour.is_dir()
                    and reads(made, partition, current)
                ):
                    yield f"{place}/{partition}", hour.stat().st_mtime_ns


class Planner:
    """Batches of at most `batch_rows` rows, one after the other, from `cursor` on.

    A batch never crosses a file, and a late file is one batch. `cursor` is where the next one
    begins: a planner that starts there gives the same ones. Files that the ledger gets meanwhile
    come in their turn.
    """

    def __init__(self, ledger: Ledger, cursor: Cursor, batch_rows: int) -> None:
        self._ledger = ledger
        self._batch_rows = batch_rows
        self._entry = cursor.entry
        self._start = cursor.row
        if cursor.entry < len(ledger.entries):
            self._start += sum(ledger.entries[cursor.entry].row_groups[: cursor.row_group])
        self._done = self._start + sum(entry.rows for entry in ledger.entries[: cursor.entry])

    @property
    def cursor(self) -> Cursor:
        """Where the next batch begins."""
        if self._start == 0:
            return Cursor(self._entry)
        row = self._start
        for group, rows in enumerate(self._ledger.entries[self._entry].row_groups):
            if row < rows:
                return Cursor(self._entry, group, row)
            row -= rows
        raise AssertionError("a cursor within an entry is before its last row")

    @property
    def rows_left(self) -> int:
        """Rows that are still to be read; for late files the actions, which give no more rows than
        that.
        """
        return self._ledger.rows - self._done

    def next(self) -> Ticket | None:
        """The next batch, or None as long as the ledger has no more rows."""
        while self._entry < len(self._ledger.entries):
            entry, start = self._ledger.entries[self._entry], self._start
            if start == entry.rows:
                self._entry, self._start = self._entry + 1, 0
                continue
            late = entry.stream == "late_actions"
            # up to a multiple of the batch, wherever the cursor was left with another batch
            whole = self._batch_rows - start % self._batch_rows
            rows = entry.rows - start if late else min(whole, entry.rows - start)
            ticket = Ticket(self._entry, start, ALL if late else rows)
            self._done += rows
            self._start += rows
            if self._start == entry.rows:
                self._entry, self._start = self._entry + 1, 0
            return ticket
        return None
