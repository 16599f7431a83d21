"""What a model is made of: slots, tables, optimizers. Pure data, which travels and is checkpointed.

Everything here follows from the configuration (`trainer.config`) and the declared features; two
specs that are equal give the same keys and the same layout of parameters.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trainer.limits import MAX_VALUE

ModelKind = Literal["lr", "fm", "deepfm"]
Encoding = Literal["category", "value", "buckets"]

#: Values of `Slot.boundaries` that stand for logarithmic buckets.
LOG_BUCKETS: tuple[float, ...] = ()


class Ftrl(msgspec.Struct, frozen=True, tag="ftrl", tag_field="type", forbid_unknown_fields=True):
    """FTRL-Proximal, per coordinate (McMahan et al., Ad click prediction, KDD 2013, algorithm 1).

    The state is z and n; the weight follows from them, and is 0 while |z| <= l1.
    """

    alpha: float = 0.1
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 0.0


class AdaGrad(
    msgspec.Struct, frozen=True, tag="adagrad", tag_field="type", forbid_unknown_fields=True
):
    """AdaGrad (Duchi et al., JMLR 2011): w -= rate * g / sqrt(n), n starts at `initial`."""

    rate: float = 0.05
    initial: float = 0.1


class Adam(msgspec.Struct, frozen=True, tag="adam", tag_field="type", forbid_unknown_fields=True):
    """Adam (Kingma and Ba, ICLR 2015); each row counts its own steps for the bias correction."""

    rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8


Optimizer = Ftrl | AdaGrad | Adam


class Segment(msgspec.Struct, frozen=True):
    """`width` float32 values of a row that share an optimizer.

    `scale`: new rows begin with uniform values in (-scale, scale), which follow from the key and
    the model's seed; 0: with zeros (FTRL has no other start).
    """

    name: Literal["linear", "embedding"]
    width: int
    optimizer: Optimizer
    scale: float = 0.0

    @property
    def floats(self) -> int:
        """How many float32 of state a row has: the values, and what the optimizer keeps of them."""
        if isinstance(self.optimizer, Adam):
            return 3 * self.width + 1
        return 2 * self.width


class TableSpec(msgspec.Struct, frozen=True):
    """Slots with equal settings share a table: a row per key, its segments one after the other.

    `admit_after`: a key gets its row once it was seen in so many samples (1: at once).
    `expire_after_s`: a row that no sample touched for so long, in event time, goes (None: never).
    """

    name: str
    segments: tuple[Segment, ...]
    admit_after: int = 1
    expire_after_s: int | None = None

    @property
    def width(self) -> int:
        """How many values a row has, of all segments."""
        return sum(segment.width for segment in self.segments)

    @property
    def floats(self) -> int:
        """How many float32 of state a row has, of all segments."""
        return sum(segment.floats for segment in self.segments)


class Slot(msgspec.Struct, frozen=True):
    """A column of the samples that becomes keys.

    `category`: a key for each value (strings, integers, booleans). `value`: one key, with the
    number as its value. `buckets`: a key for each interval of `boundaries` (ascending, right-open),
    or logarithmic ones where there are none. `table` is an index into `ModelSpec.tables`. `column`
    None: the constant 1, which makes the bias.

    `log1p`, `scale`, `clip`: what a `value` does to its numbers, see `trainer.limits.transformed`.
    """

    name: str
    column: str | None
    encoding: Encoding
    table: int = 0
    boundaries: tuple[float, ...] = LOG_BUCKETS
    log1p: bool = False
    scale: float = 1.0
    clip: float = MAX_VALUE


class Since(msgspec.Struct, frozen=True):
    """When a model got to know a slot or an action, if not from its beginning.

    `step`: after so many batches. `event_time`: of the newest sample before, epoch ms.
    """

    step: int
    event_time: int


class ModelSpec(msgspec.Struct, frozen=True):
    """A whole model. `heads`: what the model has an output for, in order: the actions, and after

    them what the loss needs beside (`dp:click`: the probability of a delayed click). `dense` is the
    optimizer of the dense parameters, where the kind has some. `seed` decides initial values.

    `base`: constants that the logits of the heads have added, so that a model without parameters
    predicts the base rates (`trainer.losses.base_rate`); empty: none.
    """

    kind: ModelKind
    heads: tuple[str, ...]
    slots: tuple[Slot, ...]
    tables: tuple[TableSpec, ...]
    embedding: int = 0
    hidden: tuple[int, ...] = ()
    dense: Adam = Adam()
    seed: int = 0
    base: tuple[float, ...] = ()
