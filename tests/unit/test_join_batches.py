"""The join as Flink calls it: how its input is cut into batches does not show."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import core_runner, oracle
from tests.batch_runner import BatchRunner
from tests.effort import examples
from tests.strategies import (
    any_rules,
    build,
    policies_for,
    random_timelines,
    rules_for,
    timelines_under_any_rules,
)
from tests.timeline import Action, Event, Key, Outcome, Request, Rules, Timeline
from udfs.core import join_batches

KEYS: tuple[Key, ...] = ("request_id", "user_id")
#: Timelines a key and configuration.
SEEDED = 150
#: How likely a batch ends after a step: each by itself, a few at a time, all in one.
CUTS = (1.0, 0.3, 0.05, 0.0)
generated = settings(
    max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def truth(timeline: Timeline, rules: Rules) -> Outcome:
    """With label silence, the end may be a watermark that only features brought."""
    shown = [e.event_time for e in timeline.events if isinstance(e, Action)]
    if rules.silence is not None and timeline.progress is not None and shown:
        timeline = replace(timeline, progress=min(timeline.progress, max(shown)))
    return oracle.expected(timeline, rules).without_made_at()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("cut", CUTS)
def test_any_cut_gives_the_same_rows_under_every_policy(key: Key, cut: float) -> None:
    every = [*rules_for(key), *policies_for(key).values()]
    removed = 0
    for seed, rules in enumerate(every):
        for number, (timeline, same) in enumerate(
            random_timelines(SEEDED // 4, seed=seed, key=key, rules=rules)
        ):
            runner = BatchRunner(same, number, cut=cut)
            found = runner.run(timeline)
            assert found == truth(timeline, same), str(timeline)
            removed += runner.removed
    # with the other key, the operator asks about every timer
    assert (removed > 0) is (key == "request_id"), "by the operator, without asking"


@pytest.mark.parametrize("key", KEYS)
def test_hypothesis_finds_no_cut_that_shows(key: Key) -> None:
    @generated
    @given(timelines_under_any_rules(key), st.integers(0, 1_000), st.sampled_from(CUTS))
    def check(drawn: tuple[Timeline, Rules], seed: int, cut: float) -> None:
        timeline, rules = drawn
        assert BatchRunner(rules, seed, cut=cut).run(timeline) == truth(timeline, rules)

    check()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("load_at_most", [0, 2])
@pytest.mark.parametrize("small", [0, 2, 16])
def test_neither_what_comes_along_nor_a_restart_shows(
    key: Key, load_at_most: int, small: int
) -> None:
    choose = random.Random(small).choice
    asked = 0
    for number in range(SEEDED):
        rules = choose((any_rules(choose, key), *rules_for(key), *policies_for(key).values()))
        timeline = build(choose, rules, size=choose((4, 8, 16)))
        runner = BatchRunner(
            rules,
            number,
            cut=0.4,
            load_at_most=load_at_most,
            small=small,
            memory=choose((0, 6_000, 2**28)),
            restart=choose((0.0, 0.3)),
            check=0.3,
        )
        assert runner.run(timeline) == truth(timeline, rules), str(timeline)
        asked += runner.asked
    assert asked > 0


@pytest.mark.parametrize("key", KEYS)
def test_positives_are_the_impressions_that_have_an_action_when_they_settle(key: Key) -> None:
    for number, (timeline, rules) in enumerate(random_timelines(SEEDED, seed=7, key=key)):
        runner = BatchRunner(rules, number, cut=0.3)
        outcome = runner.run(timeline)
        for kind in rules.windows:
            found = sum(row.delays[kind] is not None for row in outcome.rows)
            assert runner.counts[f"positives/{kind}"] == found, str(timeline)


@pytest.mark.parametrize("key", KEYS)
def test_an_impression_that_was_only_seen_is_no_positive(key: Key) -> None:
    rules = Rules(key, {"view": 9, "click": 9}, {"view": "any", "click": "any"}, exposure="view")
    arrivals: list[Event] = [Request("r", "u", 0, ("i", "j"))]
    arrivals += [Action(f"v{i}", "u", i, "r", "view", None, 1) for i in ("i", "j")]
    for clicks in (0, 1):
        arrivals += [Action("c", "u", "j", "r", "click", None, 2)] * clicks
        runner = BatchRunner(rules, 0, cut=0.3)
        runner.run(Timeline(tuple(arrivals), 2))
        found = {n: count for n, count in runner.counts.items() if n.startswith("positives/")}
        assert found.get("positives/click", 0) == clicks
        assert "positives/view" not in {
            *found,
            *join_batches.counters(core_runner.core_rules(rules)),
        }
        assert runner.counts["joined"] == 2 + clicks


@pytest.mark.parametrize(("requests", "largest"), [(10, 0), (60, 61)])
def test_a_key_of_many_requests_is_told_of(requests: int, largest: int) -> None:
    rules = Rules("user_id", {"click": 10**6}, {"click": "any"})
    arrivals: list[Event] = [Request(f"r{i}", "u", i, ("i",)) for i in range(requests)]
    # an action that looks at all of them
    arrivals.append(Action("a", "u", "i", None, "click", None, requests))
    runner = BatchRunner(rules, 0, cut=1.0)
    runner.run(Timeline(tuple(arrivals), requests))
    assert max(runner.largest) == largest


@pytest.mark.parametrize("actions", [10, 33, 100])
def test_a_request_of_many_actions_is_told_of_while_they_come(actions: int) -> None:
    rules = Rules("request_id", {"click": 10**6}, {"click": "any"})
    arrivals: list[Event] = [Request("r", "u", 0, ("i",))]
    arrivals += [Action(f"a{i}", "u", "i", "r", "click", None, i) for i in range(actions)]
    runner = BatchRunner(rules, 0, cut=1.0)
    runner.run(Timeline(tuple(arrivals), actions))
    # The end settles the request. Before it there is a batch for each event.
    so_far, at_the_end = runner.largest[: 1 + actions], runner.largest[1 + actions :]
    assert so_far == [0, *(n if n > 33 else 0 for n in range(1, 1 + actions))]
    assert max(at_the_end) == (1 + actions if actions > 16 else 0)


def test_actions_beyond_the_limit_make_no_key_larger() -> None:
    limit = 40
    rules = Rules("request_id", {"click": 10**6}, {"click": "any"}, max_actions=limit)
    arrivals: list[Event] = [Request("r", "u", 0, ("i",))]
    arrivals += [Action(f"a{i}", "u", "i", "r", "click", None, i) for i in range(3 * limit)]
    runner = BatchRunner(rules, 0, cut=1.0, memory=0)
    runner.run(Timeline(tuple(arrivals), 3 * limit))
    assert runner.counts["rejected/actions/too_many_actions"] == 2 * limit
    assert max(runner.largest) == limit + 1  # with the request


def test_all_that_is_counted_is_declared() -> None:
    """A metric is there, at 0, before it counts for the first time."""
    for number, (timeline, rules) in enumerate(random_timelines(SEEDED, seed=8, key="user_id")):
        runner = BatchRunner(rules, number, cut=0.3)
        runner.run(timeline)
        declared = join_batches.counters(core_runner.core_rules(rules))
        assert runner.counts.keys() <= set(declared)


@pytest.mark.parametrize("events", ["requests", "actions", "both"])
def test_a_batch_of_a_large_key_takes_no_more_than_one_of_a_small_key(events: str) -> None:
    """Hot keys: what goes to Python with a batch does not grow with what is stored."""

    def taken(number: int) -> int:
        rules = Rules("user_id", {"click": 10**6}, {"click": "any"})
        arrivals: list[Event] = []
        for i in range(number):
            if events != "actions":
                arrivals.append(Request(f"r{i}", "u", i, ("i",)))
            if events != "requests":
                arrivals.append(Action(f"a{i}", "u", "i", None, "click", None, i))
        runner = BatchRunner(rules, 0, cut=1.0)
        runner.run(Timeline(tuple(arrivals), 2 * number))
        return runner.moved

    few, many = taken(200), taken(800)
    assert many < 1.3 * 4 * few
