"""From columns of samples to keys. Whole chunks are encoded at once; batches are slices of them.

A column of a chunk becomes codes, and each code has one key. So a string is hashed once per
distinct value. The distinct keys of a batch are found by marking codes, without hashing again.
(Keys of different slots differ, because the slot is hashed with the value.)
"""

# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from trainer.features.batch import Batch, Floats, Ints, Keys, Targets
from trainer.features.chunk import Beyond, Chunk, Codes, Column, Sliced
from trainer.features.keys import keys_of
from trainer.limits import transformed
from trainer.reading.files import ReadError
from trainer.spec import ModelSpec, Slot

#: How many logarithmic buckets there are for each doubling of 1 + |x|.
_PER_DOUBLING = 4
#: Enough for float64: 1024 doublings.
_LARGEST_LOG = 1025 * _PER_DOUBLING

#: Integers of at most so many values from the least to the greatest are codes as they are. Others
#: are numbered by hashing, which takes longer.
_WIDEST = 4096


class Encoder:
    """Makes batches of tables of samples for a model."""

    def __init__(
        self,
        spec: ModelSpec,
        slice_by: Sequence[str] = (),
        number: Callable[[str, str], int] | None = None,
    ) -> None:
        self.spec = spec
        self.slices = _Slices(slice_by)
        self._number = number or SliceNames().number
        self._slots = [_encoder(slot) for slot in spec.slots]
        self._of_table = [
            [n for n, slot in enumerate(spec.slots) if slot.table == t]
            for t in range(len(spec.tables))
        ]

    @property
    def columns(self) -> list[str]:
        """The columns that it reads of a table, beside `event_time`."""
        named = [slot.column for slot in self.spec.slots if slot.column is not None]
        return list(dict.fromkeys([*named, *self.slices.columns]))

    def chunk(self, table: pa.Table, targets: Targets) -> Chunk:
        """Encode a whole table, which needs `columns` and `event_time`. May run in any thread.

        Raises ReadError.
        """
        columns = [encode(table) for encode in self._slots]
        times = table["event_time"].to_numpy()
        return self.whole(columns, targets, times, self.slices.of(table))

    def whole(
        self, columns: list[Column], targets: Targets, times: npt.NDArray[np.int64], sliced: Sliced
    ) -> Chunk:
        """A chunk of what was encoded, here or by another encoder of the same model."""
        return Chunk(columns, targets, times, sliced, self._number, self._of_table)

    def candidates(self, table: pa.Table) -> Batch:
        """A batch of rows that are to be ranked: they have neither a time nor labels.

        Raises ReadError.
        """
        rows = table.num_rows
        table = table.append_column("event_time", pa.array(np.zeros(rows, np.int64)))
        none = np.zeros((rows, 0), np.float32)
        return self.chunk(table, Targets(none, none, none, none)).batch(0, rows)


# -- slots ---------------------------------------------------------------------------------------


def _encoder(slot: Slot) -> Any:
    if slot.column is None:
        return _Constant(slot)
    kinds = {"category": _Category, "value": _Value, "buckets": _Buckets}
    return kinds[slot.encoding](slot)


def _column(
    codes: Codes, keys: Keys, rows: Ints | None = None, values: Floats | None = None
) -> Column:
    repeats = rows is not None and bool((rows[1:] == rows[:-1]).any())
    return Column(codes, rows, values, keys, repeats)


class _Constant:
    """The bias: one key, in every row."""

    def __init__(self, slot: Slot) -> None:
        self._keys = keys_of(slot.name, [""])

    def __call__(self, table: pa.Table) -> Column:
        return _column(np.zeros(table.num_rows, np.int32), self._keys)


class _Column:
    """A flat column. A list gives several occurrences per row, a null gives none."""

    def __init__(self, slot: Slot) -> None:
        assert slot.column is not None
        self.slot, self.name = slot, slot.column

    def __call__(self, table: pa.Table) -> Column:
        array, rows = _flat(table[self.name])
        return self.encode(array, rows)

    def encode(self, array: pa.Array, rows: Ints | None) -> Column:
        raise NotImplementedError

    def _must_be_finite(self, numbers: npt.NDArray[Any]) -> None:
        if not np.isfinite(numbers).all():
            raise ReadError(
                f"column {self.name!r} has a number that is not finite. The join rejects such"
                " records, so these samples have another origin: write them without it"
            )


class _Category(_Column):
    def encode(self, array: pa.Array, rows: Ints | None) -> Column:
        if pa.types.is_integer(array.type) or pa.types.is_boolean(array.type):
            numbers = _numbers(array)
            lowest, span = _span(numbers)
            if span <= _WIDEST:
                texts = pa.array(np.arange(lowest, lowest + span)).cast(array.type)
                keys = keys_of(self.slot.name, texts.cast(pa.string()))
                return _column((numbers - lowest).astype(np.int32), keys, rows)
        if not pa.types.is_dictionary(array.type):
            array = array.dictionary_encode()
        codes = array.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
        texts = array.dictionary
        if not pa.types.is_string(texts.type):
            texts = texts.cast(pa.string())  # decimal text of integers, "true" and "false"
        return _column(codes, keys_of(self.slot.name, texts), rows)


def _span(numbers: npt.NDArray[Any]) -> tuple[int, int]:
    """The least of integers, and how many there are from it up to the greatest."""
    if not len(numbers):
        return 0, 0
    lowest = int(numbers.min())
    return lowest, int(numbers.max()) - lowest + 1


class _Value(_Column):
    def __init__(self, slot: Slot) -> None:
        super().__init__(slot)
        self._keys = keys_of(slot.name, [""])

    def encode(self, array: pa.Array, rows: Ints | None) -> Column:
        numbers = _numbers(array).astype(np.float64, copy=False)
        self._must_be_finite(numbers)
        slot = self.slot
        values, clipped = transformed(numbers, log1p=slot.log1p, scale=slot.scale, clip=slot.clip)
        column = _column(np.zeros(len(values), np.int32), self._keys, rows, values)
        if clipped.any():
            column.beyond = Beyond(slot.name, clipped, numbers)
        return column


class _Buckets(_Column):
    """One key per interval, named by the ends of the interval.

    So other boundaries give other features.
    """

    def __init__(self, slot: Slot) -> None:
        super().__init__(slot)
        self._edges = np.array(slot.boundaries, np.float64)
        if slot.boundaries:
            ends = ["-inf", *map(repr, slot.boundaries), "inf"]
            names = [f"{low}:{high}" for low, high in pairwise(ends)]
        else:
            names = [f"log{n}" for n in range(-_LARGEST_LOG, _LARGEST_LOG + 1)]
        self._keys = keys_of(slot.name, names)

    def encode(self, array: pa.Array, rows: Ints | None) -> Column:
        numbers = _numbers(array).astype(np.float64, copy=False)
        self._must_be_finite(numbers)
        codes = np.empty(len(numbers), np.int32)
        if self.slot.boundaries:
            codes[:] = np.searchsorted(self._edges, numbers, side="right")
        else:
            _log_codes(numbers, codes)
        return _column(codes, self._keys, rows)


@njit(cache=True, nogil=True)
def _log_codes(numbers, codes):
    for i in range(len(numbers)):
        x = numbers[i]
        size = np.int32(_PER_DOUBLING * np.log2(1.0 + abs(x)))
        codes[i] = _LARGEST_LOG + (size if x > 0 else -size)


def _numbers(array: pa.Array) -> npt.NDArray[Any]:
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _flat(column: pa.ChunkedArray) -> tuple[pa.Array, Ints | None]:
    """The values that are not null, and the row of each (None: one value per row)."""
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(array, pa.ChunkedArray):
        # empty, and of no chunks
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    rows: Any = None
    if pa.types.is_list(array.type):
        # list_parent_indices would count values beneath a null; flatten does not have them
        lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        rows = np.repeat(np.arange(len(array), dtype=np.int32), lengths)
        array = array.flatten()
    if array.null_count:
        there = array.is_valid()
        kept = np.flatnonzero(there.to_numpy(zero_copy_only=False)).astype(np.int32)
        rows = kept if rows is None else rows[kept]
        array = array.filter(there)
    return array, rows


# -- slices of the evaluation ----------------------------------------------------------------------

#: How many distinct values of a column have a slice of their own; the rest is "other".
MOST_SLICES = 32


class SliceNames:
    """Numbers for the values of the columns that the evaluation slices by, in order of appearance.

    A run has one of these, so all workers use the same numbers.
    """

    def __init__(self, names: Mapping[str, list[str]] | None = None) -> None:
        self.names: dict[str, list[str]] = {c: list(n) for c, n in (names or {}).items()}

    def number(self, column: str, text: str) -> int:
        """The number of a value, from 0 on. When there are MOST_SLICES, all new values get that
        number.
        """
        known = self.names.setdefault(column, [])
        if text not in known:
            if len(known) >= MOST_SLICES:
                return MOST_SLICES
            known.append(text)
        return known.index(text)


class _Slices:
    """The texts of the columns that the evaluation slices by."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = list(columns)

    def of(self, table: pa.Table) -> Sliced:
        """Those of all rows."""
        codes = np.full((table.num_rows, len(self.columns)), -1, np.int32)
        texts = []
        for n, name in enumerate(self.columns):
            array, rows = _flat(table[name])
            if not pa.types.is_dictionary(array.type):
                array = array.dictionary_encode()
            indices = array.indices.to_numpy(zero_copy_only=False)
            # a dictionary may have values that do not occur
            used = np.flatnonzero(np.bincount(indices, minlength=len(array.dictionary)))
            place = np.full(len(array.dictionary), -1, np.int32)
            place[used] = np.arange(len(used))
            codes[slice(None) if rows is None else rows, n] = place[indices]
            texts.append(array.dictionary.take(pa.array(used)).cast(pa.string()).to_pylist())
        return Sliced(self.columns, codes, texts)
