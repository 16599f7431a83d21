"""What passes between the Flink operators of the join: column names and their Flink types.

Kept as plain descriptions, since `Types.…` objects hold a gateway and cannot be pickled with a
function; `jobs.graph` and the adapters turn them into types where they need them. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.actions import ActionKind
from schemas.features import FeatureSchema

Flat = Literal["string", "long", "double", "boolean", "bytes"]

#: What a row of the join's output is.
SAMPLES, LATE, REJECTED = 0, 1, 2


@dataclass(frozen=True)
class Column:
    """A column of the join's output, with `depth` levels of arrays around `flat`."""

    name: str
    flat: Flat
    depth: int = 0


_FLAT: dict[str, Flat] = {
    "bool": "boolean",
    "int64": "long",
    "float32": "double",
    "float64": "double",
    "string": "string",
}


def joined_columns(schema: FeatureSchema, kinds: Sequence[ActionKind]) -> list[Column]:
    """One row a request: scalars, and arrays with a value for each impression.

    `side` carries late actions and rejected records, as strings; the rest is null or empty then. An
    array is never null, which Flink's conversion from Python cannot take: those of a kind that
    joined nothing are empty, and a list feature that may be missing has a `…_is` beside it.
    """
    columns = [
        Column("tag", "long"),
        Column("request_id", "string"),
        Column("user_id", "string"),
        Column("event_time", "long"),
        Column("dt", "string"),
        Column("hr", "string"),
        Column("sample_ids", "long", 1),
        Column("items", "string", 1),
    ]
    for i, feature in enumerate(schema.scoped("context")):
        columns.append(Column(f"c{i}", _FLAT[feature.type.scalar], int(feature.type.is_list)))
        if feature.type.is_list:
            columns.append(Column(f"c{i}_is", "boolean"))
    for i, feature in enumerate(schema.scoped("item")):
        columns.append(Column(f"f{i}", _FLAT[feature.type.scalar], 1 + int(feature.type.is_list)))
        if feature.type.is_list:
            columns.append(Column(f"f{i}_is", "boolean", 1))
    for i, kind in enumerate(kinds):
        value: Flat = "long" if kind.label in ("any", "count") else "double"
        columns.append(Column(f"label{i}", value, 1))
        columns.append(Column(f"delay{i}", "long", 1))
        columns.append(Column(f"mature{i}", "boolean"))
    columns.append(Column("side", "string", 1))
    return columns
