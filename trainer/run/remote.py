"""Training on many processes: the coordinator's side.

The coordinator gives out tasks as the clocks allow, watches the processes, and tells servers what
to do between batches. What it does when one dies:

* a worker: another takes its number and its work. Pushes that had arrived have their marks, so
  nothing counts twice.
* a server whose shards have their copies elsewhere: these become primaries under a new epoch, and
  the workers send again what was not answered. A server that is started instead gets copies of what
  has only one, at the next pause.
* a server with the only copy of a shard: `LostShardError`, and the session goes back to its last
  checkpoint (`start`), with all shards and the cursor.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import zmq

from trainer.checkpoint import File, divided
from trainer.evaluation.tally import Tally
from trainer.features.encode import SliceNames
from trainer.run.batches import Job, Task
from trainer.run.clocks import Clocks
from trainer.run.cluster import Cluster, Process
from trainer.run.messages import (
    Abandon,
    Done,
    Failed,
    FromWorker,
    Name,
    Named,
    Outcome,
    Ready,
    Route,
    Stop,
    Tell,
    Told,
    Work,
    pack,
    read_from_worker,
)
from trainer.server import ring, wire
from trainer.server.channel import Channel, RayChannel, ZmqChannel
from trainer.server.client import Routing
from trainer.server.dense import has_dense
from trainer.server.shard import Parts
from trainer.serving.files import PartInfo

_POLL_MS = 20
_LOOK_S = 0.05
_MOST_IN_VAIN = 5
#: How often workers are asked for metrics: what is lost if one dies.
_TELL_S = 1.0
_START_DEADLINE_S = 120.0
_ANSWER_DEADLINE_S = 120.0


_T = TypeVar("_T")


class LostShardError(Exception):
    """The only copy of a shard is gone: back to the last checkpoint."""


class RunError(Exception):
    """Training cannot go on; the message says why."""


class ServerGoneError(Exception):
    """A server ended while a command was waiting for it. Its shards go on from their copies."""


class RemoteRunner:
    """See `trainer.run.session.Runner`. `servers`: how many; `replicas`: backups of a shard."""

    def __init__(
        self,
        job: Job,
        names: SliceNames,
        *,
        servers: int,
        replicas: int,
        virtual_nodes: int,
        transport: str,
        staleness: int,
        most_in_flight: int,
        address: str | None = None,
    ) -> None:
        self.job = job
        self.clocks = Clocks(job.consistency, job.workers, staleness, most_in_flight)
        #: What happened, for a person.
        self.events: list[str] = []
        #: Seconds from the end of a server to the next answer of its shards, each.
        self.recoveries: list[float] = []
        #: Is told what happens, at once.
        self.say: Callable[[str], None] = lambda _: None
        self._model = msgspec.msgpack.encode(job.spec)
        self._names = names
        self._shards = servers
        self._wanted_replicas = replicas
        self._replicas = min(replicas, servers - 1)
        self._virtual_nodes = virtual_nodes
        self._cluster = Cluster(address, transport, servers + job.workers + 2)
        self._context = zmq.Context()
        self._control = self._context.socket(zmq.ROUTER)
        self._control.setsockopt(zmq.LINGER, 500)
        port = self._control.bind_to_random_port(f"tcp://{self._cluster.interface}")
        self._control_address = f"tcp://{self._cluster.interface}:{port}"
        self._channel: Channel = ZmqChannel(self._context) if transport == "zmq" else RayChannel()
        self.servers: dict[int, Process] = {}
        self.workers: dict[int, Process] = {}
        self._starting: list[Process] = []
        self._next_server = 0
        self._epoch = 0
        self._generation = 0
        self._primaries: dict[int, int] = {}
        self._backups: dict[int, int | None] = {}
        self._dense_shard = 0 if has_dense(job.spec) else None
        self._identity: dict[int, bytes] = {}
        self._ready: set[int] = set()
        self._work: dict[int, Work] = {}
        self._sequences = [0] * job.workers
        self._step = 0
        self._last_look = 0.0
        self._tally = Tally(job.layout)
        self._asked: set[int] = set()
        self._told_at: dict[int, float] = {}
        #: How often a worker has ended since it last finished a batch.
        self._vain: dict[int, int] = {}
        #: When a server ended, as long as nothing was finished since.
        self._died_at: float | None = None
        self._ids = 0
        self._inbox: deque[FromWorker] = deque()

    # -- processes and shards ----------------------------------------------------------------------

    def start(self, shards: Sequence[Parts]) -> None:
        """All shards as in `shards` (of any number), or new; nothing is in flight afterwards."""
        self._generation += 1
        # before they hear of a new epoch: else they would send what they have in hand under it
        for number in list(self.workers):
            self._send(number, Abandon(self._generation))
        self._work.clear()
        self._ready.clear()
        self._asked.clear()
        self._tally = Tally(self.job.layout)
        self.clocks.reset()
        while len(self.servers) + len(self._starting) < self._shards:
            self._start_server()
        self._await_servers()
        numbers = list(range(self._shards))
        servers = sorted(self.servers)
        self._primaries = {s: servers[s] for s in numbers}
        self._backups = {
            s: servers[(s + 1) % len(servers)] if self._replicas else None for s in numbers
        }
        for server in servers:
            # what it has of before goes
            self._tell(server, -1, "model", [self._model])
        made: dict[int, Parts] = {}
        if shards:
            made = divided(shards, ring.owners(numbers, self._virtual_nodes), numbers)
        for shard in numbers:
            frames = []
            if shard in made:
                # under a new epoch nothing of before can come
                frames = [wire.parts_to_bytes(made[shard].unmarked())]
            for at in (self._primaries[shard], self._backups[shard]):
                if at is not None:
                    self._create(at, shard, frames)
        self._sequences = [0] * self.job.workers
        self._step = 0
        self._route()
        for number in range(self.job.workers):
            if number not in self.workers:
                self._start_worker(number)

    def _create(self, server: int, shard: int, frames: Sequence[Any]) -> None:
        bsp = self.job.consistency == "bsp"
        self._tell(
            server,
            shard,
            "create",
            frames,
            contributions=self.job.workers if bsp else None,
            has_dense=shard == self._dense_shard,
            lineage=self._generation,
        )

    def _start_server(self) -> None:
        self._starting.append(self._cluster.start_server(self._next_server))
        self._next_server += 1

    def _start_worker(self, number: int) -> None:
        self._identity.pop(number, None)
        self._ready.discard(number)
        self._asked.discard(number)
        job = msgspec.msgpack.encode(self.job)
        self.workers[number] = self._cluster.start_worker(number, job, self._control_address)

    def _await_servers(self) -> None:
        """Until all that are starting are up, and know each other."""
        end = time.monotonic() + _START_DEADLINE_S
        while self._starting:
            if time.monotonic() > end:
                raise RunError("the servers did not start in time; is there room for them in Ray?")
            self._take_up()

    def _take_up(self) -> None:
        """Servers that have come up, one look at each."""
        for process in list(self._starting):
            if self._cluster.is_up(process):
                self._starting.remove(process)
                self.servers[process.number] = process
                self._channel.connect(process.number, process.address)
                addresses = {n: p.address for n, p in self.servers.items()}
                for other in self.servers.values():
                    self._introduce(other, addresses)
                self._tell(process.number, -1, "model", [self._model])

    def _introduce(self, server: Process, addresses: dict[int, str]) -> None:
        """Where the other servers are. It comes before whatever the server is told next."""
        if self._cluster.transport == "zmq":
            self._channel.send(server.number, [b"peers", msgspec.msgpack.encode(addresses)])
        else:
            self._cluster.introduce(server, addresses)

    def _route(self) -> None:
        """A new epoch: told to the servers first, then to the workers."""
        self._epoch += 1
        try:
            for server in list(self.servers):
                mine = {s: self._backups[s] for s, at in self._primaries.items() if at == server}
                self._tell(server, -1, "route", (), epoch=self._epoch, backups=mine)
        except ServerGoneError:
            return  # there is an epoch after this one already
        for number in self._identity:
            self._send(number, self._routing())

    def _routing(self) -> Route:
        routing = Routing(
            self._epoch, dict(self._primaries), self._virtual_nodes, self._dense_shard
        )
        return Route(routing, {n: p.address for n, p in self.servers.items()})

    # -- training ----------------------------------------------------------------------------------

    def run(
        self,
        next_task: Callable[[], Task | None],
        done: Callable[[Outcome], None],
        pause: Callable[[], bool],
    ) -> None:
        """Until `pause` says so or there are no tasks; nothing is in flight then.

        Raises LostShardError.
        """
        more = True
        while True:
            if more and not pause():
                more = self._give_out(next_task)
            elif not self._work:
                break
            self._poll(done)
        self.mend()

    def take_tally(self) -> Tally:
        """Of all workers. What one had not told yet when it died is not in it."""
        for number in self._ready:
            self._ask(number)
        while self._asked:
            self._poll(lambda _: None)
        taken, self._tally = self._tally, Tally(self.job.layout)
        return taken

    def _ask(self, number: int) -> None:
        """For the metrics of a worker, which it sends between two batches."""
        if number not in self._asked:
            self._asked.add(number)
            self._told_at[number] = time.monotonic()
            self._send(number, Tell(self._generation))

    def _give_out(self, next_task: Callable[[], Task | None]) -> bool:
        """Work for whoever may have some; whether there may be more."""
        if self.job.consistency == "bsp":
            return self._give_out_step(next_task)
        for number in sorted(self._ready - set(self._work), key=lambda n: self.clocks.clocks[n]):
            if not self.clocks.may_begin(number):
                break
            task = next_task()
            if task is None:
                return False
            self._begin(number, Work(task, 0, 1, self._sequences[number], 0, self._generation))
        return True

    def _give_out_step(self, next_task: Callable[[], Task | None]) -> bool:
        """BSP: a task for all workers, once all have finished the one before."""
        everyone = self.job.workers
        if self._work or len(self._ready) < everyone:
            return True
        task = next_task()
        if task is None:
            return False
        for number in range(everyone):
            sequence = self._sequences[number]
            work = Work(task, number, everyone, sequence, self._step, self._generation)
            self._begin(number, work)
        self._step += 1
        return True

    def _begin(self, number: int, work: Work) -> None:
        self._work[number] = work
        self._sequences[number] += 1
        self.clocks.begin(number)
        self._send(number, work)

    def _poll(self, done: Callable[[Outcome], None]) -> None:
        self._take_messages(_POLL_MS)
        while self._inbox:
            self._hear(self._inbox.popleft(), done)
        now = time.monotonic()
        if now - self._last_look >= _LOOK_S:
            self._last_look = now
            self._look_for_ends()

    def _take_messages(self, timeout_ms: int) -> None:
        if not self._control.poll(timeout_ms):
            return
        while True:
            try:
                identity, data = self._control.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            message = read_from_worker(data)
            if isinstance(message, Name):
                self._send_to(identity, self._named(message))
            elif isinstance(message, Ready) and self._identity.get(message.worker) != identity:
                self._greet(identity, message)
                self._inbox.append(message)
            else:
                self._inbox.append(message)

    def _named(self, message: Name) -> Named:
        self._names.number(message.column, message.text)
        return Named(message.column, self._names.names[message.column])

    def _greet(self, identity: bytes, message: Ready) -> None:
        """A worker that has started."""
        self._identity[message.worker] = identity
        self.workers[message.worker].pid = message.pid
        if message.generation != self._generation:
            self._send(message.worker, Abandon(self._generation))
        self._send(message.worker, self._routing())

    def _hear(self, message: FromWorker, done: Callable[[Outcome], None]) -> None:
        if isinstance(message, Failed):
            raise RunError(f"worker {message.worker}: {message.error}")
        if isinstance(message, Ready):
            if message.generation == self._generation:
                self._ready.add(message.worker)
                if message.worker in self._work:
                    # what the one before it did not finish
                    self._send(message.worker, self._work[message.worker])
        elif isinstance(message, Told):
            if message.generation == self._generation:
                self._asked.discard(message.worker)
                self._tally.merge_encoded(message.tally)
        elif isinstance(message, Done):
            work = self._work.get(message.worker)
            current = message.generation == self._generation
            if current and work is not None and work.sequence == message.sequence:
                del self._work[message.worker]
                self.clocks.finish(message.worker)
                self._vain.pop(message.worker, None)
                if self._died_at is not None:
                    self.recoveries.append(time.monotonic() - self._died_at)
                    self._died_at = None
                done(message.outcome)
                if time.monotonic() - self._told_at.get(message.worker, 0.0) > _TELL_S:
                    self._ask(message.worker)

    def _send(self, number: int, message: Any) -> None:
        if number in self._identity:
            self._send_to(self._identity[number], message)

    def _send_to(self, identity: bytes, message: Any) -> None:
        self._control.send_multipart([identity, pack(message)])

    # -- when one dies -----------------------------------------------------------------------------

    def _look_for_ends(self) -> None:
        self._take_up()
        for process in self._cluster.ended([*self.servers.values(), *self.workers.values()]):
            if self.servers.get(process.number) is process:
                self._server_ended(process)
            elif self.workers.get(process.number) is process:
                self._worker_ended(process)

    def _worker_ended(self, process: Process) -> None:
        number = process.number
        self._vain[number] = self._vain.get(number, 0) + 1
        if self._vain[number] > _MOST_IN_VAIN:
            raise RunError(
                f"worker {number} has ended {self._vain[number]} times without finishing a batch;"
                " Ray's logs say why (is there too little memory?)"
            )
        self._note(f"worker {number} ended; another takes its work")
        self._start_worker(number)

    def _server_ended(self, process: Process) -> None:
        dead = process.number
        self._died_at = time.monotonic()
        del self.servers[dead]
        lost = [s for s, at in self._primaries.items() if at == dead and self._backups[s] is None]
        if lost:
            self._note(f"server {dead} ended, with the only copy of shards {lost}")
            raise LostShardError(f"shards {lost}")
        for shard, at in self._primaries.items():
            if at == dead:
                backup = self._backups[shard]
                assert backup is not None
                self._primaries[shard], self._backups[shard] = backup, None
            elif self._backups[shard] == dead:
                self._backups[shard] = None
        self._route()
        self._note(f"server {dead} ended; its shards go on from their copies")
        # it becomes useful at the next pause; it starts meanwhile
        self._start_server()

    @property
    def mended(self) -> bool:
        """Whether every shard has the copies that it is to have."""
        return not self._replicas or all(at is not None for at in self._backups.values())

    def mend(self) -> None:
        """Copies for shards that have only one, if there are servers for it; between batches."""
        if self.mended:
            return
        self._take_up()
        try:
            self._copy_shards()
        except ServerGoneError:
            self._note("a server ended while shards were copied; again at the next pause")

    def _copy_shards(self) -> None:
        changed = False
        for shard, at in self._backups.items():
            others = [n for n in self.servers if n != self._primaries[shard]]
            if at is None and others:
                held = list(self._primaries.values()) + list(self._backups.values())
                chosen = min(others, key=held.count)
                self._settle(shard)
                _, frames = self._tell(self._primaries[shard], shard, "parts")
                self._create(chosen, shard, frames)
                self._backups[shard] = chosen
                changed = True
        if changed:
            self._route()

    @property
    def wants_pause(self) -> bool:
        """Whether a server is up that shards without a backup wait for."""
        if self.mended:
            return False
        used = {*self._primaries.values(), *self._backups.values()}
        return any(server not in used for server in self.servers)

    def _note(self, text: str) -> None:
        self.events.append(text)
        self.say(text)

    # -- between batches ---------------------------------------------------------------------------

    def expire(self, now: int) -> int:
        gone = 0
        for shard in self._primaries:
            self._settle(shard)
            gone += self._tell(self._primaries[shard], shard, "expire", now=now)[0]
            self._tell_backup(shard, "expire", now=now)
        return gone

    def checkpoint(self, folder: Path) -> Callable[[], Sequence[File] | None]:
        for shard, server in self._primaries.items():
            self._settle(shard)
            self._tell(server, shard, "checkpoint", folder=str(folder))
        return self._results("checkpoint", File)

    def export(
        self, folder: Path, number: int, *, everything: bool
    ) -> tuple[Callable[[], Sequence[PartInfo] | None], Any]:
        dense = None
        told: dict[str, Any] = {
            "folder": str(folder),
            "number": number,
            "everything": everything,
        }
        for shard, server in self._primaries.items():
            self._settle(shard)
            _, frames = self._tell(server, shard, "export", (), **told)
            self._tell_backup(shard, "export", **told)
            if frames:
                dense = np.frombuffer(frames[0], np.float32)
        return self._results("export", PartInfo), dense

    def _results(self, name: str, kind: type[_T]) -> Callable[[], list[_T] | None]:
        """What servers write while training goes on: all of it, once all have it."""
        waiting = dict(self._primaries)
        found: list[_T] = []

        def look() -> list[_T] | None:
            for shard, server in list(waiting.items()):
                if server not in self.servers:
                    raise ServerGoneError(f"server {server}")
                result, _ = self._tell(server, shard, "result", name=name)
                if result is None:
                    continue
                if "error" in result:
                    raise RunError(f"server of shard {shard}: {result['error']}")
                found.extend(msgspec.convert(result["of"], list[kind]))  # type: ignore[valid-type]
                del waiting[shard]
            return None if waiting else found

        return look

    def stats(self) -> Mapping[str, Any]:
        """Rows and bytes of the primaries, by shard too."""
        each = {s: self._tell(server, s, "stats")[0] for s, server in self._primaries.items()}
        return {
            "rows": sum(sum(told["rows"]) for told in each.values()),
            "bytes": sum(sum(told["bytes"]) for told in each.values()),
            "shards": each,
        }

    def parts(self, *, backups: bool = False) -> dict[int, Parts]:
        """A copy of every shard, from its primary or its backup."""
        found = {}
        for shard, server in self._primaries.items():
            at = self._backups[shard] if backups else server
            if at is not None:
                self._tell(at, shard, "settle", step=self._step)
                found[shard] = wire.parts_from_bytes(self._tell(at, shard, "parts")[1][0])
        return found

    def resize(self, servers: int) -> float:
        """Another number of servers, between batches; the share of the rows that moved.

        Shards join or leave at the end of their numbers, and only the rows of the arcs move that
        have another owner then. Raises ValueError for less than one server.
        """
        if servers < 1:
            raise ValueError("at least one server is needed")
        before, after = sorted(self._primaries), list(range(servers))
        old = ring.owners(before, self._virtual_nodes)
        new = ring.owners(after, self._virtual_nodes)
        total = self.stats()["rows"]
        for shard in before:
            self._settle(shard)
        self._replicas = min(self._wanted_replicas, servers - 1)
        self._join([shard for shard in after if shard not in self._primaries])
        moved = 0
        for shard in before:
            for owner in sorted(set(new[old == shard].tolist()) - {shard}):
                moved += self._move(shard, owner, (old == shard) & (new == owner))
        self._leave([shard for shard in before if shard not in after])
        self._shards = servers
        self._route()
        self.mend()
        self._note(f"{servers} servers now; {moved:,} of {total:,} rows moved")
        return moved / total if total else 0.0

    def _join(self, shards: Sequence[int]) -> None:
        """New shards without rows, each on a server of its own."""
        known = set(self.servers)
        for _ in shards:
            self._start_server()
        self._await_servers()
        for shard, server in zip(shards, sorted(set(self.servers) - known), strict=False):
            self._create(server, shard, ())
            self._primaries[shard], self._backups[shard] = server, None

    def _move(self, shard: int, owner: int, arcs: npt.NDArray[np.bool_]) -> int:
        """The rows of arcs from a shard to another, with their copies."""
        mask = [arcs.tobytes()]
        rows, frames = self._tell(self._primaries[shard], shard, "take out", mask)
        copy = self._backups[shard]
        if copy is not None:
            self._tell(copy, shard, "take out", mask)
        for at in (self._primaries[owner], self._backups[owner]):
            if at is not None:
                self._tell(at, owner, "take in", frames)
        return int(rows)

    def _leave(self, shards: Sequence[int]) -> None:
        """Shards that have no rows any more, and the servers that have no shard then."""
        for shard in shards:
            for at in (self._primaries.pop(shard), self._backups.pop(shard)):
                if at is not None:
                    self._tell(at, shard, "drop")
        for number in set(self.servers) - set(self._primaries.values()):
            for shard, backup in self._backups.items():
                if backup == number:
                    self._backups[shard] = None
            self._cluster.kill(self.servers.pop(number))

    def _settle(self, shard: int) -> None:
        self._tell(self._primaries[shard], shard, "settle", step=self._step)
        self._tell_backup(shard, "settle", step=self._step)

    def _tell_backup(self, shard: int, command: str, **told: Any) -> None:
        backup = self._backups[shard]
        if backup is not None:
            self._tell(backup, shard, command, **told)

    def _tell(
        self, server: int, shard: int, command: str, frames: Sequence[Any] = (), **told: Any
    ) -> tuple[Any, list[Any]]:
        """A command's answer, and its frames. Raises RunError for an error."""
        self._ids += 1
        head = wire.Command(self._ids, shard, command, wire.arguments(**told))
        self._channel.send(server, wire.pack(head, frames))
        end = time.monotonic() + _ANSWER_DEADLINE_S
        while time.monotonic() < end:
            for answer in self._channel.receive(_POLL_MS):
                reply = wire.unpack_reply(answer)
                if reply.id != self._ids:
                    continue
                if reply.error is not None:
                    raise RunError(f"server {server}, {command}: {reply.error}")
                return wire.told(reply.arguments)["of"], list(answer[1:])
            if server in self.servers and self._cluster.ended([self.servers[server]]):
                self._look_for_ends()
                raise ServerGoneError(f"server {server}")
        raise RunError(f"server {server} did not answer {command!r} in time")

    def stop(self) -> None:
        """Ends all processes."""
        for number in self._identity:
            self._send(number, Stop())
        for process in [*self.workers.values(), *self.servers.values(), *self._starting]:
            self._cluster.kill(process)
        self._channel.close()
        self._control.close()
        self._cluster.stop()
        self._context.term()
