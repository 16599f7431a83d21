"""The configurations of a headless run: pipeline.toml and trainer.toml, with what differs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from jobs.pipeline import config as pipeline_config
from jobs.pipeline.config import Pipeline
from trainer import config as trainer_config
from trainer.config import TrainerConfig

FOLDER = Path(__file__).parents[1]


def configured(
    pipeline_sets: Sequence[str] = (),
    trainer_sets: Sequence[str] = (),
    *,
    kinds: Sequence[str] | None = None,
    exposure: bool = True,
) -> tuple[Pipeline, TrainerConfig]:
    """Both, with overrides such as `join.policy=defer`.

    `kinds`: the only kinds of action that are joined, others are ignored; None: all. `exposure`:
    False takes `[exposure]` out of the pipeline. Raises ConfigError.
    """
    pipeline = pipeline_config.load(FOLDER / "pipeline.toml", pipeline_sets)
    if kinds is not None:
        chosen = {kind: pipeline.actions[kind] for kind in kinds}
        pipeline = msgspec.structs.replace(pipeline, actions=chosen)
    if not exposure:
        pipeline = msgspec.structs.replace(pipeline, exposure=None)
    config = trainer_config.load(FOLDER / "trainer.toml", trainer_sets)
    return pipeline, msgspec.structs.replace(config, declared=pipeline)
