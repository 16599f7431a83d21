"""Writing exports (`trainer.serving.format`): parts, then the manifest; and removing old ones."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, BinaryIO
from urllib.parse import quote

import msgspec
import numpy as np
import pyarrow as pa
import xxhash

from configuration.stores import Folder
from trainer.disk import naming, replace, replacing
from trainer.serving.format import (
    CURRENT,
    NUMBERED,
    ContentError,
    Current,
    ExportExistsError,
    FileInfo,
    Floats,
    GapError,
    Keys,
    Manifest,
    PartInfo,
    ServingError,
    files_of,
    folder_of,
    manifest_name,
    must_be_whole,
    published,
    read_current,
    read_manifest,
)
from trainer.spec import ModelSpec
from trainer.table.finite import check_rows, check_vector

_ROWS_A_BATCH = 1 << 17


def write_part(
    folder: Folder,
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
    folder: Folder,
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


def write_dense(folder: Folder, number: int, dense: Floats) -> FileInfo:
    """Write the dense parameters, (parameters,), for export `number`.

    Raises as `write_tables`.
    """
    if dense.ndim != 1:
        raise ValueError(f"one dimension expected, and not {dense.shape}")
    check_vector(f"export {number}", dense)
    table = pa.table({"value": np.ascontiguousarray(dense, np.float32)})
    return _write_arrow(folder, number, f"dense-{number:06d}.arrow", table)


def publish(root: Folder, manifest: Manifest) -> None:
    """Write the manifest, when all parts are there, and make the export the current one.

    Publishing the same again does no harm, so it can be repeated after a crash.

    Raises ExportExistsError where another export has the number, GapError where the one before a
    delta is missing, ContentError where a part is missing or too short, ValueError where the run's
    id is no name of a folder, or it would begin with a delta, OSError.
    """
    folder = folder_of(root, manifest.run_id)
    if manifest.number < 0 or (manifest.number == 0 and manifest.kind == "delta"):
        raise ValueError("a run begins with a base, which has number 0 or more")
    path = folder / manifest_name(manifest.number)
    data = msgspec.json.format(msgspec.json.encode(manifest))
    if path.is_file() and path.read_bytes() != data:
        raise ExportExistsError(f"{path} is another export")
    before = manifest.number - 1
    if manifest.kind == "delta" and not (folder / manifest_name(before)).is_file():
        raise GapError(manifest.run_id, before)
    for file in files_of(manifest):
        must_be_whole(folder, file)
    replace(path, data)
    current = read_current(root)
    if current and current.run_id == manifest.run_id and current.number > manifest.number:
        return
    replace(root / CURRENT, msgspec.json.encode(Current(manifest.run_id, manifest.number)))


def next_number(root: Folder, run_id: str) -> int:
    """The number after the last that the run published; 0 where it published none.

    A trainer that resumes from a checkpoint writes a base under this number, because it does not
    know what was touched since the last export.
    """
    return max(published(folder_of(root, run_id)), default=-1) + 1


def prune(root: Folder, keep_bases: int = 2) -> list[Folder]:
    """Remove exports that readers of the current one do not need; return their files.

    Of the current run, the newest `keep_bases` bases and all that follows them stay. Other runs are
    removed if they published before the current run did. A run that has published nothing is kept,
    since it may be about to.

    Raises ValueError where `keep_bases` is less than 1, ServingError where the current export
    cannot be read: then nothing is removed.
    """
    if keep_bases < 1:
        raise ValueError("the newest base is needed: keep_bases must be at least 1")
    current = read_current(root)
    if current is None:
        return []
    folder = folder_of(root, current.run_id)
    newest = read_manifest(folder, current.run_id, current.number)
    numbers = (number for number in published(folder) if number <= current.number)
    manifests = (read_manifest(folder, current.run_id, n) for n in sorted(numbers, reverse=True))
    bases = list(islice((m.number for m in manifests if m.kind == "base"), keep_bases))
    if not bases:
        raise ContentError(f"run {current.run_id} has no base")
    removed = _remove(folder, before=bases[-1])
    for other in sorted(path for path in root.iterdir() if path.is_dir() and path != folder):
        last = max(published(other), default=None)
        if last is None:
            continue
        try:
            created = read_manifest(other, other.name, last).created
        except ServingError:  # not known what it is: not ours to remove
            continue
        if created < newest.created:
            removed += _remove(other, before=None)
            if not any(other.iterdir()):
                other.rmdir()
    return removed


def discard(root: Folder, run_id: str) -> None:
    """Remove what a run wrote for an export that it did not publish. Raises OSError."""
    folder = folder_of(root, run_id)
    if not folder.is_dir():
        return
    last = max(published(folder), default=-1)
    for path in folder.iterdir():
        numbered = NUMBERED.match(path.name)
        if numbered and int(numbered[1]) > last:
            path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _remove(folder: Folder, before: int | None) -> list[Folder]:
    """Remove the files of exports before a number (None: of all), and return them."""
    numbered = ((path, NUMBERED.match(path.name)) for path in folder.iterdir())
    files = [
        path for path, match in numbered if match and (before is None or int(match[1]) < before)
    ]
    # An export goes with its manifest, so that is first; but a run is found by its manifests, so
    # where all of it goes they are last, and a prune that was interrupted can be repeated.
    files.sort(key=lambda path: (path.name.startswith("export-") == (before is None), path.name))
    for path in files:
        path.unlink(missing_ok=True)
    return files


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


def _write_arrow(folder: Folder, number: int, name: str, table: Any) -> FileInfo:
    if (folder / manifest_name(number)).is_file():
        raise ExportExistsError(f"export {number} in {folder} is published")
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / name) as file:
        hashing = _Hashing(file)
        with pa.PythonFile(hashing, mode="w") as sink, pa.ipc.new_file(sink, table.schema) as to:
            to.write_table(table, max_chunksize=_ROWS_A_BATCH)
    return FileInfo(name, hashing.bytes, hashing.hash.hexdigest())
