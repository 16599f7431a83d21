"""The feature schema: what a pipeline declares about the features it keeps.

Declared once, in the pipeline's configuration; decoding and validation, the Parquet columns and
the trainer's slots all follow from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import pyarrow as pa

Scope = Literal["context", "item"]
Role = Literal["feature", "meta"]
ScalarType = Literal["bool", "int64", "float32", "float64", "string"]

SCALAR_TYPES: tuple[ScalarType, ...] = ("bool", "int64", "float32", "float64", "string")

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
#: The largest finite float32; beyond it a value would become an infinity in the column.
FLOAT32_MAX = float.fromhex("0x1.fffffep+127")

_PYTHON: Mapping[str, Any] = {
    "bool": bool,
    "int64": Annotated[int, msgspec.Meta(ge=INT64_MIN, le=INT64_MAX)],
    "float32": Annotated[float, msgspec.Meta(ge=-FLOAT32_MAX, le=FLOAT32_MAX)],
    "float64": float,
    "string": str,
}
_ARROW: Mapping[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
}


@dataclass(frozen=True)
class FeatureType:
    """A scalar type, or a list of one; written `int64` or `list<int64>` in configurations."""

    scalar: ScalarType
    is_list: bool = False

    @classmethod
    def parse(cls, text: str) -> FeatureType:
        """Raises ValueError, which names the types there are, for anything else."""
        inner = text.removeprefix("list<").removesuffix(">") if text.startswith("list<") else text
        is_list = text == f"list<{inner}>"
        for scalar in SCALAR_TYPES:
            if inner == scalar and (is_list or text == inner):
                return cls(scalar, is_list)
        known = ", ".join([*SCALAR_TYPES, *(f"list<{t}>" for t in SCALAR_TYPES)])
        raise ValueError(f"expected one of {known}; got {text!r}")

    def __str__(self) -> str:
        return f"list<{self.scalar}>" if self.is_list else self.scalar

    @property
    def python(self) -> Any:
        """The annotation that msgspec validates a JSON value of this type against."""
        scalar = _PYTHON[self.scalar]
        if self.is_list:
            return list[scalar]  # type: ignore[valid-type]
        return scalar

    @property
    def arrow(self) -> pa.DataType:
        """The type of the Parquet column."""
        scalar = _ARROW[self.scalar]
        return pa.list_(scalar) if self.is_list else scalar


@dataclass(frozen=True)
class Feature:
    """One declared feature.

    `scope`: logged once a request (`context`) or for every item. `required`: a record without it is
    rejected. `role` `meta`: kept in the sample, not trained on (a model version, a score).
    """

    name: str
    type: FeatureType
    scope: Scope = "item"
    required: bool = True
    role: Role = "feature"


@dataclass(frozen=True)
class FeatureSchema:
    """The declared features, in the order of their declaration, which is that of the columns."""

    features: tuple[Feature, ...]

    @classmethod
    def of(cls, features: Iterable[Feature]) -> FeatureSchema:
        """From features in the order of their columns."""
        return cls(tuple(features))

    def scoped(self, scope: Scope) -> tuple[Feature, ...]:
        """The features of one scope, in the order of their columns."""
        return tuple(f for f in self.features if f.scope == scope)
