"""What is known about the delays of one kind: who acted when, and how long each was followed.

An impression is followed for a while after its request; an action beyond that is not seen. So an
impression without an action is *censored*, not negative, and the observed delays are
*right-truncated*. Durations are milliseconds, as float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: The data reach as far as this share of the impressions was followed. Beyond that, the few
#: impressions of the first hours would decide alone.
FOLLOWED_SHARE = 0.2


@dataclass(frozen=True)
class KindObservations:
    """The observations of one kind.

    `delays` (n,): of the first action, for impressions that were seen to act. `follow` (n,): how
    long each of those was followed; `delays <= follow`. `idle_follow`, `idle_weight` (m,): for
    those that were not seen to act, how long they were followed, and for how many impressions each
    stands (1 / sampling rate). `beyond`: impressions that are known to have acted first beyond
    `horizon` (ms), the late horizon.
    """

    kind: str
    window_ms: int
    delays: Floats
    follow: Floats
    idle_follow: Floats
    idle_weight: Floats
    beyond: int = 0
    horizon: float = math.inf

    @property
    def impressions(self) -> float:
        """How many there are, including those that sampling left out."""
        return len(self.delays) + float(self.idle_weight.sum())

    @property
    def reach(self) -> float:
        """The longest follow-up that at least `FOLLOWED_SHARE` of the impressions have, else 0."""
        bounds = np.concatenate([self.follow, self.idle_follow])
        if not len(bounds):
            return 0.0
        weights = np.concatenate([np.ones(len(self.follow)), self.idle_weight])
        order = np.argsort(-bounds)
        enough = np.cumsum(weights[order]) >= FOLLOWED_SHARE * weights.sum()
        return float(bounds[order][np.argmax(enough)])

    def until(self, bound: float) -> KindObservations:
        """The same observations as if no impression had been followed for longer than `bound`."""
        seen = self.delays <= bound
        late = np.full(int((~seen).sum()), bound)
        return replace(
            self,
            delays=self.delays[seen],
            follow=np.minimum(self.follow[seen], bound),
            idle_follow=np.concatenate([np.minimum(self.idle_follow, bound), late]),
            idle_weight=np.concatenate([self.idle_weight, np.ones(len(late))]),
        )


@dataclass(frozen=True)
class Observed:
    """What was read: observations by kind, and until when actions were followed (epoch ms).

    `origin`: where the data come from. `notes`: what a reader should know about them.
    `followed_to_horizon`: the data cannot contain actions beyond the join's late horizon.
    """

    origin: str
    until: int
    kinds: tuple[KindObservations, ...]
    followed_to_horizon: bool
    notes: tuple[str, ...] = ()

    @property
    def until_text(self) -> str:
        """`until` to the minute, in UTC."""
        return datetime.fromtimestamp(self.until / 1000, timezone.utc).strftime(
            "%Y-%m-%d %H:%M UTC"
        )


def observe(
    kind: str, window_ms: int, delays: Floats, follow: Floats, weights: Floats
) -> KindObservations:
    """From one value per impression (N,): the delay (NaN: no action seen), follow-up, and weight.

    Impressions with an action must have weight 1. Those that were not followed at all are left out.
    An action beyond the follow-up counts as not seen, because others like it were not seen.
    """
    followed = follow > 0
    acted = followed & (delays <= follow)
    idle = followed & ~acted
    # all items of a request have one follow-up, so few distinct ones are left
    bounds, where = np.unique(follow[idle], return_inverse=True)
    return KindObservations(
        kind=kind,
        window_ms=window_ms,
        delays=delays[acted],
        follow=follow[acted],
        idle_follow=bounds,
        idle_weight=np.bincount(where, weights[idle], minlength=len(bounds)).astype(np.float64),
    )


def next_showing(shown: npt.NDArray[np.int64], times: Floats) -> Floats:
    """For each impression (N,): when the same thing is shown next; infinity if it is not.

    `shown`: a number for what is shown (user and item). Of several at one time, each but the last
    is followed by the next at once.
    """
    order = np.lexsort((times, shown))
    following = np.full(len(times), np.inf)
    same = shown[order][1:] == shown[order][:-1]
    following[order[:-1][same]] = times[order][1:][same]
    return following
