"""Java reads and writes msgpack as Python does, and finds pickled bytes, without a job."""

from __future__ import annotations

import pickle
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.flink import compiled

pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode
#: The sizes at which msgpack, or a pickle, has another head.
EDGES = [0, 1, 15, 16, 31, 32, 127, 128, 255, 256, 65_535, 65_536]


@cache
def java(method: str) -> Any:
    """A method of `Again`."""
    sources = [compiled.source(name) for name in ("Packed", "Packing", "Pickled")]
    return compiled.static("Again", method, sources)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), texts, st.binary(max_size=40)
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=20), st.dictionaries(texts, inner, max_size=20)
    ),
    max_leaves=30,
)


@given(value=values)
@settings(max_examples=examples(200), deadline=None)
def test_java_reads_and_writes_what_python_does(value: Any) -> None:
    assert unpack(bytes(java("packed")(pack(value)))) == value


@pytest.mark.parametrize("size", EDGES)
def test_every_head_is_read_and_written(size: int) -> None:
    numbers = [size, -size, size - 1, -size - 1, 2**32 - 1 + size, 2**63 - 1 - size, -(2**63)]
    short = min(size, 256)
    for value in (
        b"x" * size,
        "ä" * size,
        numbers,
        [None] * size,
        {str(i): i for i in range(short)},
    ):
        assert unpack(bytes(java("packed")(pack(value)))) == value


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("size", EDGES[1:])
def test_bytes_are_found_whether_they_are_pickled_or_not(size: int, protocol: int) -> None:
    stored = pack([1, "x" * size])
    assert bytes(java("unpickled")(pickle.dumps(stored, protocol))) == stored
    assert bytes(java("unpickled")(stored)) == stored
