"""The logits that a new model begins with: those of the base rates in the first samples.

From 0, a probability of one half, an action that happens once in a hundred costs thousands of
samples until the bias is where it belongs, and every weight that is learned meanwhile has to be
unlearned. The rates follow from the same rows and weights as the loss, by the formulas of
`trainer.losses.objective` for what a policy writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from trainer.features.batch import Targets
from trainer.losses.targets import LossRules

#: Rows from the first on, in the order of the ledger, that the rates are of.
START_ROWS = 10_000
#: What is known of a rate from few rows: half a positive and half a negative more (Krichevsky and
#: Trofimov, The performance of universal encoding, 1981).
_PRIOR = 0.5
_LEAST, _MOST = 1e-6, 0.999


@dataclass
class Counts:
    """Sums of weights, by action: of positives and negatives, and the same for delayed labels."""

    rules: LossRules
    positive: list[float] = field(default_factory=list)
    negative: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    in_time: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for sums in (self.positive, self.negative, self.late, self.in_time):
            sums += [0.0] * len(self.rules.actions)

    def add(self, targets: Targets) -> None:
        """Counts rows."""
        for n in range(len(self.rules.actions)):
            labels, weights = targets.labels[:, n], targets.weights[:, n].astype(np.float64)
            self.positive[n] += float((weights * (labels > 0.5)).sum())
            self.negative[n] += float((weights * (labels <= 0.5)).sum())
            if targets.delayed.shape[1]:
                late = targets.delayed[:, n] > 0.5
                weights = targets.delayed_weights[:, n].astype(np.float64)
                self.late[n] += float((weights * late).sum())
                self.in_time[n] += float((weights * ~late).sum())

    def logits(self) -> tuple[float, ...]:
        """By head: the actions, and after them the probabilities of delay if the loss has them.

        0 for a head that no row says anything of.
        """
        actions, delayed = [], []
        for n in range(len(self.rules.actions)):
            p, d = self._rates(n)
            actions.append(_logit(p))
            delayed.append(_logit(d))
        return (*actions, *(delayed if self.rules.loss in ("es_dfm", "defer") else ()))

    def _rates(self, n: int) -> tuple[float | None, float | None]:
        """The probabilities of an action and of a late one, in traffic that is not sampled."""
        positive = self.positive[n]
        # with log_odds each negative stands for those that sampling left out
        negative = self.negative[n] * math.exp(self.rules.offset)
        if not positive + negative:
            return None, None
        positive, negative = positive + _PRIOR, negative + _PRIOR
        share = positive / (positive + negative)
        late, in_time = self.late[n] + _PRIOR, self.in_time[n] + _PRIOR
        told = self.late[n] + self.in_time[n] > 0
        match self.rules.loss:
            case "fnw":  # a negative of every impression, and a positive of each that acts
                return positive / negative, None
            case "es_dfm":  # the same for what comes late, among rows of all
                d = late / in_time if told else 0.0
                return share * (1.0 + d), d if told else None
            case "defer":  # two rows of each; a late one is positive in the second alone
                d = late / (late + in_time) if told else 0.0
                return share + d / 2.0, d if told else None
            case _:
                return share, None


def starting_logits(rules: LossRules, targets: Iterable[Targets]) -> tuple[float, ...]:
    """By head, from the targets of the first rows."""
    counts = Counts(rules)
    for part in targets:
        counts.add(part)
    return counts.logits()


def _logit(rate: float | None) -> float:
    if rate is None:
        return 0.0
    rate = min(max(rate, _LEAST), _MOST)
    return math.log(rate / (1.0 - rate))
