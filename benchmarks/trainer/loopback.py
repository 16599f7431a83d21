"""Two servers in this process behind a channel that counts: what one batch sends and gets.

The frames are those of the real client, servers and copies; what ZeroMQ and TCP add is not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from trainer.features.encode import SliceNames
from trainer.reading.ledger import Ledger
from trainer.reading.planner import Cursor, Planner
from trainer.run.batches import Batches
from trainer.run.job import Job, Task
from trainer.run.learner import Learner
from trainer.server import wire
from trainer.server.client import RemoteParameters
from trainer.server.host import Answer, Host
from trainer.server.routing import Routing

#: Batches that are counted, after as many that are not: then most keys are known.
BATCHES = 20
_SERVERS = (0, 1)
_VIRTUAL_NODES = 128


class CountingChannel:
    """A `trainer.server.channel.Channel` to hosts in here. `bytes`: by what they were for."""

    def __init__(self, spec: Any) -> None:
        self.bytes: Counter[str] = Counter()
        self.hosts = {n: Host(n, lambda work: work()) for n in _SERVERS}
        self._answers: list[Any] = []
        model = msgspec.msgpack.encode(spec)
        for n in _SERVERS:
            self._tell(n, -1, "model", [model])
            for shard in _SERVERS:
                self._tell(n, shard, "create", contributions=None, has_dense=False)
            other = _SERVERS[1 - n]
            self._tell(n, -1, "route", epoch=1, backups={n: other})

    def connect(self, server: int, address: Any) -> None:
        """Everything is here."""

    def send(self, server: int, frames: Sequence[Any]) -> None:
        """Count the bytes of a message, and answer it at once. See `channel.Channel`."""
        request = wire.unpack_request(frames)
        kind = "pull" if isinstance(request, wire.PullRequest) else "push"
        self.bytes[kind] += _size(frames)
        self._do(server, self.hosts[server].receive(None, frames), kind)

    def receive(self, timeout_ms: int, also: Any = None) -> list[Any]:
        """The answers since the last call. See `channel.Channel`."""
        answers, self._answers = self._answers, []
        return answers

    def close(self) -> None:
        """Nothing is open."""

    def _do(self, server: int, actions: Sequence[Any], kind: str) -> None:
        for action in actions:
            self.bytes[kind if isinstance(action, Answer) else "copy"] += _size(action.frames)
            if isinstance(action, Answer):
                self._answers.append(action.frames)
                continue
            for taken in self.hosts[action.server].receive(None, action.frames):
                self.bytes["copy"] += _size(taken.frames)
                reply = wire.unpack_reply(taken.frames)
                self._do(server, self.hosts[server].acknowledge(reply), kind)

    def _tell(
        self, server: int, shard: int, command: str, frames: Sequence[Any] = (), **told: Any
    ) -> None:
        head = wire.Command(0, shard, command, wire.pack_arguments(**told))
        for answer in self.hosts[server].receive(None, wire.pack(head, frames)):
            error = wire.unpack_reply(answer.frames).error
            if error is not None:
                raise ValueError(f"{command}: {error}")


def wire_bytes(job: Job, ledger: Ledger) -> dict[str, float]:
    """Bytes a distinct key of a batch, for pulls, pushes and copies, both ways; keys a sample."""
    channel = CountingChannel(job.spec)
    parameters = RemoteParameters(job.spec, 0, channel, lambda: None)
    parameters.reroute(Routing(1, {n: n for n in _SERVERS}, _VIRTUAL_NODES, None))
    batches = Batches(job, SliceNames().number)
    learner = Learner(job.spec, job.rules, job.layout, job.batch_rows, job.steps)
    planner = Planner(ledger, Cursor(), job.batch_rows)
    keys = rows = 0
    for n in range(2 * BATCHES):
        ticket = planner.next()
        if ticket is None:
            break
        if n == BATCHES:
            channel.bytes.clear()
            keys = rows = 0
        task = Task(ticket, ledger.entries[ticket.entry])
        outcome = learner.learn(batches.of(task, 0, 1), parameters, n, 0)
        keys, rows = keys + outcome.keys, rows + outcome.rows
    sizes = {kind: channel.bytes[kind] / keys for kind in ("pull", "push", "copy")}
    return {**sizes, "keys_a_sample": keys / rows}


def _size(frames: Sequence[Any]) -> int:
    return sum(len(frame) for frame in frames)
