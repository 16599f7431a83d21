"""Which worker does which batch: gives out tasks as the clocks allow, and receives outcomes."""

from __future__ import annotations

import time
from collections.abc import Callable

from trainer.evaluation.tally import Tally
from trainer.run.clocks import Clocks
from trainer.run.job import Job, Outcome, Task
from trainer.run.messages import Done, Failed, FromWorker, Ready, Tell, Told, Work
from trainer.run.runner import RunError
from trainer.run.workers import Workers

#: Seconds between two requests for a worker's metrics; those since the last are lost if it dies.
_TELL_S = 1.0
#: How often a worker may end without finishing a batch before the run gives up.
_MOST_IN_VAIN = 5


class Dispatcher:
    """Gives batches to workers. `step`: the next global batch (BSP), otherwise 0."""

    def __init__(self, job: Job, workers: Workers, clocks: Clocks) -> None:
        self.clocks = clocks
        self.step = 0
        self._job, self._workers = job, workers
        self._generation = 0
        #: Workers that have started, and are not giving up a batch.
        self._ready: set[int] = set()
        #: Batches that are given out, by worker.
        self._work: dict[int, Work] = {}
        self._sequences = [0] * job.workers
        self._tally = Tally(job.layout)
        #: Workers that were asked for metrics and have not answered yet.
        self._asked: set[int] = set()
        self._asked_at: dict[int, float] = {}
        #: How often a worker has ended since it last finished a batch.
        self._vain: dict[int, int] = {}

    @property
    def busy(self) -> bool:
        """Whether batches are in flight."""
        return bool(self._work)

    def begin(self, generation: int) -> None:
        """Start again from the first push of each worker (at the start, or after a roll-back)."""
        self._generation = generation
        self._work.clear()
        self._ready.clear()
        self._asked.clear()
        self._tally = Tally(self._job.layout)
        self._sequences = [0] * self._job.workers
        self.step = 0
        self.clocks.reset()

    # -- giving out --------------------------------------------------------------------------------

    def give_out(self, next_task: Callable[[], Task | None]) -> bool:
        """Give tasks to all workers that may begin one. Returns False after the last task."""
        if self._job.consistency == "bsp":
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
        """BSP: one task for all workers, after all have finished the one before."""
        everyone = self._job.workers
        if self._work or len(self._ready) < everyone:
            return True
        task = next_task()
        if task is None:
            return False
        for number in range(everyone):
            sequence = self._sequences[number]
            work = Work(task, number, everyone, sequence, self.step, self._generation)
            self._begin(number, work)
        self.step += 1
        return True

    def _begin(self, number: int, work: Work) -> None:
        self._work[number] = work
        self._sequences[number] += 1
        self.clocks.begin(number)
        self._workers.send(number, work)

    # -- receiving ---------------------------------------------------------------------------------

    def hear(self, message: FromWorker) -> Outcome | None:
        """Handle a worker's message. Returns the outcome of a batch that it has finished.

        Messages from before a roll-back are ignored. Raises RunError if a worker has failed.
        """
        if isinstance(message, Failed):
            raise RunError(f"worker {message.worker}: {message.error}")
        if isinstance(message, Ready):
            if message.generation == self._generation:
                self._ready.add(message.worker)
                if message.worker in self._work:
                    # the previous process ended in the middle of the batch
                    self._workers.send(message.worker, self._work[message.worker])
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
                if time.monotonic() - self._asked_at.get(message.worker, 0.0) > _TELL_S:
                    self._ask(message.worker)
                return message.outcome
        return None

    def restart(self, number: int) -> None:
        """Replace a worker that has ended. Raises RunError if that has happened too often."""
        self._vain[number] = self._vain.get(number, 0) + 1
        if self._vain[number] > _MOST_IN_VAIN:
            raise RunError(
                f"worker {number} has ended {self._vain[number]} times without finishing a batch;"
                " Ray's logs say why (is there too little memory?)"
            )
        self._ready.discard(number)
        self._asked.discard(number)
        self._workers.start(number)

    # -- metrics -----------------------------------------------------------------------------------

    def _ask(self, number: int) -> None:
        """Ask a worker for its metrics, which it sends between two batches."""
        if number not in self._asked:
            self._asked.add(number)
            self._asked_at[number] = time.monotonic()
            self._workers.send(number, Tell(self._generation))

    def ask_all(self) -> None:
        """Ask all workers for their metrics."""
        for number in self._ready:
            self._ask(number)

    @property
    def asking(self) -> bool:
        """Whether answers with metrics are outstanding."""
        return bool(self._asked)

    def take_tally(self) -> Tally:
        """The metrics that workers have sent since the last call."""
        taken, self._tally = self._tally, Tally(self._job.layout)
        return taken
