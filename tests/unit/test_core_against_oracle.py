"""The join core against the independent oracle, over the same timelines.

A key with few elements is read from state for each event and looked through. A key with many is
kept in memory and indexed. Both must decide alike, with any switch between them and any restart.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests import core_runner, oracle
from tests.effort import examples
from tests.strategies import (
    any_rules,
    build,
    policies_for,
    random_timelines,
    rearranged,
    rules_for,
    timelines,
    timelines_under_any_rules,
)
from tests.timeline import Action, Key, Request, Rules, Timeline
from udfs.core import alone, held, keyed_join, shown
from udfs.core.join_core import Decisions

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


#: `small`, `memory` and how many elements are looked through without an index.
WAYS = {
    "read for each event": (0, 0, 8),
    "read for each event, indexed": (0, 0, 0),
    "kept in memory": (0, 2**28, 8),
    "kept in memory, indexed": (0, 2**28, 0),
    "now kept, now dropped": (2, 6_000, 2),
}


class Restarting(core_runner.CoreRunner):
    """Restarts now and then between two events, and between two timers."""

    def __init__(self, rules: Rules, seed: int, small: int, memory: int) -> None:
        super().__init__(rules, small=small, memory=memory)
        self._random = random.Random(seed)

    def _request(self, request: Request) -> None:
        super()._request(request)
        self._perhaps_restart()

    def _action(self, action: Action) -> None:
        super()._action(action)
        self._perhaps_restart()

    def _perform(self, key: str, decisions: Decisions) -> None:
        super()._perform(key, decisions)
        self._perhaps_restart()

    def _perhaps_restart(self) -> None:
        if self._random.random() < 0.2:
            self.restart()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_kept_in_memory_does_not_show(
    key: Key, way: str, restarts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, memory, scan_at_most = WAYS[way]
    monkeypatch.setattr(shown, "SCAN_AT_MOST", scan_at_most)
    monkeypatch.setattr(held, "SCAN_AT_MOST", scan_at_most)
    seed = sorted(WAYS).index(way)
    choose = random.Random(seed).choice
    for number in range(SEEDED // 2):
        rules = choose((any_rules(choose, key), *rules_for(key), *policies_for(key).values()))
        timeline = build(choose, rules, size=choose((4, 8, 16)))
        runner = core_runner.CoreRunner(rules, small=small, memory=memory)
        if restarts:
            runner = Restarting(rules, number, small, memory)
        assert runner.run(timeline) == oracle.expected(timeline, rules), str(timeline)


@pytest.mark.parametrize("key", KEYS)
def test_the_short_way_stores_and_decides_what_the_long_way_does(
    key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `alone`, and without it: the same rows in the same order, and the same bytes in state
    whenever a timer has fired.
    """
    taken = {"short": 0, "timers": 0}

    def counted(*args: Any, **more: Any) -> Any:
        outcome = alone.settle_alone(*args, **more)
        taken["short"] += outcome is not None
        taken["timers"] += 1
        return outcome

    choose = random.Random(key).choice
    for _ in range(examples(SEEDED)):
        rules = choose((any_rules(choose, key), *rules_for(key), *policies_for(key).values()))
        timeline = build(choose, rules, size=choose((2, 4, 8)))
        monkeypatch.setattr(keyed_join, "settle_alone", counted)
        short = Recording(rules)
        outcome = short.run(timeline)
        monkeypatch.setattr(keyed_join, "settle_alone", lambda *_, **__: None)
        long = Recording(rules)
        assert long.run(timeline) == outcome, str(timeline)
        assert long.stored == short.stored, str(timeline)
    assert taken["short"] > 100, taken


class Recording(core_runner.CoreRunner):
    """Notes what is in state after each decision."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self.stored: list[str] = []

    def _perform(self, key: str, decisions: Decisions) -> None:
        super()._perform(key, decisions)
        self.stored.append(str(self.state[key]))
