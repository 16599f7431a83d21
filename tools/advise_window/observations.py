"""What is known of the delays of one kind of action: who acted when, and who was watched how far.

An impression is followed for a while after its request; an action beyond that is not seen. So an
impression without an action is *censored*, not negative, and the delays that are seen are
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

#: The data are taken to reach as far as this share of the impressions was followed. Beyond, the few
#: impressions of the first hours would speak for all.
FOLLOWED_SHARE = 0.2


@dataclass(frozen=True)
class KindObservations:
    """Of one kind.

    `delays` (n,): of the first action, for impressions that were seen to act; `follow` (n,): how
    far each of those was followed, `delays <= follow`. `idle_follow`, `idle_weight` (m,): of those
    that were not seen to act, for how many impressions each stands (1 / sampling rate). `beyond`:
    impressions that are known to have acted first beyond `horizon` (ms), the late horizon.
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
        """How many there are, also those that sampling left out."""
        return len(self.delays) + float(self.idle_weight.sum())

    @property
    def reach(self) -> float:
        """The longest follow-up that at least `FOLLOWED_SHARE` of the impressions have; 0: none."""
        bounds = np.concatenate([self.follow, self.idle_follow])
        if not len(bounds):
            return 0.0
        weights = np.concatenate([np.ones(len(self.follow)), self.idle_weight])
        order = np.argsort(-bounds)
        enough = np.cumsum(weights[order]) >= FOLLOWED_SHARE * weights.sum()
        return float(bounds[order][np.argmax(enough)])

    def until(self, bound: float) -> KindObservations:
        """As if nobody had been followed for longer than `bound`."""
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
    """What was read: by kind, and until when the actions were followed (epoch ms).

    `origin` says where from, `notes` what a reader should know of it. `followed_to_horizon`: no
    action beyond the join's late horizon can be in there.
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
    """From one value an impression (N,): the delay (NaN: no action seen), follow-up, and weight.

    Impressions with an action must have weight 1. Those that were not followed at all are left out,
    and an action beyond the follow-up counts as not seen: others like it were not.
    """
    followed = follow > 0
    acted = followed & (delays <= follow)
    idle = followed & ~acted
    # the bounds of a request's items are one number: few are left
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
    """For each impression (N,) when the same thing is shown next; infinity where it is not.

    `shown` says what is the same (the user and the item, as a number). Of several at one time all
    but the last wait for nothing: the next is at once.
    """
    order = np.lexsort((times, shown))
    following = np.full(len(times), np.inf)
    same = shown[order][1:] == shown[order][:-1]
    following[order[:-1][same]] = times[order][1:][same]
    return following
