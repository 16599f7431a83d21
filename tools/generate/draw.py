"""Drawing from the model: requests, their items and features, and the actions they cause."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tools.generate.model import ACTIONS, START, Floats, Ints, Traffic, feature_type

_WORDS = np.array(["red", "green", "blue", "small", "large", "new", "sale", "gift"])


def draw_feature(n: int, size: int, rng: np.random.Generator) -> list[Any]:
    """Values of feature number n: normal, exponential, geometric, categorical or a few words."""
    match feature_type(n):
        case "float64" if n % 8 == 0:
            return listed(np.round(rng.standard_normal(size), 4))
        case "float64":
            return listed(np.round(rng.exponential(10.0, size), 2))
        case "float32":
            return listed(np.round(rng.random(size), 3))
        case "int64":
            return listed(rng.geometric(0.02, size))
        case "bool":
            return listed(rng.random(size) < 0.3)
        case "string":
            return listed(_WORDS[rng.integers(0, len(_WORDS), size)])
        case _:
            words: list[str] = listed(_WORDS)
            pairs = list(itertools.combinations(words, 2))
            choices: list[list[str]] = [[], *([w] for w in words), *(list(p) for p in pairs)]
            return [choices[i] for i in rng.integers(0, len(choices), size).tolist()]


def listed(values: npt.NDArray[Any]) -> list[Any]:
    """The values as Python objects."""
    return values.tolist()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Block:
    """Requests in the order of time, with impressions as (request, position) matrices."""

    first: int
    times: Ints  # (requests,)
    users: Ints  # (requests,)
    items: Ints  # (requests, items)
    columns: list[list[Any]]  # by feature, requests * items values each

    def request_id(self, n: int) -> str:
        """The id of the n-th request of the block."""
        return f"r{self.first + n:08}"


class ActionRow(NamedTuple):
    """An action with its cause. `row` is the request within its block."""

    kind: int
    row: int
    position: int
    event_time: int
    delay_ms: int
    value: float | None


def request_times(traffic: Traffic, rng: np.random.Generator) -> Ints:
    """A Poisson process given its number: uniform, sorted."""
    return np.sort(rng.integers(START, traffic.end + 1, traffic.requests))


def popularity(size: int) -> Floats:
    """The distribution function of Zipf-Mandelbrot popularity, exponent 1, shift 10."""
    weights = 1.0 / (np.arange(size) + 11.0)
    return np.asarray(np.cumsum(weights) / weights.sum(), dtype=np.float64)


def draw_popular(cdf: Floats, shape: tuple[int, ...], rng: np.random.Generator) -> Ints:
    """Indices by `popularity`."""
    # rounding may leave the last value short of 1, and a draw beyond it
    return np.minimum(np.searchsorted(cdf, rng.random(shape)), len(cdf) - 1)


def distinct_items(cdf: Floats, n: int, items: int, rng: np.random.Generator) -> Ints:
    """`items` distinct items for each of n requests; a repeated one is replaced by any other."""
    drawn = draw_popular(cdf, (n, items), rng)
    while True:
        order = np.argsort(drawn, axis=1, kind="stable")
        ranked = np.take_along_axis(drawn, order, axis=1)
        again = np.zeros_like(drawn, dtype=bool)
        np.put_along_axis(again[:, :], order[:, 1:], ranked[:, 1:] == ranked[:, :-1], axis=1)
        if not again.any():
            return drawn
        drawn[again] = rng.integers(0, len(cdf), int(again.sum()))


def draw_block(
    traffic: Traffic, first: int, times: Ints, cdfs: tuple[Floats, Floats], rng: np.random.Generator
) -> Block:
    """Users, items and features for requests at `times`."""
    n = len(times)
    users = draw_popular(cdfs[0], (n,), rng)
    items = distinct_items(cdfs[1], n, traffic.items, rng)
    columns = [draw_feature(f, n * traffic.items, rng) for f in range(traffic.features)]
    for column in columns[1:]:  # the first is never missing: clicks depend on it
        for index in np.flatnonzero(rng.random(len(column)) < traffic.missing_share).tolist():
            column[index] = None
    return Block(first, times, users, items, columns)


def click_probability(traffic: Traffic, first_feature: Floats) -> Floats:
    """(requests, items): examination at the position times attraction of the item."""
    examined = (np.arange(traffic.items) + 1.0) ** -traffic.eta
    a, b = traffic.attraction
    return np.asarray(examined / (1.0 + np.exp(-(a + b * first_feature))), dtype=np.float64)


def draw_actions(traffic: Traffic, block: Block, rng: np.random.Generator) -> list[ActionRow]:
    """All actions that the impressions of a block cause, whenever they happen."""
    shape = block.items.shape
    chance = click_probability(traffic, np.array(block.columns[0]).reshape(shape))
    clicked = rng.random(shape) < chance
    out: list[ActionRow] = []
    for kind, model in enumerate(ACTIONS):
        happened = clicked
        if model.probability is not None:
            happened = clicked & (rng.random(shape) < model.probability)
        rows, positions = np.nonzero(happened)
        delays = np.rint(model.delay.draw(rng, len(rows)) * 1_000).astype(np.int64)
        values: list[float | None] = [None] * len(rows)
        if model.value is not None:
            values = listed(np.round(model.value.draw(rng, len(rows)), 2))
        times = block.times[rows] + delays
        out += map(
            ActionRow,
            itertools.repeat(kind),
            listed(rows),
            listed(positions),
            listed(times),
            listed(delays),
            values,
        )
    return out
