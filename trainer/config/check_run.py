"""Whether the processes, the intervals and the evaluation of a run can work."""

from __future__ import annotations

from configuration.reading import Wrong
from trainer.config.columns import slot_columns
from trainer.config.resolved import TrainerConfig


def check_run(config: TrainerConfig, wrong: Wrong) -> None:
    """Processes, samples in flight and intervals.

    Raises what `wrong` makes.
    """
    train, output = config.train, config.output
    if train.workers > 1 and train.servers == 0:
        raise wrong(
            "train.workers", "with train.servers = 0 one process does it all; set 1 server or more"
        )
    if config.max_in_flight < train.workers * train.batch:
        raise wrong(
            "train.max_in_flight",
            f"must hold a batch for every worker: {train.workers * train.batch} samples or more",
        )
    for key, every in (
        ("output.checkpoint_every", output.checkpoint_every),
        ("output.export_every", output.export_every),
        ("evaluation.every", config.evaluation.every),
        ("log.every", config.log.every),
    ):
        if every <= 0:
            raise wrong(key, "must be longer than 0")


def check_evaluation(config: TrainerConfig, wrong: Wrong) -> None:
    """The window, and the columns by whose values the metrics are split.

    Raises what `wrong` makes.
    """
    if config.evaluation.window <= 0:
        raise wrong("evaluation.window", "must be longer than 0")
    if not 0 < config.evaluation.slice_share <= 1:
        raise wrong("evaluation.slice_share", "must be more than 0, and at most 1")
    columns = {
        name: type_
        for name, type_ in slot_columns(config.declared).items()
        if not type_.is_list and type_.scalar not in ("float32", "float64")
    }
    for name in config.evaluation.by:
        if name not in columns:
            raise wrong(
                "evaluation.by",
                f"{name!r} is not a column of strings, booleans or integers (there are:"
                f" {', '.join(columns)})",
            )
    if len(set(config.evaluation.by)) < len(config.evaluation.by):
        raise wrong("evaluation.by", "each column once")
