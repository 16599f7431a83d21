"""Chooses the runner of a run: this process, or workers and shard servers on Ray."""

from __future__ import annotations

from trainer.config import TrainerConfig
from trainer.features.encode import SliceNames
from trainer.run.job import Job
from trainer.run.runner import Runner


def runner_of(config: TrainerConfig, job: Job, names: SliceNames) -> Runner:
    """The runner: in this process without servers, else on Ray.

    Raises RunError if Ray does not start.
    """
    if config.train.servers == 0:
        from trainer.run.local import LocalRunner

        return LocalRunner(job, names)
    # imports Ray and ZeroMQ, which training in one process does not need
    from trainer.run.coordinator import coordinator_of

    return coordinator_of(config, job, names)
