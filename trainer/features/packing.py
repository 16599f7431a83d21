"""A chunk as one piece of memory, which other processes can map instead of encoding it again.

First the length of the header, uint64; then the header, in msgpack; then the arrays as they lie in
memory, each at a multiple of 64 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from trainer.features.batch import Targets
from trainer.features.chunk import Beyond, Chunk, Column, Sliced
from trainer.features.encode import Encoder

_Array = npt.NDArray[Any]
_LENGTH = 8
_ALIGNED = 64
_TARGETS = ("labels", "weights", "delayed", "delayed_weights")


class _Place(msgspec.Struct, frozen=True, array_like=True):
    """Of an array: `at`: bytes from the end of the header, rounded up. `writeable`: as numpy says;
    numba compiles for each of both.
    """

    dtype: str
    shape: tuple[int, ...]
    at: int
    writeable: bool


class _Header(msgspec.Struct, frozen=True, array_like=True):
    """`mark`: of `packed`. `repeats`: of each column. `texts`: of the slices."""

    mark: str
    repeats: list[bool]
    slots_beyond: list[str | None]
    texts: list[list[str]]
    slices: list[str]
    arrays: list[_Place | None]


def packed(chunk: Chunk, mark: str) -> Iterator[Any]:
    """The pieces of memory that a chunk is made of, one after the other. `mark`: says which it is.

    They are the arrays themselves where possible.
    """
    arrays: list[Any] = [None if a is None else np.ascontiguousarray(a) for a in _arrays(chunk)]
    places: list[_Place | None] = []
    at = 0
    for array in arrays:
        if array is None:
            places.append(None)
            continue
        places.append(_Place(array.dtype.str, array.shape, at, array.flags.writeable))
        at = _rounded(at + array.nbytes)
    columns, sliced = chunk.columns, chunk.sliced
    header = msgspec.msgpack.encode(
        _Header(
            mark,
            [column.repeats for column in columns],
            [None if column.beyond is None else column.beyond.slot for column in columns],
            sliced.texts,
            sliced.columns,
            places,
        )
    )
    yield from _filled(len(header).to_bytes(_LENGTH, "little") + header)
    for array in arrays:
        # memoryview cannot cast what is empty
        if array is not None and array.size:
            yield from _filled(memoryview(array).cast("B"))


def unpacked(memory: Any, mark: str, encoder: Encoder) -> Chunk:
    """The chunk in a buffer, whose arrays are views of it.

    `encoder`: of the same model as the one that has encoded it. Raises ValueError if the buffer has
    another mark, or is no chunk.
    """
    length = int.from_bytes(memory[:_LENGTH], "little")
    if not 0 < length <= len(memory) - _LENGTH:
        raise ValueError("no packed chunk")
    try:
        header = msgspec.msgpack.decode(memory[_LENGTH : _LENGTH + length], type=_Header)
    except msgspec.MsgspecError:
        raise ValueError("no packed chunk") from None
    if header.mark != mark:
        raise ValueError(f"the chunk {header.mark}, not {mark}")
    begin = _rounded(_LENGTH + length)
    arrays: Iterator[Any] = (
        None if place is None else _view(memory, begin, place) for place in header.arrays
    )
    columns = []
    for repeats, slot in zip(header.repeats, header.slots_beyond, strict=True):
        codes, rows, values, keys, clipped, numbers = (next(arrays) for _ in range(6))
        beyond = None if slot is None else Beyond(slot, clipped, numbers)
        columns.append(Column(codes, rows, values, keys, repeats, beyond))
    targets = Targets(*(next(arrays) for _ in _TARGETS))
    times = next(arrays)
    return encoder.whole(columns, targets, times, Sliced(header.slices, next(arrays), header.texts))


def _arrays(chunk: Chunk) -> Iterator[_Array | None]:
    for column in chunk.columns:
        yield from (column.codes, column.rows, column.values, column.keys)
        beyond = column.beyond
        yield from (None, None) if beyond is None else (beyond.clipped, beyond.numbers)
    yield from (getattr(chunk.targets, name) for name in _TARGETS)
    yield from (chunk.times, chunk.sliced.codes)


def _view(memory: Any, begin: int, place: _Place) -> _Array:
    count = int(np.prod(place.shape))
    # numpy takes no empty part of a buffer at its end
    flat: _Array = (
        np.frombuffer(memory, place.dtype, count, begin + place.at)
        if count
        else np.empty(0, place.dtype)
    )
    view = flat.reshape(place.shape)
    view.flags.writeable = view.flags.writeable and place.writeable
    return view


def _filled(piece: Any) -> Iterator[Any]:
    yield piece
    yield bytes(_rounded(len(piece)) - len(piece))


def _rounded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
