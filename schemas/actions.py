"""What a pipeline declares about an action kind: how long it counts, and what label it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

Label = Literal["any", "count", "sum", "max", "last"]

#: Aggregates over `value`: an action without one cannot take part in them.
NEEDS_VALUE: frozenset[Label] = frozenset({"sum", "max", "last"})

_ARROW: dict[Label, pa.DataType] = {"any": pa.int8(), "count": pa.int64()}


@dataclass(frozen=True)
class ActionKind:
    """`window_ms`: the attribution window W_k. `label`: the aggregate over the joined actions."""

    name: str
    window_ms: int
    label: Label = "any"

    @property
    def arrow(self) -> pa.DataType:
        """The type of `label_<k>`."""
        return _ARROW.get(self.label, pa.float64())
