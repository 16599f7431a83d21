"""Which rows are counted in slices, where not all of them shall be.

Counting a row by its position and by each of its slots takes several times as long as counting it
once, and a share of the rows tells nearly the same. A row that is counted stands for 1/share rows,
so the expected sums are those of all rows (Horvitz and Thompson, A generalization of sampling
without replacement from a finite universe, JASA 1952). The first rows of each window all count, as
themselves: where rows are few, nothing is estimated.

Rows are chosen by hashing their number. Every n-th row would not do: samples come by request, so
it would favour some positions.
"""

# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit, uint64

from trainer.evaluation import counting
from trainer.table.hashing import mix

#: So many rows of each window count all, in each worker.
EXACT_ROWS = 10_000

Factors = npt.NDArray[np.float64]


class RowSample:
    """The rows that one worker counts in slices. `share`: of the rows, over 0 and up to 1."""

    def __init__(self, share: float, window_ms: int, exact_rows: int = EXACT_ROWS) -> None:
        self._share, self._window_ms, self._exact_rows = share, window_ms, exact_rows
        self._rows = 0
        #: Rows so far of each window, by its start.
        self._seen: dict[int, int] = {}

    def factors(self, times: npt.NDArray[np.int64]) -> Factors | None:
        """For how many rows each of the next ones counts in slices, (rows,): 0, 1 or 1/share.

        None: each counts as itself. `times`: their event times, epoch ms.
        """
        if self._share >= 1:
            return None
        number, starts = counting.windows_of(times, self._window_ms)
        seen = np.array([self._seen.get(start, 0) for start in starts.tolist()], np.int64)
        factors = np.empty(len(times))
        _choose(number, seen, self._exact_rows, self._share, self._rows, factors)
        self._rows += len(times)
        self._seen.update(zip(starts.tolist(), seen.tolist(), strict=True))
        return factors


@njit(cache=True, nogil=True)
def _choose(number, seen, exact_rows, share, first, factors):
    for row in range(len(number)):
        window = number[row]
        if seen[window] < exact_rows:
            factors[row] = 1.0
        else:
            # 53 bits, which a float64 has
            drawn = np.float64(mix(uint64(first + row)) >> uint64(11)) * 2.0**-53
            factors[row] = 1.0 / share if drawn < share else 0.0
        seen[window] += 1
