"""Arrow's columns as Python's values, against `to_pylist`, for any type that Parquet has."""

from __future__ import annotations

import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import arrow_values, event_files
from schemas.event_files import EventFileError

_text = st.text(st.characters(codec="utf-8"), max_size=4)
#: Types with what their values may be.
_LEAVES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int8(), st.integers(-128, 127)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float32(), st.floats(allow_nan=False, width=32)),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.bool_(), st.booleans()),
    (pa.string(), _text),
    (pa.large_string(), _text),
    (pa.binary(), st.binary(max_size=4)),
    (pa.binary(2), st.binary(min_size=2, max_size=2)),
    (pa.decimal128(9, 2), st.integers(-999, 999).map(lambda n: decimal.Decimal(n).scaleb(-2))),
    (pa.null(), st.none()),
]


def _of(kind: pa.DataType, values: st.SearchStrategy[Any]) -> tuple[pa.DataType, Any]:
    return kind, st.none() | values


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def struct(fields: list[Any]) -> tuple[pa.DataType, Any]:
        names = {f"f{i}": field for i, field in enumerate(fields)}
        kind = pa.struct([(name, of) for name, (of, _) in names.items()])
        return _of(kind, st.fixed_dictionaries({name: made for name, (_, made) in names.items()}))

    return st.one_of(
        inner.map(lambda of: _of(pa.list_(of[0]), st.lists(of[1], max_size=3))),
        inner.map(lambda of: _of(pa.large_list(of[0]), st.lists(of[1], max_size=3))),
        inner.map(
            lambda of: _of(
                pa.map_(pa.int32(), of[0]),
                st.dictionaries(st.integers(0, 9), of[1], max_size=3).map(lambda d: [*d.items()]),
            )
        ),
        st.lists(inner, max_size=3).map(struct),
    )


_kinds = st.recursive(st.sampled_from(_LEAVES).map(lambda leaf: _of(*leaf)), _nested, max_leaves=5)


def expected(value: Any, kind: pa.DataType) -> Any:
    """What `to_pylist` gives, with objects for maps."""
    if value is None:
        return None
    if pa.types.is_map(kind):
        return {str(k): expected(v, kind.item_type) for k, v in value}
    if pa.types.is_struct(kind):
        return {field.name: expected(value[field.name], field.type) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [expected(v, kind.value_type) for v in value]
    return value


@given(of=_kinds, data=st.data())
def test_the_values_are_those_of_to_pylist(
    of: tuple[pa.DataType, Any], data: st.DataObject
) -> None:
    kind, made = of
    array = pa.array(data.draw(st.lists(made, max_size=6)), kind)
    start = data.draw(st.integers(0, len(array)))
    # a part of a column, as a batch of a row group is one
    part = array.slice(start, data.draw(st.integers(0, len(array) - start)))
    found = arrow_values.values(part)
    wanted = [expected(value, kind) for value in part.to_pylist()]
    assert repr(found) == repr(wanted), "types too: no number of numpy's"
    table = pa.table(
        {"a": pa.chunked_array([part, array], kind), "b": [1] * (len(part) + len(array))}
    )
    assert [row["a"] for row in arrow_values.rows(table)] == wanted + [
        expected(value, kind) for value in array.to_pylist()
    ]


def test_a_null_list_may_have_elements_that_nobody_sees() -> None:
    offsets, elements = pa.array([0, 2, 3, 4], pa.int32()), pa.array(["a", "b", "c", "d"])
    array = pa.ListArray.from_arrays(offsets, elements, mask=pa.array([False, True, False]))
    for part in (array, array.slice(1)):
        assert arrow_values.values(part) == part.to_pylist()


def test_rows_without_columns() -> None:
    table = pa.table({"a": [1, 2]}).select([])
    assert list(arrow_values.rows(table)) == table.to_pylist()


def test_bytes_that_are_no_text_are_an_error() -> None:
    damaged = pa.StringArray.from_buffers(
        1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")
    )
    with pytest.raises((UnicodeDecodeError, pa.ArrowException)):
        arrow_values.values(damaged)


@pytest.mark.parametrize("nested", [False, True])
def test_two_fields_of_one_name_are_refused(tmp_path: Path, nested: bool) -> None:
    one = pa.array([1])
    table = pa.Table.from_arrays([one, one], names=["a", "a"])
    if nested:
        table = pa.table({"s": pa.StructArray.from_arrays([one, one], names=["a", "a"])})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(EventFileError, match=r"cannot be read: .*two fields have the name 'a'"):
        list(event_files.lines(tmp_path / "a.parquet"))
