"""Training in this process: one shard, one worker, no messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from trainer.checkpoint import File, divided, write_shard
from trainer.evaluation.tally import Tally
from trainer.features.encode import SliceNames
from trainer.run.batches import Batches, Job, Task
from trainer.run.learner import Learner
from trainer.run.messages import Outcome
from trainer.server import ring
from trainer.server.client import LocalParameters
from trainer.server.shard import Parts, Shard
from trainer.serving.files import PartInfo, write_tables

_T = TypeVar("_T")


class LocalRunner:
    """See `trainer.run.session.Runner`."""

    def __init__(self, job: Job, names: SliceNames) -> None:
        self.job = job
        self.say: Callable[[str], None] = lambda _: None
        self._batches = Batches(job, names.number)
        self._learner = Learner(job.spec, job.rules, job.layout, job.batch_rows)
        self._shard = Shard(job.spec, contributions=None, has_dense=True)
        self._sequence = 0
        self._writer = ThreadPoolExecutor(1, "writer")

    @property
    def wants_pause(self) -> bool:
        return False

    def start(self, shards: Sequence[Parts]) -> None:
        self._shard = Shard(self.job.spec, contributions=None, has_dense=True)
        self._sequence = 0
        self._learner.take_tally()
        if shards:
            parts = divided(shards, ring.owners([0], 1), [0])[0]
            self._shard.load(parts.unmarked())

    def run(
        self,
        next_task: Callable[[], Task | None],
        done: Callable[[Outcome], None],
        pause: Callable[[], bool],
    ) -> None:
        parameters = LocalParameters(self._shard)
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
        return self._learner.take_tally()

    def expire(self, now: int) -> int:
        return self._shard.expire(now)

    def checkpoint(self, folder: Path) -> Callable[[], Sequence[File] | None]:
        parts = self._shard.parts()
        return self._written(lambda: [write_shard(folder, 0, parts, self.job.spec)])

    def export(
        self, folder: Path, number: int, *, everything: bool
    ) -> tuple[Callable[[], Sequence[PartInfo] | None], Any]:
        changed = [table.changed(everything=everything) for table in self._shard.tables]
        spec = self.job.spec
        names = [table.name for table in spec.tables]
        dense = None if self._shard.dense is None else self._shard.dense.values
        return self._written(lambda: write_tables(folder, number, 0, names, changed, spec)), dense

    def _written(self, write: Callable[[], Sequence[_T]]) -> Callable[[], Sequence[_T] | None]:
        """In a thread; training goes on."""
        writing = self._writer.submit(write)
        return lambda: writing.result() if writing.done() else None

    def parts(self) -> Parts:
        """A copy of all parameters."""
        return self._shard.parts()

    def stats(self) -> Mapping[str, Any]:
        tables = self._shard.tables
        return {"rows": sum(t.rows for t in tables), "bytes": sum(t.nbytes for t in tables)}

    def resize(self, servers: int) -> float:
        raise ValueError("this run has no servers: start it with train.servers")

    def stop(self) -> None:
        self._writer.shutdown()
