"""What the coordinator and the workers tell each other, and how it is packed."""

from __future__ import annotations

import msgspec

from trainer.run.batches import Task
from trainer.server.client import Routing


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What came of a batch. `seconds`: reading, pull, compute, push."""

    rows: int
    keys: int
    newest: int
    seconds: tuple[float, float, float, float]


class Work(msgspec.Struct, frozen=True, tag="work"):
    """A worker's share of a task: one of so many `parts` (BSP), or all of it."""

    task: Task
    part: int
    parts: int
    sequence: int
    step: int
    generation: int


class Route(msgspec.Struct, frozen=True, tag="route"):
    """`addresses`: of the servers."""

    routing: Routing
    addresses: dict[int, str]


class Abandon(msgspec.Struct, frozen=True, tag="abandon"):
    """A rollback: what is being done is not wanted any more."""

    generation: int


class Named(msgspec.Struct, frozen=True, tag="named"):
    """The answer to `Name`: all values of the column that have a number, in its order."""

    column: str
    names: list[str]


class Tell(msgspec.Struct, frozen=True, tag="tell"):
    """Asks for the metrics since the last time; there is nothing in flight."""

    generation: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """There will be no more work."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """A worker that has nothing to do: it has started, or abandoned what it did."""

    worker: int
    pid: int
    generation: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    worker: int
    generation: int
    sequence: int
    outcome: Outcome


class Told(msgspec.Struct, frozen=True, tag="told"):
    """The metrics that `Tell` asked for, encoded."""

    worker: int
    generation: int
    tally: bytes


class Name(msgspec.Struct, frozen=True, tag="name"):
    """Asks for the number of a slice's value."""

    worker: int
    column: str
    text: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """An error that no retry mends."""

    worker: int
    error: str


ToWorker = Work | Route | Abandon | Named | Tell | Stop
FromWorker = Ready | Done | Told | Name | Failed

pack = msgspec.msgpack.Encoder().encode
read_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
read_from_worker = msgspec.msgpack.Decoder(FromWorker).decode
