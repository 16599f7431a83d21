"""What is read beside a period is enough: the oracle decides alike with all records and with those.

The records come out of order and late, with duplicates, as an archive replays them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from jobs.backfill.margins import HOUR_MS, Margins, margins
from jobs.pipeline.config import load
from tests import oracle
from tests.flink.test_archive_source import configuration, rules
from tests.timeline import MANY, Action, Event, Key, Outcome, Request, Rules, Timeline, Watermark

BOUND = 2_000
START, STEP, REQUESTS = 1_700_000_000_000, 9_000, 400
FIRST, END = START + REQUESTS * STEP // 3, START + REQUESTS * STEP // 2
KEYS: tuple[Key, ...] = ("request_id", "user_id")
POLICIES: dict[str, dict[str, Any]] = {
    "wait": {},
    "early": {"first_emit_after": 5_000, "emit_positives": "on_arrival"},
    "changes": {"emit_positives": "on_arrival", "final_emit": "if_changed"},
}


def story(seed: int) -> list[Request | Action]:
    """In the order of arrival. One in ten comes late, by up to two of the longest windows, and some
    come twice.
    """
    choose = random.Random(seed)
    arrivals: list[tuple[int, int, Request | Action]] = []

    def send(event: Request | Action) -> None:
        for _ in range(1 + (choose.random() < 0.05)):
            lag = choose.randrange(120_000) if choose.random() < 0.1 else choose.randrange(BOUND)
            arrivals.append((event.event_time + lag, len(arrivals), event))

    for i in range(REQUESTS):
        time, user = START + i * STEP + choose.randrange(STEP), f"u{choose.randrange(40)}"
        items = tuple(choose.sample([f"i{n}" for n in range(9)], 3))
        send(Request(f"r{i}", user, time, items))
        for n in range(choose.randrange(5)):
            kind, value = choose.choice(["click", "buy"]), choose.choice([1.0, 2.5])
            at = time + choose.randrange(-1_000, 70_000)
            shown = choose.choice([*items, "i9"])
            send(Action(f"e{i}-{n}", user, shown, f"r{i}", kind, value, at))
    return [event for _, _, event in sorted(arrivals, key=lambda arrival: arrival[:2])]


def replayed(arrivals: list[Request | Action], progress: int) -> Timeline:
    """With the watermark of what has come."""
    events: list[Event] = []
    clock = 0
    for event in arrivals:
        clock = max(clock, event.event_time)
        events += [Watermark(clock - clock % 1000 - BOUND - 1), event]
    return Timeline(tuple(events), progress)


def of_period(outcome: Outcome) -> list[str]:
    """Rows, late actions and rejects of the partitions of the period. A row names the watermark
    that made it; that may be another, like the one that a batch saw.
    """
    inside = Outcome(
        tuple(row for row in outcome.rows if FIRST <= row.event_time < END),
        tuple(late for late in outcome.late if FIRST <= late.request_time < END),
        tuple(r for r in outcome.rejected if FIRST <= r.identity.event_time < END),
    )
    return inside.without_made_at().lines()


def cut(arrivals: list[Request | Action], edges: Margins) -> list[Request | Action]:
    begin, end = FIRST - edges.before, END + edges.after
    return [arrival for arrival in arrivals if begin <= arrival.event_time < end]


def cases() -> Iterator[tuple[Rules, list[Request | Action]]]:
    for seed, key in enumerate(KEYS * 2):
        for policy in POLICIES.values():
            # a key at its limit depends on all that it has ever had
            yield replace(rules(key), max_actions=MANY, **policy), story(seed)


Case = tuple[Rules, list[Request | Action], Margins]


@pytest.fixture(scope="module")
def told(
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Case]:
    config = tmp_path_factory.mktemp("margins") / "pipeline.toml"
    found = []
    for of_case, arrivals in cases():
        config.write_text(configuration(of_case))
        edges = margins(load(config))
        # what is for record timestamps that are not those of the events
        ahead = int(load(config).sources.features.max_future)  # type: ignore[union-attr]
        found.append((of_case, arrivals, replace(edges, before=edges.before - ahead)))
    return found


def differing(told: list[Case], before: float, after: float) -> int:
    """How many cases come out otherwise with these parts of the margins."""
    count = 0
    for of_case, arrivals, edges in told:
        part = Margins(int(edges.before * before), int(edges.after * after))
        some = cut(arrivals, part)
        assert len(some) < len(arrivals) // 2
        whole = oracle.expected(replayed(arrivals, START + 2 * REQUESTS * STEP), of_case)
        assert len(of_period(whole)) > 200
        # the input is known to be complete up to where it was cut
        short = oracle.expected(replayed(some, END + part.after), of_case)
        count += of_period(short) != of_period(whole)
    return count


def test_a_period_with_its_margins_gives_the_rows_of_everything(
    told: list[Case],
) -> None:
    assert differing(told, 1, 1) == 0


@pytest.mark.parametrize(("before", "after"), [(0.2, 1), (1, 0.3)])
def test_both_margins_are_needed(told: list[Case], before: float, after: float) -> None:
    assert differing(told, before, after) > 0


def test_they_are_whole_hours_that_hold_the_period() -> None:
    edges = Margins(before=1, after=HOUR_MS)
    assert edges.of(5 * HOUR_MS, 6 * HOUR_MS) == (4 * HOUR_MS, 7 * HOUR_MS)
    assert Margins(0, 1).of(0, HOUR_MS) == (0, 2 * HOUR_MS)
    assert edges.hours == 2
