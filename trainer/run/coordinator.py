"""Training on many processes: the coordinator.

It gives out tasks, watches the processes, and sends commands to the servers between batches. This
is what happens when a process ends:

* a worker: another process takes its number and its batch. Pushes that had arrived are marked, so
  nothing counts twice.
* a server whose shards have backups: the backups become primaries in a new epoch, and workers
  resend requests that were not answered. A new server starts; it gets copies of the shards at the
  next pause.
* a server with the only replica of a shard: `LostShardError`. The session goes back to its last
  checkpoint, and calls `start` with all shards.

A server that does not answer a command in time counts as one that has ended. A backup that does not
acknowledge the pushes of its primary is given up, and the primary goes on alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import zmq

from configuration.stores import Folder
from trainer.config import TrainerConfig
from trainer.evaluation.tally import Tally
from trainer.features.encode import SliceNames
from trainer.run.clocks import Clocks
from trainer.run.cluster import Cluster, Process, WorkerMain
from trainer.run.dispatcher import Dispatcher
from trainer.run.instruments import Instruments
from trainer.run.job import Job, Outcome, Task
from trainer.run.messages import Route, Silent
from trainer.run.placement import Placement, resize_plan
from trainer.run.runner import LostShardError, RunError, ServerGoneError, Written
from trainer.run.server_commands import ServerCommands
from trainer.run.servers import Servers
from trainer.run.workers import Workers
from trainer.server import ring
from trainer.server.dense import has_dense
from trainer.server.resharding import resharded
from trainer.server.shard import ShardSnapshot
from trainer.server.shard_file import File, snapshot_to_bytes
from trainer.serving.format import PartInfo

_POLL_MS = 20
#: Seconds between two checks for processes that have ended.
_LOOK_S = 0.05
#: Seconds that a push may wait for its backup, once a worker complains.
BACKUP_DEADLINE_S = 20.0
#: Seconds for which two servers that did not reach each other hold no replicas of one shard.
APART_S = 300.0

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


def coordinator_of(
    config: TrainerConfig, job: Job, names: SliceNames, worker_main: WorkerMain | None = None
) -> Coordinator:
    """Start Ray, without any process on it yet. `worker_main`: see `Cluster`. Raises RunError."""
    train = config.train
    return Coordinator(
        job,
        names,
        Cluster(train.address, train.servers + train.workers + 2, worker_main),
        Clocks(job.consistency, job.workers, train.staleness, config.max_in_flight // train.batch),
        servers=train.servers,
        replicas=train.replicas,
        virtual_nodes=train.virtual_nodes,
    )


class Coordinator:
    """The `trainer.run.runner.Runner` on many processes.

    `servers`: how many; `replicas`: backups per shard. `placement`: where shards are. `recoveries`:
    for each server that ended, the seconds until the next batch was finished.
    """

    def __init__(
        self,
        job: Job,
        names: SliceNames,
        cluster: Cluster,
        clocks: Clocks,
        *,
        servers: int,
        replicas: int,
        virtual_nodes: int,
    ) -> None:
        self.job = job
        self.instruments = Instruments()
        self.recoveries: list[float] = []
        self._events: list[str] = []
        self._shards, self._replicas, self._virtual_nodes = servers, replicas, virtual_nodes
        self._dense = 0 if has_dense(job.spec) else None
        self.cluster = cluster
        self._context = zmq.Context()
        self.servers = Servers(cluster, self._context)
        self.workers = Workers(cluster, self._context, job, names)
        self.dispatcher = Dispatcher(job, self.workers, clocks)
        self.commands = ServerCommands(
            self._tell,
            contributions=job.workers if job.consistency == "bsp" else None,
            dense=self._dense,
        )
        self.placement = Placement(0, {}, {})
        self._generation = 0
        self._last_look = 0.0
        #: When two servers did not reach each other.
        self._apart: dict[frozenset[int], float] = {}
        #: When a server ended; None once a batch was finished after that.
        self._died_at: float | None = None

    # -- processes and shards ----------------------------------------------------------------------

    def start(self, shards: Sequence[ShardSnapshot]) -> None:
        """See `Runner.start`. Starts the servers and workers that do not run yet."""
        self._generation += 1
        # First of all, so that workers do not send their present pushes under the new epoch.
        self.workers.abandon(self._generation)
        self.dispatcher.begin(self._generation)
        while self.servers.count < self._shards:
            self.servers.start()
        self.servers.await_all()
        servers = sorted(self.servers.running)
        self.placement = Placement.initial(
            self._shards, servers, replicated=self._is_replicated, epoch=self.placement.epoch
        )
        for server in servers:
            # this removes all replicas on the server
            self.commands.set_model(server, self.job.spec)
        made: dict[int, ShardSnapshot] = {}
        if shards:
            numbers = self.placement.shards
            made = resharded(shards, ring.owners(numbers, self._virtual_nodes), numbers)
        for shard in self.placement.shards:
            # Pushes are counted from 0 again: messages from before are refused in the new epoch.
            frames = [snapshot_to_bytes(made[shard].unmarked())] if shard in made else []
            for server in self.placement.holders(shard):
                self.commands.create(server, shard, frames, self._generation)
        self._announce(self.placement.renewed())
        for number in range(self.job.workers):
            if number not in self.workers.processes:
                self.workers.start(number)

    @property
    def _is_replicated(self) -> bool:
        """Whether each shard is to have a backup; one server alone has none."""
        return self._replicas > 0 and self._shards > 1

    def _announce(self, placement: Placement) -> None:
        """Send a new placement to the servers first, then to the workers."""
        self.placement = placement
        try:
            self.commands.announce(placement, list(self.servers.running))
        except ServerGoneError:
            return  # `_server_ended` has announced a newer placement meanwhile
        routing = placement.routing(self._virtual_nodes, self._dense)
        self.workers.reroute(Route(routing, self.servers.addresses))

    # -- training ----------------------------------------------------------------------------------

    def run(
        self,
        next_task: Callable[[], Task | None],
        done: Callable[[Outcome], None],
        pause: Callable[[], bool],
    ) -> None:
        """See `Runner.run`. Shards without a backup get one before it returns."""
        more = True
        while True:
            if more and not pause():
                more = self.dispatcher.give_out(next_task)
            elif not self.dispatcher.busy:
                break
            self._poll(done)
        self.repair()

    def take_tally(self) -> Tally:
        """The metrics of all workers. Those that a worker had not sent when it died are missing."""
        self.dispatcher.ask_all()
        while self.dispatcher.asking:
            self._poll(lambda _: None)
        return self.dispatcher.take_tally()

    def _poll(self, done: Callable[[Outcome], None]) -> None:
        for message in self.workers.receive(_POLL_MS):
            if isinstance(message, Silent):
                self._look_at_backup(message.shard)
                continue
            outcome = self.dispatcher.hear(message)
            if outcome is not None:
                if self._died_at is not None:
                    self.recoveries.append(time.monotonic() - self._died_at)
                    self.instruments.recovered(self.recoveries[-1])
                    self._died_at = None
                done(outcome)
        now = time.monotonic()
        if now - self._last_look >= _LOOK_S:
            self._last_look = now
            self._look_for_ends()
            self._show()

    # -- when a process ends -----------------------------------------------------------------------

    def _take_up(self) -> None:
        """Send the model to servers that have started."""
        for server in self.servers.take_up():
            try:
                self.commands.set_model(server, self.job.spec)
            except ServerGoneError:
                continue  # another server is starting in its place, see `_server_ended`

    def _look_for_ends(self) -> None:
        self._take_up()
        for process in self.servers.ended():
            self._server_ended(process)
        for number in self.workers.ended():
            self.instruments.failed_over("worker")
            self._note(f"worker {number} ended; another process takes its work")
            self.dispatcher.restart(number)

    def _server_ended(self, process: Process) -> None:
        number = process.number
        self._died_at = time.monotonic()
        self.instruments.failed_over("server")
        try:
            placement = self.placement.without(number)
        except LostShardError as error:
            self._note(f"server {number} ended, with the only replica of {error}")
            raise
        self._announce(placement)
        self._note(f"server {number} ended; its shards go on from their backups")
        # it starts now, and gets shards at the next pause
        self.servers.start()

    def _look_at_backup(self, shard: int) -> None:
        """A worker gets no answer for a shard: if the backup is the cause, go on without it.

        If the primary does not answer this either, it is given up, see `Servers.tell`.
        """
        placement = self.placement
        if shard not in placement.primaries:
            return
        try:
            waiting_s = self.commands.waiting_s(placement, shard)
        except ServerGoneError:
            return  # `_server_ended` has announced a newer placement meanwhile
        backup, primary = placement.backups[shard], placement.primaries[shard]
        if backup is None or waiting_s < BACKUP_DEADLINE_S:
            return
        self._apart[frozenset((primary, backup))] = time.monotonic()
        self._note(
            f"server {backup} does not acknowledge what server {primary} forwards; shards that"
            " both have go on without a backup"
        )
        self._announce(placement.apart(primary, backup))

    @property
    def _now_apart(self) -> list[frozenset[int]]:
        """The pairs of servers that have not reached each other lately."""
        since = time.monotonic() - APART_S
        self._apart = {pair: at for pair, at in self._apart.items() if at > since}
        return list(self._apart)

    def _tell(
        self, server: int, shard: int, command: str, frames: Sequence[Any] = (), **arguments: Any
    ) -> tuple[Any, list[Any]]:
        """See `server_commands.Tell`. Handles processes that ended while it waited."""
        try:
            return self.servers.tell(server, shard, command, frames, **arguments)
        except ServerGoneError:
            self._look_for_ends()
            raise

    @property
    def repaired(self) -> bool:
        """Whether every shard has its backup."""
        return not self._is_replicated or self.placement.replicated

    @property
    def wants_pause(self) -> bool:
        """Whether a server is up that holds nothing and could hold a missing backup."""
        return self._is_replicated and self.placement.has_spare(
            self.servers.running, self._now_apart
        )

    def repair(self) -> None:
        """Between batches: copy shards that have no backup, if there are servers for it."""
        if self.repaired:
            return
        try:
            self._take_up()
            placement = self.placement
            repairs = placement.repairs(self.servers.running, self._now_apart)
            for shard, server in repairs.items():
                placement = self.commands.add_backup(
                    placement, shard, server, step=self.dispatcher.step, lineage=self._generation
                )
        except ServerGoneError:
            self._note("a server ended while shards were copied; they are copied at the next pause")
            return
        if placement != self.placement:
            self._announce(placement.renewed())

    def _note(self, text: str, level: int = logging.WARNING) -> None:
        self._events.append(text)
        _log.log(level, text)

    def _show(self) -> None:
        """Tell the instruments what is up."""
        backups = self.placement.backups.values()
        self.instruments.cluster(
            servers=len(self.servers.running),
            workers=len(self.workers.processes),
            bare=sum(at is None for at in backups) if self._is_replicated else 0,
            staleness=self.dispatcher.clocks.lead,
        )

    # -- between batches ---------------------------------------------------------------------------

    def expire(self, now: int) -> int:
        """See `Runner.expire`."""
        return self.commands.expire(self.placement, step=self.dispatcher.step, now=now)

    def checkpoint(self, folder: Folder) -> Written[File]:
        """See `Runner.checkpoint`. Each primary writes its shard."""
        self.commands.checkpoint(self.placement, folder, step=self.dispatcher.step)
        return self._written("checkpoint", File)

    def export(
        self, folder: Folder, number: int, *, everything: bool
    ) -> tuple[Written[PartInfo], Any]:
        """See `Runner.export`. Each primary writes its shard."""
        dense = self.commands.export(
            self.placement, folder, number, everything=everything, step=self.dispatcher.step
        )
        return self._written("export", PartInfo), dense

    def _written(self, name: str, kind: type[_T]) -> Written[_T]:
        """Ask the present servers for what they write, until each has answered."""
        waiting = dict(self.placement.primaries)
        found: list[_T] = []

        def look() -> list[_T] | None:
            for shard, server in list(waiting.items()):
                result = self.commands.result(server, shard, name, kind)
                if result is not None:
                    found.extend(result)
                    del waiting[shard]
            return None if waiting else found

        return look

    def stats(self) -> Mapping[str, Any]:
        """Rows and bytes of the primaries, in all and by shard."""
        each = self.commands.stats(self.placement)
        return {
            "rows": sum(sum(of_shard["rows"]) for of_shard in each.values()),
            "bytes": sum(sum(of_shard["bytes"]) for of_shard in each.values()),
            "shards": each,
        }

    def facts(self) -> list[tuple[str, str]]:
        """See `Runner.facts`: the widest lead of a worker, and what happened to processes."""
        lead = f"{self.dispatcher.clocks.widest} batches"
        return [("widest lead of a worker", lead), *(("event", text) for text in self._events)]

    def resize(self, servers: int) -> float:
        """See `Runner.resize`. Shards move between servers by consistent hashing."""
        plan = resize_plan(self.placement.shards, servers, self._virtual_nodes)
        total = self.stats()["rows"]
        for shard in self.placement.shards:
            self.commands.settle(self.placement, shard, self.dispatcher.step)
        self._join(plan.joining)
        moved = sum(self.commands.move(self.placement, move) for move in plan.moves)
        self._leave(plan.leaving)
        self._shards = servers
        self._announce(self.placement.renewed())
        self.repair()
        self._note(f"{servers} servers now; {moved:,} of {total:,} rows moved", logging.INFO)
        return moved / total if total else 0.0

    def _join(self, shards: Sequence[int]) -> None:
        """Create empty shards, each on a new server. Raises ValueError if these do not start."""
        for _ in shards:
            self.servers.start()
        try:
            started = self.servers.await_all()
        except RunError as error:
            raise ValueError(str(error)) from None
        # there may be more of them: replacements of servers that have ended
        new = dict(zip(shards, sorted(started), strict=False))
        for shard, server in new.items():
            self.commands.set_model(server, self.job.spec)
            self.commands.add_shard(self.placement, shard, server, self._generation)
        self.placement = self.placement.with_shards(new)

    def _leave(self, shards: Sequence[int]) -> None:
        """Remove shards that have no rows any more, and servers that then have no primary."""
        for shard in shards:
            self.commands.drop(self.placement, shard)
        self.placement = self.placement.without_shards(shards)
        for number in set(self.servers.running) - set(self.placement.primaries.values()):
            self.servers.end(number)

    def stop(self) -> None:
        """End all processes."""
        self.workers.stop()
        self.servers.stop()
        self.cluster.stop()
        self._context.term()
