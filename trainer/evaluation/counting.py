"""The counting loops, compiled, because they run per row, action and slice.

Places: each row has the number of its window among the batch's `windows`. `places` (windows,
actions, cells) has the row of the sums for each cell, or -1 where the cell has none yet. Cell 0 has
all rows. After it, each slice column has a cell for missing values, `cap` cells for named values,
and one for all others.

Factors: for how many rows each row counts outside of cell 0 (`trainer.evaluation.sampling`),
float64 (rows,), or (0,) where each counts as itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

#: The histogram of the logits has BINS bins of equal width from -LIMIT to LIMIT. Values beyond are
#: counted in the outermost bins. If the standard deviation of the logits is 0.3 or more, the AUC of
#: the histogram is within 0.002 of the exact one. If it is less, the AUC is a little too near 0.5.
BINS = 512
LIMIT = 15.0

#: The columns of the sums.
WEIGHT, ROWS, LABEL, PREDICTION, LOSS = range(5)
SUMS = 5

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _compiled(function: _Function) -> _Function:
    compiled: _Function = numba.njit(cache=True, nogil=True)(function)
    return compiled


@_compiled
def windows_of(times: Any, window_ms: int) -> tuple[Any, Any]:
    """The number of each row's window, int32 (rows,), and the starts of the windows, int64."""
    rows = len(times)
    number = np.empty(rows, np.int32)
    starts = np.empty(rows, np.int64)
    used = 0
    last = 0
    for row in range(rows):
        time = times[row]
        # the next row is nearly always of the same window, and a division takes long
        if used == 0 or not starts[last] <= time < starts[last] + window_ms:
            start = time - time % window_ms
            # a batch has few windows: mostly one or two
            last = used
            for known in range(used):
                if starts[known] == start:
                    last = known
                    break
            if last == used:
                starts[used] = start
                used += 1
        number[row] = last
    return number, starts[:used].copy()


@_compiled
def first_fault(logits: Any, labels: Any, weights: Any) -> int:
    """The flat index of the first value that cannot be counted, or -1."""
    rows, actions = logits.shape
    for row in range(rows):
        for action in range(actions):
            weight = weights[row, action]
            if weight == 0.0:
                continue
            label = labels[row, action]
            good = weight > 0.0 and math.isfinite(weight) and label >= 0.0 and label <= 1.0
            if not (good and math.isfinite(logits[row, action])):
                return int(row * actions + action)
    return -1


@_compiled
def _cell(column: int, value: int, cap: int) -> int:
    inside = 0 if value < 0 else 1 + min(value, cap)
    return 1 + column * (cap + 2) + inside


@_compiled
def claim(
    weights: Any, number: Any, slices: Any, factors: Any, cap: int, places: Any, used: int
) -> int:
    """Give a row to each touched cell that has none. Returns how many rows are in use then."""
    rows, columns = slices.shape
    given = len(factors) > 0
    for row in range(rows):
        window = number[row]
        for action in range(weights.shape[1]):
            if weights[row, action] == 0.0:
                continue
            if places[window, action, 0] < 0:
                places[window, action, 0] = used
                used += 1
            if given and factors[row] == 0.0:
                continue
            for column in range(columns):
                cell = _cell(column, slices[row, column], cap)
                if places[window, action, cell] < 0:
                    places[window, action, cell] = used
                    used += 1
    return used


@_compiled
def _prediction_and_loss(logit: float, label: float) -> tuple[float, float]:
    """The sigmoid, and -label log p - (1 - label) log(1 - p), without overflow or cancellation."""
    small = math.exp(-abs(logit))
    prediction = 1.0 / (1.0 + small) if logit >= 0.0 else small / (1.0 + small)
    return prediction, (max(logit, 0.0) - logit * label) + math.log1p(small)


@_compiled
def predictions_and_losses(logits: Any, labels: Any, weights: Any) -> Any:
    """Of each row and action with a weight: float64 (rows, actions, 2)."""
    rows, actions = logits.shape
    found = np.empty((rows, actions, 2))
    for row in range(rows):
        for action in range(actions):
            if weights[row, action] != 0.0:
                found[row, action, 0], found[row, action, 1] = _prediction_and_loss(
                    float(logits[row, action]), float(labels[row, action])
                )
    return found


@_compiled
def count(
    logits: Any,
    labels: Any,
    weights: Any,
    predicted: Any,
    number: Any,
    slices: Any,
    factors: Any,
    cap: int,
    places: Any,
    sums: Any,
    histogram: Any,
) -> None:
    """Count the rows in `sums` (places, SUMS) and `histogram` (places, 2, BINS).

    `predicted`: of `predictions_and_losses`.
    """
    rows, columns = slices.shape
    given = len(factors) > 0
    more = np.empty(SUMS)
    for row in range(rows):
        window = number[row]
        for action in range(weights.shape[1]):
            weight = float(weights[row, action])
            if weight == 0.0:
                continue
            logit = float(logits[row, action])
            label = float(labels[row, action])
            more[WEIGHT], more[ROWS], more[LABEL] = weight, 1.0, weight * label
            more[PREDICTION] = weight * predicted[row, action, 0]
            more[LOSS] = weight * predicted[row, action, 1]
            scaled = (logit + LIMIT) * (BINS / (2.0 * LIMIT))
            binned = int(min(max(scaled, 0.0), BINS - 1.0))
            factor = 1.0
            for column in range(-1, columns):
                cell = 0 if column < 0 else _cell(column, slices[row, column], cap)
                at = places[window, action, cell]
                # by indices: a row of `sums` as an array of its own would be counted as a reference
                for n in range(SUMS):
                    sums[at, n] += more[n] * factor
                histogram[at, 0, binned] += weight * (1.0 - label) * factor
                histogram[at, 1, binned] += weight * label * factor
                # cell 0 was the first
                factor = factors[row] if given else 1.0
                if factor == 0.0:
                    break


@_compiled
def count_slots(
    labels: Any,
    weights: Any,
    predicted: Any,
    number: Any,
    present: Any,
    unseen: Any,
    factors: Any,
    places: Any,
    sums: Any,
    used: int,
) -> int:
    """As `count`, for the cells of the slots, which have no histogram: present and unseen for each.

    Gives a row to each touched cell that has none; `sums` must have room for them. Returns how many
    rows are in use then.
    """
    rows, slots = present.shape
    given = len(factors) > 0
    more = np.empty(SUMS)
    for row in range(rows):
        factor = factors[row] if given else 1.0
        if factor == 0.0:
            continue
        window = number[row]
        for action in range(weights.shape[1]):
            weight = float(weights[row, action])
            if weight == 0.0:
                continue
            label = float(labels[row, action])
            more[WEIGHT], more[ROWS], more[LABEL] = weight, 1.0, weight * label
            more[PREDICTION] = weight * predicted[row, action, 0]
            more[LOSS] = weight * predicted[row, action, 1]
            for slot in range(slots):
                if not present[row, slot]:
                    continue
                for cell in range(2 * slot, 2 * slot + 1 + (unseen[row, slot] != 0)):
                    at = places[window, action, cell]
                    if at < 0:
                        at = used
                        places[window, action, cell] = at
                        used += 1
                    for n in range(SUMS):
                        sums[at, n] += more[n] * factor
    return used
