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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from trainer.features.batch import Batch, Floats
from trainer.limits import MAX_GRADIENT, MAX_SUM
from trainer.losses.row_gradient import NUMBERS, action_gradient
from trainer.losses.targets import LossKind
from trainer.models.network import embedded_slots
from trainer.spec import AdaGrad, Ftrl, ModelSpec, Segment

#: The optimizers that this can walk with. (Adam's moments forget, so changes of them do not add.)
OPTIMIZERS = (Ftrl, AdaGrad)
_FTRL, _ADAGRAD = 0.0, 1.0


@dataclass
class Walked:
    """What came of a batch.

    `logits`: those of the actions, each before its row was learned, and `counted`, how much each
    row counts in the metrics: float32 (rows, actions). `changes`: for each table, of its keys'
    states, float32 (keys, floats). `dense`: the gradient of the dense vector, summed over the
    batch, (D,); None: the model has none. `refused`: how many rows had no finite prediction or
    gradient.
    """

    logits: Floats
    counted: Floats
    changes: list[Floats]
    dense: Floats | None
    refused: int


class Walker:
    """Walks batches of a logistic regression or factorization machine. Not for several threads."""

    def __init__(self, spec: ModelSpec, loss: LossKind, offset: float) -> None:
        self._heads, self._loss, self._offset = len(spec.heads), NUMBERS[loss], float(offset)
        self._base = np.zeros(self._heads)
        self._base[: len(spec.base)] = spec.base
        self._rates = np.array([_rates(table.segments[0].optimizer) for table in spec.tables])
        self._embedding, self._place = spec.embedding, embedded_slots(spec)
        self._embedding_rates = np.array(
            [_embedding_rate(table.segments[1:]) for table in spec.tables]
        )
        self._counted = [table.admit_after > 1 for table in spec.tables]

    def walk(
        self,
        batch: Batch,
        states: Sequence[Floats],
        known: Sequence[npt.NDArray[np.uint8]],
        dense: Floats | None = None,
    ) -> Walked:
        """`states`, (keys, floats), `known`, (keys,), of each table, and `dense`: see `Pulled`.

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
        heads, width = self._heads, self._embedding
        before = np.concatenate([s[:, : 2 * heads].reshape(len(s), 2, heads) for s in states])
        local = np.empty((len(table), heads, 4))
        _open(table, self._rates, before, local)
        embedded = [s[:, 2 * heads :] for s in states]
        embeddings = np.zeros((len(table), 2, width))
        at = np.cumsum([0, *sizes])
        for n, of in enumerate(embedded):
            if of.shape[1]:
                embeddings[at[n] : at[n + 1]] = of.reshape(len(of), 2, width)
        weights = np.ones((width, heads))
        if dense is not None:
            weights[:] = dense.reshape(width, heads)
        of_weights = np.zeros_like(weights)
        targets = batch.targets
        actions = targets.labels.shape[1]
        logits = np.zeros((batch.rows, actions), np.float32)
        counted = np.zeros((batch.rows, actions), np.float32)
        refused = _walk(
            _by_row(batch, self._place),
            (table, self._rates, self._embedding_rates, learned),
            (local, embeddings),
            (weights, of_weights, len(self._place)),
            (targets.labels, targets.weights, targets.delayed, targets.delayed_weights),
            (self._loss, self._offset, self._base),
            logits,
            counted,
        )
        changes = np.empty_like(before)
        _difference(before, local, changes)
        parts = []
        for n, of in enumerate(embedded):
            here = slice(at[n], at[n + 1])
            moved = changes[here].reshape(len(of), 2 * heads)
            if of.shape[1]:
                more = (embeddings[here].reshape(of.shape) - of).astype(np.float32)
                moved = np.concatenate([moved, more], axis=1)
            parts.append(moved)
        gradient = None
        if dense is not None:
            bounded = np.clip(of_weights, -MAX_GRADIENT, MAX_GRADIENT)
            gradient = bounded.astype(np.float32).reshape(-1)
        return Walked(logits, counted, parts, gradient, int(refused))


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


def _embedding_rate(segments: Sequence[Segment]) -> float:
    """Of a table's embeddings; a negative one: it has none."""
    for segment in segments:
        assert isinstance(segment.optimizer, AdaGrad)
        return float(np.float32(segment.optimizer.rate))
    return -1.0


# -- the rows of a batch ---------------------------------------------------------------------------


def _by_row(batch: Batch, place: Mapping[int, int]) -> tuple[npt.NDArray[Any], ...]:
    """`Batch.by_row` as the kernels take it: starts, ends, keys, values, and the number of the slot
    among those with embeddings (`embedded_slots`; -1: it has none).
    """
    rows = batch.by_row
    assert rows is not None
    slot_of = rows.slot
    if place:
        numbers = np.array([place.get(slot, -1) for slot in range(max(place) + 2)], np.int32)
        # slots after the last that has some are cut to a -1; between rows there may be any number
        slot_of = np.take(numbers, slot_of, mode="clip")
    return rows.starts, rows.ends, rows.key, rows.value, slot_of


# -- steps -----------------------------------------------------------------------------------------

# The local state of a coordinate: FTRL's z or AdaGrad's weight; n; the weight; the root of n. Side
# by side, so that a step meets one cache line.


@njit(cache=True, nogil=True, inline="always")
def _ftrl_weight(z, root, alpha, beta, l1):
    """`beta`: FTRL's, and alpha * l2."""
    size, divisor = abs(z), beta + root
    # always divided: to choose one of two numbers costs less than a branch that is mispredicted
    shrunk = alpha * (l1 - size) / divisor
    signed = shrunk if z > 0 else -shrunk
    return 0.0 if (size <= l1) | (divisor <= 0.0) else signed


@njit(cache=True, nogil=True, error_model="numpy")
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
def _bounded(g):
    return min(max(g, -MAX_GRADIENT), MAX_GRADIENT)


@njit(cache=True, nogil=True, inline="always")
def _ftrl_step(z, n, weight, root, g, alpha, beta, l1):
    """One step of a coordinate, as `trainer.table.optimizers` does it: the new z, n, weight, root.

    `beta`: FTRL's, and alpha * l2.
    """
    n += g * g
    grown = np.sqrt(n)
    z = z + g - (grown - root) / alpha * weight
    return z, n, _ftrl_weight(z, grown, alpha, beta, l1), grown


@njit(cache=True, nogil=True, inline="always")
def _adagrad_step(weight, n, g, rate):
    """The same of AdaGrad: the new weight, n and root."""
    n += g * g
    root = np.sqrt(n)
    return weight - rate * g / root if g != 0.0 else weight, n, root


@njit(cache=True, nogil=True)
def _cut(x):
    return min(max(x, -MAX_SUM), MAX_SUM)


@njit(cache=True, nogil=True)
def _pool(rows, i, embeddings, pooled, total, crossed):
    """Sum the embeddings of a row by slot, and what these make together (`models.network`)."""
    starts, ends, key, value, slot_of = rows
    pooled[:] = 0.0
    total[:] = 0.0
    crossed[:] = 0.0
    for o in range(starts[i], ends[i]):
        if slot_of[o] >= 0:
            for e in range(len(total)):
                pooled[slot_of[o], e] += value[o] * embeddings[key[o], 0, e]
    for e in range(len(total)):
        for n in range(len(pooled)):
            x = _cut(pooled[n, e])
            total[e] += x
            crossed[e] -= 0.5 * x * x
        crossed[e] += 0.5 * total[e] * total[e]


@njit(cache=True, nogil=True)
def _embedding_step(embeddings, k, rate, x, upstream, pooled, total):
    """One step of AdaGrad of a key's embedding; `pooled`: of its slot."""
    for e in range(len(total)):
        if abs(pooled[e]) <= MAX_SUM:
            g = x * upstream[e] * (total[e] - pooled[e])
            g = _bounded(g)
            if g != 0.0:
                embeddings[k, 1, e] += g * g
                embeddings[k, 0, e] -= rate * g / np.sqrt(embeddings[k, 1, e])


@njit(cache=True, nogil=True, error_model="numpy")
def _walk(rows, tables, states, interaction, targets, loss, logits, counted):
    starts, ends, key, value, slot_of = rows
    table, rates, embedding_rates, learned = tables
    local, embeddings = states
    weights, of_weights, slots = interaction
    labels, counts_of, delayed, delayed_weights = targets
    kind, offset, base = loss
    heads, actions, width = len(base), labels.shape[1], len(weights)
    linear, s, r = np.empty(heads), np.empty(heads), np.zeros(heads)
    pooled, total, crossed = np.empty((slots, width)), np.empty(width), np.empty(width)
    of_crossed, counts = np.empty(width), np.empty(actions)
    refused = 0
    for i in range(len(ends)):
        for h in range(heads):
            total_of_head = 0.0
            for o in range(starts[i], ends[i]):
                total_of_head += value[o] * local[key[o], h, 2]
            linear[h], s[h] = total_of_head, _cut(total_of_head) + base[h]
        if slots > 0:
            _pool(rows, i, embeddings, pooled, total, crossed)
            for h in range(heads):
                for e in range(width):
                    s[h] += crossed[e] * weights[e, h]
        finite = True
        for a in range(actions):
            late_logit, late_label, late_weight = 0.0, np.float32(0), np.float32(0)
            if heads > actions:
                late_logit = s[actions + a]
                late_label, late_weight = delayed[i, a], delayed_weights[i, a]
            r[a], late, counts[a], good = action_gradient(
                kind,
                offset,
                s[a],
                labels[i, a],
                counts_of[i, a],
                late_logit,
                late_label,
                late_weight,
            )
            if heads > actions:
                r[actions + a] = late
            finite &= good
        if not finite:
            refused += 1
            for a in range(actions):
                logits[i, a] = base[a]
            continue
        for a in range(actions):
            logits[i, a], counted[i, a] = s[a], counts[a]
        for e in range(width):
            of_crossed[e] = 0.0
            for h in range(heads):
                of_crossed[e] += r[h] * weights[e, h]
                of_weights[e, h] += r[h] * crossed[e]
        for h in range(heads):
            # of a sum that is cut, no weight has a gradient
            if abs(linear[h]) > MAX_SUM:
                continue
            upstream = r[h]
            for o in range(starts[i], ends[i]):
                k = key[o]
                if not learned[k]:
                    continue
                t, g = table[k], _bounded(upstream * value[o])
                first, n = local[k, h, 0], local[k, h, 1]
                weight, root = local[k, h, 2], local[k, h, 3]
                if rates[t, 0] == _FTRL:
                    first, n, weight, root = _ftrl_step(
                        first, n, weight, root, g, rates[t, 1], rates[t, 2], rates[t, 3]
                    )
                else:
                    weight, n, root = _adagrad_step(weight, n, g, rates[t, 1])
                    first = weight
                local[k, h, 0], local[k, h, 1] = first, n
                local[k, h, 2], local[k, h, 3] = weight, root
        if slots > 0:
            for o in range(starts[i], ends[i]):
                k, slot = key[o], slot_of[o]
                if learned[k] and slot >= 0:
                    rate = embedding_rates[table[k]]
                    _embedding_step(embeddings, k, rate, value[o], of_crossed, pooled[slot], total)
    return refused
