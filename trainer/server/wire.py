"""Messages between workers, shard servers and the coordinator: a header, then raw buffers.

A message is a list of frames. The first is a msgpack header. The others are contiguous arrays as
they lie in memory (little-endian uint64 keys, float32 rows); they are not copied on the way.

In this module K is the number of keys in one message for one table, and "table" means those of the
model's spec, in its order. Reading functions take the frames as a channel gives them (bytes or
memoryviews, the header first), and return arrays that are read-only views of these frames. They
raise ValueError or StopIteration for frames that do not fit the header; a header that cannot be
decoded raises `msgspec.DecodeError` (or `ValidationError`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from trainer.server.shard import Pulled, Push, TablePush
from trainer.spec import ModelSpec
from trainer.table.table import Counts, Keys

#: A message: the header, and what follows it.
Frames = list[Any]


class PullRequest(msgspec.Struct, tag="pull", array_like=True, frozen=True):
    """A worker asks for values. Frames: see `pull_frames`.

    `id` names the request in its reply. `step`: the global batch (BSP). `dense`: whether the dense
    vector is wanted, too. `states`: whether states are wanted instead of values. `worker`: who
    asks, if it wants to know by what to divide its changes (`trainer.server.sharing`).
    """

    id: int
    epoch: int
    shard: int
    step: int
    dense: bool
    states: bool = False
    worker: int | None = None


class PushRequest(msgspec.Struct, tag="push", array_like=True, frozen=True):
    """A worker sends gradients. Frames: see `push_frames`.

    (`worker`, `sequence`) identifies the push for deduplication. `now`: the newest sample, in
    seconds of event time. `counts`: for each table whether a frame with counts follows. `dense`:
    whether the dense gradient follows. `changes`: see `shard.Push`.
    """

    id: int
    epoch: int
    shard: int
    worker: int
    sequence: int
    step: int
    now: int
    counts: tuple[bool, ...]
    dense: bool
    #: From a primary to its backup: the lineage of its replica (`replicas.Replica`), and how many
    #: pushes that had taken before this one.
    forwarded: int | None = None
    after: int = 0
    changes: bool = False


class Command(msgspec.Struct, tag="do", array_like=True, frozen=True):
    """The coordinator tells a server to do something (see `trainer.server.commands`).

    `shard`: -1 for the whole server. `arguments`: of `pack_arguments`. Frames: as the command
    defines them.
    """

    id: int
    shard: int
    name: str
    arguments: bytes


class Reply(msgspec.Struct, array_like=True, frozen=True):
    """The answer to a request. `id` and `shard`: the request's. `epoch`: the server's.

    `error`: None, `OTHER_EPOCH`, `GAP`, or what went wrong. `arguments`: of a command, its value.
    """

    id: int
    shard: int
    epoch: int
    error: str | None = None
    arguments: bytes = b""


#: The error for a request of another epoch than the server's.
OTHER_EPOCH = "other epoch"
#: The error for a forwarded push, where the backup lacks one that the primary took before it.
GAP = "gap"
#: The first frame, instead of a header, of a message with the addresses of all servers.
PEERS = b"peers"

Request = PullRequest | PushRequest | Command
_pack = msgspec.msgpack.Encoder().encode
_requests = msgspec.msgpack.Decoder(Request)
_replies = msgspec.msgpack.Decoder(Reply)


def pack(header: Request | Reply, frames: Sequence[Any] = ()) -> Frames:
    """A message: the encoded header, and the frames as they are."""
    return [_pack(header), *frames]


def unpack_request(frames: Sequence[Any]) -> Request:
    """The header of a message to a server. Raises msgspec.DecodeError."""
    request: Request = _requests.decode(frames[0])
    return request


def unpack_reply(frames: Sequence[Any]) -> Reply:
    """The header of a server's answer. Raises msgspec.DecodeError."""
    return _replies.decode(frames[0])


def pack_arguments(**named: Any) -> bytes:
    """Named arguments of a command, or its value as `of`, in msgpack. Raises TypeError."""
    return _pack(named)


def unpack_arguments(data: Any) -> Any:
    """What `pack_arguments` packed: a dictionary. Raises msgspec.DecodeError."""
    return msgspec.msgpack.decode(data)


# -- arrays --------------------------------------------------------------------------------------


def push_frames(tables: Sequence[TablePush], dense: Any) -> Frames:
    """The frames of a push.

    For each table: keys uint64 (K,), gradients float32 (K, width) or changes (K, floats), and,
    where it has some, counts uint32 (K,). Then `dense`, the gradient of the dense vector as
    float32, if it is not None.
    """
    frames: Frames = []
    for table in tables:
        frames += [_buffer(table.keys), _buffer(table.gradients)]
        if table.counts is not None:
            frames.append(_buffer(table.counts))
    if dense is not None:
        frames.append(_buffer(dense))
    return frames


def read_push(request: PushRequest, frames: Sequence[Any], spec: ModelSpec) -> Push:
    """The push in a message whose header is `request`."""
    at = iter(frames[1:])
    tables = []
    for table, counted in zip(spec.tables, request.counts, strict=True):
        keys = np.frombuffer(next(at), np.uint64)
        columns = table.floats if request.changes else table.width
        gradients = np.frombuffer(next(at), np.float32).reshape(len(keys), columns)
        counts = np.frombuffer(next(at), np.uint32) if counted else None
        tables.append(TablePush(keys, gradients, counts))
    dense = np.frombuffer(next(at), np.float32) if request.dense else None
    r = request
    return Push(r.worker, r.sequence, r.step, r.now, tables, dense, r.changes)


def pull_frames(keys: Sequence[Keys], samples: Sequence[Counts] | None = None) -> Frames:
    """The frames of a pull: for each table its keys, uint64 (K,).

    Then, if divisors are asked for, for each table how many samples have each key, uint32 (K,).
    """
    return [*(_buffer(k) for k in keys), *(_buffer(s) for s in samples or ())]


def read_pull(
    frames: Sequence[Any], *, samples: bool = False
) -> tuple[list[Keys], list[Counts] | None]:
    """The keys of each table in a pull, uint64 (K,), and, if they follow, the samples, uint32 (K,).

    Raises ValueError where there are not as many samples as keys.
    """
    tables = len(frames) // 2 if samples else len(frames) - 1
    keys = [np.frombuffer(frame, np.uint64) for frame in frames[1 : 1 + tables]]
    if not samples:
        return keys, None
    counts = [np.frombuffer(frame, np.uint32) for frame in frames[1 + tables :]]
    if [len(of) for of in keys] != [len(of) for of in counts]:
        raise ValueError("a pull has not as many samples as keys")
    return keys, counts


def pulled_frames(pulled: Pulled) -> Frames:
    """The frames of an answer to a pull.

    For each table: values float32 (K, width) or states (K, floats), in the order of the keys asked
    for, and uint8 (K,), which is 1 where the key has a row. Then, if these were asked for, the
    divisors for each table, float32 (K,), and the dense vector, float32.
    """
    frames: Frames = []
    for values, known in pulled.tables:
        frames += [_buffer(values), _buffer(known)]
    for of_table in pulled.divisors or ():
        frames.append(_buffer(of_table))
    if pulled.dense is not None:
        frames.append(_buffer(pulled.dense))
    return frames


def read_pulled(
    frames: Sequence[Any], spec: ModelSpec, *, states: bool = False, divisors: bool = False
) -> Pulled:
    """What is in an answer to a pull that asked for `states`, and for `divisors`."""
    at = iter(frames[1:])
    tables = []
    for table in spec.tables:
        columns = table.floats if states else table.width
        values = np.frombuffer(next(at), np.float32).reshape(-1, columns)
        tables.append((values, np.frombuffer(next(at), np.uint8)))
    sharing = [np.frombuffer(next(at), np.float32) for _ in spec.tables] if divisors else None
    rest = next(at, None)
    return Pulled(tables, None if rest is None else np.frombuffer(rest, np.float32), sharing)


def _buffer(array: npt.NDArray[Any]) -> Any:
    """The array's memory as bytes; memoryview cannot cast what is empty."""
    contiguous: Any = np.ascontiguousarray(array)
    return memoryview(contiguous).cast("B") if array.size else b""
