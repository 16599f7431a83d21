"""By what the sum of several workers' changes of one state is divided.

Workers that begin with the same state each move it to where their own samples want it. Where all of
them had samples of a key, the sum of their moves goes too far by as many times as there are
workers. Where one of them had nearly all of the samples, the sum is right, and an average would
lose most of what that one has learned. So the divisor is the effective number of workers,

    (sum of d)^2 / sum of d^2,

where d says how much each has learned: what its samples have added to n, the sum of the squares of
the gradients, which FTRL and AdaGrad both keep. For one worker this is 1, for W with equal shares
it is W, and it is between them otherwise (Kish's effective sample size, Survey Sampling, 1965).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer.spec import TableSpec

Doubles = npt.NDArray[np.float64]


def effective(sums: Doubles, squares: Doubles) -> Doubles:
    """The effective number from sums and sums of squares of the same shape; 1 where all are 0."""
    number = np.divide(sums * sums, squares, out=np.ones(sums.shape), where=squares > 0)
    return np.maximum(number, 1.0)


def divisors(table: TableSpec, sums: Doubles, squares: Doubles) -> Doubles:
    """The divisor of each number of the states of a table's keys, (keys, floats).

    `sums`, `squares`: of the changes of all workers, (keys, floats). A segment has its values (z of
    FTRL) and then as many n. A value and its n are of the same steps, so n decides for both.
    """
    out = np.ones(sums.shape)
    first = 0
    for segment in table.segments:
        values, of_n = (slice(first + at, first + at + segment.width) for at in (0, segment.width))
        out[:, values] = out[:, of_n] = effective(sums[:, of_n], squares[:, of_n])
        first += segment.floats
    return out
