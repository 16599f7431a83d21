"""How the trainer's file is read: types first, then what types cannot say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from configuration import declaration
from configuration.paths import beside
from configuration.reading import read, wrong_in
from configuration.stores import is_stored
from trainer.config.check_model import check_optimizers, check_slots, check_steps
from trainer.config.check_run import check_evaluation, check_run
from trainer.config.check_samples import check_actions, check_loss, check_samples
from trainer.config.resolved import TrainerConfig
from trainer.config.sections import Document


def load(path: Path, overrides: Sequence[str] = ()) -> TrainerConfig:
    """The configuration of a TOML file, with overrides such as `train.batch=512` over it.

    Raises ConfigError.
    """
    document = read(path, Document, overrides)
    wrong = wrong_in(path, overrides)

    def place(key: str, text: str) -> str:
        try:
            return beside(path, text)
        except ValueError as error:
            raise wrong(key, str(error)) from None

    samples = document.samples
    pipeline = Path(place("samples.pipeline", samples.pipeline))
    if not pipeline.is_file():
        raise wrong("samples.pipeline", f"there is no file {pipeline}")
    samples = msgspec.structs.replace(
        samples,
        pipeline=str(pipeline),
        path=None if samples.path is None else place("samples.path", samples.path),
    )
    if "://" in document.output.path and not is_stored(document.output.path):
        raise wrong("output.path", f"{document.output.path} is neither a local folder nor on s3://")
    output = msgspec.structs.replace(
        document.output, path=place("output.path", document.output.path)
    )
    said = {name: getattr(document, name) for name in document.__struct_fields__}
    config = TrainerConfig(
        **said | {"samples": samples, "output": output}, declared=declaration.load(pipeline)
    )
    check_samples(config, wrong)
    check_actions(config, wrong)
    check_loss(config, wrong)
    check_slots(config, wrong)
    check_optimizers(config, wrong)
    check_run(config, wrong)
    check_steps(config, wrong)
    check_evaluation(config, wrong)
    return config
