"""Files that were written under an earlier declaration, read as the present one has it.

A feature or an action may be added, removed or widened over a savepoint of the job
(docs/configuration.md), so files of both sides lie beside each other. Of each file:

* a declared column of a feature or an action that it does not have is null in every row;
* a column that is not declared any more is not read;
* an integer or float32 column that is float64 now is converted;
* an int32 that is int8 here, as in files of an Iceberg table, is converted;
* any other type is an error, as is a missing column that every sample has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from schemas.features import FeatureSchema
from schemas.samples import samples as sample_layout
from trainer.reading.files import ReadError

#: Columns of every sample, whatever is declared.
ALWAYS = frozenset(sample_layout(FeatureSchema(()), ()).names)

#: Types of a column: what it was, and what it may be now.
_WIDER = {(pa.int64(), pa.float64()), (pa.float32(), pa.float64())}
#: What an Iceberg table has for a type that it lacks. Files of a compaction have that.
_IN_ICEBERG = (pa.int32(), pa.int8())


def absent(found: pa.Schema, expected: pa.Schema, name: str) -> tuple[str, ...]:
    """The columns of `expected` that a file of samples lacks, and that are null in it.

    Raises ReadError for a column that every sample has, and for one of another type, unless the
    expected type is wider. `name`: of the file.
    """
    missing = [field.name for field in expected if found.get_field_index(field.name) < 0]
    for column in missing:
        if column in ALWAYS:
            raise ReadError(
                f"{name}: has no column {column!r}, which every sample has. It was not written by"
                " the joining job: move it away"
            )
    for field in expected:
        if field.name in missing:
            continue
        there = found.field(field.name).type
        alike = same(there, field.type) or (there, field.type) == _IN_ICEBERG
        if not (alike or _is_wider(there, field.type)):
            raise ReadError(
                f"{name}: column {field.name!r} is {there}, and declared as {field.type} now."
                " Only int64 and float32 may become float64. Declare the new feature under another"
                " name, or move the files of before away"
            )
    return tuple(missing)


def same(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether the types are equal, apart from the name and nullability of list elements."""
    if pa.types.is_list(found) and pa.types.is_list(expected):
        return bool(found.value_type == expected.value_type)
    return bool(found == expected)


def _is_wider(found: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_list(found) and pa.types.is_list(expected):
        return _is_wider(found.value_type, expected.value_type)
    return (found, expected) in _WIDER


def conformed(table: pa.Table, expected: pa.Schema, columns: Iterable[str]) -> pa.Table:
    """`columns` of a table, in that order: widened, and null where the table has none.

    Strings of the table may be dictionaries; null columns of strings are then, too.
    """
    made: dict[str, Any] = {}
    for name in columns:
        wanted = expected.field(name).type
        at = table.schema.get_field_index(name)
        if at < 0:
            made[name] = pa.chunked_array([pa.nulls(table.num_rows, _encoded(wanted))])
            continue
        column = table.column(at)
        if _is_wider(column.type, wanted):
            # an integer beyond 2**53 becomes the float64 that is nearest
            column = column.cast(wanted, safe=False)
        elif (column.type, wanted) == _IN_ICEBERG:
            column = column.cast(wanted)
        made[name] = column
    return pa.table(made)


def _encoded(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_encoded(kind.value_type))
    return pa.dictionary(pa.int32(), kind) if pa.types.is_string(kind) else kind
