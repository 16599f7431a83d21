"""Rule 16: which of too many actions are refused, and what it costs to know how many there are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests import core_runner, oracle
from tests.batch_runner import BatchRunner
from tests.strategies import any_rules, policies_for, random_timelines
from tests.timeline import (
    MANY,
    Action,
    Event,
    Key,
    Request,
    Rules,
    Timeline,
    Watermark,
    parse,
)

KEYS: tuple[Key, ...] = ("request_id", "user_id")
TWO = Rules("request_id", {"click": 10_000}, {"click": "count"}, max_actions=2)


def outcome(text: str, rules: Rules = TWO) -> list[str]:
    """What the oracle, the core and the core in batches agree on."""
    timeline = parse(text)
    expected = oracle.expected(timeline, rules)
    assert core_runner.run(timeline, rules) == expected
    for cut in (0.0, 0.5, 1.0):
        found = BatchRunner(rules, 7, cut=cut, load_at_most=1).run(timeline)
        assert found == expected.without_made_at()
    return expected.lines()


@pytest.mark.parametrize("key", KEYS)
def test_the_timeline_of_section_16(key: Key) -> None:
    got = outcome(
        """
        r1 u1 @100_000 [i1]
        click u1 i1 r1 @101_000 #e1
        click u1 i1 r1 @102_000 #e2
        click u1 i1 r1 @103_000 #e3
        click u1 i1 r1 @101_000 #e1
        wm 110_000
        click u1 i1 r1 @109_000 #e4
        end 200_000
        """,
        replace(TWO, key=key),
    )
    assert got == [
        "r1[0] i1 click=2+1000 @110000",
        "duplicate_action click i1 @101000 #e1",
        "too_many_actions click i1 @103000 #e3",
        "too_many_actions click i1 @109000 #e4",
    ]


def test_a_request_takes_those_that_waited_for_it() -> None:
    got = outcome(
        """
        click u1 i9 r1 @100_001 #other
        click u1 i1 r1 @100_002 #first
        click u1 i1 r1 @100_003 #third
        r1 u1 @100_000 [i1]
        wm 110_000
        end 200_000
        """
    )
    assert got == [
        "r1[0] i1 click=1+2 @110000",
        "orphan_action click i9 @100001 #other",
        "too_many_actions click i1 @100003 #third",
    ]


def test_copies_take_no_room_and_a_lesser_copy_takes_the_place_of_its_twin() -> None:
    got = outcome(
        """
        r1 u1 @100_000 [i1]
        click u1 i1 r1 @101_000 #e1
        click u1 i1 r1 @101_000 #e1
        click u1 i1 r1 @101_000 #e1
        click u1 i1 r1 @102_000 #e2
        click u1 i1 r1 @100_500 #e1
        wm 110_000
        end 200_000
        """
    )
    assert got == [
        "r1[0] i1 click=2+500 @110000",
        *["duplicate_action click i1 @101000 #e1"] * 3,
    ]


def test_a_copy_of_a_refused_action_counts_once_there_is_room() -> None:
    """An orphan makes room at its claim deadline, and no millisecond earlier."""
    story = """
        click u1 i1 - @100_000 #e1
        click u1 i1 - @101_000 #e2
        click u1 i1 - @109_500 #e3
        r1 u1 @109_000 [i1]
        wm {wm}
        click u1 i1 - @109_500 #e3
        end 300_000
        """
    by_user = replace(TWO, key="user_id")
    got = outcome(story.format(wm=109_999), by_user)
    assert got[0] == "r1[0] i1 click=0 @end"
    assert got.count("too_many_actions click i1 @109500 #e3") == 2
    got = outcome(story.format(wm=110_000), by_user)
    assert got[0] == "r1[0] i1 click=1+500 @end"
    assert got.count("too_many_actions click i1 @109500 #e3") == 1


@pytest.mark.parametrize(("wm", "what"), [(139_999, "too_many_actions"), (140_000, "")])
def test_a_tombstone_counts_what_it_used_until_it_is_removed(wm: int, what: str) -> None:
    """W 10 s, H 30 s: the tombstone of r1 goes at 140 s."""
    got = outcome(
        f"""
        r1 u1 @100_000 [i1]
        click u1 i1 - @101_000 #joined
        wm 110_000
        click u1 i1 - @105_000 #late
        wm {wm}
        r2 u1 @140_000 [i1]
        click u1 i1 - @140_000 #next
        end 200_000
        """,
        replace(TWO, key="user_id", horizon=30_000),
    )
    assert "late r1[0] click i1 @105000 #late +5000 after_settle" in got
    refused = [line for line in got if line.startswith("too_many_actions")]
    assert refused == ([f"{what} click i1 @140000 #next"] if what else [])


def test_other_keys_have_room_of_their_own() -> None:
    actions = [f"click u{n} i1 r{n} @101_00{m} #e{n}{m}" for m in range(3) for n in range(3)]
    requests = [f"r{n} u{n} @100_000 [i1]" for n in range(3)]
    for key in KEYS:
        got = outcome("\n".join([*requests, *actions, "end 200_000"]), replace(TWO, key=key))
        assert [line.split()[2] for line in got[:3]] == ["click=2+1000"] * 3
        assert [line[-3:] for line in got[3:]] == ["e02", "e12", "e22"]


class Changing(core_runner.CoreRunner):
    """Goes on with another limit before the event that comes next."""

    def then(self, limit: int, *events: Event) -> None:
        self.go_on_with(replace(self.rules, max_actions=limit))
        for event in events:
            if isinstance(event, Watermark):
                self._announce(event.time)
            elif isinstance(event, Request):
                self._request(event)
            else:
                self._action(event)


@pytest.mark.parametrize("key", KEYS)
def test_a_limit_that_is_changed_over_a_restart(key: Key) -> None:
    def click(n: int) -> Action:
        return Action(f"e{n}", "u1", "i1", "r1", "click", None, 100_000 + n)

    runner = Changing(replace(TWO, key=key))
    runner.then(3, Request("r1", "u1", 100_000, ("i1",)), *map(click, (1, 2, 3, 4)))
    runner.then(1, click(5))  # three count already: they stay
    runner.then(4, click(6), click(7))
    runner.then(1, Watermark(110_000), click(8))
    assert [row.labels for row in runner.rows] == [{"click": 4}]
    refused = [r.identity.event_time - 100_000 for r in runner.rejected]
    assert refused == [4, 5, 7, 8]
    assert {r.reason for r in runner.rejected} == {"too_many_actions"}


@pytest.mark.parametrize("key", KEYS)
def test_generated_timelines_reach_their_limits(key: Key) -> None:
    """Those that the core, the batches, Flink and the audit are tried on."""
    seen: Counter[str] = Counter()
    limited = [rules for rules in policies_for(key).values() if rules.max_actions < MANY]
    for rules in limited:
        for timeline, same in random_timelines(200, 14, key, rules):
            expected = oracle.expected(timeline, same)
            if expected.counters.get("rejected.too_many_actions"):
                seen["refused"] += 1
                seen["and joined"] += expected.counters["joined"] > 0
                seen["and late"] += expected.counters["late"] > 0
                seen["and copies"] += "rejected.duplicate_action" in expected.counters
    assert len(limited) >= 3
    assert min(seen[name] for name in ("refused", "and joined", "and late", "and copies")) > 10
    # and some of the rules that are drawn by the setting have one
    drawn = [any_rules(lambda options, n=n: options[n % len(options)], key) for n in range(20)]
    assert any(rules.max_actions < MANY for rules in drawn)


@pytest.mark.parametrize("limit", [500, 10**6])
def test_a_long_log_is_counted_once_and_not_for_each_action(limit: int) -> None:
    """The log of a pending request does not come along with a batch when it is long."""

    def moved(actions: int) -> int:
        events: list[Event] = [Request("r", "u", 0, ("i",))]
        events += [Action(f"a{n}", "u", "i", "r", "click", None, n) for n in range(actions)]
        rules = Rules("request_id", {"click": 10**6}, {"click": "any"}, max_actions=limit)
        runner = BatchRunner(rules, 0, cut=1.0)
        outcome = runner.run(Timeline(tuple(events), 2 * actions))
        assert outcome.counters.get("rejected.too_many_actions", 0) == max(0, actions - limit)
        return runner.moved

    few, many = moved(200), moved(800)
    assert many < 1.5 * 4 * few
