"""The trainer's configuration: one TOML file, with `a.b=value` over it.

`load` gives a checked `TrainerConfig`, or raises `ConfigError` with one line that names the key,
the file, and what was expected. What features and actions there are, and which rows a sample has,
is in the pipeline's file (`configuration.declaration`); nothing of it is said twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec

from configuration import declaration
from configuration.declaration import Declaration, Policy
from configuration.paths import beside
from configuration.reading import ConfigError as ConfigError
from configuration.reading import Duration, Section, Wrong, read, wrong_in
from schemas.actions import ActionKind
from schemas.features import FeatureType
from trainer.limits import MAX_VALUE, MIN_SAMPLING_RATE
from trainer.spec import (
    LOG_BUCKETS,
    AdaGrad,
    Adam,
    Encoding,
    Ftrl,
    ModelKind,
    ModelSpec,
    Optimizer,
    Segment,
    Slot,
    TableSpec,
)

LossKind = Literal["plain", "fnw", "es_dfm", "defer"]
SamplingCorrection = Literal["importance", "log_odds", "none"]
Consistency = Literal["bsp", "ssp", "async"]

#: The slot, and the table's only row, that is in every sample.
BIAS = "bias"

#: Columns of every sample that may be slots; the others follow from the label or name the row.
OWN_COLUMNS: Mapping[str, FeatureType] = {
    "user_id": FeatureType("string"),
    "item_id": FeatureType("string"),
    "position": FeatureType("int64"),
}

_LOSS_OF: Mapping[Policy, LossKind] = {
    "wait": "plain",
    "fake_negative": "fnw",
    "es_dfm": "es_dfm",
    "defer": "defer",
}
#: Of samples, when the configuration does not say it.
_MAX_IN_FLIGHT = 65_536

#: What float32 can compute with: beyond these an optimizer's state would not stay finite.
_OPTIMIZER_BOUNDS: Mapping[str, tuple[float, float]] = {
    "alpha": (1e-6, 1e4),
    "beta": (0.0, 1e12),
    "l1": (0.0, 1e12),
    "l2": (0.0, 1e12),
    "rate": (1e-9, 1e2),
    "initial": (1e-12, 1e12),
    "beta1": (0.0, 0.999999),
    "beta2": (0.0, 0.999999),
    "epsilon": (1e-20, 1e12),
}

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Natural = Annotated[int, msgspec.Meta(ge=0)]


class SamplesSection(Section, frozen=True, kw_only=True):
    """`[samples]`: what is read.

    `pipeline`: the joining job's file; `_pipeline.toml` in its output is the one that it ran with,
    overrides included. `path`: the folder that holds `samples/` and `late_actions/`, where it is
    not the pipeline's output.path. `follow`: wait for new files, and look for them every `poll`.
    `late_actions`: "train" on the corrections that they make (docs/corrections.md), or "ignore"
    them.
    """

    pipeline: str = "pipeline.toml"
    path: str | None = None
    follow: bool = False
    poll: Duration = Duration(2000)
    late_actions: Literal["train", "ignore"] = "train"


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

    `batch`: rows. `servers`: processes that hold the parameters; 0: everything is in one process.
    `replicas`: backups of each shard. `consistency`: "bsp" (all workers at the same step), "ssp"
    (at most `staleness` steps apart) or "async". `max_in_flight`: samples that are read and not
    learned yet; 65536 when absent, or a batch for every worker if that is more. `virtual_nodes`: of
    a server, on the ring of the hashes. `address`: of a Ray cluster to join; a
    local one when absent.
    """

    batch: _Positive = 4096
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
    """`[evaluation]`: progressive validation, in windows of event time, also by columns' values."""

    window: Duration = Duration(3_600_000)
    by: list[str] = msgspec.field(default_factory=lambda: ["position"])


class _Document(Section, frozen=True, kw_only=True):
    """The file."""

    samples: SamplesSection = SamplesSection()
    model: ModelSection = ModelSection()
    loss: LossSection = LossSection()
    optimizer: OptimizerSection = OptimizerSection()
    slots: dict[str, SlotSection] = msgspec.field(default_factory=dict)
    train: TrainSection = TrainSection()
    output: OutputSection
    evaluation: EvaluationSection = EvaluationSection()


class TrainerConfig(_Document, frozen=True, kw_only=True):
    """A checked configuration, and what the pipeline's file declares. Paths in it are absolute.

    A key that was left out is None in its section; the properties here say what that comes to.
    """

    declared: Declaration

    @property
    def folder(self) -> Path:
        """It holds `samples/` and `late_actions/`."""
        return _local(self.samples.path or self.declared.output.path)

    @property
    def actions(self) -> tuple[ActionKind, ...]:
        """What is predicted, in the order of the model's outputs."""
        kinds = {kind.name: kind for kind in self.declared.kinds}
        if self.model.actions is not None:
            return tuple(kinds[name] for name in self.model.actions)
        exposure = self.declared.exposure_action
        return tuple(kind for name, kind in kinds.items() if name != exposure)

    @property
    def loss_type(self) -> LossKind:
        return self.loss.type or _LOSS_OF[self.declared.join.policy]

    @property
    def max_in_flight(self) -> int:
        """Samples."""
        least = self.train.workers * self.train.batch
        return self.train.max_in_flight or max(_MAX_IN_FLIGHT, least)

    @property
    def spec(self) -> ModelSpec:
        """The model: slots with equal settings share a table, and the bias has one of its own."""
        heads = [kind.name for kind in self.actions]
        if self.loss_type in ("es_dfm", "defer"):
            heads += [f"dp:{name}" for name in heads]
        columns = _columns(self.declared)
        tables: dict[tuple[tuple[Segment, ...], int, int | None], int] = {}
        slots = []
        for name, slot in self._slots.items():
            column = slot.column or name
            expire = None if slot.expire_after is None else slot.expire_after // 1000
            settings = (self._segments(slot, len(heads)), slot.admit_after, expire)
            slots.append(
                Slot(
                    name,
                    column,
                    _encoding(slot, columns[column]),
                    tables.setdefault(settings, len(tables)),
                    LOG_BUCKETS if slot.boundaries is None else tuple(slot.boundaries),
                    slot.log1p,
                    slot.scale,
                    slot.clip,
                )
            )
        specs = [TableSpec(f"t{n}", *settings) for settings, n in tables.items()]
        if self.model.bias:
            slots.append(Slot(BIAS, None, "value", len(specs)))
            linear = Segment("linear", len(heads), self.optimizer.linear)
            specs.append(TableSpec(f"t{len(specs)}", (linear,)))
        kind = self.model.type
        return ModelSpec(
            kind,
            tuple(heads),
            tuple(slots),
            tuple(specs),
            embedding=0 if kind == "lr" else self.model.embedding,
            hidden=tuple(self.model.hidden) if kind == "deepfm" else (),
            dense=self.optimizer.dense,
            seed=self.model.seed,
        )

    @property
    def _slots(self) -> Mapping[str, SlotSection]:
        """Without any: the user, the item, the position, and each feature that is trained on."""
        if self.slots:
            return self.slots
        features = (f.name for f in self.declared.schema.features if f.role == "feature")
        return {name: SlotSection() for name in (*OWN_COLUMNS, *features)}

    def _segments(self, slot: SlotSection, heads: int) -> tuple[Segment, ...]:
        linear = Segment("linear", heads, slot.optimizer or self.optimizer.linear)
        if self.model.type == "lr":
            return (linear,)
        optimizer = slot.embedding_optimizer or self.optimizer.embedding
        embedding = Segment("embedding", self.model.embedding, optimizer, self.model.scale)
        return (linear, embedding)


def load(path: Path, overrides: Sequence[str] = ()) -> TrainerConfig:
    """The configuration of a TOML file, with overrides such as `train.batch=512` over it.

    Raises ConfigError.
    """
    document = read(path, _Document, overrides)
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
    if "://" in document.output.path:
        raise wrong("output.path", f"{document.output.path} is not a local folder")
    output = msgspec.structs.replace(
        document.output, path=place("output.path", document.output.path)
    )
    said = {name: getattr(document, name) for name in document.__struct_fields__}
    config = TrainerConfig(
        **said | {"samples": samples, "output": output}, declared=declaration.load(pipeline)
    )
    _check_samples(config, wrong)
    _check_actions(config, wrong)
    _check_loss(config, wrong)
    _check_slots(config, wrong)
    _check_optimizers(config, wrong)
    _check_run(config, wrong)
    _check_evaluation(config, wrong)
    return config


# -- columns ---------------------------------------------------------------------------------------


def _columns(declared: Declaration) -> dict[str, FeatureType]:
    """What can be a slot, but for the role."""
    return {**OWN_COLUMNS, **{f.name: f.type for f in declared.schema.features}}


def _encoding(slot: SlotSection, column: FeatureType) -> Encoding:
    if slot.encoding is not None:
        return slot.encoding
    return "buckets" if column.scalar in ("float32", "float64") else "category"


def _local(path: str) -> Path:
    """Raises ValueError for a place that is not on this machine."""
    url = urlsplit(path)
    if "://" not in path:
        return Path(path)
    if url.scheme == "file" and not url.netloc:
        return Path(url2pathname(url.path))
    raise ValueError(path)


# -- what types cannot say -------------------------------------------------------------------------


def _below(section: str, wrong: Wrong) -> Wrong:
    return lambda key, text: wrong(f"{section}.{key}", text)


def _check_samples(config: TrainerConfig, wrong: Wrong) -> None:
    try:
        _ = config.folder
    except ValueError as error:
        raise wrong(
            "samples.path", f"{error} is not a local folder; mount it, and set samples.path"
        ) from None
    if config.samples.poll <= 0:
        raise wrong("samples.poll", "must be longer than 0")


def _check_actions(config: TrainerConfig, wrong: Wrong) -> None:
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


def _check_loss(config: TrainerConfig, wrong: Wrong) -> None:
    """Which rows the loss takes, and whether the pipeline writes them."""
    loss, emission = config.loss_type, config.declared.resolved_emission
    policy = config.declared.join.policy
    other = f"or set loss.type = {_LOSS_OF[policy]!r}, that of the policy {policy!r}"
    if _LOSS_OF[policy] == loss:
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


def _check_slots(config: TrainerConfig, wrong: Wrong) -> None:
    columns = _columns(config.declared)
    meta = {f.name for f in config.declared.schema.features if f.role == "meta"}
    for name, slot in config._slots.items():
        key, column = f"slots.{name}", slot.column or name
        if name == BIAS and config.model.bias:
            raise wrong(
                key, f"{BIAS!r} is the model's own; rename the slot (with column = {name!r})"
            )
        if column in meta:
            raise wrong(key, f'the feature {column!r} has role = "meta": it is not trained on')
        if column not in columns:
            there = ", ".join(c for c in columns if c not in meta)
            raise wrong(key, f"there is no column {column!r} (there are: {there})")
        _check_encoding(slot, column, columns[column], _below(key, wrong))
        if slot.expire_after is not None and (slot.expire_after <= 0 or slot.expire_after % 1000):
            raise wrong(f"{key}.expire_after", "must be a whole number of seconds, from 1 on")
        if slot.embedding_optimizer is not None and config.model.type == "lr":
            raise wrong(f"{key}.embedding_optimizer", 'model.type = "lr" has no embeddings')


def _check_encoding(slot: SlotSection, column: str, type_: FeatureType, wrong: Wrong) -> None:
    encoding, boundaries = _encoding(slot, type_), slot.boundaries
    if encoding == "category" and type_.scalar in ("float32", "float64"):
        raise wrong(
            "as", f'"category" needs few values, and {column!r} is a {type_}; set "buckets"'
        )
    if encoding == "value" and type_.scalar == "string":
        raise wrong("as", f'"value" needs a number, and {column!r} is a {type_}; set "category"')
    if encoding == "buckets" and type_.scalar in ("string", "bool"):
        raise wrong("as", f'"buckets" need a number, and {column!r} is a {type_}; set "category"')
    _check_value(slot, encoding, wrong)
    if boundaries is None:
        return
    if encoding != "buckets":
        raise wrong("boundaries", f'are of as = "buckets", and this is a {encoding!r}')
    ascending = all(low < high for low, high in pairwise(boundaries))
    if not boundaries or not ascending or not all(map(math.isfinite, boundaries)):
        raise wrong("boundaries", "must be numbers that ascend, at least one")


def _check_value(slot: SlotSection, encoding: Encoding, wrong: Wrong) -> None:
    plain = SlotSection()
    for key in ("log1p", "scale", "clip"):
        if encoding != "value" and getattr(slot, key) != getattr(plain, key):
            raise wrong(key, f'is of as = "value", and this is a {encoding!r}')
    if not 0 < slot.clip <= MAX_VALUE:
        raise wrong("clip", f"must be more than 0, and at most {MAX_VALUE:,.0f}")
    if not 0 < abs(slot.scale) < math.inf:
        raise wrong("scale", "must be a finite number other than 0")


def _check_optimizers(config: TrainerConfig, wrong: Wrong) -> None:
    linear: dict[str, Optimizer | None] = {"optimizer.linear": config.optimizer.linear}
    embedding: dict[str, Optimizer | None] = {"optimizer.embedding": config.optimizer.embedding}
    for name, slot in config.slots.items():
        linear[f"slots.{name}.optimizer"] = slot.optimizer
        embedding[f"slots.{name}.embedding_optimizer"] = slot.embedding_optimizer
    for key, optimizer in {
        **linear,
        **embedding,
        "optimizer.dense": config.optimizer.dense,
    }.items():
        if optimizer is not None:
            _check_optimizer(optimizer, _below(key, wrong))
    for key, optimizer in embedding.items():
        if isinstance(optimizer, Ftrl):
            raise wrong(
                f"{key}.type",
                '"ftrl" begins at 0, where an embedding has no gradient; set "adagrad" or "adam"',
            )


def _check_optimizer(optimizer: Optimizer, wrong: Wrong) -> None:
    for name in optimizer.__struct_fields__:
        value: float = getattr(optimizer, name)
        low, high = _OPTIMIZER_BOUNDS[name]
        if not low <= value <= high:
            raise wrong(name, f"must be at least {low:g}, and at most {high:g}; got {value:g}")


def _check_run(config: TrainerConfig, wrong: Wrong) -> None:
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
    for key, every in (("checkpoint", output.checkpoint_every), ("export", output.export_every)):
        if every <= 0:
            raise wrong(f"output.{key}_every", "must be longer than 0")


def _check_evaluation(config: TrainerConfig, wrong: Wrong) -> None:
    if config.evaluation.window <= 0:
        raise wrong("evaluation.window", "must be longer than 0")
    columns = {
        name: type_
        for name, type_ in _columns(config.declared).items()
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
