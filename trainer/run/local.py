"""Training in this process: one shard, one worker, no messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from configuration.stores import Folder
from trainer.evaluation.tally import Tally
from trainer.features.encode import SliceNames
from trainer.run.batches import Batches
from trainer.run.instruments import Instruments
from trainer.run.job import Job, Outcome, Task
from trainer.run.learner import Learner
from trainer.run.runner import Written
from trainer.server import ring
from trainer.server.parameters import LocalParameters
from trainer.server.resharding import resharded
from trainer.server.shard import Shard, ShardSnapshot
from trainer.server.shard_file import File, write_shard
from trainer.serving.format import PartInfo
from trainer.serving.write import write_tables

_T = TypeVar("_T")


class Writer(Protocol):
    """Writes files while training goes on; usually a `ThreadPoolExecutor`."""

    def submit(self, write: Callable[[], _T], /) -> Future[_T]:
        """Start to write; the future has the result of `write`."""

    def shutdown(self) -> None:
        """Wait until everything is written."""


class LocalRunner:
    """The `trainer.run.runner.Runner` in this process.

    `shard`: all parameters. `writer`: None means one thread.
    """

    def __init__(self, job: Job, names: SliceNames, writer: Writer | None = None) -> None:
        self.job = job
        self.instruments = Instruments()
        self._batches = Batches(job, names.number)
        self._learner = Learner(
            job.spec, job.rules, job.layout, job.batch_rows, job.steps, job.slice_share
        )
        self.shard = Shard(job.spec, contributions=None, has_dense=True)
        self._sequence = 0
        self._writer: Writer = ThreadPoolExecutor(1, "writer") if writer is None else writer

    @property
    def wants_pause(self) -> bool:
        """Never: all is done in this process."""
        return False

    def start(self, shards: Sequence[ShardSnapshot]) -> None:
        """See `Runner.start`."""
        self.shard = Shard(self.job.spec, contributions=None, has_dense=True)
        self._sequence = 0
        self._learner.take_tally()
        if shards:
            whole = resharded(shards, ring.owners([0], 1), [0])[0]
            self.shard.load(whole.unmarked())

    def run(
        self,
        next_task: Callable[[], Task | None],
        done: Callable[[Outcome], None],
        pause: Callable[[], bool],
    ) -> None:
        """See `Runner.run`."""
        parameters = LocalParameters(self.shard)
        while not pause():
            task = next_task()
            if task is None:
                return
            began = time.perf_counter()
            batch = self._batches.of(task, 0, 1)
            read_s = time.perf_counter() - began
            done(self._learner.learn(batch, parameters, self._sequence, 0, read_s))
            self._sequence += 1

    def take_tally(self) -> Tally:
        """See `Runner.take_tally`."""
        return self._learner.take_tally()

    def expire(self, now: int) -> int:
        """See `Runner.expire`."""
        return self.shard.expire(now)

    def checkpoint(self, folder: Folder) -> Written[File]:
        """See `Runner.checkpoint`."""
        snapshot = self.shard.snapshot()
        return self._written(lambda: [write_shard(folder, 0, snapshot, self.job.spec)])

    def export(
        self, folder: Folder, number: int, *, everything: bool
    ) -> tuple[Written[PartInfo], Any]:
        """See `Runner.export`."""
        changed = [table.changed(everything=everything) for table in self.shard.tables]
        spec = self.job.spec
        names = [table.name for table in spec.tables]
        dense = None if self.shard.dense is None else self.shard.dense.values
        return self._written(lambda: write_tables(folder, number, 0, names, changed, spec)), dense

    def _written(self, write: Callable[[], Sequence[_T]]) -> Written[_T]:
        writing = self._writer.submit(write)
        return lambda: writing.result() if writing.done() else None

    def stats(self) -> Mapping[str, Any]:
        """See `Runner.stats`."""
        tables = self.shard.tables
        return {"rows": sum(t.rows for t in tables), "bytes": sum(t.nbytes for t in tables)}

    def facts(self) -> list[tuple[str, str]]:
        """See `Runner.facts`."""
        return []

    def resize(self, servers: int) -> float:
        """See `Runner.resize`."""
        raise ValueError("this run has no servers: start it with train.servers")

    def stop(self) -> None:
        """See `Runner.stop`."""
        self._writer.shutdown()
