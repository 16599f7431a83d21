"""From a configuration to a run: the job, and who does it."""

from __future__ import annotations

from trainer.config import TrainerConfig
from trainer.evaluation.tally import Layout
from trainer.features.encode import MOST_SLICES, SliceNames
from trainer.losses.targets import LossRules
from trainer.run.batches import Job
from trainer.run.session import Runner


def job_of(
    config: TrainerConfig, *, slow: dict[int, float] | None = None, channel: str | None = None
) -> Job:
    """`slow` and `channel`: see `Job`."""
    declared = config.declared
    spec = config.spec
    first = declared.resolved_emission.first_emit_after
    rules = LossRules(
        loss=config.loss_type,
        actions=tuple(kind.name for kind in config.actions),
        first_emit_after_ms=None if first is None else int(first),
        sampling=config.loss.sampling,
        repeats=any(kind.label != "any" for kind in declared.kinds),
        kinds=tuple(kind.name for kind in declared.kinds),
        rate=declared.sampling.rate,
    )
    layout = Layout(
        rules.actions,
        int(config.evaluation.window),
        tuple(config.evaluation.by),
        tuple(slot.name for slot in spec.slots if slot.column is not None),
        MOST_SLICES,
    )
    return Job(
        spec=spec,
        rules=rules,
        root=str(config.folder),
        features=declared.schema.features,
        kinds=declared.kinds,
        exposure=declared.exposure_action,
        leaves_out=declared.leaves_out,
        batch_rows=config.train.batch,
        workers=config.train.workers,
        consistency=config.train.consistency,
        layout=layout,
        slow=slow or {},
        channel=channel,
    )


def runner_of(config: TrainerConfig, job: Job, names: SliceNames) -> Runner:
    """In this process without servers, else on Ray."""
    train = config.train
    if train.servers == 0:
        from trainer.run.local import LocalRunner

        return LocalRunner(job, names)
    from trainer.run.remote import RemoteRunner

    return RemoteRunner(
        job,
        names,
        servers=train.servers,
        replicas=train.replicas,
        virtual_nodes=train.virtual_nodes,
        transport=train.transport,
        staleness=train.staleness,
        most_in_flight=config.max_in_flight // train.batch,
        address=train.address,
    )
