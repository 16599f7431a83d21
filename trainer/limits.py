"""Bounds that keep every number of a model finite in float32.

The join accepts any finite number. Squared in an optimizer, a value of 1e25 is beyond float32, and
one infinity makes every weight it meets a NaN. So there are three bounds, each far above what a
useful model has:

* `MAX_VALUE`: of a number that a slot uses as its value (`slots.<name>.clip` sets a lower one).
  What is beyond it is clipped, and counted in the metrics.
* `MAX_SUM`: of each sum that a network gets from the sparse layer. Interactions square it, and
  multiply it by the weights of the dense layers.
* `MAX_GRADIENT`: of each coordinate of a gradient. Its square is 1e24, so an accumulator of squares
  stays finite for 1e14 steps.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MAX_VALUE = 1e6
MAX_SUM = 1e9
MAX_GRADIENT = 1e12
#: The smallest share of rows that can be kept: the join decides by a hash of 64 bits.
MIN_SAMPLING_RATE = 2.0**-64

Doubles = npt.NDArray[np.float64]


def transformed(
    numbers: Doubles, *, log1p: bool, scale: float, clip: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """What a slot makes of finite numbers: values, and which of them were clipped.

    In this order: sign(x) log(1 + |x|) if `log1p`; times `scale`; cut to [-clip, clip]. A bound of
    at most `MAX_VALUE` keeps the result finite in float32. Both arrays have the shape of `numbers`.
    """
    with np.errstate(over="ignore"):
        values = np.sign(numbers) * np.log1p(np.abs(numbers)) if log1p else numbers
        values = values * scale
    clipped = np.abs(values) > clip
    return np.clip(values, -clip, clip).astype(np.float32), clipped
