"""Which keys the trainer's file has, with their types and defaults.

What types cannot say is checked in the `check_…` modules.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from configuration.reading import Duration, Section
from configuration.store_requests import ObjectStorageSection
from schemas.generations import HOUR
from trainer.limits import MAX_VALUE
from trainer.spec import AdaGrad, Adam, Encoding, Ftrl, ModelKind, Optimizer

LossKind = Literal["plain", "fnw", "es_dfm", "defer"]
SamplingCorrection = Literal["importance", "log_odds", "none"]
Consistency = Literal["bsp", "ssp", "async"]
StepsPer = Literal["sample", "batch"]

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Natural = Annotated[int, msgspec.Meta(ge=0)]
_Hour = Annotated[str, msgspec.Meta(pattern=HOUR)]


class SamplesSection(Section, frozen=True, kw_only=True):
    """`[samples]`: what is read.

    `pipeline`: the joining job's file; `_pipeline.toml` in its output is the one that it ran with,
    overrides included. `path`: the folder that holds `samples/` and `late_actions/`, where it is
    not the pipeline's output.path. `follow`: wait for new files, and look for them every `poll`.
    `late_actions`: "train" on the corrections that they make (docs/corrections.md), or "ignore"
    them. `table`: the files of samples are listed ("files"), or are those of the Iceberg table that
    the job keeps over them ("iceberg"). `from`, `to`: hours such as "2026-11-01T00", UTC: only the
    partitions from the one up to the other, which is left out. `anew`: partitions that were joined
    again (docs/backfill.md) since they were trained on are trained on once more.
    """

    pipeline: str = "pipeline.toml"
    path: str | None = None
    follow: bool = False
    poll: Duration = Duration(2000)
    late_actions: Literal["train", "ignore"] = "train"
    table: Literal["files", "iceberg"] = "files"
    first: _Hour | None = msgspec.field(default=None, name="from")
    end: _Hour | None = msgspec.field(default=None, name="to")
    anew: bool = False


class ModelSection(Section, frozen=True, kw_only=True):
    """`[model]`: logistic regression ("lr"), a factorization machine ("fm"), or "deepfm".

    `actions`: what is predicted, an output each; all of the pipeline's but the exposure when
    absent. `embedding`: values a key (fm, deepfm), which begin uniformly in (-scale, scale).
    `hidden`: widths of the dense layers (deepfm). `seed` decides initial values. `bias`: a weight
    that is in every sample. `start`: what a new model predicts: the rates of the actions in the
    first samples ("base_rate", with a bias only), or one half ("zero").
    """

    type: ModelKind = "lr"
    actions: list[str] | None = None
    embedding: _Positive = 8
    hidden: Annotated[list[_Positive], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [64, 32]
    )
    scale: Annotated[float, msgspec.Meta(gt=0)] = 0.01
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**62)] = 0
    bias: bool = True
    start: Literal["base_rate", "zero"] = "base_rate"


class LossSection(Section, frozen=True, kw_only=True):
    """`[loss]`: which rows it takes and how they weigh, see docs/emission-policies.md.

    `type`: that of the pipeline's policy when absent (wait: plain, fake_negative: fnw). `sampling`:
    how the negatives that were not written count: by weights of those that were ("importance"), by
    a shift of the log-odds, for which there must be one rate ("log_odds"), or not at all.
    """

    type: LossKind | None = None
    sampling: SamplingCorrection = "importance"


class OptimizerSection(Section, frozen=True, kw_only=True):
    """`[optimizer.linear]`, `[optimizer.embedding]`, `[optimizer.dense]`, see `trainer.spec`.

    `embedding` cannot be FTRL, which begins at 0, where an embedding has no gradient.
    """

    linear: Optimizer = Ftrl(alpha=0.2)
    embedding: Optimizer = AdaGrad()
    dense: Adam = Adam()


class SlotSection(Section, frozen=True, kw_only=True):
    """`[slots.<name>]`: a column that becomes keys; lists give a key for each of their values.

    `column`: the slot's name when absent. `as`: by the column's type when absent: "category" for
    strings, booleans and integers, "buckets" for floats. `boundaries`: ascending, of buckets;
    logarithmic ones when absent. `admit_after`: a key gets parameters once it was in so many
    samples. `expire_after`: and loses them when it was in none for so long, in event time.
    `optimizer` (of the linear weights) and `embedding_optimizer`: over those of `[optimizer]`.

    What `as = "value"` does to the numbers, in this order: `log1p`: sign(x) log(1 + |x|); `scale`:
    times this; `clip`: cut to [-clip, clip].
    """

    column: str | None = None
    encoding: Encoding | None = msgspec.field(default=None, name="as")
    boundaries: list[float] | None = None
    admit_after: _Positive = 1
    expire_after: Duration | None = None
    optimizer: Optimizer | None = None
    embedding_optimizer: Optimizer | None = None
    log1p: bool = False
    scale: float = 1.0
    clip: float = MAX_VALUE


class TrainSection(Section, frozen=True, kw_only=True):
    """`[train]`: how it runs.

    `batch`: rows. `steps`: a key takes a step for each "sample" of a batch, or one for the "batch";
    when absent, for each sample where the model and its optimizers allow it.
    `servers`: processes that hold the parameters; 0: everything is in one process.
    `replicas`: backups of each shard. `consistency`: "bsp" (all workers at the same step), "ssp"
    (at most `staleness` steps apart) or "async". `max_in_flight`: samples that are read and not
    learned yet; 65536 when absent, or a batch for every worker if that is more. `virtual_nodes`: of
    a server, on the ring of the hashes. `address`: of a Ray cluster to join; a
    local one when absent.
    """

    batch: _Positive = 4096
    steps: StepsPer | None = None
    workers: _Positive = 1
    servers: _Natural = 0
    replicas: Annotated[int, msgspec.Meta(ge=0, le=1)] = 1
    consistency: Consistency = "ssp"
    staleness: _Natural = 10
    max_in_flight: _Positive | None = None
    virtual_nodes: _Positive = 128
    address: str | None = None


class OutputSection(Section, frozen=True, kw_only=True):
    """`[output]`: a folder, which gets `checkpoints/`, `serving/` and `evaluation/`.

    `base_every`: deltas between two whole models in `serving/`. `resume`: go on from the last
    checkpoint, if there is one. Intervals are wall time.
    """

    path: str
    checkpoint_every: Duration = Duration(300_000)
    keep_checkpoints: _Positive = 3
    export_every: Duration = Duration(60_000)
    base_every: _Positive = 20
    resume: bool = True


class EvaluationSection(Section, frozen=True, kw_only=True):
    """`[evaluation]`: progressive validation, in windows of event time, also by columns' values.

    `every`: how often `evaluation/` is written while the run goes on (wall time). `slice_share`: of
    the rows, those that are counted by column and slot.
    """

    window: Duration = Duration(3_600_000)
    every: Duration = Duration(300_000)
    by: list[str] = msgspec.field(default_factory=lambda: ["position"])
    slice_share: float = 1.0


class LogSection(Section, frozen=True, kw_only=True):
    """`[log]`: lines on stderr, as "text" or as "json" (an object a line).

    `every`: how often a line says how the run is doing (wall time).
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    every: Duration = Duration(60_000)


class MetricsSection(Section, frozen=True, kw_only=True):
    """`[metrics]`: for Prometheus, over HTTP at `/metrics`.

    `port`: nothing listens when absent; 0: any free port, which the log names. `address`: of this
    machine; who reaches it reads the metrics without a password.
    """

    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = None
    address: str = "127.0.0.1"


class Document(Section, frozen=True, kw_only=True):
    """The file. `object_storage`: that of the pipeline when absent."""

    samples: SamplesSection = SamplesSection()
    model: ModelSection = ModelSection()
    loss: LossSection = LossSection()
    optimizer: OptimizerSection = OptimizerSection()
    slots: dict[str, SlotSection] = msgspec.field(default_factory=dict)
    train: TrainSection = TrainSection()
    output: OutputSection
    evaluation: EvaluationSection = EvaluationSection()
    log: LogSection = LogSection()
    metrics: MetricsSection = MetricsSection()
    object_storage: ObjectStorageSection | None = None
