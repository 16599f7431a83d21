"""Workers for `chaos.trainer_cluster` that note what they do, and a fault for its servers.

Notes are JSON lines of `tests.trainer.history`, in the order in which they happen; times are of the
machine's one clock. A `Counting` worker does not learn: it pulls `KEYS` and pushes a gradient of 1
for each. Under FTRL the weight that a pull shows then says how many pushes it has.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zmq

from tests.trainer import history
from tests.trainer.history import Ack, Note, PullBegins, PullEnds, PushBegins, PushEnds
from trainer import checkpoint
from trainer.run.job import Job, Outcome
from trainer.run.messages import Done, Work
from trainer.run.worker import Worker
from trainer.server import wire
from trainer.server.channel import Channel, Frames
from trainer.server.host import Answer, Forward, Host
from trainer.server.shard import Push, Shard, TablePush
from trainer.spec import ModelSpec

#: Over the whole ring.
KEYS = np.arange(1, 33, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
#: Seconds of a counting worker's batch, so that a run lasts longer than the faults in it.
PAUSE_S = 0.01
_MOST = 2_500


class _Notes:
    def __init__(self, folder: Path) -> None:
        self._file = (folder / f"history-{os.getpid()}.jsonl").open("ab", buffering=0)

    def write(self, note: Note) -> None:
        self._file.write(msgspec.json.encode(note) + b"\n")


class _Recorder:
    """A channel that notes which server acknowledges pushes."""

    def __init__(self, channel: Channel, notes: _Notes, worker: int) -> None:
        self._channel, self._notes, self._worker = channel, notes, worker
        self._pushes: dict[int, tuple[wire.PushRequest, int, float]] = {}

    def connect(self, server: int, address: Any) -> None:
        self._channel.connect(server, address)

    def send(self, server: int, frames: Frames) -> None:
        request = wire.unpack_request(frames)
        if isinstance(request, wire.PushRequest):
            self._pushes[request.id] = request, server, time.monotonic()
        self._channel.send(server, frames)

    def receive(self, timeout_ms: int, also: zmq.Socket[bytes] | None = None) -> list[Frames]:
        got = self._channel.receive(timeout_ms, also)
        for frames in got:
            reply = wire.unpack_reply(frames)
            if reply.error is None and reply.id in self._pushes:
                request, server, asked = self._pushes.pop(reply.id)
                mine = self._worker, request.sequence, request.shard, server
                self._notes.write(Ack(*mine, request.epoch, asked, time.monotonic()))
        return got

    def close(self) -> None:
        self._channel.close()


class Recorded(Worker):
    """Learns, and notes who acknowledges what."""

    def __init__(self, job: Job, number: int, control: str) -> None:
        # beside the samples
        self.notes = _Notes(Path(job.root).parent)
        super().__init__(job, number, control)

    def make_channel(self, context: zmq.Context[Any]) -> Channel:
        return _Recorder(super().make_channel(context), self.notes, self._number)


class Counting(Recorded):
    """Counts instead of learning, and notes what its pulls show. Not for BSP."""

    def __init__(self, job: Job, number: int, control: str) -> None:
        self._shown = weights(job.spec)
        super().__init__(job, number, control)

    def _work(self, work: Work) -> None:
        time.sleep(PAUSE_S)
        spec, clock, note = self._job.spec, time.monotonic, self.notes.write
        mine = (self._number, work.sequence, work.step, work.generation)
        note(PullBegins(*mine, clock()))
        values, _ = self._parameters.pull(work.step, keys_of(spec)).tables[0]
        note(PullEnds(*mine, clock(), [self._shown.get(v, -1) for v in values[:, 0].tolist()]))
        note(PushBegins(*mine, clock()))
        tables = gradients(spec)
        nothing: list[Any] = [None] * len(tables)
        pushed = [table.gradients for table in tables]
        self._parameters.push(work.sequence, work.step, 0, pushed, nothing, None)
        note(PushEnds(*mine, clock()))
        rows, part, parts = work.task.ticket.rows, work.part, work.parts
        share = rows * (part + 1) // parts - rows * part // parts
        outcome = Outcome(share, len(KEYS), 1, (0.0, 0.0, 0.0, 0.0))
        self._send(Done(self._number, work.generation, work.sequence, outcome))


def keys_of(spec: ModelSpec) -> list[Any]:
    """`KEYS` of the first table, and none of the others."""
    return [KEYS if n == 0 else KEYS[:0] for n in range(len(spec.tables))]


def gradients(spec: ModelSpec) -> list[TablePush]:
    return [
        TablePush(keys, np.ones((len(keys), table.width), np.float32), None)
        for keys, table in zip(keys_of(spec), spec.tables, strict=True)
    ]


def weights(spec: ModelSpec) -> dict[float, int]:
    """How many pushes a weight shows."""
    shard = Shard(spec, contributions=None, has_dense=False)
    found: dict[float, int] = {}
    for number in range(_MOST):
        (values, _), *_ = shard.pull(0, keys_of(spec)).tables
        found[float(values[0, 0])] = number
        shard.push(Push(0, number, 0, 0, gradients(spec), None))
    assert len(found) == _MOST
    return found


def counts_in(folder: Path) -> list[int]:
    """How many pushes each key has in a checkpoint."""
    manifest = checkpoint.read_manifest(folder)
    shown = weights(manifest.spec)
    counts: dict[int, int] = {}
    for number, snapshot in enumerate(checkpoint.read_shards(folder, manifest)):
        shard = Shard(manifest.spec, contributions=None, has_dense=number == 0)
        shard.load(snapshot)
        (values, known), *_ = shard.pull(0, keys_of(manifest.spec)).tables
        for key, value, here in zip(KEYS.tolist(), values[:, 0].tolist(), known, strict=True):
            if here:
                counts[key] = shown.get(value, -1)
    return [counts.get(key, 0) for key in KEYS.tolist()]


def begins(log: Path) -> Mapping[int, int]:
    """How many pushes each generation of a run began with: those of its checkpoint.

    `log`: of its coordinator.
    """
    found = {1: 0}
    for line in log.read_text().splitlines():
        text = json.loads(line)["message"] if line.startswith("{") else ""
        _, back, to = text.partition("; going back to step-")
        if back:
            found[len(found) + 1] = int(to)
        elif text.endswith("; starting over"):
            found[len(found) + 1] = 0
    return found


def has_answered(folder: Path, shards: Collection[int], since: float) -> bool:
    """Whether one of the shards has acknowledged a push that a worker began after that moment."""
    notes = [note for notes in history.read(folder) for note in notes]
    begun = {(n.worker, n.sequence) for n in notes if type(n) is PushBegins and n.at > since}
    acks = (note for note in notes if isinstance(note, Ack) and note.asked > since)
    return any(ack.shard in shards and (ack.worker, ack.sequence) in begun for ack in acks)


# -- a fault that a history must show --------------------------------------------------------------


def answers_before_the_backup_has_it() -> None:
    receive = Host.receive

    def hasty(host: Host, origin: Any, frames: Any) -> list[Answer | Forward]:
        actions = receive(host, origin, frames)
        parked = {
            number: each
            for replica in host.replicas.held.values()
            for number, each in replica.parked.items()
        }
        early = [parked[a.id] for a in actions if isinstance(a, Forward) and a.id in parked]
        return [*actions, *(Answer(each.origin, each.answer) for each in early)]

    Host.receive = hasty  # type: ignore[method-assign,assignment]
