"""The losses of `trainer.losses.objective` for one row, in numba: their gradients.

Learning sample by sample needs a gradient after every row, where a call of JAX would cost more than
the row. The formulas are those of `objective`, differentiated by hand: a weighted log loss has the
gradient weight * (p - label), and importance weights are constants.
`tests/trainer/test_steps_by_sample.py` holds the two against each other.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from trainer.losses.targets import LossKind

#: What `row_gradient` knows the losses by.
NUMBERS: Mapping[LossKind, int] = {"plain": 0, "fnw": 1, "es_dfm": 2, "defer": 3}
_FNW, _ES_DFM, _DEFER = NUMBERS["fnw"], NUMBERS["es_dfm"], NUMBERS["defer"]
#: As in `objective`: the least divisor.
_TINY = 1e-30


@njit(cache=True, nogil=True, inline="always")
def _sigmoid(x):
    if x >= 0.0:
        return 1.0 / (1.0 + np.exp(-x))
    e = np.exp(x)
    return e / (1.0 + e)


@njit(cache=True, nogil=True, inline="always")
def _fnw(p, label):
    return (1.0 + p) * (1.0 if label > 0.5 else 1.0 - p)


@njit(cache=True, nogil=True)
def row_gradient(loss, offset, logits, targets, gradient, counted):
    """Fill in `gradient`, of the row's loss by its logits, and how much the row counts in metrics.

    `loss`: of `NUMBERS`. `logits`, `gradient`: float64 (heads,). `targets`: the row's part of each
    array of `Targets`, (actions,) and (actions,) or (0,). `counted`: float64 (actions,). Returns
    whether all of them are finite.
    """
    labels, weights, delayed, delayed_weights = targets
    actions = len(labels)
    finite = True
    for a in range(actions):
        logit, label, weight = logits[a], labels[a], weights[a]
        positive = label > 0.5
        importance = 1.0
        if loss == _FNW:
            importance = _fnw(_sigmoid(logit), label)
        elif loss in (_ES_DFM, _DEFER):
            p, q = _sigmoid(logit), _sigmoid(-logit)
            d, d_label = _sigmoid(logits[actions + a]), delayed[a]
            d_weight = np.float64(delayed_weights[a])
            if loss == _ES_DFM:
                importance = (1.0 + d) * (1.0 if positive else 1.0 / (1.0 + d / max(q, _TINY)))
                d_weight *= _fnw(d, d_label)
            elif positive:
                importance = 1.0 / (1.0 - 0.5 * min(d / max(p, _TINY), 1.0))
            else:
                importance = 1.0 / (1.0 + 0.5 * d / max(q, _TINY))
            gradient[actions + a] = d_weight * (d - (1.0 if d_label > 0.5 else 0.0))
            finite &= np.isfinite(gradient[actions + a]) and np.isfinite(logits[actions + a])
        p = _sigmoid(logit + offset)
        gradient[a] = weight * importance * (p - (1.0 if positive else 0.0))
        counted[a] = weight * importance * (1.0 if positive else np.exp(offset))
        finite &= np.isfinite(logit) and np.isfinite(gradient[a]) and np.isfinite(counted[a])
    return finite
