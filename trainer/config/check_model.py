"""Whether slots and optimizers fit the columns and the kind of model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from configuration.reading import Wrong
from schemas.features import FeatureType
from trainer.config.columns import encoding_of, slot_columns
from trainer.config.resolved import BIAS, TrainerConfig
from trainer.config.sections import SlotSection
from trainer.limits import MAX_VALUE
from trainer.spec import Encoding, Ftrl, Optimizer

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


def check_slots(config: TrainerConfig, wrong: Wrong) -> None:
    """Each slot has a column that is trained on, and settings that fit it.

    Raises what `wrong` makes.
    """
    columns = slot_columns(config.declared)
    meta = {f.name for f in config.declared.schema.features if f.role == "meta"}
    for name, slot in config.used_slots.items():
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


def check_optimizers(config: TrainerConfig, wrong: Wrong) -> None:
    """The settings of all optimizers are within bounds; embeddings have one that can start.

    Raises what `wrong` makes.
    """
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


def check_steps(config: TrainerConfig, wrong: Wrong) -> None:
    """The model can make a step per sample, if the configuration asks for that.

    Raises what `wrong` makes.
    """
    reason = config.no_steps_per_sample
    if config.train.steps == "sample" and reason is not None:
        raise wrong("train.steps", reason)


def _check_encoding(slot: SlotSection, column: str, type_: FeatureType, wrong: Wrong) -> None:
    encoding, boundaries = encoding_of(slot, type_), slot.boundaries
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


def _check_optimizer(optimizer: Optimizer, wrong: Wrong) -> None:
    for name in optimizer.__struct_fields__:
        value: float = getattr(optimizer, name)
        low, high = _OPTIMIZER_BOUNDS[name]
        if not low <= value <= high:
            raise wrong(name, f"must be at least {low:g}, and at most {high:g}; got {value:g}")


def _below(section: str, wrong: Wrong) -> Wrong:
    return lambda key, text: wrong(f"{section}.{key}", text)
