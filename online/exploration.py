"""From scores to a ranking that is sometimes another one, and how likely it was.

Whoever learns from what users did with a ranking, or asks what another ranking would have done,
needs the propensity: the probability with which an item got its place (Horvitz, Thompson 1952; of
logged rankings: Swaminathan, Joachims, ICML 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Order = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ranked:
    """`order`: numbers of the items, the first one first, (items,). `propensity`: of each place.

    `explored`: whether chance has decided this ranking (with softmax it always has a part in it).
    """

    order: Order
    propensity: Floats
    explored: bool


class Exploration(Protocol):
    """How a service explores."""

    def rank(self, scores: Floats, rng: np.random.Generator) -> Ranked:
        """`scores`: (items,), finite. Of equal scores the first one goes first, but for chance."""


@dataclass(frozen=True)
class Greedy:
    """By score, always. Every propensity is 1."""

    def rank(self, scores: Floats, rng: np.random.Generator) -> Ranked:
        """See `Exploration`."""
        return Ranked(_by_score(scores), np.ones(len(scores)), False)


@dataclass(frozen=True)
class EpsilonGreedy:
    """With probability `epsilon` a ranking that is drawn from all, else the one by score.

    Of n items, each is at its place by score with probability 1 - epsilon + epsilon / n, and at any
    other place with epsilon / n.
    """

    epsilon: float

    def rank(self, scores: Floats, rng: np.random.Generator) -> Ranked:
        """See `Exploration`."""
        best = _by_score(scores)
        explored = bool(rng.random() < self.epsilon)
        order = rng.permutation(len(scores)) if explored else best
        by_chance = self.epsilon / max(len(scores), 1)
        propensity = by_chance + (1 - self.epsilon) * (order == best)
        return Ranked(order, propensity, explored)


@dataclass(frozen=True)
class Softmax:
    """Places are drawn from the first to the last: of the items left, each with a probability in
    proportion to exp(score / `temperature`) (Plackett, Luce).

    That is the order of score / temperature plus Gumbel noise (Yellott 1977). The propensity of a
    place is that of its draw: given the items before it.
    """

    temperature: float

    def rank(self, scores: Floats, rng: np.random.Generator) -> Ranked:
        """See `Exploration`."""
        logits = scores / self.temperature
        order = _by_score(logits + rng.gumbel(size=len(logits)))
        placed = logits[order]
        # log of the sum over this place and those after it
        rest = np.logaddexp.accumulate(placed[::-1])[::-1]
        return Ranked(order, np.exp(placed - rest), True)


def _by_score(scores: Floats) -> Order:
    order: Order = np.argsort(-scores, kind="stable")
    return order
