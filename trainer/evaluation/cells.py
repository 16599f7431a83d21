"""Sums per window, action and cell. Only cells that were touched take memory, and bytes in
messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from trainer.evaluation.counting import SUMS

Ints = npt.NDArray[np.int32]
Indices = npt.NDArray[np.int64]

# tried from the smallest; the first that holds all values exactly is taken
_EXACT = ("<u1", "<u2", "<u4", "<f4", "<f8")


class PackedArray(msgspec.Struct, frozen=True, array_like=True):
    """A one-dimensional array in the smallest type that holds its values exactly."""

    dtype: str
    data: bytes


class PackedCells(msgspec.Struct, frozen=True, array_like=True):
    """`Cells`, packed, one cell after the other.

    `starts`: of the windows. For each touched cell: the `number` of its window, its flat index
    (`cell`), its `sums` column by column, and how many entries of its histogram are not 0
    (`filled`). Those entries are at `bins`, and have `values`.
    """

    starts: tuple[int, ...]
    number: PackedArray
    cell: PackedArray
    sums: tuple[PackedArray, ...]
    filled: PackedArray
    bins: PackedArray
    values: PackedArray


class Cells:
    """Sums, and histograms of `bins` for negatives and positives, per (window, action, cell).

    `places[start]`, (actions, cells): the row of `sums` and `histogram` of each cell in the window
    that begins at `start`, or -1. The first `used` rows are in use.
    """

    def __init__(self, actions: int, cells: int, bins: int) -> None:
        self.shape = (actions, cells)
        self.bins = bins
        self.used = 0
        self.places: dict[int, Ints] = {}
        self.sums = np.zeros((0, SUMS))
        self.histogram = np.zeros((0, 2, bins))

    def stacked(self, starts: Sequence[int]) -> Ints:
        """A copy of the places of these windows: (windows, actions, cells)."""
        stacked = np.full((len(starts), *self.shape), -1, np.int32)
        for number, start in enumerate(starts):
            known = self.places.get(start)
            if known is not None:
                stacked[number] = known
        return stacked

    def keep(self, starts: Sequence[int], stacked: Ints, used: int) -> None:
        """Take over places that were claimed in a copy, and make room for them."""
        for number, start in enumerate(starts):
            if (stacked[number] >= 0).any():
                self.places[start] = stacked[number]
        self.used = used
        self.make_room(used)

    def make_room(self, rows: int) -> None:
        """Have at least so many rows of `sums` and `histogram`; new ones are 0."""
        if rows > len(self.sums):
            room = max(rows, 2 * len(self.sums))
            self.sums = _grown(self.sums, room)
            self.histogram = _grown(self.histogram, room)

    def claim(self, starts: Sequence[int], number: Indices, cell: Indices) -> Indices:
        """The rows of distinct cells, given by the number of the window and the flat index."""
        stacked = self.stacked(starts)
        flat = stacked.reshape(len(starts), self.shape[0] * self.shape[1])
        new = np.flatnonzero(flat[number, cell] < 0)
        flat[number[new], cell[new]] = self.used + np.arange(len(new))
        self.keep(starts, stacked, self.used + len(new))
        return flat[number, cell].astype(np.int64)

    def touched(self) -> tuple[list[int], Indices, Indices, Indices]:
        """All cells that have rows, ordered by window and cell.

        Returns the starts of the windows, and for each cell the number of its window, its flat
        index, and its row of the sums.
        """
        starts = sorted(self.places)
        flat = self.stacked(starts).reshape(len(starts), self.shape[0] * self.shape[1])
        number, cell = np.nonzero(flat >= 0)
        return starts, number, cell, flat[number, cell].astype(np.int64)

    def add(self, other: Cells) -> None:
        """Add the sums of another, which has the same shape."""
        starts, number, cell, its = other.touched()
        mine = self.claim(starts, number, cell)
        self.sums[mine] += other.sums[its]
        self.histogram[mine] += other.histogram[its]

    def as_one_window(self) -> Cells:
        """All windows merged into one, which begins at 0."""
        one = Cells(*self.shape, self.bins)
        starts, number, cell, its = self.touched()
        for window in range(len(starts)):
            here = number == window
            mine = one.claim([0], number[here] * 0, cell[here])
            one.sums[mine] += self.sums[its[here]]
            one.histogram[mine] += self.histogram[its[here]]
        return one

    def packed(self) -> PackedCells:
        """What was touched, to be sent or stored."""
        starts, number, cell, row = self.touched()
        flat = self.histogram[row].reshape(len(row), 2 * self.bins)
        filled = flat != 0
        bins = np.tile(np.arange(2 * self.bins, dtype=np.uint16), (len(row), 1))[filled]
        sums = self.sums[row]
        return PackedCells(
            starts=tuple(starts),
            number=_pack(number),
            cell=_pack(cell),
            sums=tuple(_pack(sums[:, column]) for column in range(SUMS)),
            filled=_pack(filled.sum(axis=1)),
            bins=_pack(bins),
            values=_pack(flat[filled]),
        )

    def add_packed(self, packed: PackedCells) -> None:
        """Add what `packed` returned."""
        mine = self.claim(
            packed.starts,
            _unpack(packed.number).astype(np.int64),
            _unpack(packed.cell).astype(np.int64),
        )
        for column, values in enumerate(packed.sums):
            self.sums[mine, column] += _unpack(values)
        rows = np.repeat(mine, _unpack(packed.filled).astype(np.int64))
        flat = self.histogram.reshape(len(self.histogram), 2 * self.bins)
        flat[rows, _unpack(packed.bins).astype(np.int64)] += _unpack(packed.values)


def _grown(array: npt.NDArray[np.float64], room: int) -> npt.NDArray[np.float64]:
    grown = np.zeros((room, *array.shape[1:]))
    grown[: len(array)] = array
    return grown


def _pack(values: npt.NDArray[Any]) -> PackedArray:
    for dtype in _EXACT:
        with np.errstate(invalid="ignore", over="ignore"):
            small = values.astype(dtype)
        if dtype == _EXACT[-1] or np.array_equal(small.astype(values.dtype), values):
            break
    return PackedArray(dtype, small.tobytes())


def _unpack(packed: PackedArray) -> npt.NDArray[Any]:
    return np.frombuffer(packed.data, packed.dtype)
