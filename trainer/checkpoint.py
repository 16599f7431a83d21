"""Checkpoints: one cut over all parameters, marks, filters and the cursor, on disk.

    checkpoints/step-000000001234/
        shard-0.npz …    every shard's rows, optimizer state, marks, admission counters
        manifest.json    written last: checksums, the model, the cursor, the ledger

A checkpoint is written under a temporary name, every file and the folder are flushed, and then it
is renamed: what has its final name is complete.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xxhash

from trainer.disk import sync
from trainer.server.ring import Owners, arcs_of
from trainer.server.shard import Parts
from trainer.server.wire import read_parts, write_parts
from trainer.spec import ModelSpec
from trainer.table import admission
from trainer.table.finite import NotFiniteError, check_rows, check_vector
from trainer.table.table import Rows

_NAME = re.compile(r"step-(\d{12})")
_MANIFEST = "manifest.json"


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message says which, and why."""


class File(msgspec.Struct, frozen=True):
    """`checksum`: XXH3-128, in hex."""

    name: str
    bytes: int
    checksum: str


class Manifest(msgspec.Struct, frozen=True):
    """`session` is what the run around the parameters stands at (see `trainer.run.session`).

    `consistency` and `workers`: what the marks and steps mean.
    """

    step: int
    spec: ModelSpec
    shards: list[File]
    consistency: str
    workers: int
    session: dict[str, Any]
    version: int = 1


def write_shard(folder: Path, shard: int, parts: Parts, spec: ModelSpec) -> File:
    """Writes and flushes one shard's file. Raises NotFiniteError, and writes nothing then."""
    check_parts(f"checkpoint, shard {shard}", parts, spec)
    path = folder / f"shard-{shard}.npz"
    with path.open("wb") as file:
        write_parts(parts, file)
        file.flush()
        os.fsync(file.fileno())
    return File(path.name, path.stat().st_size, checksum(path))


def check_parts(what: str, parts: Parts, spec: ModelSpec) -> None:
    """Raises NotFiniteError for a parameter, or optimizer state, that is not a finite number."""
    for rows, table in zip(parts.tables, spec.tables, strict=True):
        check_rows(what, table.name, rows.keys, rows.states, spec)
    for array in parts.dense:
        check_vector(what, array)


def checksum(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return str(digest.hexdigest())


def begin(root: Path, step: int) -> Path:
    """A new folder under a temporary name, for `write_shard`; what was left of others goes."""
    for left in (*root.glob(".step-*"), *root.glob(".removed-*")):
        shutil.rmtree(left)
    folder = root / f".step-{step:012}"
    folder.mkdir(parents=True)
    return folder


def finish(folder: Path, manifest: Manifest, keep: int, instead_of: Sequence[Path] = ()) -> Path:
    """Writes the manifest, gives the folder its name, and removes all but the `keep` newest.

    `instead_of`: checkpoints that go as well, whatever their step: of a run that this one replaces.
    """
    with (folder / _MANIFEST).open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest)))
        file.flush()
        os.fsync(file.fileno())
    sync(folder)
    final = folder.with_name(folder.name.removeprefix("."))
    if final.exists():
        # another run's, at this very step
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
    """It has no name that `find` knows before any of it goes."""
    hidden = folder.with_name(f".removed-{folder.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    sync(folder.parent)
    shutil.rmtree(hidden)


def find(root: Path) -> list[Path]:
    """The complete checkpoints, the newest last."""
    if not root.is_dir():
        return []
    found = [p for p in root.iterdir() if _NAME.fullmatch(p.name) and (p / _MANIFEST).is_file()]
    return sorted(found)


def read_manifest(folder: Path) -> Manifest:
    """Raises CheckpointError."""
    try:
        manifest = msgspec.json.decode((folder / _MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{folder}: the manifest cannot be read: {error}") from None
    if manifest.version != 1:
        raise CheckpointError(f"{folder}: of another release (format {manifest.version})")
    return manifest


def read_shards(folder: Path, manifest: Manifest) -> list[Parts]:
    """All shards, checked. Raises CheckpointError."""
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
            parts = read_parts(opened)
        try:
            check_parts(str(path), parts, manifest.spec)
        except NotFiniteError as error:
            raise CheckpointError(
                f"{error}. This checkpoint is of a release that did not check: remove"
                f" {folder.name} to go back to the checkpoint before it"
            ) from None
        shards.append(parts)
    return shards


def divided(shards: Sequence[Parts], owners: Owners, numbers: Sequence[int]) -> dict[int, Parts]:
    """The same parameters for another ring: each row goes to the shard that owns its arc.

    A cut is between batches, so the marks of all shards are the same, and none is in the middle of
    a step. Admission counters cannot be split by key: every shard gets those of all.
    """
    first = shards[0]
    tables: list[Rows] = []
    for t in range(len(first.tables)):
        of_all = [parts.tables[t] for parts in shards]
        states = [
            np.concatenate([rows.states[s] for rows in of_all])
            for s in range(len(of_all[0].states))
        ]
        tables.append(
            Rows(
                np.concatenate([rows.keys for rows in of_all]),
                np.concatenate([rows.touched for rows in of_all]),
                np.concatenate([rows.dirty for rows in of_all]),
                states,
            )
        )
    sketches = [
        _all_merged([parts.sketches[t] for parts in shards]) for t in range(len(first.tables))
    ]
    removed = [
        np.concatenate([parts.removed[t] for parts in shards]) for t in range(len(first.tables))
    ]
    dense = next((parts.dense for parts in shards if parts.dense), [])
    out = {}
    for number in numbers:
        mine = [rows.take(owners[arcs_of(rows.keys)] == number) for rows in tables]
        gone = [keys[owners[arcs_of(keys)] == number] for keys in removed]
        copies = [None if s is None else s.copy() for s in sketches]
        marks = {w: (below, list(above)) for w, (below, above) in first.marks.items()}
        has_dense = dense if number == min(numbers) else []
        out[number] = Parts(mine, gone, copies, has_dense, marks, first.step, {})
    return out


def _all_merged(sketches: Sequence[Any]) -> Any:
    if sketches[0] is None:
        return None
    merged = sketches[0]
    for sketch in sketches[1:]:
        merged = admission.merged(merged, sketch)
    return merged
