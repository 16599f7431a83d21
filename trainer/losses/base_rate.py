"""The logits that a new model starts with: those of the base rates in the first samples.

A model that starts at 0, a probability of one half, needs thousands of samples to learn the bias of
an action that happens once in a hundred. Every weight that it learns meanwhile is wrong and must be
unlearned. The rates come from the same rows and weights as the loss, by the formulas of
`trainer.losses.objective` for the rows that a policy writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from trainer.features.batch import Targets
from trainer.losses.targets import LossRules

#: How many rows the rates are computed from: the first ones in the order of the ledger.
START_ROWS = 10_000
#: Added to both counts, so that few rows give no extreme rate (Krichevsky and Trofimov,
#: The performance of universal encoding, 1981).
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
        """Add the rows of some targets."""
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
        """One logit per head: the actions, then the probabilities of delay if the loss has them.

        A head about which no row says anything gets 0.
        """
        actions, delayed = [], []
        for n in range(len(self.rules.actions)):
            p, d = self._rates(n)
            actions.append(_logit(p))
            delayed.append(_logit(d))
        return (*actions, *(delayed if self.rules.loss in ("es_dfm", "defer") else ()))

    def _rates(self, n: int) -> tuple[float | None, float | None]:
        """The probabilities of an action and of a late action, in traffic that is not sampled."""
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
    """One logit per head, from the targets of the first rows."""
    counts = Counts(rules)
    for part in targets:
        counts.add(part)
    return counts.logits()


def _logit(rate: float | None) -> float:
    if rate is None:
        return 0.0
    rate = min(max(rate, _LEAST), _MOST)
    return math.log(rate / (1.0 - rate))
