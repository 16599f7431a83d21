"""How a model travels to those who rank: a base, numbered deltas, and who reads them.

    <root>/current.json                             the newest run and number, replaced atomically
    <root>/<run id>/part-000007-<table>-0000.arrow  of a table, what one shard touched
    <root>/<run id>/dense-000007.arrow              the dense parameters, whole
    <root>/<run id>/export-000007.json              the manifest, written last

A run's exports are numbered without a gap; each is a base, which has all keys, or a delta, which
has the keys that were touched or removed since the number before. An export is there when its
manifest is. Parts are Arrow IPC files: `key`, and `values`, null where the key was removed. They
are not compressed: on embeddings zstd saves 7 % of the size, and takes 8 times as long to write,
while the trainer waits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar
from urllib.parse import quote

import msgspec
import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from trainer.disk import replace, replacing
from trainer.spec import ModelSpec, Since
from trainer.table.finite import check_rows, check_vector

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
Kind = Literal["base", "delta"]

CURRENT = "current.json"

_FORMAT = 1
_ROWS_A_BATCH = 1 << 17
_NUMBERED = re.compile(r"(?:part|dense|export)-(\d{6,})[-.]")
_MANIFEST = re.compile(r"export-(\d{6,})\.json")

_Function = TypeVar("_Function", bound=Callable[..., Any])


class ServingError(Exception):
    """An export cannot be written or read."""


class NothingPublishedError(ServingError):
    """There is no export yet."""


class ExportExistsError(ServingError):
    """The export is published already, and does not change any more."""


class GapError(ServingError):
    """The export `number` of a run is missing, so what follows it cannot be read."""

    def __init__(self, run_id: str, number: int) -> None:
        super().__init__(f"export {number} of run {run_id} is missing")
        self.run_id = run_id
        self.number = number


class ContentError(ServingError):
    """A file is missing, or is not what the manifest and the spec say."""


class ChecksumError(ContentError):
    """A file has another checksum than the manifest says."""


class RunError(ServingError):
    """A manifest is of another run, or number, than its place."""


class SpecError(ServingError):
    """An export is of another model."""


class FileInfo(msgspec.Struct, frozen=True):
    """A file of an export: its name in the run's folder, size in bytes, and XXH3-128 as hex."""

    name: str
    bytes: int
    xxh3_128: str


class PartInfo(msgspec.Struct, frozen=True):
    """What one shard wrote of a table: `rows` keys with values, and `removed` keys."""

    table: str
    shard: int
    rows: int
    removed: int
    file: FileInfo


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """An export. `step`: how many were applied. `event_time`: how far it has come, epoch ms.

    `created`: epoch ms. `dense`: None where the model has no dense parameters. `since`: when the
    model got to know slots and actions that it did not begin with, by name.
    """

    format: int = _FORMAT
    run_id: str
    number: int
    kind: Kind
    parts: tuple[PartInfo, ...]
    dense: FileInfo | None
    step: int
    event_time: int | None
    created: int
    spec: ModelSpec
    since: dict[str, Since] = {}


class Current(msgspec.Struct, frozen=True):
    """The newest export."""

    run_id: str
    number: int


def write_part(
    folder: Path,
    number: int,
    shard: int,
    table_name: str,
    keys: Keys,
    values: Floats,
    removed: Keys,
) -> PartInfo:
    """Write what a shard has of a table for export `number` into the run's folder.

    `keys`: those touched, (keys,), all there are for a base; `values`: (keys, width). `removed`:
    keys that are gone. A part that was written before, without the manifest, is replaced. Several
    processes may write at once, each another shard or table.

    Raises ValueError where shapes do not fit or a key is there twice, ExportExistsError where the
    export is published, OSError.
    """
    keys, removed = np.asarray(keys, np.uint64), np.asarray(removed, np.uint64)
    values = np.ascontiguousarray(values, np.float32)
    if keys.ndim != 1 or removed.ndim != 1 or values.ndim != 2 or len(values) != len(keys):
        raise ValueError(
            f"keys {keys.shape}, values {values.shape} and removed {removed.shape} do not fit"
        )
    both = np.concatenate((keys, removed))
    if len(np.unique(both)) < len(both):
        raise ValueError(f"table {table_name}, shard {shard}: a key is there twice")
    gone = np.arange(len(both)) >= len(keys)
    if len(removed):
        values = np.concatenate((values, np.zeros((len(removed), values.shape[1]), np.float32)))
    table = pa.table(
        {
            "key": both,
            "values": pa.FixedSizeListArray.from_arrays(
                pa.array(values.ravel()), values.shape[1], mask=pa.array(gone)
            ),
        }
    )
    name = f"part-{number:06d}-{quote(table_name, safe='')}-{shard:04d}.arrow"
    file = _write_arrow(folder, number, name, table)
    return PartInfo(table_name, shard, len(keys), len(removed), file)


def write_tables(
    folder: Path,
    number: int,
    shard: int,
    tables: Iterable[str],
    changed: Iterable[tuple[Keys, Floats, Keys]],
    spec: ModelSpec | None = None,
) -> list[PartInfo]:
    """What a shard has of each table, by `write_part`: keys, values, removed keys.

    Raises as `write_part`, and NotFiniteError for a parameter that is not a finite number, which
    is named with the help of `spec`.
    """
    tables, changed = list(tables), list(changed)
    for name, (keys, values, _) in zip(tables, changed, strict=True):
        check_rows(f"export {number}, shard {shard}", name, keys, [values], spec)
    return [
        write_part(folder, number, shard, name, *rows)
        for name, rows in zip(tables, changed, strict=True)
    ]


def write_dense(folder: Path, number: int, dense: Floats) -> FileInfo:
    """Write the dense parameters, (parameters,), for export `number`.

    Raises as `write_tables`.
    """
    if dense.ndim != 1:
        raise ValueError(f"one dimension expected, and not {dense.shape}")
    check_vector(f"export {number}", dense)
    table = pa.table({"value": np.ascontiguousarray(dense, np.float32)})
    return _write_arrow(folder, number, f"dense-{number:06d}.arrow", table)


def publish(root: Path, manifest: Manifest) -> None:
    """Write the manifest, when all parts are there, and make the export the current one.

    To publish the same again does no harm, so a crash in between can be mended.

    Raises ExportExistsError where another export has the number, GapError where the one before a
    delta is missing, ContentError where a part is missing or too short, ValueError where the run's
    id is no name of a folder, or it would begin with a delta, OSError.
    """
    folder = _folder(root, manifest.run_id)
    if manifest.number < 0 or (manifest.number == 0 and manifest.kind == "delta"):
        raise ValueError("a run begins with a base, which has number 0 or more")
    path = folder / _manifest_name(manifest.number)
    data = msgspec.json.format(msgspec.json.encode(manifest))
    if path.exists() and path.read_bytes() != data:
        raise ExportExistsError(f"{path} is another export")
    before = manifest.number - 1
    if manifest.kind == "delta" and not (folder / _manifest_name(before)).exists():
        raise GapError(manifest.run_id, before)
    for file in _files(manifest):
        _must_be_whole(folder, file)
    replace(path, data)
    current = read_current(root)
    if current and current.run_id == manifest.run_id and current.number > manifest.number:
        return
    replace(root / CURRENT, msgspec.json.encode(Current(manifest.run_id, manifest.number)))


def read_current(root: Path) -> Current | None:
    """Which export is the newest; None: there is none. Raises ContentError, OSError."""
    try:
        data = (root / CURRENT).read_bytes()
    except FileNotFoundError:
        return None
    return _decoded(root / CURRENT, data, Current)


def next_number(root: Path, run_id: str) -> int:
    """The number after the last that the run published; 0 where it published none.

    A trainer that resumes from a checkpoint writes a base with it: what was touched since the last
    number, it does not know.
    """
    return max(_published(_folder(root, run_id)), default=-1) + 1


def prune(root: Path, keep_bases: int = 2) -> list[Path]:
    """Remove exports that nobody needs who reads the current one; returns the files.

    Of the current run, the newest `keep_bases` bases and all that follows them stay. Other runs go
    if they published before the current one; a run that has published nothing may be about to.

    Raises ValueError where `keep_bases` is less than 1, ServingError where the current export
    cannot be read: then nothing is removed.
    """
    if keep_bases < 1:
        raise ValueError("the newest base is needed: keep_bases must be at least 1")
    current = read_current(root)
    if current is None:
        return []
    folder = _folder(root, current.run_id)
    newest = _read_manifest(folder, current.run_id, current.number)
    numbers = (number for number in _published(folder) if number <= current.number)
    manifests = (_read_manifest(folder, current.run_id, n) for n in sorted(numbers, reverse=True))
    bases = list(islice((m.number for m in manifests if m.kind == "base"), keep_bases))
    if not bases:
        raise ContentError(f"run {current.run_id} has no base")
    removed = _remove(folder, before=bases[-1])
    for other in sorted(path for path in root.iterdir() if path.is_dir() and path != folder):
        last = max(_published(other), default=None)
        if last is None:
            continue
        try:
            created = _read_manifest(other, other.name, last).created
        except ServingError:  # not known what it is: not ours to remove
            continue
        if created < newest.created:
            removed += _remove(other, before=None)
            if not any(other.iterdir()):
                other.rmdir()
    return removed


class View:
    """The parameters at one export, which do not change: a request is ranked with one of them."""

    def __init__(self, manifest: Manifest, tables: dict[str, _Table], dense: Floats) -> None:
        self.manifest = manifest
        self.dense = dense
        self._tables = tables

    def lookup(self, table: str, keys: Keys) -> tuple[Floats, Flags]:
        """The values of keys, (keys, width), and whether they have any, (keys,); 0 where not.

        Raises KeyError where there is no such table.
        """
        return self._tables[table].lookup(keys)

    def keys(self, table: str) -> Keys:
        """All keys of a table, ascending. Raises KeyError where there is no such table."""
        found: Keys = self._tables[table].keys.copy()
        return found


class Snapshot:
    """The newest parameters, in memory. `view` is replaced by a refresh, and never changed."""

    def __init__(self, root: Path, view: View) -> None:
        self._root = root
        self.view = view

    @classmethod
    def open(cls, root: Path, spec: ModelSpec | None = None) -> Snapshot:
        """Read the newest base of the current run, and the deltas after it.

        `spec`: the model that is expected; None: whichever it is.

        Raises NothingPublishedError, GapError, ContentError and ChecksumError, RunError, SpecError
        (all of them ServingError), OSError.
        """
        return cls(root, _read(root, spec, None))

    def refresh(self) -> bool:
        """Take over what was published since; whether there was something.

        Where the run changed, or there is a newer base, it begins anew from that base. Raises as
        `open`; `view` stays what it was then, and a later refresh may succeed. A model of another
        spec is refused in another run too: who predicts with this one has to open anew.
        """
        view = _read(self._root, self.spec, self.view)
        changed = view is not self.view
        self.view = view
        return changed

    @property
    def run_id(self) -> str:
        """The run that the parameters are of."""
        return self.view.manifest.run_id

    @property
    def number(self) -> int:
        """The number of the newest export that is in."""
        return self.view.manifest.number

    @property
    def spec(self) -> ModelSpec:
        """The model."""
        return self.view.manifest.spec

    @property
    def dense(self) -> Floats:
        """The dense parameters, (parameters,)."""
        return self.view.dense

    def lookup(self, table: str, keys: Keys) -> tuple[Floats, Flags]:
        """As `View.lookup`, in the newest view."""
        return self.view.lookup(table, keys)


def _read(root: Path, spec: ModelSpec | None, known: View | None) -> View:
    """The current export: from `known` by deltas where they are all there is new, else anew."""
    current = read_current(root)
    if current is None:
        raise NothingPublishedError(f"{root / CURRENT} is not there")
    run_id = current.run_id
    folder = _folder(root, run_id)
    since = -1
    if known and known.manifest.run_id == run_id and known.manifest.number <= current.number:
        since = known.manifest.number
        if since == current.number:
            return known
    chain: list[Manifest] = []  # from the newest back
    for number in range(current.number, since, -1):
        manifest = _read_manifest(folder, run_id, number)
        spec = manifest.spec if spec is None else spec
        if manifest.spec != spec:
            raise SpecError(f"export {number} of run {run_id} is of another model")
        chain.append(manifest)
        if manifest.kind == "base":
            break
    else:
        if since < 0:
            raise ContentError(f"run {run_id} has no base up to export {current.number}")
    newest = chain[0]
    anew = chain[-1].kind == "base"
    tables = {}
    for table in newest.spec.tables:
        changes = [
            _read_change(folder, manifest, table.name, table.width) for manifest in chain[::-1]
        ]
        start = _Table.empty(table.width) if anew or known is None else known._tables[table.name]
        tables[table.name] = start.changed(_one_after_the_other(changes))
    return View(newest, tables, _read_dense(folder, newest))


@dataclass
class _Change:
    """Keys, ascending and distinct; their values, (keys, width); and where they are removed."""

    keys: Keys
    values: Floats
    removed: Flags


@dataclass
class _Table:
    """Keys, ascending, and their values, (keys, width).

    The keys are hashes, so their first bits tell about where a key is: those that begin with the
    bits b are from `offsets[b]` up to `offsets[b + 1]`, and a binary search finds it there. Keys
    that are no hashes cost no more than a binary search over all.
    """

    keys: Keys
    values: Floats
    offsets: Indices
    shift: int

    @classmethod
    def of(cls, keys: Keys, values: Floats) -> _Table:
        bits = max(len(keys).bit_length() - 3, 1)  # a handful of keys for each
        shift = 64 - bits
        firsts = np.arange(1 << bits, dtype=np.uint64) << np.uint64(shift)
        offsets = np.append(np.searchsorted(keys, firsts), len(keys)).astype(np.int64)
        return cls(keys, values, offsets, shift)

    @classmethod
    def empty(cls, width: int) -> _Table:
        return cls.of(np.empty(0, np.uint64), np.empty((0, width), np.float32))

    def lookup(self, keys: Keys) -> tuple[Floats, Flags]:
        wanted = np.require(keys, np.uint64, ("C", "W"))
        values = np.zeros((len(wanted), self.values.shape[1]), np.float32)
        found = np.zeros(len(wanted), np.bool_)
        _look_up(
            *(self.offsets, np.uint64(self.shift), self.keys, self.values),
            *(wanted, values, found),
        )
        return values, found

    def changed(self, change: _Change) -> _Table:
        """With a change; this one stays as it is."""
        if not len(self.keys):
            return _Table.of(change.keys[~change.removed], change.values[~change.removed])
        at = np.searchsorted(self.keys, change.keys)
        known = np.zeros(len(at), np.bool_)
        inside = at < len(self.keys)
        known[inside] = self.keys[at[inside]] == change.keys[inside]
        updated, new = known & ~change.removed, ~known & ~change.removed
        values = self.values.copy()
        values[at[updated]] = change.values[updated]
        stay = np.ones(len(self.keys), np.bool_)
        stay[at[known & change.removed]] = False
        if stay.all() and not new.any():
            return _Table(self.keys, values, self.offsets, self.shift)
        keys, values = self.keys[stay], values[stay]
        place = np.searchsorted(keys, change.keys[new]) + np.arange(new.sum())
        old = np.ones(len(keys) + len(place), np.bool_)
        old[place] = False
        all_keys = np.empty(len(old), np.uint64)
        all_values = np.empty((len(old), values.shape[1]), np.float32)
        all_keys[old], all_keys[place] = keys, change.keys[new]
        all_values[old], all_values[place] = values, change.values[new]
        return _Table.of(all_keys, all_values)


def _compiled(function: _Function) -> _Function:
    compiled: _Function = numba.njit(cache=True, nogil=True)(function)
    return compiled


@_compiled
def _look_up(
    offsets: Any, shift: Any, keys: Any, values: Any, wanted: Any, out: Any, found: Any
) -> None:
    for row in range(len(wanted)):
        key = wanted[row]
        bits = key >> shift
        low = offsets[bits]
        end = offsets[bits + np.uint64(1)]
        high = end
        while low < high:
            middle = (low + high) // 2
            if keys[middle] < key:
                low = middle + 1
            else:
                high = middle
        if low < end and keys[low] == key:
            found[row] = True
            out[row] = values[low]


def _one_after_the_other(changes: Sequence[_Change]) -> _Change:
    """Changes as one: of a key, the last counts."""
    if len(changes) == 1:
        return changes[0]
    keys = np.concatenate([change.keys for change in changes])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    last = np.append(keys[1:] != keys[:-1], True)[: len(keys)]
    taken = order[last]
    return _Change(
        keys[last],
        np.concatenate([change.values for change in changes])[taken],
        np.concatenate([change.removed for change in changes])[taken],
    )


def _read_change(folder: Path, manifest: Manifest, table: str, width: int) -> _Change:
    """What an export says of a table, all shards together."""
    keys = [np.empty(0, np.uint64)]
    values = [np.empty((0, width), np.float32)]
    removed = [np.empty(0, np.bool_)]
    for part in manifest.parts:
        if part.table != table:
            continue
        content = _read_arrow(folder, part.file)
        expected = pa.schema({"key": pa.uint64(), "values": pa.list_(pa.float32(), width)})
        if content.schema != expected or len(content) != part.rows + part.removed:
            raise ContentError(f"{folder / part.file.name} is not as its manifest and spec say")
        for batch in content.to_batches():
            lists = batch.column("values")
            keys.append(batch.column("key").to_numpy())
            # `values` of a list array does not know of the array's own offset
            flat = lists.values.slice(lists.offset * width, len(lists) * width).to_numpy()
            values.append(flat.reshape(len(lists), width))
            removed.append(lists.is_null().to_numpy(zero_copy_only=False))
            if not np.isfinite(values[-1][~removed[-1]]).all():
                raise ContentError(
                    f"{folder / part.file.name} has a parameter that is not a finite number: it"
                    " was exported by a release that did not check. Export the model anew"
                )
    every = np.concatenate(keys)
    order = np.argsort(every, kind="stable")
    every = every[order]
    if (every[1:] == every[:-1]).any():
        raise ContentError(f"export {manifest.number}: table {table} has a key twice")
    return _Change(every, np.concatenate(values)[order], np.concatenate(removed)[order])


def _read_dense(folder: Path, manifest: Manifest) -> Floats:
    if manifest.dense is None:
        return np.empty(0, np.float32)
    content = _read_arrow(folder, manifest.dense)
    if content.schema != pa.schema({"value": pa.float32()}):
        raise ContentError(f"{folder / manifest.dense.name} is not as its manifest says")
    # a copy: what was read is the file itself
    return np.array(content["value"].to_numpy(), np.float32)


def _read_manifest(folder: Path, run_id: str, number: int) -> Manifest:
    path = folder / _manifest_name(number)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise GapError(run_id, number) from None
    manifest = _decoded(path, data, Manifest)
    if manifest.format != _FORMAT:
        raise ContentError(f"{path} has format {manifest.format}, and not {_FORMAT}")
    if (manifest.run_id, manifest.number) != (run_id, number):
        raise RunError(f"{path} is of export {manifest.number} of run {manifest.run_id}")
    known = {table.name for table in manifest.spec.tables}
    unknown = {part.table for part in manifest.parts} - known
    if unknown:
        raise SpecError(f"{path} has tables that its spec has not: {', '.join(sorted(unknown))}")
    return manifest


_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def _decoded(path: Path, data: bytes, kind: type[_Struct]) -> _Struct:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise ContentError(f"{path}: {error}") from error


def _read_arrow(folder: Path, file: FileInfo) -> Any:
    path = _must_be_whole(folder, file)
    with pa.memory_map(str(path)) as mapped:
        buffer = mapped.read_buffer()
    if xxhash.xxh3_128_hexdigest(buffer) != file.xxh3_128:
        raise ChecksumError(f"{path} has another checksum than its manifest says")
    try:
        return pa.ipc.open_file(buffer).read_all()
    except pa.ArrowInvalid as error:
        raise ContentError(f"{path}: {error}") from error


def _must_be_whole(folder: Path, file: FileInfo) -> Path:
    path = folder / file.name
    if Path(file.name).name != file.name:
        raise ContentError(f"{file.name!r} is not the name of a file of {folder}")
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise ContentError(f"{path} is missing") from None
    if size != file.bytes:
        raise ChecksumError(f"{path} has {size} bytes, and not {file.bytes}")
    return path


class _Hashing:
    """A file that is only written to, with the checksum of what was."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = xxhash.xxh3_128()
        self.bytes = 0

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.bytes += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Whoever opened the file closes it."""


def _write_arrow(folder: Path, number: int, name: str, table: Any) -> FileInfo:
    if (folder / _manifest_name(number)).exists():
        raise ExportExistsError(f"export {number} in {folder} is published")
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / name) as file:
        hashing = _Hashing(file)
        with pa.PythonFile(hashing, mode="w") as sink, pa.ipc.new_file(sink, table.schema) as to:
            to.write_table(table, max_chunksize=_ROWS_A_BATCH)
    return FileInfo(name, hashing.bytes, hashing.hash.hexdigest())


def _files(manifest: Manifest) -> list[FileInfo]:
    files = [part.file for part in manifest.parts]
    return files if manifest.dense is None else [*files, manifest.dense]


def _folder(root: Path, run_id: str) -> Path:
    if run_id in ("", ".", "..") or Path(run_id).name != run_id:
        raise ValueError(f"the run id {run_id!r} is not the name of a folder")
    return root / run_id


def _manifest_name(number: int) -> str:
    return f"export-{number:06d}.json"


def _published(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    found = (_MANIFEST.fullmatch(path.name) for path in folder.iterdir())
    return [int(match[1]) for match in found if match]


def _remove(folder: Path, before: int | None) -> list[Path]:
    """Remove the files of exports before a number (None: of all), and return them."""
    numbered = ((path, _NUMBERED.match(path.name)) for path in folder.iterdir())
    files = [
        path for path, match in numbered if match and (before is None or int(match[1]) < before)
    ]
    # An export goes with its manifest, so that is first; but a run is found by its manifests, so
    # where all of it goes they are last, and a prune that was interrupted can be repeated.
    files.sort(key=lambda path: (path.name.startswith("export-") == (before is None), path.name))
    for path in files:
        path.unlink(missing_ok=True)
    return files
