"""Checkpoints on disk: everything that a run needs to go on, all of one moment.

    checkpoints/step-000000001234/
        shard-0.npz …    each shard's rows, optimizer state, deduplication marks, admission counters
        manifest.json    written last: checksums, the model, the cursor, the ledger

A checkpoint is written under a temporary name. Every file and the folder are flushed, and then it
is renamed. So a folder with its final name is complete.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from trainer.disk import naming, sync
from trainer.server.shard import ShardSnapshot
from trainer.server.shard_file import File, check_snapshot, checksum, read_snapshot
from trainer.spec import ModelSpec
from trainer.table.finite import NotFiniteError

_NAME = re.compile(r"step-(\d{12})")
_MANIFEST = "manifest.json"


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message says which, and why."""


class Manifest(msgspec.Struct, frozen=True):
    """What a checkpoint holds. `session`: the state of the run (see `trainer.run.session.State`).

    `shards`: without them while they are being written. `consistency` and `workers`: of the run
    that wrote it; they say what the marks and steps mean. `version`: of the format.
    """

    step: int
    spec: ModelSpec
    shards: list[File]
    consistency: str
    workers: int
    session: dict[str, Any]
    version: int = 1


def begin(root: Path, step: int) -> Path:
    """A new folder under a temporary name, for `shard_file.write_shard`.

    Removes what unfinished checkpoints have left. Raises WriteError.
    """
    clear(root)
    folder = root / f".step-{step:012}"
    with naming(folder):
        folder.mkdir(parents=True)
    return folder


def clear(root: Path) -> None:
    """Removes checkpoints that were not finished, which take room. Raises WriteError."""
    with naming(root):
        for left in (*root.glob(".step-*"), *root.glob(".removed-*")):
            shutil.rmtree(left)


def finish(folder: Path, manifest: Manifest, keep: int, instead_of: Sequence[Path] = ()) -> Path:
    """Writes the manifest, gives the folder its final name, and removes all but the `keep` newest.

    `instead_of`: checkpoints of another run that this run replaces; they are removed as well.
    Returns the final folder. Raises OSError.
    """
    path = folder / _MANIFEST
    with naming(path), path.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest)))
        file.flush()
        os.fsync(file.fileno())
    sync(folder)
    final = folder.with_name(folder.name.removeprefix("."))
    if final.exists():
        # of another run, at the same step
        _remove(final)
    folder.rename(final)
    sync(final.parent)
    for old in instead_of:
        if old != final and old.exists():
            _remove(old)
    for old in find(final.parent)[:-keep]:
        _remove(old)
    return final


def _remove(folder: Path) -> None:
    """Renames first, so that `find` does not see a folder of which half is gone."""
    hidden = folder.with_name(f".removed-{folder.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    sync(folder.parent)
    shutil.rmtree(hidden)


def find(root: Path) -> list[Path]:
    """The folders of complete checkpoints, the newest last."""
    if not root.is_dir():
        return []
    found = [p for p in root.iterdir() if _NAME.fullmatch(p.name) and (p / _MANIFEST).is_file()]
    return sorted(found)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint's folder. Raises CheckpointError."""
    try:
        manifest = msgspec.json.decode((folder / _MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{folder}: the manifest cannot be read: {error}") from None
    if manifest.version != 1:
        raise CheckpointError(f"{folder}: of another release (format {manifest.version})")
    return manifest


def read_shards(folder: Path, manifest: Manifest) -> list[ShardSnapshot]:
    """All shards; each file must have the manifest's checksum. Raises CheckpointError."""
    shards = []
    for file in manifest.shards:
        path = folder / file.name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing")
        if checksum(path) != file.checksum:
            raise CheckpointError(
                f"{path}: its checksum is not the manifest's; remove {folder.name} to go back to"
                " the checkpoint before it"
            )
        with path.open("rb") as opened:
            snapshot = read_snapshot(opened)
        try:
            check_snapshot(str(path), snapshot, manifest.spec)
        except NotFiniteError as error:
            raise CheckpointError(
                f"{error}. This checkpoint is of a release that did not check: remove"
                f" {folder.name} to go back to the checkpoint before it"
            ) from None
        shards.append(snapshot)
    return shards
