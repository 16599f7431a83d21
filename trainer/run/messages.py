"""Messages between the coordinator and the workers, in msgpack.

`generation` counts roll-backs: messages of an earlier generation are ignored.
"""

from __future__ import annotations

import msgspec

from trainer.run.job import Outcome, Task
from trainer.server.routing import Routing


class Work(msgspec.Struct, frozen=True, tag="work"):
    """A worker's share of a task: part number `part` of `parts` (BSP), or all of it.

    `sequence`: the number of the push for it. `step`: the global batch (BSP).
    """

    task: Task
    part: int
    parts: int
    sequence: int
    step: int
    generation: int


class Route(msgspec.Struct, frozen=True, tag="route"):
    """A new routing. `addresses`: of all servers, by number."""

    routing: Routing
    addresses: dict[int, str]


class Abandon(msgspec.Struct, frozen=True, tag="abandon"):
    """A roll-back: the worker must give up its batch, and answer with `Ready`."""

    generation: int


class Named(msgspec.Struct, frozen=True, tag="named"):
    """The answer to `Name`: all values of the column that have a number, in the order of the
    numbers.
    """

    column: str
    names: list[str]


class Tell(msgspec.Struct, frozen=True, tag="tell"):
    """A request for the metrics since the last such request."""

    generation: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """There is no more work."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """A worker has started, or has given up its batch. `pid`: of its process."""

    worker: int
    pid: int
    generation: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A worker has finished the `Work` of this sequence."""

    worker: int
    generation: int
    sequence: int
    outcome: Outcome


class Told(msgspec.Struct, frozen=True, tag="told"):
    """The metrics that `Tell` asked for, of `Tally.encode`."""

    worker: int
    generation: int
    tally: bytes


class Name(msgspec.Struct, frozen=True, tag="name"):
    """A request for the number of a slice's value."""

    worker: int
    column: str
    text: str


class Silent(msgspec.Struct, frozen=True, tag="silent"):
    """A worker has waited for some time for the answer of a shard's primary."""

    worker: int
    shard: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """An error that would occur again."""

    worker: int
    error: str


ToWorker = Work | Route | Abandon | Named | Tell | Stop
FromWorker = Ready | Done | Told | Name | Silent | Failed

_pack = msgspec.msgpack.Encoder().encode
_to_worker = msgspec.msgpack.Decoder(ToWorker)
_from_worker = msgspec.msgpack.Decoder(FromWorker)


def pack(message: ToWorker | FromWorker) -> bytes:
    """A message as bytes."""
    return _pack(message)


def read_to_worker(data: bytes) -> ToWorker:
    """A message that the coordinator packed. Raises msgspec.DecodeError."""
    message: ToWorker = _to_worker.decode(data)
    return message


def read_from_worker(data: bytes) -> FromWorker:
    """A message that a worker packed. Raises msgspec.DecodeError."""
    message: FromWorker = _from_worker.decode(data)
    return message
