"""Some batches of other samples first: all processes are up then, and have compiled their code."""

from __future__ import annotations

import os
from itertools import cycle
from pathlib import Path

import msgspec

from benchmarks.trainer.sessions import coordinator_in
from trainer.config import TrainerConfig, load
from trainer.reading.ledger import Ledger
from trainer.reading.planner import Cursor, Planner
from trainer.run.coordinator import Coordinator
from trainer.run.job import Job, Task
from trainer.run.session import Session

#: Batches of every worker, once all of them are there.
_EACH = 3


def warm_up(session: Session, folder: Path) -> None:
    """Trains on the samples of `folder`; what came of it is gone when the session begins."""
    runner = session.runner
    coordinator = coordinator_in(session)
    runner.start([])
    tasks = cycle(_tasks(runner.job, load(folder / "trainer.toml")))
    given = 0

    def next_task() -> Task | None:
        nonlocal given
        if coordinator is None or _all_up(coordinator):
            given += 1
        return next(tasks) if given <= _EACH * runner.job.workers else None

    runner.run(next_task, lambda _: None, lambda: False)
    if coordinator is not None:
        # whoever was slow in here is not behind
        clocks = coordinator.dispatcher.clocks
        clocks.clocks[:] = [0] * runner.job.workers
        clocks.widest = clocks.held = 0


def _all_up(coordinator: Coordinator) -> bool:
    """A worker's process is known once it has sent something."""
    return all(worker.pid for worker in coordinator.workers.processes.values())


def _tasks(job: Job, config: TrainerConfig) -> list[Task]:
    ledger = Ledger(job.samples)
    ledger.discover(config.folder)
    planner = Planner(ledger, Cursor(), job.batch_rows)
    away = os.path.relpath(str(config.folder), job.root)
    tasks = []
    while (ticket := planner.next()) is not None:
        entry = ledger.entries[ticket.entry]
        tasks.append(Task(ticket, msgspec.structs.replace(entry, path=f"{away}/{entry.path}")))
    return tasks
