"""The share of impressions that have acted by a time, with those that were not followed to the end.

Kaplan & Meier, "Nonparametric estimation from incomplete observations", JASA 1958; the variance is
Greenwood's (1926). Here most impressions never act, so the curve levels off at the share that does
(the cure model's view: Maller & Zhou, "Survival Analysis with Long-Term Survivors", 1996).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.advise_window.observations import Floats, Ints, KindObservations


@dataclass(frozen=True)
class KaplanMeier:
    """A step function. `times` (k,): distinct delays, ascending, ms.

    All (k,), just after each time: `acted`, the share that has acted; `greenwood`, the variance of
    log(1 - acted); and `at_risk`, how many were still followed and had not acted, just before it.
    """

    times: Floats
    events: Ints
    at_risk: Floats
    acted: Floats
    greenwood: Floats

    def at(self, waits: Floats) -> Ints:
        """The index of the last step at or before each wait; -1 before the first."""
        return np.asarray(np.searchsorted(self.times, waits, side="right") - 1, dtype=np.int64)


def kaplan_meier(observations: KindObservations) -> KaplanMeier:
    """The estimate over all impressions; never-actors are censored where their follow-up ends."""
    times, counts = np.unique(observations.delays, return_counts=True)
    exits = np.concatenate([observations.delays, observations.idle_follow])
    weights = np.concatenate([np.ones(len(observations.delays)), observations.idle_weight])
    order = np.argsort(exits)
    gone = np.concatenate([[0.0], np.cumsum(weights[order])])
    at_risk = gone[-1] - gone[np.searchsorted(exits[order], times, side="left")]
    # where all that are left act at once the curve ends at 1, and Greenwood's variance with it
    steps = counts / (at_risk * np.maximum(at_risk - counts, 1.0))
    return KaplanMeier(
        times=times,
        events=counts.astype(np.int64),
        at_risk=at_risk,
        acted=1.0 - np.cumprod(1.0 - counts / at_risk),
        greenwood=np.cumsum(steps),
    )
