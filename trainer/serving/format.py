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
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from configuration.stores import Folder
from trainer.spec import ModelSpec, Since

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
Kind = Literal["base", "delta"]

CURRENT = "current.json"
FORMAT = 1
#: Files of an export, with its number.
NUMBERED = re.compile(r"(?:part|dense|export)-(\d{6,})[-.]")
_MANIFEST = re.compile(r"export-(\d{6,})\.json")

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


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
    """An export. `step`: how many steps were applied. `event_time`: how far it has come, epoch ms.

    `created`: epoch ms. `dense`: None where the model has no dense parameters. `since`: when the
    model got to know slots and actions that it did not begin with, by name.
    """

    format: int = FORMAT
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


def read_current(root: Folder) -> Current | None:
    """The newest export, or None if there is none. Raises ContentError, OSError."""
    try:
        data = (root / CURRENT).read_bytes()
    except FileNotFoundError:
        return None
    return decoded(root / CURRENT, data, Current)


def read_manifest(folder: Folder, run_id: str, number: int) -> Manifest:
    """The manifest of an export in the run's folder.

    Raises GapError if it is not there, ContentError or RunError if it is not what it should be, and
    OSError.
    """
    path = folder / manifest_name(number)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise GapError(run_id, number) from None
    manifest = decoded(path, data, Manifest)
    if manifest.format != FORMAT:
        raise ContentError(f"{path} has format {manifest.format}, and not {FORMAT}")
    if (manifest.run_id, manifest.number) != (run_id, number):
        raise RunError(f"{path} is of export {manifest.number} of run {manifest.run_id}")
    known = {table.name for table in manifest.spec.tables}
    unknown = {part.table for part in manifest.parts} - known
    if unknown:
        raise SpecError(f"{path} has tables that its spec has not: {', '.join(sorted(unknown))}")
    return manifest


def published(folder: Folder) -> list[int]:
    """The numbers of the exports in a run's folder, in no order. Raises OSError."""
    if not folder.is_dir():
        return []
    found = (_MANIFEST.fullmatch(path.name) for path in folder.iterdir())
    return [int(match[1]) for match in found if match]


def folder_of(root: Folder, run_id: str) -> Folder:
    """The folder of a run. Raises ValueError for an id that is not the name of a folder."""
    if run_id in ("", ".", "..") or Path(run_id).name != run_id:
        raise ValueError(f"the run id {run_id!r} is not the name of a folder")
    return root / run_id


def manifest_name(number: int) -> str:
    """The file name of a manifest, by the number of its export."""
    return f"export-{number:06d}.json"


def files_of(manifest: Manifest) -> list[FileInfo]:
    """All files of an export but the manifest."""
    files = [part.file for part in manifest.parts]
    return files if manifest.dense is None else [*files, manifest.dense]


def must_be_whole(folder: Folder, file: FileInfo) -> Folder:
    """The path of a file that is there, with the size that the manifest gives.

    Raises ContentError, or ChecksumError for another size. The checksum is not computed here.
    """
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


def decoded(path: Folder, data: bytes, kind: type[_Struct]) -> _Struct:
    """JSON as a struct of type `kind`. Raises ContentError, with `path` in it."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise ContentError(f"{path}: {error}") from error
