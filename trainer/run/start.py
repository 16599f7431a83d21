"""The base rates that the model of a run begins with (`trainer.losses.base_rate`)."""

from __future__ import annotations

from schemas.samples import samples
from trainer import checkpoint
from trainer.config import TrainerConfig
from trainer.losses.base_rate import START_ROWS, starting_logits
from trainer.losses.targets import LossRules, targets
from trainer.reading.files import ReadError
from trainer.reading.first_rows import first_rows


def base_of(config: TrainerConfig, rules: LossRules) -> tuple[float, ...]:
    """The constants in the logits of the heads; empty where all are 0.

    A run that resumes has those of its checkpoint; heads that are new in it, and new models, have
    those of the first samples. Raises ReadError, CheckpointError.
    """
    heads = config.spec.heads
    wanted = config.model.bias and config.model.start == "base_rate"
    known: dict[str, float] = {}
    found = checkpoint.find(config.output_folder / "checkpoints")
    if found and config.output.resume:
        before = checkpoint.read_manifest(found[-1]).spec
        known = dict(zip(before.heads, before.base or (0.0,) * len(before.heads), strict=True))
    started = (0.0,) * len(heads)
    if wanted and not known.keys() >= set(heads):
        layout = samples(config.declared.schema, config.declared.kinds)
        columns = list(dict.fromkeys(rules.columns))
        rows = first_rows(config.folder, layout, columns, START_ROWS, config.wanted)
        try:
            started = starting_logits(rules, (targets(table, rules) for table in rows))
        except ValueError as error:
            raise ReadError(f"{config.folder}: {error}") from None
    base = tuple(known.get(h, b) for h, b in zip(heads, started, strict=True))
    return base if any(base) else ()
