"""What `trainer.models.by_sample` does with each row of a batch, compiled.

The arguments that many of these share:

* `rows`: of `by_sample._by_row`.
* `local`: float64 (keys, heads, 4), the state of each coordinate: FTRL's z or AdaGrad's weight; n;
  the weight; the root of n. Side by side, so that a step meets one cache line.
* `tables`: the table of each key, int16 (keys,), or `UNLEARNED`; and the rates of each table.
* `machine`: of `Walker._machine_of`; None without a factorization machine. numba then compiles
  without its branches, and a row takes half as long: arrays that might be used are counted in every
  row.
* `targets`: the arrays of `Targets`. `loss`: its number, the offset, the heads' constants.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import njit

from trainer.limits import MAX_GRADIENT, MAX_SUM
from trainer.losses.row_gradient import action_gradient

#: What a row of rates begins with: of which optimizer they are.
FTRL, ADAGRAD = 0.0, 1.0
#: In the place of a key's table.
UNLEARNED = -1
# Python's model of errors would test each divisor, to raise; a row takes half as long without.
# Where a divisor can be 0, what comes of it is not used.
_compiled = njit(cache=True, nogil=True, error_model="numpy")
_inlined = njit(cache=True, nogil=True, error_model="numpy", inline="always")


@_inlined
def _ftrl_weight(z, root, alpha, beta, l1):
    """`beta`: FTRL's, and alpha * l2."""
    size, divisor = abs(z), beta + root
    # always divided: to choose one of two numbers costs less than a branch that is mispredicted
    shrunk = alpha * (l1 - size) / divisor
    signed = shrunk if z > 0 else -shrunk
    return 0.0 if (size <= l1) | (divisor <= 0.0) else signed


@_compiled
def open_states(table, rates, before, local):
    """Fill in `local` from float32 states, (keys, 2, heads); `table`: of each key."""
    for k in range(len(table)):
        t = table[k]
        for h in range(local.shape[1]):
            first, n = np.float64(before[k, 0, h]), np.float64(before[k, 1, h])
            root = np.sqrt(n)
            weight = first
            if rates[t, 0] == FTRL:
                weight = _ftrl_weight(first, root, rates[t, 1], rates[t, 2], rates[t, 3])
            local[k, h, 0], local[k, h, 1], local[k, h, 2], local[k, h, 3] = first, n, weight, root


@_compiled
def difference(before, local, changes):
    """Fill in what `local` differs by from the states before, float32 (keys, 2, heads)."""
    for k in range(len(local)):
        for h in range(local.shape[1]):
            for n in range(2):
                changes[k, n, h] = local[k, h, n] - before[k, n, h]


@_inlined
def _bounded(g):
    return min(max(g, -MAX_GRADIENT), MAX_GRADIENT)


@_inlined
def _ftrl_step(z, n, weight, root, g, alpha, beta, l1):
    """One step of a coordinate, as `trainer.table.optimizers` does it: the new z, n, weight, root.

    `beta`: FTRL's, and alpha * l2.
    """
    n += g * g
    grown = np.sqrt(n)
    z = z + g - (grown - root) / alpha * weight
    return z, n, _ftrl_weight(z, grown, alpha, beta, l1), grown


@_inlined
def _adagrad_step(weight, n, g, rate):
    """The same of AdaGrad: the new weight, n and root."""
    n += g * g
    root = np.sqrt(n)
    return weight - rate * g / root if g != 0.0 else weight, n, root


@_compiled
def _cut(x):
    return min(max(x, -MAX_SUM), MAX_SUM)


@_compiled
def _pool(rows, i, machine):
    """Sum the embeddings of a row by slot, and what these make together (`models.network`)."""
    starts, ends, key, value, slot_of = rows
    embeddings, _, _, _, pooled, total, crossed, _ = machine
    pooled[:] = 0.0
    total[:] = 0.0
    crossed[:] = 0.0
    for o in range(np.uint64(starts[i]), np.uint64(ends[i])):
        k, slot = np.uint32(key[o]), slot_of[o]
        if slot >= 0:
            for e in range(len(total)):
                pooled[slot, e] += value[o] * embeddings[k, 0, e]
    for e in range(len(total)):
        for n in range(len(pooled)):
            x = _cut(pooled[n, e])
            total[e] += x
            crossed[e] -= 0.5 * x * x
        crossed[e] += 0.5 * total[e] * total[e]


@_compiled
def _turn_back(machine, r):
    """The gradients of a row's interactions and their weights; `r`: of its logits."""
    _, _, weights, of_weights, _, _, crossed, upstream = machine
    for e in range(len(upstream)):
        upstream[e] = 0.0
        for h in range(len(r)):
            upstream[e] += r[h] * weights[e, h]
            of_weights[e, h] += r[h] * crossed[e]


@_compiled
def _embedding_steps(rows, tables, i, machine):
    """One step of AdaGrad of the embeddings of a row's keys."""
    starts, ends, key, value, slot_of = rows
    table = tables[0]
    embeddings, rates, _, _, pooled, total, _, upstream = machine
    for o in range(np.uint64(starts[i]), np.uint64(ends[i])):
        k, slot = np.uint32(key[o]), slot_of[o]
        if table[k] < 0 or slot < 0:
            continue
        rate, x = rates[table[k]], value[o]
        for e in range(len(total)):
            of_slot = pooled[slot, e]
            g = _bounded(x * upstream[e] * (total[e] - of_slot))
            # chosen, and not branched on: the branch is mispredicted more than it spares
            g = g if abs(of_slot) <= MAX_SUM else 0.0
            n = embeddings[k, 1, e] + g * g
            step = rate * g / np.sqrt(n)
            embeddings[k, 1, e] = n
            embeddings[k, 0, e] -= step if g != 0.0 else 0.0


@_compiled
def _add_interactions(rows, i, machine, s):
    _pool(rows, i, machine)
    weights, crossed = machine[2], machine[6]
    for h in range(len(s)):
        for e in range(len(crossed)):
            s[h] += crossed[e] * weights[e, h]


@_compiled
def walk(rows, tables, local, machine, targets, loss, good, told, learn):
    """Go through all rows that are `good`: predict each, and with `learn` make a step of its keys.

    One without finite numbers is not good any more, and makes no step. Without `learn`, `told` gets
    logits and how much each row counts. What each row needs is written out here, without functions
    over arrays: to hand arrays over counts references, which took longer than the loss of a row.
    """
    starts, ends, key, value, _ = rows
    table, rates = tables
    labels, weights, delayed, delayed_weights = targets
    kind, offset, base = loss
    logits, counted = told
    heads, actions = len(base), labels.shape[1]
    has_late = heads > actions
    linear, s, r = np.empty(heads), np.empty(heads), np.empty(heads)
    for i in range(len(good)):
        if not good[i]:
            continue
        # of numbers without a sign, numba need not ask whether they count from the end
        first, end = np.uint64(starts[i]), np.uint64(ends[i])
        for h in range(heads):
            total = 0.0
            for o in range(first, end):
                total += value[o] * local[np.uint32(key[o]), h, 2]
            linear[h], s[h] = total, _cut(total) + base[h]
        if machine is not None:
            _add_interactions(rows, i, machine, s)
        finite = True
        for a in range(actions):
            late_logit, late_label, late_weight = 0.0, np.float32(0), np.float32(0)
            if has_late:
                late_logit = s[actions + a]
                late_label, late_weight = delayed[i, a], delayed_weights[i, a]
            r[a], late, counts, good_one = action_gradient(
                kind,
                offset,
                s[a],
                labels[i, a],
                weights[i, a],
                late_logit,
                late_label,
                late_weight,
            )
            if has_late:
                r[actions + a] = late
            finite &= good_one
            if not learn:
                logits[i, a], counted[i, a] = s[a], counts
        good[i] = finite
        if not learn or not finite:
            continue
        for h in range(heads):
            # of a sum that is cut, no weight has a gradient
            if abs(linear[h]) > MAX_SUM:
                continue
            for o in range(first, end):
                k = np.uint32(key[o])
                t = table[k]
                if t < 0:
                    continue
                g = _bounded(r[h] * value[o])
                z, n = local[k, h, 0], local[k, h, 1]
                weight, root = local[k, h, 2], local[k, h, 3]
                if rates[t, 0] == FTRL:
                    z, n, weight, root = _ftrl_step(
                        z, n, weight, root, g, rates[t, 1], rates[t, 2], rates[t, 3]
                    )
                else:
                    weight, n, root = _adagrad_step(weight, n, g, rates[t, 1])
                    z = weight
                local[k, h, 0], local[k, h, 1] = z, n
                local[k, h, 2], local[k, h, 3] = weight, root
        if machine is not None:
            _turn_back(machine, r)
            _embedding_steps(rows, tables, i, machine)
