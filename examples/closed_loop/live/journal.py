"""What really happened in the world, beside which the pipeline's samples are laid.

The pipeline sees none of this but the actions that users made.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from examples.closed_loop.events import Action

Arm = Literal["learning", "frozen"]
ARMS: tuple[Arm, ...] = ("learning", "frozen")


@dataclass
class Shown:
    """A request, what was shown, and what came of it. Times: epoch ms of the world.

    `model`: which export has ranked, and `model_time`: up to when it had learned; None: no model
    did. `expected`, `best`: clicks that the world expects of this ranking, and of its own.
    `asked_again`: an earlier answer was lost, and its features may be what was logged.
    """

    request_id: str
    user_id: str
    arm: Arm
    time: int
    model: str | None
    model_time: int | None
    expected: float
    best: float
    items: tuple[str, ...]
    asked_again: bool = False
    #: times of the first action, by kind and item; and the number of items by kind
    actions: dict[tuple[str, str], int] = field(default_factory=dict)
    items_with: Counter[str] = field(default_factory=Counter)

    def act(self, action: Action) -> None:
        """A user did this."""
        key = (action.kind, action.item_id)
        if key not in self.actions:
            self.items_with[action.kind] += 1
        self.actions[key] = min(action.time, self.actions.get(key, action.time))


class Journal:
    """All requests in the order of time, and their actions. Another thread may read it."""

    def __init__(self) -> None:
        self.shown: list[Shown] = []
        self._by_id: dict[str, Shown] = {}
        self._lock = threading.Lock()

    def add(self, shown: Shown) -> None:
        """A request was answered."""
        with self._lock:
            self.shown.append(shown)
            self._by_id[shown.request_id] = shown

    def act(self, actions: Iterable[Action]) -> None:
        """The broker has these."""
        with self._lock:
            for action in actions:
                self._by_id[action.request_id].act(action)

    def clicks_on(self, requests: Iterable[str]) -> int:
        """Items of these requests that were clicked on so far."""
        with self._lock:
            return sum(self._by_id[one].items_with["click"] for one in requests)

    def between(self, begin: int, end: int) -> list[Shown]:
        """Those with begin <= time < end."""
        with self._lock:
            return [one for one in self.shown if begin <= one.time < end]


@dataclass(frozen=True)
class Rate:
    """Clicks for each item that was seen, over some requests; and their number."""

    requests: int
    seen: int
    clicks: int

    @property
    def ctr(self) -> float | None:
        """None where nothing was seen."""
        return self.clicks / self.seen if self.seen else None


def rate(shown: Iterable[Shown], seen_kind: str, click: str = "click") -> Rate:
    """Of these requests together."""
    requests = seen = clicks = 0
    for one in shown:
        requests += 1
        seen += one.items_with[seen_kind]
        clicks += one.items_with[click]
    return Rate(requests, seen, clicks)


@dataclass(frozen=True)
class Difference:
    """Of two means, with its 95 % interval."""

    value: float
    low: float
    high: float


def clicks_more(one: Iterable[Shown], other: Iterable[Shown]) -> Difference:
    """Clicks a request of one arm less those of the other one.

    A user's requests are alike, so the users are what is drawn: the variance is that of a ratio of
    sums over users (the delta method; Deng, Knoblich, Lu, KDD 2018).
    """
    means, variances = zip(*(_mean_a_request(arm) for arm in (one, other)), strict=True)
    value = means[0] - means[1]
    half = 1.96 * float(np.sqrt(sum(variances)))
    return Difference(value, value - half, value + half)


def _mean_a_request(shown: Iterable[Shown]) -> tuple[float, float]:
    """Clicks a request, and the variance of that mean. Of no request: NaN."""
    by_user: dict[str, list[int]] = {}
    for one in shown:
        found = by_user.setdefault(one.user_id, [0, 0])
        found[0] += one.items_with["click"]
        found[1] += 1
    users = np.array(list(by_user.values()), float).reshape(-1, 2)
    if len(users) < 2:
        return float("nan"), float("nan")
    clicks, requests = users.T
    mean = clicks.sum() / requests.sum()
    residuals = (clicks - mean * requests) / requests.mean()
    return float(mean), float(residuals.var(ddof=1) / len(users))
