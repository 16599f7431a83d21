"""What the rankings were worth by the truth: clicks, regret, and how soon news were ranked well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from examples.closed_loop.events import Request
from examples.closed_loop.world import DAY, HOUR, World

Flags = npt.NDArray[np.bool_]

#: Ages at which new items are looked at, in hours: the upper ends.
AGES = (1, 2, 4, 8, 16, 24, 72)
#: A new item is ranked well when it is among the first as often as old ones are, times this.
WELL = 0.95
#: A new interest is ranked well when three hours get this share of the best ranking's clicks.
WELL_SERVED = 0.8
#: How many hours before the new interest are looked at.
BEFORE_H = 12
#: Positions that count as high, and how many of the truth's best should be there.
_HIGH, _BEST = 5, 3


@dataclass
class Referee:
    """Of one arm. `clicks`, `best`: expected clicks of each request, shown and by the truth.

    `hits`: by age of an item that is one of the best three: how many there were, and how many of
    them were among the first five shown.
    """

    times: list[int] = field(default_factory=list)
    clicks: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    touched: list[bool] = field(default_factory=list)
    there: list[int] = field(default_factory=lambda: [0] * (len(AGES) + 1))
    hits: list[int] = field(default_factory=lambda: [0] * (len(AGES) + 1))

    def sees(self, world: World, request: Request, ranking: Sequence[str]) -> None:
        """A ranking that is about to be shown."""
        best = world.best(request)
        self.times.append(request.time)
        self.clicks.append(world.expected_clicks(request, ranking))
        self.best.append(world.expected_clicks(request, best))
        self.touched.append(int(str(request.context["segment"])[2:]) in world.new_interest[1])
        if request.time < world.settings.begin + DAY:
            return
        ages = {c.item_id: float(c.features["age_hours"]) for c in request.candidates}
        high = set(ranking[:_HIGH])
        for item in best[:_BEST]:
            at = int(np.searchsorted(AGES, ages[item], side="right"))
            self.there[at] += 1
            self.hits[at] += item in high

    def ctr(self, views: float, since: int, until: int | None = None) -> float:
        """Clicks an item that is seen, of the requests from a time on. `views`: items a request."""
        chosen = self._between(since, until)
        return float(np.mean(np.array(self.clicks)[chosen]) / views)

    def regret(self, since: int, until: int | None = None) -> float:
        """The share of the best ranking's clicks that is lost."""
        return self._lost(self._between(since, until))

    def new_interest(self, at: int) -> tuple[list[float], list[float]]:
        """Of those with the new interest, clicks and best clicks of each hour, (hours,).

        The first hour is `BEFORE_H` before it began.
        """
        times, touched = np.array(self.times), np.array(self.touched)
        hours = (times - at) // HOUR + BEFORE_H
        chosen = touched & (hours >= 0)
        width = int(hours.max()) + 1
        sums = (
            np.bincount(hours[chosen], np.array(values)[chosen], width)
            for values in (self.clicks, self.best)
        )
        clicks, best = (of.tolist() for of in sums)
        return clicks, best

    def new_interest_lost(self, at: int, hours: int = 24) -> float:
        """The regret of those with the new interest in the hours after it began."""
        return self._lost(np.array(self.touched) & self._between(at, at + hours * HOUR))

    def new_item_h(self) -> float:
        """The age in hours at which a good item is ranked as high as good old ones are."""
        return age_ranked_well(self.there, self.hits)

    def _lost(self, chosen: Flags) -> float:
        return float(1 - np.array(self.clicks)[chosen].sum() / np.array(self.best)[chosen].sum())

    def _between(self, since: int, until: int | None) -> Flags:
        times = np.array(self.times)
        chosen: Flags = times >= since
        return chosen if until is None else chosen & (times < until)


def age_ranked_well(there: Sequence[int], hits: Sequence[int]) -> float:
    """See `Referee.new_item_h`. Old: more than 24 h. The largest of `AGES` if never."""
    old = AGES.index(24) + 1
    goal = WELL * sum(hits[old:]) / max(sum(there[old:]), 1)
    for n, age in enumerate(AGES):
        if there[n] and hits[n] / there[n] >= goal:
            return float(age)
    return float(AGES[-1])


def hours_until_well(clicks: Sequence[float], best: Sequence[float]) -> float:
    """Hours from the new interest (see `Referee.new_interest`) until it is ranked well.

    The number of hours that were looked at, if it never was.
    """
    for hour in range(BEFORE_H, len(clicks) - 2):
        three = slice(hour, hour + 3)
        if sum(clicks[three]) >= WELL_SERVED * sum(best[three]) > 0:
            return float(hour - BEFORE_H)
    return float(len(clicks) - BEFORE_H)
