"""The occurrences of a batch row by row, for learners that see one sample at a time.

One pass over each column does all: it numbers the distinct keys, as `Occurrences` of whole slots
need it, too, and puts every occurrence to its row.
"""

# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from trainer.features.batch import ByRow, Distinct, Floats, Ints, Keys

_NO_ROWS, _NO_VALUES = np.empty(0, np.int32), np.empty(0, np.float32)


@dataclass
class SlotPart:
    """What a batch has of one slot: `codes`, (occurrences,), and `rows` of the batch and `values`,
    as `Column` has them. `keys`, `seen`, `place`, `repeats`: the column's.
    """

    codes: Ints
    rows: Ints | None
    values: Floats | None
    keys: Keys
    seen: npt.NDArray[np.int64]
    place: Ints
    repeats: bool


class Rows:
    """Collects the slots of a batch of `rows` rows. `parts`: all of them, in any order."""

    def __init__(self, rows: int, parts: list[SlotPart]) -> None:
        starts = np.arange(rows + 1, dtype=np.int64) * sum(not part.repeats for part in parts)
        for part in parts:
            if part.repeats:
                starts[1:] += np.cumsum(np.bincount(_rows(part), minlength=rows))
        room = int(starts[-1])
        self.made = ByRow(
            starts[:-1],
            starts[:-1].copy(),
            np.empty(room, np.int32),
            np.empty(room),
            np.empty(room, np.int32),
        )
        self._first = 0

    def add(self, slots: list[int], parts: list[SlotPart], generation: int) -> Distinct:
        """Add the slots of one table; tables come in the order of the spec.

        `slots`: their numbers in the spec. `generation`: differs from that of any earlier batch of
        the chunk.
        """
        total = sum(len(part.codes) for part in parts)
        keys, counts = np.empty(total, np.uint64), np.zeros(total, np.uint32)
        # where the last row that has a key has it; only needed where a row may have it twice
        several = any(part.repeats for part in parts)
        last = np.full(total if several else 0, -1, np.int32)
        there = np.empty(total if several else 0, np.int64)
        made, used = self.made, 0
        for slot, part in zip(slots, parts, strict=True):
            used = _put(
                part.codes,
                _NO_ROWS if part.rows is None else part.rows,
                _NO_VALUES if part.values is None else part.values,
                (part.keys, part.seen, part.place, generation),
                (keys, counts, last, there, self._first),
                (made.ends, made.key, made.value, made.slot),
                used,
                slot,
                part.repeats,
            )
        self._first += used
        return Distinct(keys[:used], counts[:used])


def _rows(part: SlotPart) -> Ints:
    assert part.rows is not None  # else there is one occurrence in each row
    return part.rows


@njit(cache=True, nogil=True)
def _put(codes, rows, values, marks, table, out, used, slot, repeats):
    """Number the codes that occur, starting at `used`, and put each occurrence to its row.

    Returns how many numbers are used then.
    """
    key_of, seen, place, generation = marks
    keys, counts, last, there, first = table
    ends, key, value, slot_of = out
    every_row, ones = len(rows) == 0, len(values) == 0
    for i in range(len(codes)):
        # of numbers without a sign, numba need not ask whether they count from the end
        code = np.uint32(codes[i])
        if seen[code] != generation:
            seen[code] = generation
            place[code] = used
            keys[used] = key_of[code]
            used += 1
        number = np.uint32(place[code])
        row = np.uint32(i if every_row else rows[i])
        x = 1.0 if ones else np.float64(values[i])
        at = np.uint64(ends[row])
        if repeats:
            # a key belongs to one slot, where the occurrences of a row lie side by side
            if last[number] == row:
                value[np.uint64(there[number])] += x
                continue
            last[number], there[number] = row, at
        counts[number] += np.uint32(1)
        key[at], value[at], slot_of[at] = first + number, x, slot
        ends[row] = at + np.uint64(1)
    return used
