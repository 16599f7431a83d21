"""Messages between workers, servers and the coordinator: a small header, then raw buffers.

A message is a list of frames. The first is a msgpack header; the others are contiguous arrays as
they lie in memory (uint64 keys, float32 rows), which are neither copied nor looked at on the way.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from trainer.server.shard import Parts, Pulled, Push, TablePush
from trainer.spec import ModelSpec
from trainer.table.table import Keys, Rows

Frames = list[Any]


class PullRequest(msgspec.Struct, tag="pull", array_like=True, frozen=True):
    """Frames: the keys of each table."""

    id: int
    epoch: int
    shard: int
    step: int
    dense: bool


class PushRequest(msgspec.Struct, tag="push", array_like=True, frozen=True):
    """Frames: of each table keys, gradients and (`counts`) counts; then the dense gradient."""

    id: int
    epoch: int
    shard: int
    worker: int
    sequence: int
    step: int
    now: int
    counts: tuple[bool, ...]
    dense: bool
    #: From a primary to its backup: the lineage of the copies (`host.Copy`).
    forwarded: int | None = None


class Command(msgspec.Struct, tag="do", array_like=True, frozen=True):
    """From the coordinator. `arguments` is msgpack; frames as the command has them."""

    id: int
    shard: int
    name: str
    arguments: bytes


class Reply(msgspec.Struct, array_like=True, frozen=True):
    """`epoch`: the server's. `error`: what went wrong, if something did."""

    id: int
    shard: int
    epoch: int
    error: str | None = None
    arguments: bytes = b""


#: The error of a message under another epoch than the server's.
OTHER_EPOCH = "other epoch"

Request = PullRequest | PushRequest | Command
_pack = msgspec.msgpack.Encoder().encode
_requests = msgspec.msgpack.Decoder(Request)
_replies = msgspec.msgpack.Decoder(Reply)


def pack(header: Request | Reply, frames: Sequence[Any] = ()) -> Frames:
    return [_pack(header), *frames]


def unpack_request(frames: Sequence[Any]) -> Request:
    request: Request = _requests.decode(frames[0])
    return request


def unpack_reply(frames: Sequence[Any]) -> Reply:
    return _replies.decode(frames[0])


def arguments(**named: Any) -> bytes:
    """What a command is told."""
    return _pack(named)


def told(data: bytes) -> Any:
    return msgspec.msgpack.decode(data)


# -- arrays --------------------------------------------------------------------------------------


def push_frames(tables: Sequence[TablePush], dense: Any) -> Frames:
    frames: Frames = []
    for table in tables:
        frames += [_buffer(table.keys), _buffer(table.gradients)]
        if table.counts is not None:
            frames.append(_buffer(table.counts))
    if dense is not None:
        frames.append(_buffer(dense))
    return frames


def read_push(request: PushRequest, frames: Sequence[Any], spec: ModelSpec) -> Push:
    at = iter(frames[1:])
    tables = []
    for table, counted in zip(spec.tables, request.counts, strict=True):
        keys = np.frombuffer(next(at), np.uint64)
        gradients = np.frombuffer(next(at), np.float32).reshape(len(keys), table.width)
        counts = np.frombuffer(next(at), np.uint32) if counted else None
        tables.append(TablePush(keys, gradients, counts))
    dense = np.frombuffer(next(at), np.float32) if request.dense else None
    r = request
    return Push(r.worker, r.sequence, r.step, r.now, tables, dense)


def pull_frames(keys: Sequence[Keys]) -> Frames:
    return [_buffer(k) for k in keys]


def read_pull(frames: Sequence[Any]) -> list[Keys]:
    return [np.frombuffer(frame, np.uint64) for frame in frames[1:]]


def pulled_frames(pulled: Pulled) -> Frames:
    frames: Frames = []
    for values, known in pulled.tables:
        frames += [_buffer(values), _buffer(known)]
    if pulled.dense is not None:
        frames.append(_buffer(pulled.dense))
    return frames


def read_pulled(frames: Sequence[Any], spec: ModelSpec) -> Pulled:
    at = iter(frames[1:])
    tables = []
    for table in spec.tables:
        values = np.frombuffer(next(at), np.float32).reshape(-1, table.width)
        tables.append((values, np.frombuffer(next(at), np.uint8)))
    rest = next(at, None)
    return Pulled(tables, None if rest is None else np.frombuffer(rest, np.float32))


def _buffer(array: npt.NDArray[Any]) -> Any:
    contiguous: Any = np.ascontiguousarray(array)
    return memoryview(contiguous).cast("B") if array.size else b""


# -- whole shards --------------------------------------------------------------------------------


def write_parts(parts: Parts, file: Any) -> None:
    """As numpy's `.npz`, uncompressed; the same for a copy and for a checkpoint."""
    arrays: dict[str, Any] = {}
    for t, rows in enumerate(parts.tables):
        arrays |= {f"{t}.keys": rows.keys, f"{t}.touched": rows.touched, f"{t}.dirty": rows.dirty}
        arrays |= {f"{t}.state{s}": state for s, state in enumerate(rows.states)}
        arrays[f"{t}.removed"] = parts.removed[t]
        sketch = parts.sketches[t]
        if sketch is not None:
            arrays[f"{t}.sketch"] = sketch
    arrays |= {f"dense{n}": array for n, array in enumerate(parts.dense)}
    pending = {}
    for worker, push in parts.pending.items():
        names = [f"pending{worker}.{n}" for n in range(3 * len(push.tables) + 1)]
        arrays |= _named_push(push, names)
        pending[worker] = (push.sequence, push.step, push.now, push.dense is not None)
    told = {
        "tables": len(parts.tables),
        "marks": parts.marks,
        "step": parts.step,
        "dense": len(parts.dense),
        "pending": pending,
    }
    arrays["told"] = np.frombuffer(_pack(told), np.uint8)
    np.savez(file, **arrays)


def _named_push(push: Push, names: list[str]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for t, table in enumerate(push.tables):
        named[names[3 * t]], named[names[3 * t + 1]] = table.keys, table.gradients
        if table.counts is not None:
            named[names[3 * t + 2]] = table.counts
    if push.dense is not None:
        named[names[-1]] = push.dense
    return named


def read_parts(file: Any) -> Parts:
    """What `write_parts` wrote. Raises ValueError for anything else."""
    try:
        return _read_parts(file)
    except (EOFError, KeyError, OSError, zipfile.BadZipFile, msgspec.MsgspecError) as error:
        raise ValueError(f"not a shard, or not all of it: {error}") from None


def _read_parts(file: Any) -> Parts:
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
        for worker, (sequence, step, now, has_dense) in told["pending"].items():
            names = [f"pending{worker}.{n}" for n in range(3 * told["tables"] + 1)]
            parts = [
                TablePush(
                    arrays[names[3 * t]],
                    arrays[names[3 * t + 1]],
                    arrays[names[3 * t + 2]] if names[3 * t + 2] in arrays.files else None,
                )
                for t in range(told["tables"])
            ]
            dense = arrays[names[-1]] if has_dense else None
            pending[worker] = Push(worker, sequence, step, now, parts, dense)
        return Parts(
            tables=tables,
            removed=removed,
            sketches=sketches,
            dense=[arrays[f"dense{n}"] for n in range(told["dense"])],
            marks={w: (below, above) for w, (below, above) in told["marks"].items()},
            step=told["step"],
            pending=pending,
        )


def parts_to_bytes(parts: Parts) -> bytes:
    file = io.BytesIO()
    write_parts(parts, file)
    return file.getvalue()


def parts_from_bytes(data: Any) -> Parts:
    return read_parts(io.BytesIO(data))
