"""The values of Arrow's columns as Python's, a column at a time.

`to_pylist` makes an object of each value before it makes the value. What it gives, this gives in a
small part of the time; only maps are objects here, and not lists of pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Each row, by the names of the columns. Raises pyarrow.ArrowInvalid when two are the same."""
    names = _distinct(table.column_names)
    columns = [[value for chunk in c.chunks for value in values(chunk)] for c in table.columns]
    if not columns:
        return iter([{} for _ in range(table.num_rows)])
    return (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def values(array: pa.Array) -> list[Any]:
    """The value at each index; None where there is none. The keys of maps become text.

    Raises pyarrow.ArrowInvalid for a struct with two fields of one name.
    """
    kind = array.type
    if pa.types.is_struct(kind):
        return _with_nulls(_structs(array), array)
    if pa.types.is_map(kind):
        keys = map(str, _between(array.keys, array.offsets))
        pairs = list(zip(keys, _between(array.items, array.offsets), strict=True))
        return _with_nulls(list(map(dict, _slices(pairs, array.offsets))), array)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        flat = _between(array.values, array.offsets)
        return _with_nulls(_slices(flat, array.offsets), array)
    if _is_text(kind):
        found: list[Any] = array.to_numpy(zero_copy_only=False).tolist()
        return found  # with None where there is none
    if _is_number(kind):
        whole = pc.fill_null(array, False if pa.types.is_boolean(kind) else 0)
        return _with_nulls(whole.to_numpy(zero_copy_only=False).tolist(), array)
    plain: list[Any] = array.to_pylist()
    return plain


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    of_text = types.is_string(kind) or types.is_large_string(kind)
    return bool(of_text or types.is_binary(kind) or types.is_large_binary(kind))


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    of_floats = types.is_float32(kind) or types.is_float64(kind)
    return bool(of_floats or types.is_integer(kind) or types.is_boolean(kind))


def _distinct(names: list[str]) -> list[str]:
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise pa.ArrowInvalid(f"two fields have the name {twice!r}, and one would be lost")
    return names


def _structs(array: pa.StructArray) -> list[Any]:
    names = _distinct([field.name for field in array.type])
    if not names:
        return [{} for _ in range(len(array))]
    columns = [values(array.field(i)) for i in range(len(names))]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _between(elements: pa.Array, offsets: pa.Array) -> list[Any]:
    """The elements of all lists, one list behind the other."""
    if len(offsets) < 2:
        return []
    start = offsets[0].as_py()
    return values(elements.slice(start, offsets[-1].as_py() - start))


def _slices(flat: list[Any], offsets: pa.Array) -> list[Any]:
    at = offsets.to_numpy()
    return [flat[i:j] for i, j in pairwise((at - at[:1]).tolist())]


def _with_nulls(found: list[Any], array: pa.Array) -> list[Any]:
    if array.null_count:
        for i in np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)):
            found[i] = None
    return found
