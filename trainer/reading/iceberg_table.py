"""Which files an Iceberg table over `samples/` has, and which of them have rows not read yet.

Of a table only the metadata are read, by pyiceberg. The files are those of the output, or what a
tool that compacts the table has made of them (docs/iceberg.md).

A row of a snapshot is in exactly one of its files. A snapshot that appends has new rows. Any other
has rows of files that it removes, and its own files are followed back to these: what was read is
not read again, and what was not is read from the file that the join wrote.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.generations import Current
from schemas.samples import ICEBERG_TABLE, PARTITIONS
from trainer.reading.files import ReadError, first_line

if TYPE_CHECKING:
    from pyiceberg.io import FileIO, InputFile
    from pyiceberg.table.metadata import TableMetadata
    from pyiceberg.table.snapshots import Snapshot

_METADATA = re.compile(r"v(\d+)(\.gz)?\.metadata\.json")
_INSTEAD = 'Train into another output.path, or set samples.table = "files"'


@dataclass(frozen=True)
class TableFile:
    """A data file. `path`: relative to the output; absolute if it is not in it. `size`: bytes.

    `partition`: such as `dt=2026-11-01/hr=00`. `snapshot`: the id of the one that added it;
    `sequence`: its number, which is greater the later it came.
    """

    path: str
    size: int
    partition: str
    snapshot: int
    sequence: int

    @property
    def generation(self) -> str | None:
        """The folder of the generation that it is in (empty: of none); None: the join has not
        written it.
        """
        made, here, _ = self.path.rpartition(f"samples/{self.partition}/")
        return made.rstrip("/") if here and not self.path.startswith("/") else None


class Tables:
    """Looks at the table of an output from time to time. What has not changed is not read again."""

    def __init__(self) -> None:
        self._seen: tuple[Path, View] | None = None
        self._manifests: dict[str, list[TableFile]] = {}

    def look(self, root: Path) -> View | None:
        """The newest state of the table; None: there is none.

        Raises ReadError for a table that cannot be read, or that has row-level deletes.
        """
        newest = _newest_metadata(root / ICEBERG_TABLE)
        if newest is None:
            return None
        if self._seen is None or self._seen[0] != newest:
            with _saying(newest):
                view = View(root, newest)
                known = self._manifests
                self._manifests = {}
                for path, manifest in view.manifests(view.current):
                    there = known.get(path)
                    self._manifests[path] = list(view.entries(manifest)) if there is None else there
                view.files = {f.path: f for found in self._manifests.values() for f in found}
            self._seen = newest, view
        return self._seen[1]


class View:
    """A table as one file of metadata has it. `files`: of the current snapshot, by path."""

    files: Mapping[str, TableFile]

    def __init__(self, root: Path, metadata: Path) -> None:
        from pyiceberg.serializers import FromInputFile

        self._name = f"{ICEBERG_TABLE}/metadata/{metadata.name}"
        read: TableMetadata = FromInputFile.table_metadata(_input(metadata))
        # as the job names the folder, wherever it is mounted here
        self._output = read.location.removesuffix(f"/{ICEBERG_TABLE}")
        self._io = _io(self._output, root)
        self._specs = {
            spec.spec_id: [f.name for f in spec.fields] for spec in read.specs().values()
        }
        self._snapshots = {snapshot.snapshot_id: snapshot for snapshot in read.snapshots}
        self.current = read.current_snapshot()

    # -- metadata ----------------------------------------------------------------------------------

    def manifests(self, of: Snapshot | None) -> Iterator[tuple[str, Any]]:
        """Those of data files, with their paths. Raises ReadError for row-level deletes."""
        from pyiceberg.manifest import ManifestContent

        if of is None:
            return
        for manifest in of.manifests(self._io):
            if manifest.content == ManifestContent.DATA:
                yield manifest.manifest_path, manifest
            elif manifest.has_added_files() or manifest.has_existing_files():
                raise ReadError(
                    f"{self._name}: snapshot {of.snapshot_id} deletes single rows (position"
                    " or equality deletes), which the trainer does not read. Compact the table with"
                    " the tool that deleted them, so that its files are rewritten"
                )

    def entries(self, manifest: Any, *, removed: bool = False) -> Iterator[TableFile]:
        """The files that a manifest has, or those that it says have been removed."""
        from pyiceberg.manifest import ManifestEntryStatus

        names = self._specs[manifest.partition_spec_id]
        for entry in manifest.fetch_manifest_entry(self._io, discard_deleted=False):
            if (entry.status == ManifestEntryStatus.DELETED) != removed:
                continue
            file = entry.data_file
            values = dict(zip(names, file.partition, strict=True))
            if not values.keys() >= set(PARTITIONS):
                raise ReadError(
                    f"{self._name}: {file.file_path} has a partition that is not of"
                    f" {' and '.join(PARTITIONS)}. {_INSTEAD}"
                )
            yield TableFile(
                _relative(file.file_path, self._output),
                file.file_size_in_bytes,
                "/".join(f"{name}={values[name]}" for name in PARTITIONS),
                entry.snapshot_id,
                entry.file_sequence_number or 0,
            )

    # -- what is new -------------------------------------------------------------------------------

    @cached_property
    def by_partition(self) -> Mapping[str, list[TableFile]]:
        """The files of the current snapshot, of each partition in the order of the snapshots."""
        found: dict[str, list[TableFile]] = {}
        for file in sorted(self.files.values(), key=lambda file: file.sequence):
            found.setdefault(file.partition, []).append(file)
        return found

    def unread(
        self, partition: str, known: Collection[str], made: str | None, current: Current, anew: bool
    ) -> list[TableFile]:
        """The files of a partition whose rows are to be read.

        `known`: the paths of its files that were read, which are of the generation `made`; None: no
        file of it was read, so all rows that the table has are new. `anew`: if it was replaced
        since, by the generation that `current` says, that one is to be read.

        Raises ReadError if the history that this needs has expired.
        """
        there = self.by_partition.get(partition, [])
        holder = current.folder(partition)
        generations = {file.generation for file in there} - {None}
        if made is None:
            if len(generations) > 1:
                # replaced, and the job has added to the hour: the rows are in the generation, too
                newest = holder if holder in generations else max(generations - {""}, key=str)
                there = [file for file in there if file.generation in (None, newest)]
            return there
        new = [file for file in there if file.path not in known]
        if anew and holder != made and holder in generations:
            return [file for file in new if file.generation == holder]
        whole = all(path in self.files for path in known)
        found: dict[str, TableFile] = {}
        for file in new:
            if whole and file.snapshot not in self._snapshots:
                # all that was read is there as it was, so the rows of this one were not read
                found[file.path] = file
                continue
            with _saying(self._name):
                found |= {f.path: f for f in self._sources(file, known)}
        return [f for f in found.values() if f.generation in (None, made)]

    def _sources(self, file: TableFile, known: Collection[str]) -> Iterator[TableFile]:
        """The files that had the rows of `file` when they were appended, but for the known ones."""
        snapshot = self._snapshots.get(file.snapshot)
        if snapshot is None:
            raise ReadError(
                f"{file.path}: snapshot {file.snapshot}, which added it, has expired, and files of"
                f" {file.partition} that were read before are no longer in the table: its rows may"
                f" be theirs. {_INSTEAD}"
            )
        if _operation(snapshot) == "append":
            yield file
            return
        for old in self._removed(snapshot):
            if old.partition == file.partition and old.path not in known:
                yield from self._sources(self._added(old, snapshot), known)

    def _removed(self, by: Snapshot) -> Iterator[TableFile]:
        for _, manifest in self.manifests(by):
            for file in self.entries(manifest, removed=True):
                if file.snapshot == by.snapshot_id:
                    yield file

    def _added(self, file: TableFile, before: Snapshot) -> TableFile:
        """The file as the snapshot that added it has it."""
        snapshot = self._snapshots.get(before.parent_snapshot_id or 0)
        if snapshot is not None:
            for _, manifest in self.manifests(snapshot):
                for found in self.entries(manifest):
                    if found.path == file.path:
                        return found
        raise ReadError(
            f"{file.path}: was replaced by snapshot {before.snapshot_id}, and the one before it has"
            f" expired, so it is not known whether its rows were read. {_INSTEAD}"
        )


@contextmanager
def _saying(name: object) -> Iterator[None]:
    """What goes wrong with metadata, as a ReadError."""
    from pyiceberg.exceptions import ValidationError

    try:
        yield
    except FileNotFoundError as error:
        raise ReadError(
            f"{name}: needs {error.filename}, which is not there. Put it back; or stop the job,"
            f" delete {ICEBERG_TABLE}, and start it: it makes the table anew"
        ) from None
    except (OSError, ValueError, EOFError, ValidationError) as error:
        raise ReadError(
            f"{name}: cannot be read as metadata of an Iceberg table ({first_line(error)})."
            f" {_INSTEAD}"
        ) from None


def _operation(of: Snapshot) -> str:
    return "append" if of.summary is None else str(of.summary.operation.value)


def _newest_metadata(table: Path) -> Path | None:
    """The file with the greatest number. (The hint beside it is replaced in two steps.)"""
    folder = table / "metadata"
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    numbered = [(int(found[1]), name) for name in names if (found := _METADATA.fullmatch(name))]
    return folder / max(numbered)[1] if numbered else None


def _relative(location: str, output: str) -> str:
    if location.startswith(f"{output}/"):
        return location.removeprefix(f"{output}/")
    return _local(location)


def _local(location: str) -> str:
    """The path of a location. Hadoop's are URIs in which nothing is quoted."""
    if re.match(r"file:|/", location):
        return "/" + location.removeprefix("file:").lstrip("/")
    raise ReadError(
        f"{location}: is a file of the Iceberg table, and not in a local folder. Mount it, or set"
        ' samples.table = "files"'
    )


def _io(output: str, root: Path) -> FileIO:
    """What reads the files of metadata where they are here."""
    from pyiceberg.io import FileIO, OutputFile

    class Here(FileIO):
        def new_input(self, location: str) -> InputFile:
            return _input(root / _relative(location, output), location)

        def new_output(self, location: str) -> OutputFile:
            raise NotImplementedError("the trainer does not write tables")

        def delete(self, location: str | InputFile | OutputFile) -> None:
            raise NotImplementedError("the trainer does not write tables")

    return Here()


def _input(path: Path, location: str | None = None) -> InputFile:
    from pyiceberg.io import InputFile, InputStream

    class Local(InputFile):
        def __len__(self) -> int:
            return path.stat().st_size

        def exists(self) -> bool:
            return path.is_file()

        def open(self, seekable: bool = True) -> InputStream:
            return path.open("rb")

    return Local(location or str(path))
