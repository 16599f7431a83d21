"""The layout of what is written (docs/sample-format.md): columns and their types, from the schema.

The order of the columns is part of it. `ARROW` types are what a reader sees; Flink SQL's are what
the sink is declared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa

from schemas import sql
from schemas.actions import ActionKind
from schemas.features import FeatureSchema

#: Whether a sample gets a further row when its request settles (docs/join-semantics.md 14).
FinalEmit = Literal["always", "if_changed", "never"]
#: Whether a negative was on screen, as far as that is known (docs/join-semantics.md 9).
NegativeKind = Literal["exposed", "unexposed"]

_NAMES: tuple[tuple[str, pa.DataType], ...] = (
    ("sample_id", pa.int64()),
    ("request_id", pa.string()),
    ("user_id", pa.string()),
    ("item_id", pa.string()),
    ("position", pa.int32()),
    ("event_time", pa.int64()),
)
_MARKS: tuple[tuple[str, pa.DataType], ...] = (
    ("observed_ms", pa.int64()),
    ("exposed", pa.bool_()),
    ("sampling_rate", pa.float64()),
    ("revision", pa.int32()),
    ("kind", pa.string()),
)
PARTITIONS = ("dt", "hr")
#: In an output: the Iceberg table over the samples (udfs/jvm/IcebergTable.java).
ICEBERG_TABLE = "samples/_iceberg"

LATE_ACTIONS = pa.schema(
    [
        ("sample_id", pa.int64()),
        ("request_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("position", pa.int32()),
        ("request_time", pa.int64()),
        ("event_id", pa.string()),
        ("action", pa.string()),
        ("value", pa.float64()),
        ("event_time", pa.int64()),
        ("delay_ms", pa.int64()),
        ("reason", pa.string()),
        ("features", pa.string()),
    ]
)
REJECTED = pa.schema(
    [
        ("stream", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("origin", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("record_time", pa.int64()),
        ("raw", pa.binary()),
    ]
)

_SQL = {
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int32(): "INT",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "STRING",
    pa.binary(): "BYTES",
}


def samples(features: FeatureSchema, kinds: Sequence[ActionKind]) -> pa.Schema:
    """The Arrow schema of `samples/`."""
    fields = list(_NAMES)
    fields += [(f.name, f.type.arrow) for f in features.features]
    for kind in kinds:
        fields += [
            (f"label_{kind.name}", kind.arrow),
            (f"delay_{kind.name}_ms", pa.int64()),
            (f"mature_{kind.name}", pa.bool_()),
        ]
    return pa.schema([*fields, *_MARKS])


def reserved_columns(kinds: Sequence[ActionKind]) -> list[str]:
    """The names that a feature cannot have."""
    return [*samples(FeatureSchema(()), kinds).names, *PARTITIONS]


def sql_type(arrow: pa.DataType) -> str:
    """Flink SQL's name for the type of a column."""
    if pa.types.is_list(arrow):
        return f"ARRAY<{_SQL[arrow.value_type]}>"
    return _SQL[arrow]


def sql_columns(schema: pa.Schema) -> str:
    """The columns as a CREATE TABLE statement lists them. Raises ValueError (`sql.identifier`)."""
    return ", ".join(f"{sql.identifier(field.name)} {sql_type(field.type)}" for field in schema)
