"""How many delays lie beyond the reach of the data, without a family of distributions.

The reach t is cut into octaves: (t/2, t], (t/4, t/2], and so on. Let the last octave have a share
`g` of the actions that came within the reach, and each octave at most `r` times the actions of the
one before. Then at most g (r + r^2 + ...) = g r / (1 - r) come beyond the reach.

One assumption makes past octaves a bound for later ones: as a function of log delay the density is
log-concave from the compared octave on. Then the masses of equal steps of log delay are log-concave
too (An, "Logconcavity versus logconvexity", Journal of Economic Theory 1998), so their ratio never
grows again. This holds for log-normal, Weibull, gamma, log-logistic and Pareto delays. It does not
hold where a second wave of actions starts beyond the reach; nothing in the reach shows such a wave.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tools.advise_window.observations import Floats
from tools.advise_window.survival import KaplanMeier

#: The octave that the last one is compared with has at least this many actions.
MIN_COMPARED = 30
#: Doublings of the delay that are looked at.
OCTAVES = 20
#: The lengths of the octaves that are tried, as factors: whole ones and halves.
STEPS = (2.0, math.sqrt(2.0))


@dataclass(frozen=True)
class Remainder:
    """What comes beyond `reach` (ms), as a multiple of what came within it.

    `step`: the factor between the ends of an octave. `beyond`: the estimate, with `ratio` the
    factor from octave to octave. `most`, `most_ratio`:
    their upper confidence limits; `most` is infinite where the octaves do not get rarer.
    """

    reach: float
    step: float
    beyond: float
    ratio: float
    most: float
    most_ratio: float

    @property
    def bounded(self) -> bool:
        """Whether the data say at most how many actions are still to come."""
        return bool(np.isfinite(self.most))

    def complete(self, waits: Floats) -> Floats:
        """Completeness at waits (n,) at or beyond the reach: the estimate."""
        return _complete(self._steps(waits), self.beyond, self.ratio)

    def complete_at_least(self, waits: Floats) -> Floats:
        """Completeness at waits (n,) at or beyond the reach: the lower confidence limit."""
        if not self.bounded:
            return np.zeros(len(waits))
        return _complete(self._steps(waits), self.most, self.most_ratio)

    def _steps(self, waits: Floats) -> Floats:
        return np.asarray(np.log(waits / self.reach) / math.log(self.step), dtype=np.float64)


def remainder(km: KaplanMeier, reach: float, confidence: float) -> Remainder:
    """From the curve up to the reach (ms > 0); `confidence` of a two-sided interval."""
    # long steps are sure with few actions; short ones are nearer to the reach, so their ratio
    # is nearer to that beyond it
    found = [_by_steps(km, reach, step, (1 + confidence) / 2) for step in STEPS]
    return min(found, key=lambda one: one.most)


def _by_steps(km: KaplanMeier, reach: float, step: float, level: float) -> Remainder:
    """With octaves whose ends are a factor `step` apart; `level` is that of an upper limit."""
    ends = reach / step ** np.arange(math.ceil(OCTAVES * math.log(2) / math.log(step)) + 1)
    at = km.at(ends) + 1
    counts = -np.diff(np.concatenate([[0], np.cumsum(km.events)])[at])
    masses = -np.diff(np.concatenate([[0.0], km.acted])[at]) / km.acted[-1]
    last, g = int(counts[0]), float(masses[0])
    enough = np.flatnonzero((counts[1:] >= MIN_COMPARED) & (masses[1:] > g)) + 1
    if not len(enough):
        return Remainder(reach, step, math.inf, 1.0, math.inf, 1.0)
    k = int(enough[0])
    # an action late in the reach stands for several, where few were followed so far
    each, each_compared = 1 / float(km.events.sum()), float(masses[k] / counts[k])
    if last:
        each = g / last
    # given the sum of two Poisson counts the first is binomial; the limit is Clopper and Pearson's
    share = float(stats.beta.ppf(level, last + 1, counts[k]))
    most_ratio = (share / (1 - share) * each / each_compared) ** (1 / k)
    most_last = each * float(stats.chi2.ppf(level, 2 * (last + 1))) / 2
    ratio = float((g / masses[k]) ** (1 / k))
    return Remainder(
        reach=reach,
        step=step,
        beyond=g * ratio / (1 - ratio),
        ratio=ratio,
        most=most_last * most_ratio / (1 - most_ratio) if most_ratio < 1 else math.inf,
        most_ratio=most_ratio,
    )


def _complete(steps: Floats, beyond: float, ratio: float) -> Floats:
    left = beyond * ratio ** np.maximum(steps, 0.0)
    return np.asarray((1 + beyond - left) / (1 + beyond), dtype=np.float64)
