"""Workers that are slow on purpose, for measurements and tests of what the others do meanwhile."""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from trainer.features.batch import Batch
from trainer.run.job import Job
from trainer.run.messages import Work
from trainer.run.worker import Worker


class Straggler(Worker):
    """Every batch takes `pause_s` seconds longer."""

    pause_s = 0.0

    def read(self, work: Work) -> Batch:
        """As any worker does, but `pause_s` later."""
        time.sleep(self.pause_s)
        return super().read(work)


def straggling_main(pauses: Mapping[int, float], job: bytes, number: int, control: str) -> None:
    """A `cluster.WorkerMain` once `pauses` is given: seconds by the worker's number."""
    worker = Straggler(msgspec.msgpack.decode(job, type=Job), number, control)
    worker.pause_s = pauses.get(number, 0.0)
    worker.run()
