"""Which committed files there are, in the order of reading, and how far reading has come.

The ledger only grows at its end. With it, three numbers name a batch, and what a run trains on is a
function of the ledger. A checkpoint stores only `Ledger.entries` and a `Cursor`.

A partition that was joined again has another generation of files (`schemas.generations`). The
ledger stays with the generation of which it has files already, so nothing is trained on twice
because it was replaced; `Wanted.anew` says otherwise.

The files of samples are listed, or taken from an Iceberg table over them (`Wanted.table`). Those of
late actions are always listed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Set
from pathlib import Path
from typing import Literal

import msgspec
import pyarrow as pa

from configuration.stores import Folder, StorePath
from schemas import generations
from schemas.generations import Current
from schemas.samples import ICEBERG_TABLE, LATE_ACTIONS
from trainer.reading.columns import absent
from trainer.reading.files import ReadError, check_columns, open_parquet
from trainer.reading.iceberg_table import TableFile, Tables, View
from trainer.reading.listing import DATA, Found, Stream, partitions, pointer, scan, split, still

#: A folder that changed so recently may change again within the same time stamp, so it is listed
#: again next time. Long enough for the time stamps of any file system and file server.
SETTLED_NS = 10 * 10**9

#: A visible file that is younger and not in the table may be about to be added to it.
_JUST_MADE_NS = 3600 * 10**9


class Entry(msgspec.Struct, frozen=True):
    """A committed file. `path` is relative to the root, with slashes; absolute for a file of an
    Iceberg table that is elsewhere. `size`: bytes. `home`: where files of its hour lie, if it does
    not lie there itself, because the table was compacted.

    `rows` are those in the file: samples, or late actions. `row_groups`: rows of each. `absent`:
    columns that are declared, and that the file lacks: they are read as null.
    """

    stream: Stream
    path: str
    size: int
    rows: int
    row_groups: tuple[int, ...]
    absent: tuple[str, ...] = ()
    # left out where there is none, so that checkpoints are those of releases without it
    home: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def partition(self) -> tuple[str, str]:
        """The generation (its folder; empty: none) and `dt=YYYY-MM-DD/hr=HH`, the hour of the
        request: the files that are about the same samples have the same.
        """
        return split(f"{self.home}/" if self.home else self.path)[:2]


class Wanted(msgspec.Struct, frozen=True):
    """Which partitions are read. `first`, `end`: hours such as `2026-11-01T00` (UTC; the end is not
    in it), None: no bound. `anew`: those that were replaced since they were read are read again.
    `table`: what says which files of samples there are.
    """

    first: str | None = None
    end: str | None = None
    anew: bool = False
    table: Literal["files", "iceberg"] = "files"

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
        self._tables = Tables()
        #: What the last look saw of the table.
        self._view: View | None = None

    def discover(self, root: Folder) -> list[Entry]:
        """Append what is new under `root`, in the order in which it is to be read, and return it.

        The order of one look: hour of the request; samples before late actions; time of the file;
        natural order of the name. With a table, before all that, the snapshots in the order in
        which they added the files; late actions come behind the last samples of their hour.

        Raises ReadError for a file that is not what its name and place promise, and for a table
        that is not there or cannot be followed; OSError for a folder that cannot be listed. The
        ledger is as before then.
        """
        now = self._clock()
        settled: dict[str, int] = {}
        # one look at the pointer, so that a period which is replaced meanwhile is of one state
        current = pointer(root)
        # Late actions first: the samples that they correct are committed before them, or with them.
        found = self._listed(root, "late_actions", current, settled)
        view = None
        if self._wanted.table == "iceberg":
            view = _table(self._tables, root)
            of_table = self._of_table(root, view, current)
            found = self._settling(root, view, current, found, of_table, settled) + of_table
        else:
            _check_listed(self.entries)
            found += self._listed(root, "samples", current, settled)
        found.sort(key=Found.order)
        new = [self._entry(root, file) for file in found]
        self._settled |= {f: time for f, time in settled.items() if now - time > SETTLED_NS}
        self._view = view
        self._known.update(entry.path for entry in new)
        self._read_from |= {hour: made for made, hour in (entry.partition for entry in new)}
        self.rows += sum(entry.rows for entry in new)
        self.entries += new
        return new

    def _reads(self, made: str, partition: str, current: Current) -> bool:
        """Whether files of a partition are read from a generation."""
        if not self._wanted.has(partition):
            return False
        if self._wanted.table == "iceberg":
            return True  # what the table has says it, see `_settling`
        holder = current.folder(partition)
        return made == (holder if self._wanted.anew else self._read_from.get(partition, holder))

    def _listed(
        self, root: Folder, stream: Stream, current: Current, settled: dict[str, int]
    ) -> list[Found]:
        """New files by their names. `settled` gets the folders that were listed."""
        if isinstance(root, StorePath):
            return list(self._stored(root, stream, current))
        found: list[Found] = []
        for folder, modified in partitions(root, stream, current, self._reads):
            if self._settled.get(folder) != modified:
                found += self._files(root, stream, folder)
                settled[folder] = modified
        return found

    def _files(self, root: Path, stream: Stream, folder: str) -> Iterator[Found]:
        for file in scan(root / folder):
            path = f"{folder}/{file.name}"
            if path in self._known or not file.is_file():
                continue
            if (status := still(file)) is not None:
                yield Found(stream, path, status.st_size, status.st_mtime_ns)

    def _stored(self, root: StorePath, stream: Stream, current: Current) -> Iterator[Found]:
        # All at once, each time: in a store a folder has no time at which it changed.
        for place in current.places(stream):
            made = place.removesuffix(stream).rstrip("/")
            for name, status in (root / place).walk():
                path, partition = f"{place}/{name}", name.rpartition("/")[0]
                if (
                    path not in self._known
                    and DATA.fullmatch(name)
                    and self._reads(made, partition, current)
                ):
                    yield Found(stream, path, status.st_size, status.st_mtime_ns)

    def _of_table(self, root: Folder, view: View, current: Current) -> list[Found]:
        """Files of samples with rows that were not read yet. Raises ReadError."""
        if view is self._view:
            return []
        known: dict[str, set[str]] = {}
        for entry in self.entries:
            if entry.stream == "samples":
                known.setdefault(entry.partition[1], set()).add(entry.path)
        found = []
        for hour in filter(self._wanted.has, view.by_partition):
            made = self._read_from.get(hour)
            new = view.unread(hour, known.get(hour, ()), made, current, self._wanted.anew)
            if made is None:
                joined = [file.generation for file in new if file.generation is not None]
                made = joined[-1] if joined else current.folder(hour)
            for file in new:
                home = "" if file.generation is not None else f"{made}/samples/{hour}".lstrip("/")
                found.append(_found(root, file, home))
        return found

    def _settling(
        self,
        root: Folder,
        view: View,
        current: Current,
        late: list[Found],
        samples: list[Found],
        settled: dict[str, int],
    ) -> list[Found]:
        """Of files of late actions those whose samples the table has, to be read behind them.

        The table gets files when they are visible already, so late actions may be ahead of it.
        `settled`: folders of the others are taken out, to be listed again.
        """
        made = dict(self._read_from)
        last: dict[str, int] = {}
        for file in samples:
            generation, hour, _ = split(file.place)
            made[hour] = generation
            last[hour] = max(file.sequence, last.get(hour, 0))
        there = {file.path for file in samples} | self._known | view.files.keys()
        taken = []
        for file in late:
            generation, hour, _ = split(file.path)
            wanted = made.get(hour, current.folder(hour))
            if generation == wanted and not self._is_behind(
                root, f"{generation}/samples/{hour}".lstrip("/"), there, hour in made
            ):
                taken.append(msgspec.structs.replace(file, sequence=last.get(hour, 0)))
            else:
                settled.pop(file.path.rpartition("/")[0], None)
        return taken

    def _is_behind(self, root: Folder, folder: str, there: Set[str], has_some: bool) -> bool:
        """Whether the table is about to get files of a folder."""
        assert isinstance(root, Path)
        new = [file for file in scan(root / folder) if f"{folder}/{file.name}" not in there]
        oldest = self._clock() - _JUST_MADE_NS
        # one that is old was deleted from the table, or compacted
        made = (status.st_mtime_ns for file in new if (status := still(file)) is not None)
        return any(not has_some or modified > oldest for modified in made)

    def _entry(self, root: Folder, file: Found) -> Entry:
        with open_parquet(root / file.path, file.path, file.size) as opened:
            lacking: tuple[str, ...] = ()
            if file.stream == "samples":
                lacking = absent(opened.schema_arrow, self._expected["samples"], file.path)
            else:
                check_columns(opened.schema_arrow, LATE_ACTIONS, file.path)
            footer = opened.metadata
            groups = tuple(footer.row_group(n).num_rows for n in range(footer.num_row_groups))
        return Entry(
            file.stream,
            file.path,
            file.size,
            sum(groups),
            groups,
            lacking,
            file.home or msgspec.UNSET,
        )


def _check_listed(entries: Iterable[Entry]) -> None:
    """Raises ReadError if the rows of files that are listed may have been read elsewhere."""
    compacted = next((entry.path for entry in entries if entry.home), None)
    if compacted is not None:
        raise ReadError(
            f"{compacted}: was made of files of samples/ that are not known, and its rows were"
            ' read. Set samples.table = "iceberg" as before, or train into another output.path'
        )


def _found(root: Folder, file: TableFile, home: str) -> Found:
    """A file of the table. Raises ReadError if it is not there."""
    try:
        modified = (root / file.path).stat().st_mtime_ns
    except FileNotFoundError:
        raise ReadError(
            f"{file.path}: snapshot {file.snapshot} of the Iceberg table added it, its rows were"
            " not read yet, and it is gone. Put it back, or train into another output.path"
        ) from None
    return Found("samples", file.path, file.size, modified, file.sequence, home)


def _table(tables: Tables, root: Folder) -> View:
    """The table of an output as it is now. Raises ReadError, also if there is none."""
    view = tables.look(root) if isinstance(root, Path) else None
    if view is None:
        raise ReadError(
            f"{root / ICEBERG_TABLE}: there is no Iceberg table. Run the joining job with"
            ' output.table = "iceberg", or set samples.table = "files"'
        )
    return view


def has_samples(root: Folder, wanted: Wanted = EVERYTHING) -> bool:
    """Whether there is a file of samples to train on. Raises ReadError, OSError."""
    current = pointer(root)
    if wanted.table == "iceberg" and ((root / ICEBERG_TABLE).exists() or has_samples(root)):
        return any(map(wanted.has, _table(Tables(), root).by_partition))
    if not isinstance(root, StorePath):
        return any(map(wanted.has, generations.partitions(root, "samples", current)))
    return any(
        wanted.has(name.rpartition("/")[0]) and current.takes(f"{place}/{name}")
        for place in current.places("samples")
        for name, _ in (root / place).walk()
        if DATA.fullmatch(name)
    )
