"""From columns of samples to keys. Whole chunks are encoded at once; batches are slices of them.

A column of a chunk becomes codes, and each code has one key. So a string is hashed once per
distinct value. The distinct keys of a batch are found by marking codes, without hashing again.
(Keys of different slots differ, because the slot is hashed with the value.)
"""

# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from trainer.features.batch import Batch, ByRow, Clipped, Floats, Ints, Keys, Occurrences, Targets
from trainer.features.by_row import Rows, SlotPart
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

Codes = npt.NDArray[np.int32]


@dataclass
class Column:
    """One slot of a chunk: for every occurrence a code, its row and its value.

    `rows` None: there is one occurrence per row, in order. `values` None: all values are 1. `keys`:
    the key of each code. `repeats`: a key may occur more than once in a row.
    """

    codes: Codes
    rows: Ints | None
    values: Floats | None
    keys: Keys
    seen: npt.NDArray[np.int64]
    place: Codes
    repeats: bool
    beyond: _Beyond | None = None


@dataclass
class _Beyond:
    """Which occurrences were `clipped`, and their `numbers` as the samples have them."""

    slot: str
    clipped: npt.NDArray[np.bool_]
    numbers: npt.NDArray[np.float64]

    def between(self, start: int, end: int) -> Clipped | None:
        found = self.numbers[start:end][self.clipped[start:end]]
        if not len(found):
            return None
        return Clipped(self.slot, len(found), float(found[np.argmax(np.abs(found))]))


class Encoder:
    """Makes batches of tables of samples for a model."""

    def __init__(
        self,
        spec: ModelSpec,
        slice_by: Sequence[str] = (),
        number: Callable[[str, str], int] | None = None,
    ) -> None:
        self.spec = spec
        self.slices = _Slices(slice_by, number or SliceNames().number)
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
        slices = partial(self.slices.of, table.select(self.slices.columns))
        return Chunk(columns, targets, times, slices, self._of_table)

    def candidates(self, table: pa.Table) -> Batch:
        """A batch of rows that are to be ranked: they have neither a time nor labels.

        Raises ReadError.
        """
        rows = table.num_rows
        table = table.append_column("event_time", pa.array(np.zeros(rows, np.int64)))
        none = np.zeros((rows, 0), np.float32)
        return self.chunk(table, Targets(none, none, none, none)).batch(0, rows)


class Chunk:
    """Encoded rows, from which batches are cut.

    `slices`: finds the numbers of the slices' values. It is called with the first batch, and not
    before, because a worker asks the coordinator for numbers, by the one thread that may do so.
    """

    def __init__(
        self,
        columns: list[Column],
        targets: Targets,
        times: npt.NDArray[np.int64],
        slices: Callable[[], Ints],
        of_table: list[list[int]],
    ) -> None:
        self.rows = len(times)
        self._columns, self._targets, self._times = columns, targets, times
        self._find_slices, self._of_table = slices, of_table
        self._batches = 0

    @cached_property
    def _slices(self) -> Ints:
        return self._find_slices()

    def batch(self, start: int, rows: int, *, by_row: bool = False) -> Batch:
        """Rows `start` up to `start + rows` of the chunk. `by_row`: see `Batch.by_row`."""
        end = start + rows
        self._batches += 1
        t = self._targets
        targets = Targets(
            t.labels[start:end],
            t.weights[start:end],
            t.delayed[start:end],
            t.delayed_weights[start:end],
        )
        arranged = None
        if by_row:
            tables, arranged = self._rows(start, end)
        else:
            tables = [self._occurrences(slots, start, end) for slots in self._of_table]
        clipped = [
            found
            for column in self._columns
            if column.beyond is not None
            and (found := column.beyond.between(*self._bounds(column, start, end))) is not None
        ]
        times, slices = self._times[start:end], self._slices[start:end]
        return Batch(rows, tables, targets, times, slices, clipped, arranged)

    @staticmethod
    def _bounds(column: Column, start: int, end: int) -> tuple[int, int]:
        """The occurrences of the rows from `start` to `end`."""
        if column.rows is None:
            return start, end
        first, last = np.searchsorted(column.rows, np.array([start, end], np.int32))
        return int(first), int(last)

    def _rows(self, start: int, end: int) -> tuple[list[Any], ByRow]:
        parts = [self._part(column, start, end) for column in self._columns]
        rows = Rows(end - start, parts)
        tables = [
            rows.add(slots, [parts[s] for s in slots], self._batches) for slots in self._of_table
        ]
        return tables, rows.made

    def _part(self, column: Column, start: int, end: int) -> SlotPart:
        at = slice(*self._bounds(column, start, end))
        return SlotPart(
            column.codes[at],
            None if column.rows is None else column.rows[at] - np.int32(start),
            None if column.values is None else column.values[at],
            *(column.keys, column.seen, column.place, column.repeats),
        )

    def _occurrences(self, slots: list[int], start: int, end: int) -> Occurrences:
        bounds = [self._bounds(self._columns[s], start, end) for s in slots]
        starts = np.cumsum([0, *(b - a for a, b in bounds)], dtype=np.int64)
        total = int(starts[-1])
        index, row = np.empty(total, np.int32), np.empty(total, np.int32)
        value = np.empty(total, np.float32)
        keys, counts = np.empty(total, np.uint64), np.zeros(total, np.uint32)
        used = 0
        for n, (s, (a, b)) in enumerate(zip(slots, bounds, strict=True)):
            column, at = self._columns[s], slice(int(starts[n]), int(starts[n + 1]))
            codes = column.codes[a:b]
            marks = (column.keys, column.seen, column.place, self._batches)
            before, used = used, _distinct(codes, *marks, index[at], keys, counts, used)
            if column.rows is None:
                row[at] = np.arange(b - a, dtype=np.int32)
            else:
                row[at] = column.rows[a:b] - start
            if column.repeats:
                _count_rows(index[at], row[at], counts, before, used)
            value[at] = 1.0 if column.values is None else column.values[a:b]
        return Occurrences(keys[:used], counts[:used], index, row, value, tuple(slots), starts)


@njit(cache=True, nogil=True)
def _distinct(codes, key_of, seen, place, generation, index, keys, counts, used):
    """Number the codes that occur, starting at `used`. Returns how many numbers are used then."""
    for i in range(len(codes)):
        code = codes[i]
        if seen[code] != generation:
            seen[code] = generation
            place[code] = used
            keys[used] = key_of[code]
            used += 1
        number = place[code]
        index[i] = number
        counts[number] += np.uint32(1)
    return used


@njit(cache=True, nogil=True)
def _count_rows(index, row, counts, first, end):
    """Count in how many rows each of the keys `first` up to `end` occurs."""
    last = np.full(end - first, -1, np.int32)
    counts[first:end] = np.uint32(0)
    for i in range(len(index)):
        number = index[i]
        if last[number - first] != row[i]:
            last[number - first] = row[i]
            counts[number] += np.uint32(1)


# -- slots ---------------------------------------------------------------------------------------


def _encoder(slot: Slot) -> Any:
    if slot.column is None:
        return _Constant(slot)
    kinds = {"category": _Category, "value": _Value, "buckets": _Buckets}
    return kinds[slot.encoding](slot)


def _column(
    codes: Codes, keys: Keys, rows: Ints | None = None, values: Floats | None = None
) -> Column:
    marks = np.zeros(len(keys), np.int64), np.empty(len(keys), np.int32)
    repeats = rows is not None and bool((rows[1:] == rows[:-1]).any())
    return Column(codes, rows, values, keys, *marks, repeats)


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
            column.beyond = _Beyond(slot.name, clipped, numbers)
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
    """Small integers for the values of columns; -1 is a missing value."""

    def __init__(self, columns: Sequence[str], number: Callable[[str, str], int]) -> None:
        self.columns = list(columns)
        self._number = number

    def of(self, table: pa.Table) -> Ints:
        """The numbers of all rows, (rows, columns)."""
        out = np.full((table.num_rows, len(self.columns)), -1, np.int32)
        for n, name in enumerate(self.columns):
            array, rows = _flat(table[name])
            if not pa.types.is_dictionary(array.type):
                array = array.dictionary_encode()
            codes = array.indices.to_numpy(zero_copy_only=False)
            # a dictionary may have values that do not occur
            used = np.flatnonzero(np.bincount(codes, minlength=len(array.dictionary)))
            texts = array.dictionary.take(pa.array(used)).cast(pa.string()).to_pylist()
            numbers = np.full(len(array.dictionary), -1, np.int32)
            numbers[used] = [self._number(name, text) for text in texts]
            out[slice(None) if rows is None else rows, n] = numbers[codes]
        return out
