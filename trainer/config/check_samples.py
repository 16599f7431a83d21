"""Whether the pipeline writes what the trainer is to learn from."""

from __future__ import annotations

from configuration.reading import Wrong
from configuration.stores import StorePath
from trainer.config.resolved import LOSS_OF, TrainerConfig
from trainer.limits import MIN_SAMPLING_RATE


def check_samples(config: TrainerConfig, wrong: Wrong) -> None:
    """The samples are on this machine, or in an object store.

    Raises what `wrong` makes.
    """
    try:
        _ = config.folder
    except ValueError as error:
        raise wrong(
            "samples.path",
            f"{error} is neither a local folder nor on s3://; mount it, and set samples.path",
        ) from None
    if config.samples.table == "iceberg" and isinstance(config.folder, StorePath):
        raise wrong(
            "samples.table",
            f'the job keeps no Iceberg table in an object store ({config.folder}); set "files"',
        )
    if config.samples.poll <= 0:
        raise wrong("samples.poll", "must be longer than 0")
    first, end = config.samples.first, config.samples.end
    if first is not None and end is not None and not first < end:
        raise wrong("samples.to", f"must be after samples.from ({first})")


def check_actions(config: TrainerConfig, wrong: Wrong) -> None:
    """What is predicted is declared, each action once.

    Raises what `wrong` makes.
    """
    names = config.model.actions
    if names is None:
        if not config.actions:
            raise wrong("model.actions", "the pipeline has no action but the exposure; set this")
        return
    known = [kind.name for kind in config.declared.kinds]
    for name in names:
        if name not in known:
            raise wrong(
                "model.actions", f"there is no action {name!r} (there are: {', '.join(known)})"
            )
    if not names or len(set(names)) < len(names):
        raise wrong("model.actions", "at least one, and each once")


def check_loss(config: TrainerConfig, wrong: Wrong) -> None:
    """The pipeline writes the rows that the loss learns from.

    Raises what `wrong` makes.
    """
    loss, emission = config.loss_type, config.declared.resolved_emission
    policy = config.declared.join.policy
    other = f"or set loss.type = {LOSS_OF[policy]!r}, that of the policy {policy!r}"
    if LOSS_OF[policy] == loss:
        other = "or change join.policy"
    if loss in ("plain", "defer") and emission.final_emit != "always":
        raise wrong(
            "loss.type",
            f'{loss!r} learns from final rows: the pipeline needs emission.final_emit = "always"'
            f" (it has {emission.final_emit!r}), {other}",
        )
    if loss == "plain":
        _check_sampling(config, wrong)
        return
    if emission.first_emit_after is None:
        raise wrong(
            "loss.type",
            f"{loss!r} learns from rows that come before the end of the window: the pipeline needs"
            f" emission.first_emit_after, {other}",
        )
    if loss == "fnw" and emission.first_emit_after != 0:
        raise wrong(
            "loss.type",
            "'fnw' learns from first rows without any label: the pipeline needs"
            f' emission.first_emit_after = "0s", {other}',
        )
    if emission.emit_positives != "on_arrival":
        raise wrong(
            "loss.type",
            f"{loss!r} learns from positives when they come: the pipeline needs"
            f' emission.emit_positives = "on_arrival", {other}',
        )
    _check_sampling(config, wrong)


def _check_sampling(config: TrainerConfig, wrong: Wrong) -> None:
    rate = config.declared.sampling.rate
    if config.loss.sampling == "log_odds" and rate < MIN_SAMPLING_RATE:
        raise wrong(
            "loss.sampling",
            f'"log_odds" needs a rate of negatives above 0, and the pipeline has sampling.rate ='
            f' {rate}; set "none"',
        )
    if config.loss.sampling == "log_odds" and config.declared.sampling.rules:
        raise wrong(
            "loss.sampling",
            '"log_odds" needs one rate for all negatives, and the pipeline has [[sampling.rules]];'
            ' set "importance"',
        )
