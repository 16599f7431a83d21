"""The propensity that is logged is how often it happens."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from online.exploration import EpsilonGreedy, Exploration, Greedy, Softmax

SCORES = np.array([0.3, 1.1, 0.3, -0.4])
DRAWS = 40_000
KINDS = (Greedy(), EpsilonGreedy(0.4), Softmax(0.5))


def drawn(
    exploration: Exploration, scores: np.ndarray
) -> list[tuple[tuple[int, ...], list[float]]]:
    rng = np.random.default_rng(7)
    ranked = (exploration.rank(scores, rng) for _ in range(DRAWS))
    return [(tuple(one.order.tolist()), one.propensity.tolist()) for one in ranked]


def within(count: int, of: int, chance: float) -> bool:
    """Five standard deviations of a count: wrong once in two million."""
    deviation = math.sqrt(of * chance * (1 - chance))
    return abs(count - of * chance) <= 5 * deviation + 1e-9


def test_greedy_goes_by_score_and_says_that_it_is_sure() -> None:
    ranked = Greedy().rank(SCORES, np.random.default_rng(1))
    assert ranked.order.tolist() == [1, 0, 2, 3]
    assert ranked.propensity.tolist() == [1, 1, 1, 1]
    assert not ranked.explored


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.4, 1.0])
def test_epsilon_an_item_is_at_its_place_as_often_as_is_said(epsilon: float) -> None:
    """Counted over all rankings: P(the item is there)."""
    counts: Counter[tuple[int, int]] = Counter()
    said: dict[tuple[int, int], float] = {}
    for order, propensity in drawn(EpsilonGreedy(epsilon), SCORES):
        for there, chance in zip(enumerate(order), propensity, strict=True):
            counts[there] += 1
            assert said.setdefault(there, chance) == chance
    for there, chance in said.items():
        assert within(counts[there], DRAWS, chance), (there, chance, counts[there])
    # all the chance there is at a place is said
    if epsilon:
        for place in range(len(SCORES)):
            assert sum(p for (at, _), p in said.items() if at == place) == pytest.approx(1)


def test_softmax_an_item_is_drawn_as_often_as_is_said_after_those_before_it() -> None:
    rankings = drawn(Softmax(0.5), SCORES)
    begun: Counter[tuple[int, ...]] = Counter()
    said: dict[tuple[int, ...], float] = {}
    for order, propensity in rankings:
        for place in range(len(order)):
            begun[order[:place]] += 1
            known = said.setdefault(order[: place + 1], propensity[place])
            assert known == pytest.approx(propensity[place])
    counts = Counter(order[: n + 1] for order, _ in rankings for n in range(len(order)))
    for prefix, chance in said.items():
        assert within(counts[prefix], begun[prefix[:-1]], chance), (prefix, chance)


def test_softmax_a_ranking_has_the_chance_that_plackett_and_luce_give_it() -> None:
    weights = np.exp(SCORES / 0.5)
    counts = Counter(order for order, _ in drawn(Softmax(0.5), SCORES))
    for order in itertools.permutations(range(len(SCORES))):
        left = weights[list(order)]
        chance = float(np.prod(left / left[::-1].cumsum()[::-1]))
        assert within(counts[order], DRAWS, chance), (order, chance)


@pytest.mark.parametrize("exploration", KINDS, ids=str)
@given(
    scores=arrays(np.float64, st.integers(1, 30), elements=st.floats(-50, 50)), seed=st.integers(0)
)
def test_every_item_has_one_place_and_a_chance(
    exploration: Exploration, scores: np.ndarray, seed: int
) -> None:
    seed %= 2**32
    ranked = exploration.rank(scores, np.random.default_rng(seed))
    again = exploration.rank(scores, np.random.default_rng(seed))
    assert sorted(ranked.order.tolist()) == list(range(len(scores)))
    assert ranked.propensity.shape == scores.shape
    assert ((ranked.propensity >= 0) & (ranked.propensity <= 1)).all()
    assert ranked.order.tolist() == again.order.tolist()
    if not ranked.explored:
        assert (np.diff(scores[ranked.order]) <= 0).all()
