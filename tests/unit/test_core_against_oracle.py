"""The join core against the independent oracle, over the same timelines."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import core_runner, oracle
from tests.strategies import random_timelines, rearranged, rules_for, timelines
from tests.timeline import Key, Rules, Timeline

KEYS: tuple[Key, ...] = ("request_id", "user_id")
#: Timelines a key and configuration; there are ten configurations.
SEEDED = 400


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("which", range(len(rules_for("user_id"))))
def test_seeded_timelines(key: Key, which: int) -> None:
    rules = rules_for(key)[which]
    for timeline, same in random_timelines(SEEDED, seed=which, key=key, rules=rules):
        assert core_runner.run(timeline, same) == oracle.expected(timeline, same), str(timeline)


@pytest.mark.parametrize("key", KEYS)
def test_hypothesis_finds_no_difference(key: Key) -> None:
    @settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(timelines(key))
    def check(drawn: tuple[Timeline, Rules]) -> None:
        timeline, rules = drawn
        assert core_runner.run(timeline, rules) == oracle.expected(timeline, rules)

    check()


@pytest.mark.parametrize("key", KEYS)
def test_order_of_arrival_within_the_bounds_does_not_show(key: Key) -> None:
    """Rule 13: two orders of the same events, neither with anything late."""

    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(rearranged(key), st.none())
    def check(drawn: tuple[Timeline, Timeline, Rules], _: None) -> None:
        one, other, rules = drawn
        first = core_runner.run(one, rules).without_settled_at()
        assert first == core_runner.run(other, rules).without_settled_at()

    check()
