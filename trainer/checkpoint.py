"""Checkpoints on disk: everything that a run needs to go on, all of one moment.

    checkpoints/step-000000001234/
        shard-0.npz …    each shard's rows, optimizer state, deduplication marks, admission counters
        manifest.json    written last: checksums, the model, the cursor, the ledger

A checkpoint is written under a temporary name. Every file and the folder are flushed, and then it
is renamed. So a folder with its final name is complete.

In an object store nothing is renamed. There the files are in a folder of one attempt, `shards-…`,
and the manifest, which names them, makes the checkpoint complete: it is one object, and the last.
"""

from __future__ import annotations

import io
import re
import shutil
import uuid
from collections.abc import Sequence
from typing import Any, BinaryIO

import msgspec

from configuration.stores import Folder, StorePath
from trainer.config.sections import StepsPer
from trainer.disk import naming, replace, sync
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
    that wrote it; they say what the marks and steps mean. `version`: of the format. `steps`: per
    what a key took a step; in releases that did not write it, per batch.
    """

    step: int
    spec: ModelSpec
    shards: list[File]
    consistency: str
    workers: int
    session: dict[str, Any]
    version: int = 1
    steps: StepsPer = "batch"


def begin(root: Folder, step: int) -> Folder:
    """A new folder under a temporary name, for `shard_file.write_shard`.

    Removes what unfinished checkpoints have left. Raises WriteError.
    """
    clear(root)
    if isinstance(root, StorePath):
        return root / f"step-{step:012}" / f"shards-{uuid.uuid4().hex[:8]}"
    folder = root / f".step-{step:012}"
    with naming(folder):
        folder.mkdir(parents=True)
    return folder


def clear(root: Folder) -> None:
    """Removes checkpoints that were not finished, which take room. Raises WriteError."""
    with naming(root):
        if isinstance(root, StorePath):
            _clear_stored(root)
            return
        for left in (*root.glob(".step-*"), *root.glob(".removed-*")):
            shutil.rmtree(left)


def finish(
    folder: Folder, manifest: Manifest, keep: int, instead_of: Sequence[Folder] = ()
) -> Folder:
    """Writes the manifest, gives the folder its final name, and removes all but the `keep` newest.

    `instead_of`: checkpoints of another run that this run replaces; they are removed as well.
    Returns the final folder. Raises OSError.
    """
    if isinstance(folder, StorePath):
        final: Folder = _finish_stored(folder, manifest)
    else:
        replace(folder / _MANIFEST, _encoded(manifest))
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


def _encoded(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest))


def _finish_stored(folder: StorePath, manifest: Manifest) -> StorePath:
    """Makes the checkpoint of an attempt's folder complete. One that is there at the same step is
    replaced at once.
    """
    final = folder.parent
    named = [msgspec.structs.replace(f, name=f"{folder.name}/{f.name}") for f in manifest.shards]
    replace(final / _MANIFEST, _encoded(msgspec.structs.replace(manifest, shards=named)))
    _clear_stored(final.parent)
    return final


def _clear_stored(root: StorePath) -> None:
    """Deletes what no manifest names."""
    kept: set[str] = set()
    found = [name for name, _ in root.walk()]
    for name in found:
        step, _, inside = name.partition("/")
        if inside == _MANIFEST and _NAME.fullmatch(step):
            kept.add(name)
            kept.update(f"{step}/{file.name}" for file in read_manifest(root / step).shards)
    for name in found:
        if name not in kept and _NAME.fullmatch(name.partition("/")[0]):
            (root / name).unlink()


def _remove(folder: Folder) -> None:
    """Makes the checkpoint one that was not finished, then removes it: so `find` does not see a
    folder of which half is gone.
    """
    if isinstance(folder, StorePath):
        (folder / _MANIFEST).unlink()
        folder.remove_all()
        return
    hidden = folder.with_name(f".removed-{folder.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    sync(folder.parent)
    shutil.rmtree(hidden)


def find(root: Folder) -> list[Folder]:
    """The folders of complete checkpoints, the newest last."""
    if isinstance(root, StorePath):
        steps = (name.split("/") for name, _ in root.walk())
        return sorted(root / s[0] for s in steps if _NAME.fullmatch(s[0]) and s[1:] == [_MANIFEST])
    if not root.is_dir():
        return []
    found = [p for p in root.iterdir() if _NAME.fullmatch(p.name) and (p / _MANIFEST).is_file()]
    return sorted(found)


def read_manifest(folder: Folder) -> Manifest:
    """The manifest of a checkpoint's folder. Raises CheckpointError."""
    try:
        manifest = msgspec.json.decode((folder / _MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{folder}: the manifest cannot be read: {error}") from None
    if manifest.version != 1:
        raise CheckpointError(f"{folder}: of another release (format {manifest.version})")
    return manifest


def read_shards(folder: Folder, manifest: Manifest) -> list[ShardSnapshot]:
    """All shards; each file must have the manifest's checksum. Raises CheckpointError."""
    shards = []
    for file in manifest.shards:
        path = folder / file.name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing")
        with _opened(path) as opened:
            if checksum(opened) != file.checksum:
                raise CheckpointError(
                    f"{path}: its checksum is not the manifest's; remove {folder.name} to go back"
                    " to the checkpoint before it"
                )
            opened.seek(0)
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


def _opened(path: Folder) -> BinaryIO:
    """To be read twice: of an object store in one piece, since each of its reads is a request."""
    return io.BytesIO(path.read_bytes()) if isinstance(path, StorePath) else path.open("rb")
