"""The join core against the independent oracle, over the same timelines."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests import core_runner, oracle
from tests.effort import examples
from tests.strategies import (
    policies_for,
    random_timelines,
    rearranged,
    rules_for,
    timelines,
    timelines_under_any_rules,
)
from tests.timeline import Key, Rules, Timeline

KEYS: tuple[Key, ...] = ("request_id", "user_id")
#: Timelines a key and configuration.
SEEDED = 400

generated = settings(
    max_examples=examples(600), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("which", range(len(rules_for("user_id"))))
def test_seeded_timelines(key: Key, which: int) -> None:
    rules = rules_for(key)[which]
    for timeline, same in random_timelines(SEEDED, seed=which, key=key, rules=rules):
        assert core_runner.run(timeline, same) == oracle.expected(timeline, same), str(timeline)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", policies_for("user_id"))
def test_seeded_timelines_under_policies(key: Key, name: str) -> None:
    rules = policies_for(key)[name]
    for timeline, same in random_timelines(SEEDED, seed=14, key=key, rules=rules):
        assert core_runner.run(timeline, same) == oracle.expected(timeline, same), str(timeline)


@pytest.mark.parametrize("key", KEYS)
def test_hypothesis_finds_no_difference(key: Key) -> None:
    @generated
    @given(timelines(key))
    def check(drawn: tuple[Timeline, Rules]) -> None:
        timeline, rules = drawn
        assert core_runner.run(timeline, rules) == oracle.expected(timeline, rules)

    check()


@pytest.mark.parametrize("key", KEYS)
def test_hypothesis_finds_no_difference_over_all_settings(key: Key) -> None:
    @generated
    @given(timelines_under_any_rules(key))
    def check(drawn: tuple[Timeline, Rules]) -> None:
        timeline, rules = drawn
        assert core_runner.run(timeline, rules) == oracle.expected(timeline, rules)

    check()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("any_setting", [False, True])
def test_order_of_arrival_within_the_bounds_does_not_show(key: Key, any_setting: bool) -> None:
    """Rule 13: two orders of the same events, neither with anything late; rows of every policy."""

    @settings(generated, max_examples=examples(400))
    @given(rearranged(key, any_setting=any_setting))
    def check(drawn: tuple[Timeline, Timeline, Rules]) -> None:
        one, other, rules = drawn
        first = core_runner.run(one, rules).without_made_at()
        assert first == core_runner.run(other, rules).without_made_at()

    check()
