"""From sums to metrics: log loss, normalized entropy, calibration, AUC."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import numpy.typing as npt

from trainer.evaluation.counting import LABEL, LOSS, PREDICTION, ROWS, WEIGHT

Doubles = npt.NDArray[np.float64]


class Measures(msgspec.Struct, frozen=True):
    """The metrics of some rows, each weighted.

    `rows`: how many. `weight`: the sum of their weights. `ctr`: the mean label. `prediction`: the
    mean prediction. `log_loss`: its mean in nats, exact. `normalized_entropy`: the log loss divided
    by the entropy of `ctr` (He et al., Practical lessons from predicting clicks on ads at Facebook,
    ADKDD 2014, section 2.1). Always predicting `ctr` gives 1; less is better. `calibration`: the
    sum of the predictions divided by the sum of the labels (ibid.). `auc`: from the histogram; two
    rows in one bin count one half.

    None means not defined: there is only one class or, for the AUC, no histogram.
    """

    rows: int
    weight: float
    ctr: float
    prediction: float
    log_loss: float
    normalized_entropy: float | None
    calibration: float | None
    auc: float | None


def measures(sums: Doubles, histogram: Doubles) -> Iterator[Measures]:
    """The metrics of each row of `sums` (keys, SUMS) and `histogram` (keys, 2, bins)."""
    weight, positive = sums[:, WEIGHT], sums[:, LABEL]
    with np.errstate(divide="ignore", invalid="ignore"):
        ctr = positive / weight
        log_loss = sums[:, LOSS] / weight
        entropy = -(ctr * np.log(ctr) + (1 - ctr) * np.log1p(-ctr))
        columns = (
            ctr,
            sums[:, PREDICTION] / weight,
            log_loss,
            log_loss / entropy,
            sums[:, PREDICTION] / positive,
            auc(histogram),
        )
    for row, key in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        optional = (value if np.isfinite(value) else None for value in key[3:])
        yield Measures(int(sums[row, ROWS]), float(weight[row]), *key[:3], *optional)


def auc(histogram: Doubles) -> Doubles:
    """The area under the ROC curve of each histogram (keys, 2, bins), by the trapezoid rule.

    That is the probability that a positive has a higher logit than a negative; it counts one half
    if both are in the same bin. NaN where one class is missing, or there are no bins.
    """
    negative, positive = histogram[:, 0], histogram[:, 1]
    below = np.cumsum(negative, axis=1) - negative / 2
    with np.errstate(invalid="ignore"):
        area: Doubles = (positive * below).sum(axis=1) / (
            positive.sum(axis=1) * negative.sum(axis=1)
        )
    return area
