"""Users and items with hidden preferences, and what users do with a ranking.

    world = World(seed=0)
    for event in world.events():
        if isinstance(event, Request):
            world.show(event, ranking)     # the item ids in the order in which they are shown

Nothing here is in the records that a pipeline sees, but the events themselves: who asked when, what
an application knows of users and items, and what users did. `best`, `expected_clicks` and
`new_interest_at` are for a referee.

How a user decides. Users look at the items from the top down; after each one they go on with the
probability `look_on`, so the last ones may never be seen (the cascade of Craswell, Zoeter, Taylor,
Ramsey, WSDM 2008, with a click that does not end it). An item that is seen is clicked with the
probability sigmoid(level + taste + appeal of the item): whether it is clicked depends on the place
only through whether it is seen.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from examples.closed_loop.events import Action, Candidate, Request

Floats = npt.NDArray[np.float64]

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000


class Delay(NamedTuple):
    """Log-normal: half of all are shorter than `median_ms`."""

    median_ms: float
    sigma: float


#: How long after it was seen an item is clicked: mostly at once, some when the user comes back.
SOON, LATER = Delay(8 * SECOND, 0.8), Delay(40 * MINUTE, 1.4)
#: Of a like and a comment: after the click.
LIKE, COMMENT = Delay(40 * SECOND, 1.0), Delay(6 * MINUTE, 1.2)
PURCHASE = Delay(2 * HOUR, 1.2)
DWELL = Delay(25 * SECOND, 0.9)


@dataclass(frozen=True)
class Settings:
    """How large the world is, and how it changes.

    `look_on`: probability of looking at the next item. `screen`: so many items are looked at, and
    reported as seen, at a time. `slow_categories`: items of so many
    categories are mostly clicked later (long reads). `new_items_a_day`: that replace the oldest.
    `drift_a_day`: standard deviation by which a taste of a segment changes in a day.
    `new_interest`: by how much the taste of a quarter of the segments for one category grows at
    `new_interest_after` (a share of all days), suddenly.
    """

    days: float = 4.0
    begin: int = 1_772_409_600_000  # 2026-03-02 00:00 UTC
    requests_a_day: int = 4_000
    users: int = 400
    segments: int = 8
    categories: int = 12
    slow_categories: int = 4
    items: int = 240
    new_items_a_day: int = 80
    candidates: int = 20
    look_on: float = 0.82
    screen: int = 4
    level: float = -3.4
    taste: float = 1.3
    own_taste: float = 0.6
    appeal: float = 0.7
    drift_a_day: float = 0.3
    new_interest: float = 3.0
    new_interest_after: float = 0.5


@dataclass
class _Items:
    """Those that can be shown: parallel arrays. `number`: in the order of birth, from 0."""

    number: npt.NDArray[np.int64]
    category: npt.NDArray[np.int64]
    appeal: Floats
    price: Floats
    born: npt.NDArray[np.int64]


@dataclass
class _Asked:
    """A request, and the truth about its candidates, by item id.

    `click`: the probability of a click when the item is seen. `slow`: most of its clicks are late.
    """

    request: Request
    click: dict[str, float]
    slow: dict[str, bool]
    price: dict[str, float]


class World:
    """One history of the world for each seed and each sequence of rankings."""

    def __init__(self, seed: int, settings: Settings | None = None) -> None:
        self.settings = made = settings or Settings()
        # What exists and what is asked does not depend on rankings, so two arms that are ranked
        # differently meet the same requests.
        self._rng = np.random.default_rng([seed, 0])
        self._reactions = np.random.default_rng([seed, 1])
        self._end = made.begin + round(made.days * DAY)
        self._taste = self._rng.normal(0, made.taste, (made.segments, made.categories))
        self._own = self._rng.normal(0, made.own_taste, (made.users, made.categories))
        self._segment = self._rng.integers(0, made.segments, made.users)
        self._activity = self._rng.gamma(2.0, 1.0, made.users)
        self._activity /= self._activity.sum()
        ages = self._rng.uniform(0, made.items / made.new_items_a_day * DAY, made.items)
        self._items = _Items(
            np.arange(made.items),
            self._rng.integers(0, made.categories, made.items),
            self._rng.normal(0, made.appeal, made.items),
            np.round(self._rng.lognormal(2.5, 0.7, made.items), 2),
            (made.begin - np.sort(ages)[::-1]).astype(np.int64),
        )
        self._next_item = made.items
        self._drifted = made.begin
        self.new_interest_at = made.begin + round(made.days * made.new_interest_after * DAY)
        #: The category that it is for, and the segments that have it.
        self.new_interest = (int(self._taste.mean(axis=0).argmin()), range(made.segments // 4))
        self._has_new_interest = False
        self._requests = 0
        self._actions: list[tuple[int, int, Action]] = []
        self._made = 0
        self._times = self._request_times()
        #: Requests that `events` has not given yet.
        self._ahead: deque[_Asked] = deque()
        self._asked: _Asked | None = None

    # -- what happens ------------------------------------------------------------------------------

    def events(self) -> Iterator[Request | Action]:
        """All requests, and the actions that they lead to, in the order of time.

        Actions after the last day do not happen. `show` must be called for each request before the
        next event is taken.
        """
        while self._ahead or self._ask_next():
            yield from self._actions_until(self._ahead[0].request.time)
            self._asked = self._ahead.popleft()
            yield self._asked.request
            if self._asked is not None:
                raise RuntimeError("a request was not shown: call show() before the next event")
        yield from self._actions_until(self._end)

    def upcoming(self, until: int) -> list[Request]:
        """The requests before a time (epoch ms) that `events` has not given yet.

        No ranking changes them, so they can be ranked together.
        """
        while (not self._ahead or self._ahead[-1].request.time < until) and self._ask_next():
            pass
        return [asked.request for asked in self._ahead if asked.request.time < until]

    def _ask_next(self) -> bool:
        """Make the next request; False after the last one."""
        time = next(self._times, None)
        if time is not None:
            self._ahead.append(self._request(time))
        return time is not None

    def show(self, request: Request, ranking: Sequence[str]) -> None:
        """The user sees this ranking: item ids of the request's candidates, each at most once.

        Raises ValueError for another request than the last one, or other items.
        """
        asked = self._is_asked(request)
        if len(set(ranking)) != len(ranking) or not set(ranking) <= asked.click.keys():
            raise ValueError(f"the ranking of {request.request_id} is not one of its candidates")
        self._asked = None
        rng, time = self._reactions, request.time
        for place, item in enumerate(ranking):
            if place % self.settings.screen == 0:
                time += round(rng.lognormal(np.log(5_000), 0.5))
            self._act("impression", request, item, time)
            if rng.random() < asked.click[item]:
                self._engage(asked, item, time)
            if rng.random() >= self.settings.look_on:
                break

    def _engage(self, asked: _Asked, item: str, seen: int) -> None:
        """A click, and what may follow."""
        rng, request = self._reactions, asked.request
        later = rng.random() < (0.7 if asked.slow[item] else 0.12)
        clicked = seen + self._delay(LATER if later else SOON)
        self._act("click", request, item, clicked)
        dwell = self._delay(DWELL)
        self._act("dwell", request, item, clicked + dwell, dwell / SECOND)
        if rng.random() < 0.15:
            self._act("like", request, item, clicked + self._delay(LIKE))
        if rng.random() < 0.03:
            self._act("comment", request, item, clicked + self._delay(COMMENT))
        if rng.random() < 0.08:
            bought = clicked + self._delay(PURCHASE)
            self._act("purchase", request, item, bought, asked.price[item])

    def _delay(self, delay: Delay) -> int:
        return int(self._reactions.lognormal(np.log(delay.median_ms), delay.sigma))

    def _act(
        self, kind: str, request: Request, item: str, time: int, value: float | None = None
    ) -> None:
        self._made += 1
        action = Action(
            kind, request.user_id, item, request.request_id, f"e-{self._made:07}", time, value
        )
        heapq.heappush(self._actions, (time, self._made, action))

    def _actions_until(self, time: int) -> Iterator[Action]:
        while self._actions and self._actions[0][0] < time:
            yield heapq.heappop(self._actions)[2]

    # -- the referee's questions -------------------------------------------------------------------

    def best(self, request: Request) -> list[str]:
        """The ranking with the most expected clicks. Only for the request that was asked last."""
        click = self._is_asked(request).click
        return sorted(click, key=lambda item: -click[item])

    def expected_clicks(self, request: Request, ranking: Sequence[str]) -> float:
        """How many items the user will click. Only for the request that was asked last."""
        click = self._is_asked(request).click
        seen = self.settings.look_on ** np.arange(len(ranking))
        return float(seen @ np.array([click[item] for item in ranking]))

    def expected_views(self) -> float:
        """How many of the candidates a user sees."""
        seen = self.settings.look_on ** np.arange(self.settings.candidates)
        return float(seen.sum())

    def _is_asked(self, request: Request) -> _Asked:
        if self._asked is None or request is not self._asked.request:
            raise ValueError(f"{request.request_id} is not the request that was asked last")
        return self._asked

    # -- how it changes ----------------------------------------------------------------------------

    def _request_times(self) -> Iterator[int]:
        """A Poisson process whose rate follows the day: at 20:00 three times that of 08:00."""
        made, time = self.settings, float(self.settings.begin)
        peak = 1.5 * made.requests_a_day / DAY
        while True:
            time += self._rng.exponential(1 / peak)
            if time >= self._end:
                return
            hour = time % DAY / HOUR
            if self._rng.random() < (1 + 0.5 * np.cos((hour - 20) / 24 * 2 * np.pi)) / 1.5:
                yield round(time)

    def _change(self, time: int) -> None:
        """Tastes drift, items come and go, and one day there is a new interest."""
        made, rng = self.settings, self._rng
        hours = (time - self._drifted) // HOUR
        if hours:
            self._drifted += hours * HOUR
            # towards the mean a little, so that tastes stay as strong as they were
            kept = 1 - 0.5 * (made.drift_a_day / made.taste) ** 2 * hours / 24
            noise = rng.normal(0, made.drift_a_day * np.sqrt(hours / 24), self._taste.shape)
            self._taste = self._taste * kept + noise
        if time >= self.new_interest_at and not self._has_new_interest:
            self._has_new_interest = True
            category, segments = self.new_interest
            self._taste[list(segments), category] += made.new_interest
        items, every = self._items, DAY / made.new_items_a_day
        due = made.items + int((time - made.begin) / every)
        while self._next_item < due:
            oldest = int(items.born.argmin())
            items.number[oldest] = self._next_item
            items.category[oldest] = rng.integers(0, made.categories)
            items.appeal[oldest] = rng.normal(0, made.appeal)
            items.price[oldest] = round(rng.lognormal(2.5, 0.7), 2)
            items.born[oldest] = round(made.begin + (self._next_item - made.items + 1) * every)
            self._next_item += 1

    def _request(self, time: int) -> _Asked:
        self._change(time)
        made, rng, items = self.settings, self._rng, self._items
        user = int(rng.choice(made.users, p=self._activity))
        segment = int(self._segment[user])
        # Recall is an older system's: it knows a little of tastes, and likes new items.
        age_days = (time - items.born) / DAY
        liking = 0.25 * self._taste[segment, items.category] - 0.2 * age_days
        at = np.argpartition(liking + rng.gumbel(size=made.items), -made.candidates)
        chosen = rng.permutation(at[-made.candidates :])
        category = items.category[chosen]
        taste = self._taste[segment, category] + self._own[user, category]
        click = 1 / (1 + np.exp(-(made.level + taste + items.appeal[chosen])))
        names = [f"i-{number:05}" for number in items.number[chosen]]
        slow = dict(zip(names, (category < made.slow_categories).tolist(), strict=True))
        prices = dict(zip(names, items.price[chosen].tolist(), strict=True))
        self._requests += 1
        kinds = [f"c-{number:02}" for number in category]
        ages = ((time - items.born[chosen]) // HOUR).tolist()
        request = Request(
            f"r-{self._requests:07}",
            f"u-{user:04}",
            time,
            {"segment": f"s-{segment}", "hour": time % DAY // HOUR},
            tuple(
                Candidate(
                    name,
                    {
                        "category": kind,
                        "segment_category": f"s-{segment}|{kind}",
                        "user_category": f"u-{user:04}|{kind}",
                        "age_hours": age,
                        "price": prices[name],
                    },
                )
                for name, kind, age in zip(names, kinds, ages, strict=True)
            ),
        )
        return _Asked(request, dict(zip(names, click.tolist(), strict=True)), slow, prices)
