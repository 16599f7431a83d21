"""The job as every process of a run knows it, its tasks, and their outcomes."""

from __future__ import annotations

import msgspec
import pyarrow as pa

from configuration.stores import address_of
from schemas.actions import ActionKind
from schemas.features import Feature, FeatureSchema
from schemas.samples import samples as sample_layout
from trainer.config import TrainerConfig
from trainer.config.sections import StepsPer
from trainer.evaluation.tally import Layout
from trainer.features.encode import MOST_SLICES
from trainer.losses.targets import LossRules
from trainer.reading.ledger import Entry
from trainer.reading.planner import Ticket
from trainer.run.clocks import Consistency
from trainer.run.start import base_of
from trainer.spec import ModelSpec


class Job(msgspec.Struct, frozen=True):
    """What every process of a run knows.

    `root` has `samples/` and `late_actions/`, with these `features` and `kinds` of action; it is an
    address (`configuration.stores.address_of`).
    `exposure` and `leaves_out`: how corrections are made (`corrections.apply`). `batch_rows`:
    samples per batch. `steps`: whether a batch makes a step of each key for each sample that has
    it, or one. `slice_share`: the share of the rows that are counted in slices of the evaluation.
    `shared`: the folder by which workers share chunks (`trainer.run.shared_chunks`); "": they do
    not.
    """

    spec: ModelSpec
    rules: LossRules
    root: str
    features: tuple[Feature, ...]
    kinds: tuple[ActionKind, ...]
    exposure: str | None
    leaves_out: bool
    batch_rows: int
    workers: int
    consistency: Consistency
    layout: Layout
    steps: StepsPer = "batch"
    slice_share: float = 1.0
    shared: str = ""

    @property
    def samples(self) -> pa.Schema:
        """The columns of a file of samples."""
        return sample_layout(FeatureSchema(self.features), self.kinds)


class Task(msgspec.Struct, frozen=True):
    """One batch: its ticket, and the ledger's entry that has its rows.

    `before`: the earlier entries, if the entry is a file of late actions, which corrects them.
    `after`: the file of samples that comes next, as far as it is known; it may be read ahead.
    """

    ticket: Ticket
    entry: Entry
    before: tuple[Entry, ...] = ()
    after: Entry | None = None


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """The outcome of a batch.

    `keys`: distinct keys, of all tables. `newest`: the event time of the newest sample, epoch ms.
    `seconds`: of reading, pull, compute, push.
    """

    rows: int
    keys: int
    newest: int
    seconds: tuple[float, float, float, float]


def rules_of(config: TrainerConfig) -> LossRules:
    """What the rows say about each action, under a configuration."""
    declared = config.declared
    first = declared.resolved_emission.first_emit_after
    return LossRules(
        loss=config.loss_type,
        actions=tuple(kind.name for kind in config.actions),
        first_emit_after_ms=None if first is None else int(first),
        sampling=config.loss.sampling,
        repeats=any(kind.label != "any" for kind in declared.kinds),
        kinds=tuple(kind.name for kind in declared.kinds),
        rate=declared.sampling.rate,
    )


def layout_of(config: TrainerConfig, spec: ModelSpec) -> Layout:
    """What the metrics of a configuration's model are counted by."""
    return Layout(
        tuple(kind.name for kind in config.actions),
        int(config.evaluation.window),
        tuple(config.evaluation.by),
        tuple(slot.name for slot in spec.slots if slot.column is not None),
        MOST_SLICES,
    )


def job_of(config: TrainerConfig) -> Job:
    """The job that a configuration describes.

    Reads the first samples, because a new model starts with their base rates. Raises ReadError,
    CheckpointError.
    """
    declared, rules = config.declared, rules_of(config)
    spec = config.spec
    spec = msgspec.structs.replace(spec, base=base_of(config, rules))
    return Job(
        spec=spec,
        rules=rules,
        root=address_of(config.folder),
        features=declared.schema.features,
        kinds=declared.kinds,
        exposure=declared.exposure_action,
        leaves_out=declared.leaves_out,
        batch_rows=config.train.batch,
        workers=config.train.workers,
        consistency=config.train.consistency,
        layout=layout_of(config, spec),
        steps=config.steps,
        slice_share=config.evaluation.slice_share,
    )
