"""A session of the trainer as a measurement wants it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

# sets what JAX is to be started with: before anything imports that
from trainer import train  # noqa: F401  isort: skip

from benchmarks.trainer.spec import OursSpec
from benchmarks.trainer.straggling import straggling_main
from trainer.config import TrainerConfig, load
from trainer.features.encode import SliceNames
from trainer.run.build import runner_of
from trainer.run.clocks import Clocks
from trainer.run.coordinator import Coordinator, coordinator_of
from trainer.run.job import Job, job_of
from trainer.run.runner import Runner
from trainer.run.session import Session


def config_of(spec: OursSpec) -> TrainerConfig:
    """The data's `trainer.toml`, with this measurement's settings over it."""
    settings = {
        "optimizer.linear.alpha": spec.alpha,
        "train.batch": spec.batch,
        "train.workers": spec.workers,
        "train.servers": spec.servers,
        "train.replicas": spec.replicas,
        "train.consistency": spec.consistency,
        "train.staleness": spec.staleness,
        "train.steps": spec.steps,
        "evaluation.slice_share": spec.slice_share,
        "output.path": f"{spec.scratch}/model",
    }
    overrides = [f"{key}={value}" for key, value in settings.items()]
    return load(Path(spec.data) / "trainer.toml", overrides)


def session_of(
    spec: OursSpec,
    watch: Callable[[Session], None] = lambda _: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Session:
    """It has started its processes, and not begun. `watch` and `stopping`: see `Session`."""
    config = config_of(spec)
    job = job_of(config)
    session = Session(
        config, lambda names: _runner_of(spec, config, job, names), watch=watch, stopping=stopping
    )
    coordinator = coordinator_in(session)
    if spec.most_in_flight is not None and coordinator is not None:
        coordinator.dispatcher.clocks = Clocks(
            spec.consistency, spec.workers, spec.staleness, spec.most_in_flight
        )
    return session


def _runner_of(spec: OursSpec, config: TrainerConfig, job: Job, names: SliceNames) -> Runner:
    if spec.slow:
        straggling = partial(straggling_main, dict(spec.slow))
        return coordinator_of(config, job, names, straggling)
    return runner_of(config, job, names)


def coordinator_in(session: Session) -> Coordinator | None:
    """The session's runner, if it trains on many processes."""
    return session.runner if isinstance(session.runner, Coordinator) else None
