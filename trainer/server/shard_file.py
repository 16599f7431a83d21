"""A shard's snapshot as bytes: the file of a checkpoint, and the copy for a new replica.

The format is numpy's `.npz`, uncompressed. Of table t it has `t.keys`, `t.touched`, `t.dirty`,
`t.state0`, `t.state1`, …, `t.removed` and, where keys are counted before admission, `t.sketch`.
`dense0`, `dense1`, … are the dense vector and its optimizer's state. `pending<worker>.<n>` are the
arrays of pushes that wait for the end of their step (BSP). `told` is msgpack: how many there are of
each, the deduplication marks and the step.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any, BinaryIO

import msgspec
import numpy as np
import xxhash

from configuration.stores import Folder
from trainer.disk import replacing
from trainer.server.shard import Push, ShardSnapshot, TablePush
from trainer.spec import ModelSpec
from trainer.table.finite import check_rows, check_vector
from trainer.table.table import Rows


class File(msgspec.Struct, frozen=True):
    """A file of a checkpoint. `bytes`: its size; `checksum`: XXH3-128, in hex."""

    name: str
    bytes: int
    checksum: str


def write_shard(folder: Folder, shard: int, snapshot: ShardSnapshot, spec: ModelSpec) -> File:
    """Write one shard's file in `folder`, and flush it.

    Raises WriteError; and NotFiniteError, before anything is written.
    """
    check_snapshot(f"checkpoint, shard {shard}", snapshot, spec)
    path = folder / f"shard-{shard}.npz"
    with replacing(path) as file:
        write_snapshot(snapshot, file)
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        digest = checksum(file)
    return File(path.name, size, digest)


def check_snapshot(what: str, snapshot: ShardSnapshot, spec: ModelSpec) -> None:
    """Raises NotFiniteError, with the text `what`, for a parameter or optimizer state that is not

    a finite number.
    """
    for rows, table in zip(snapshot.tables, spec.tables, strict=True):
        check_rows(what, table.name, rows.keys, rows.states, spec)
    for array in snapshot.dense:
        check_vector(what, array)


def checksum(file: BinaryIO) -> str:
    """XXH3-128 of an open file from here on, in hex. Raises OSError."""
    digest = xxhash.xxh3_128()
    while block := file.read(1 << 22):
        digest.update(block)
    return str(digest.hexdigest())


def write_snapshot(snapshot: ShardSnapshot, file: Any) -> None:
    """Writes to an open binary file. Raises OSError."""
    arrays: dict[str, Any] = {}
    for t, rows in enumerate(snapshot.tables):
        arrays |= {f"{t}.keys": rows.keys, f"{t}.touched": rows.touched, f"{t}.dirty": rows.dirty}
        arrays |= {f"{t}.state{s}": state for s, state in enumerate(rows.states)}
        arrays[f"{t}.removed"] = snapshot.removed[t]
        sketch = snapshot.sketches[t]
        if sketch is not None:
            arrays[f"{t}.sketch"] = sketch
    arrays |= {f"dense{n}": array for n, array in enumerate(snapshot.dense)}
    pending = {}
    for worker, push in snapshot.pending.items():
        arrays |= _named_push(push, _pending_names(worker, len(push.tables)))
        marks = (push.sequence, push.step, push.now, push.dense is not None)
        pending[worker] = (*marks, True) if push.changes else marks
    told = {
        "tables": len(snapshot.tables),
        "marks": snapshot.marks,
        "step": snapshot.step,
        "dense": len(snapshot.dense),
        "pending": pending,
    }
    arrays["told"] = np.frombuffer(msgspec.msgpack.encode(told), np.uint8)
    np.savez(file, **arrays)


def read_snapshot(file: Any) -> ShardSnapshot:
    """Reads what `write_snapshot` wrote. Raises ValueError for anything else."""
    try:
        return _read(file)
    except (EOFError, KeyError, OSError, zipfile.BadZipFile, msgspec.MsgspecError) as error:
        raise ValueError(f"not a shard, or not all of it: {error}") from None


def snapshot_to_bytes(snapshot: ShardSnapshot) -> bytes:
    """As `write_snapshot`, into bytes."""
    file = io.BytesIO()
    write_snapshot(snapshot, file)
    return file.getvalue()


def snapshot_from_bytes(data: Any) -> ShardSnapshot:
    """As `read_snapshot`, from bytes or a memoryview. Raises ValueError."""
    return read_snapshot(io.BytesIO(data))


def _pending_names(worker: int, tables: int) -> list[str]:
    """Of each table: keys, gradients, counts; then the dense gradient."""
    return [f"pending{worker}.{n}" for n in range(3 * tables + 1)]


def _named_push(push: Push, names: list[str]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for t, table in enumerate(push.tables):
        named[names[3 * t]], named[names[3 * t + 1]] = table.keys, table.gradients
        if table.counts is not None:
            named[names[3 * t + 2]] = table.counts
    if push.dense is not None:
        named[names[-1]] = push.dense
    return named


def _read(file: Any) -> ShardSnapshot:
    with np.load(file, allow_pickle=False) as arrays:
        told = msgspec.msgpack.decode(arrays["told"].tobytes())
        tables, removed, sketches = [], [], []
        for t in range(told["tables"]):
            states = [arrays[n] for n in arrays.files if n.startswith(f"{t}.state")]
            heads = (arrays[f"{t}.keys"], arrays[f"{t}.touched"], arrays[f"{t}.dirty"])
            tables.append(Rows(*heads, states))
            removed.append(arrays[f"{t}.removed"])
            sketches.append(arrays[f"{t}.sketch"] if f"{t}.sketch" in arrays.files else None)
        pending = {}
        for worker, (sequence, step, now, has_dense, *changes) in told["pending"].items():
            names = _pending_names(worker, told["tables"])
            pushes = [
                TablePush(
                    arrays[names[3 * t]],
                    arrays[names[3 * t + 1]],
                    arrays[names[3 * t + 2]] if names[3 * t + 2] in arrays.files else None,
                )
                for t in range(told["tables"])
            ]
            dense = arrays[names[-1]] if has_dense else None
            marks = worker, sequence, step, now
            pending[worker] = Push(*marks, pushes, dense, changes == [True])
        return ShardSnapshot(
            tables=tables,
            removed=removed,
            sketches=sketches,
            dense=[arrays[f"dense{n}"] for n in range(told["dense"])],
            marks={w: (below, above) for w, (below, above) in told["marks"].items()},
            step=told["step"],
            pending=pending,
        )
