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


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _sigmoid(x):
    if x >= 0.0:
        return 1.0 / (1.0 + np.exp(-x))
    e = np.exp(x)
    return e / (1.0 + e)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _fnw(p, label):
    return (1.0 + p) * (1.0 if label > 0.5 else 1.0 - p)


@njit(cache=True, nogil=True, error_model="numpy")
def action_gradient(loss, offset, logit, label, weight, late_logit, late_label, late_weight):
    """The gradient of a row's loss by the logits of one action.

    `loss`: of `NUMBERS`. `label`, `weight`, `late_label`, `late_weight`: the row's in the arrays of
    `Targets`. What begins with `late` is of the head that predicts delay, and is not used where
    the loss has none.

    Returns the gradient by `logit`, that by `late_logit` (0: the loss has none), how much the row
    counts in metrics, and whether all of them are finite. All are numbers, not arrays, because a
    call with arrays counts references, which took longer than the loss.
    """
    positive = label > 0.5
    importance, late = 1.0, 0.0
    finite = True
    if loss == _FNW:
        importance = _fnw(_sigmoid(logit), label)
    elif loss in (_ES_DFM, _DEFER):
        p, q = _sigmoid(logit), _sigmoid(-logit)
        d = _sigmoid(late_logit)
        d_weight = np.float64(late_weight)
        if loss == _ES_DFM:
            importance = (1.0 + d) * (1.0 if positive else 1.0 / (1.0 + d / max(q, _TINY)))
            d_weight *= _fnw(d, late_label)
        elif positive:
            importance = 1.0 / (1.0 - 0.5 * min(d / max(p, _TINY), 1.0))
        else:
            importance = 1.0 / (1.0 + 0.5 * d / max(q, _TINY))
        late = d_weight * (d - (1.0 if late_label > 0.5 else 0.0))
        finite = np.isfinite(late) and np.isfinite(late_logit)
    p = _sigmoid(logit + offset)
    gradient = weight * importance * (p - (1.0 if positive else 0.0))
    counted = weight * importance * (1.0 if positive or offset == 0.0 else np.exp(offset))
    finite &= np.isfinite(logit) and np.isfinite(gradient) and np.isfinite(counted)
    return gradient, late, counted, finite
