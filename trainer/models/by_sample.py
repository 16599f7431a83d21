"""Learning sample by sample: a batch is walked row by row on a local copy of its keys' states.

Each row is predicted with what the rows before it have made of the states, then it makes one step
of each of its keys. So the steps are those of an optimizer that sees one sample at a time, whatever
the size of the batch. What the batch has changed is the difference of the states, which the
parameters take as a sum (`Table.change`).

The copy is float64: a step may be far less than the last digit of a float32 state, and a batch of
them is not.
"""

# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from trainer.features.batch import Batch, Floats
from trainer.limits import MAX_GRADIENT, MAX_SUM
from trainer.losses.row_gradient import NUMBERS, row_gradient
from trainer.losses.targets import LossKind
from trainer.spec import AdaGrad, Ftrl, ModelSpec

#: The optimizers that this can walk with. (Adam's moments forget, so changes of them do not add.)
OPTIMIZERS = (Ftrl, AdaGrad)
_FTRL, _ADAGRAD = 0.0, 1.0


@dataclass
class Walked:
    """What came of a batch.

    `logits`: those of the actions, each before its row was learned, and `counted`, how much each
    row counts in the metrics: float32 (rows, actions). `changes`: for each table, of its keys'
    states, float32 (keys, floats). `refused`: how many rows had no finite prediction or gradient.
    """

    logits: Floats
    counted: Floats
    changes: list[Floats]
    refused: int


class Walker:
    """Walks batches of a logistic regression. Not for several threads."""

    def __init__(self, spec: ModelSpec, loss: LossKind, offset: float) -> None:
        self._heads, self._loss, self._offset = len(spec.heads), NUMBERS[loss], float(offset)
        self._base = np.zeros(self._heads)
        self._base[: len(spec.base)] = spec.base
        self._rates = np.array([_rates(table.segments[0].optimizer) for table in spec.tables])
        self._counted = [table.admit_after > 1 for table in spec.tables]

    def walk(
        self, batch: Batch, states: Sequence[Floats], known: Sequence[npt.NDArray[np.uint8]]
    ) -> Walked:
        """`states`, (keys, floats), and `known`, (keys,): of each table, as `Pulled` has them.

        A key that has no row, and gets none by its first push, is not learned.
        """
        sizes = [len(s) for s in states]
        table = np.repeat(np.arange(len(sizes)), sizes)
        learned = np.concatenate(
            [
                k == 1 if c else np.ones(len(k), bool)
                for k, c in zip(known, self._counted, strict=True)
            ]
        )
        before = np.concatenate([s.reshape(len(s), 2, self._heads) for s in states])
        local = np.empty((len(table), self._heads, 4))
        _open(table, self._rates, before, local)
        targets = batch.targets
        actions = targets.labels.shape[1]
        logits = np.zeros((batch.rows, actions), np.float32)
        counted = np.zeros((batch.rows, actions), np.float32)
        refused = _walk(
            _by_row(batch),
            (table, self._rates, learned),
            local,
            (targets.labels, targets.weights, targets.delayed, targets.delayed_weights),
            (self._loss, self._offset, self._base),
            logits,
            counted,
        )
        changes = np.empty_like(before)
        _difference(before, local, changes)
        parts = np.split(changes.reshape(len(table), -1), np.cumsum(sizes)[:-1])
        return Walked(logits, counted, parts, int(refused))


def _rates(optimizer: object) -> tuple[float, ...]:
    """A row for `_step`: the kind, and alpha, beta + alpha * l2, l1 of FTRL, or AdaGrad's rate.

    In the float32 of the tables, so that both compute with the same rates.
    """
    if isinstance(optimizer, Ftrl):
        o = optimizer
        alpha, beta, l1, l2 = (float(np.float32(x)) for x in (o.alpha, o.beta, o.l1, o.l2))
        return (_FTRL, alpha, beta + alpha * l2, l1)
    assert isinstance(optimizer, AdaGrad)
    return (_ADAGRAD, float(np.float32(optimizer.rate)), 0.0, 0.0)


# -- the rows of a batch ---------------------------------------------------------------------------


def _by_row(batch: Batch) -> tuple[npt.NDArray[np.int64], ...]:
    """The occurrences of all tables, row by row: where each row starts and ends, keys, values.

    Keys are numbered table after table. One that a row has twice is there once, with the sum of its
    values: its gradient is that of the sum.
    """
    starts = np.zeros(batch.rows + 1, np.int64)
    for bag in batch.tables:
        starts[1:] += np.bincount(bag.row, minlength=batch.rows)
    starts = np.cumsum(starts)
    key, value = np.empty(starts[-1], np.int32), np.empty(starts[-1])
    ends, first = starts[:-1].copy(), 0
    for bag in batch.tables:
        _fill(bag.index, bag.row, bag.value, len(bag.keys), first, ends, key, value)
        first += len(bag.keys)
    return starts, ends, key, value


@njit(cache=True, nogil=True)
def _fill(index, row, x, keys, first, ends, key, value):
    last, place = np.full(keys, -1, np.int32), np.empty(keys, np.int64)
    for i in range(len(index)):
        k, r = index[i], row[i]
        # a key belongs to one slot, where the occurrences of a row lie side by side
        if last[k] == r:
            value[place[k]] += x[i]
        else:
            last[k], place[k] = r, ends[r]
            key[ends[r]], value[ends[r]] = first + k, x[i]
            ends[r] += 1


# -- steps -----------------------------------------------------------------------------------------

# The local state of a coordinate: FTRL's z or AdaGrad's weight; n; the weight; the root of n. Side
# by side, so that a step meets one cache line.


@njit(cache=True, nogil=True, inline="always")
def _ftrl_weight(z, root, alpha, beta, l1):
    """`beta`: FTRL's, and alpha * l2."""
    size, divisor = abs(z), beta + root
    if size <= l1 or divisor <= 0.0:
        return 0.0
    shrunk = alpha * (l1 - size) / divisor
    return shrunk if z > 0 else -shrunk


@njit(cache=True, nogil=True)
def _open(table, rates, before, local):
    for k in range(len(table)):
        t = table[k]
        for h in range(local.shape[1]):
            first, n = np.float64(before[k, 0, h]), np.float64(before[k, 1, h])
            root = np.sqrt(n)
            weight = first
            if rates[t, 0] == _FTRL:
                weight = _ftrl_weight(first, root, rates[t, 1], rates[t, 2], rates[t, 3])
            local[k, h, 0], local[k, h, 1], local[k, h, 2], local[k, h, 3] = first, n, weight, root


@njit(cache=True, nogil=True)
def _difference(before, local, changes):
    for k in range(len(local)):
        for h in range(local.shape[1]):
            for n in range(2):
                changes[k, n, h] = local[k, h, n] - before[k, n, h]


@njit(cache=True, nogil=True, inline="always")
def _step(rates, t, local, k, h, g):
    """One step of a coordinate, as `trainer.table.optimizers` does it."""
    g = min(max(g, -MAX_GRADIENT), MAX_GRADIENT)
    n = local[k, h, 1] + g * g
    root = np.sqrt(n)
    alpha = rates[t, 1]
    if rates[t, 0] == _FTRL:
        z = local[k, h, 0] + g - (root - local[k, h, 3]) / alpha * local[k, h, 2]
        local[k, h, 0] = z
        local[k, h, 2] = _ftrl_weight(z, root, alpha, rates[t, 2], rates[t, 3])
    elif g != 0.0:
        weight = local[k, h, 0] - alpha * g / root
        local[k, h, 0] = local[k, h, 2] = weight
    local[k, h, 1], local[k, h, 3] = n, root


@njit(cache=True, nogil=True)
def _walk(rows, tables, local, targets, loss, logits, counted):
    starts, ends, key, value = rows
    table, rates, learned = tables
    labels, weights, delayed, delayed_weights = targets
    kind, offset, base = loss
    heads, actions = len(base), labels.shape[1]
    linear, s, r = np.empty(heads), np.empty(heads), np.zeros(heads)
    counts = np.empty(actions)
    refused = 0
    for i in range(len(ends)):
        linear[:] = 0.0
        for o in range(starts[i], ends[i]):
            for h in range(heads):
                linear[h] += value[o] * local[key[o], h, 2]
        for h in range(heads):
            s[h] = min(max(linear[h], -MAX_SUM), MAX_SUM) + base[h]
        of_row = (labels[i], weights[i], delayed[i], delayed_weights[i])
        if not row_gradient(kind, offset, s, of_row, r, counts):
            refused += 1
            for a in range(actions):
                logits[i, a] = base[a]
            continue
        for a in range(actions):
            logits[i, a], counted[i, a] = s[a], counts[a]
        for h in range(heads):
            # of a sum that is cut, no weight has a gradient
            r[h] = 0.0 if abs(linear[h]) > MAX_SUM else r[h]
        for o in range(starts[i], ends[i]):
            k = key[o]
            if learned[k]:
                for h in range(heads):
                    _step(rates, table[k], local, k, h, r[h] * value[o])
    return refused
