"""Encoded rows of a file: codes by slot and the keys of codes, from which batches are cut."""

# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from trainer.features.batch import Batch, ByRow, Clipped, Floats, Ints, Keys, Occurrences, Targets
from trainer.features.by_row import Rows, SlotPart

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
    repeats: bool
    beyond: Beyond | None = None

    def __post_init__(self) -> None:
        #: Of each code, the batch that had it last, and its number there: room for the kernels.
        self.seen = np.zeros(len(self.keys), np.int64)
        self.place = np.empty(len(self.keys), np.int32)


@dataclass
class Beyond:
    """Of a slot, which occurrences were `clipped`, and their `numbers` as the samples have them."""

    slot: str
    clipped: npt.NDArray[np.bool_]
    numbers: npt.NDArray[np.float64]

    def between(self, start: int, end: int) -> Clipped | None:
        """Those of the occurrences from `start` up to `end`; None: there are none."""
        found = self.numbers[start:end][self.clipped[start:end]]
        if not len(found):
            return None
        return Clipped(self.slot, len(found), float(found[np.argmax(np.abs(found))]))


@dataclass
class Sliced:
    """The values of the `columns` that the evaluation slices by: `codes`, int32 (rows, columns),
    which count in `texts` of the column; -1 is a missing value.
    """

    columns: list[str]
    codes: Ints
    texts: list[list[str]]

    def numbered(self, number: Callable[[str, str], int]) -> Ints:
        """The numbers of all rows, (rows, columns); -1 is a missing value."""
        out = np.empty_like(self.codes)
        for n, (name, texts) in enumerate(zip(self.columns, self.texts, strict=True)):
            # the code -1 counts from the end
            numbers = np.array([*(number(name, text) for text in texts), -1], np.int32)
            out[:, n] = numbers[self.codes[:, n]]
        return out


class Chunk:
    """Encoded rows, from which batches are cut.

    `number`: see `SliceNames.number`. It is called with the first batch, and not before, because a
    worker asks the coordinator for numbers, by the one thread that may do so.
    """

    def __init__(
        self,
        columns: list[Column],
        targets: Targets,
        times: npt.NDArray[np.int64],
        sliced: Sliced,
        number: Callable[[str, str], int],
        of_table: list[list[int]],
    ) -> None:
        self.rows = len(times)
        self.columns, self.targets, self.times, self.sliced = columns, targets, times, sliced
        self._number, self._of_table = number, of_table
        self._batches = 0

    @cached_property
    def _slices(self) -> Ints:
        return self.sliced.numbered(self._number)

    def batch(self, start: int, rows: int, *, by_row: bool = False) -> Batch:
        """Rows `start` up to `start + rows` of the chunk. `by_row`: see `Batch.by_row`."""
        end = start + rows
        self._batches += 1
        t = self.targets
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
            for column in self.columns
            if column.beyond is not None
            and (found := column.beyond.between(*self._bounds(column, start, end))) is not None
        ]
        times, slices = self.times[start:end], self._slices[start:end]
        return Batch(rows, tables, targets, times, slices, clipped, arranged)

    @staticmethod
    def _bounds(column: Column, start: int, end: int) -> tuple[int, int]:
        """The occurrences of the rows from `start` to `end`."""
        if column.rows is None:
            return start, end
        first, last = np.searchsorted(column.rows, np.array([start, end], np.int32))
        return int(first), int(last)

    def _rows(self, start: int, end: int) -> tuple[list[Any], ByRow]:
        parts = [self._part(column, start, end) for column in self.columns]
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
        bounds = [self._bounds(self.columns[s], start, end) for s in slots]
        starts = np.cumsum([0, *(b - a for a, b in bounds)], dtype=np.int64)
        total = int(starts[-1])
        index, row = np.empty(total, np.int32), np.empty(total, np.int32)
        value = np.empty(total, np.float32)
        keys, counts = np.empty(total, np.uint64), np.zeros(total, np.uint32)
        used = 0
        for n, (s, (a, b)) in enumerate(zip(slots, bounds, strict=True)):
            column, at = self.columns[s], slice(int(starts[n]), int(starts[n + 1]))
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
