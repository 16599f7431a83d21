"""A session of the trainer as a measurement wants it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

# sets what JAX is to be started with: before anything imports that
from trainer import train  # noqa: F401  isort: skip

from benchmarks.trainer.spec import OursSpec
from trainer.config import TrainerConfig, load
from trainer.run.build import job_of, runner_of
from trainer.run.clocks import Clocks
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
        "train.transport": spec.transport,
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
    job = job_of(config, slow=dict(spec.slow))
    session = Session(
        config, lambda names: runner_of(config, job, names), watch=watch, stopping=stopping
    )
    if spec.most_in_flight is not None:
        runner: Any = session.runner
        runner.clocks = Clocks(spec.consistency, spec.workers, spec.staleness, spec.most_in_flight)
    return session
