"""The join over an archive, against the oracle, late records included: what it decides follows from
the archive alone.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from schemas.events import STREAMS
from tests import archives, configured, oracle
from tests.archives import Kept
from tests.e2e import outcomes
from tests.flink import running
from tests.timeline import Action, Event, Key, Request, Rules, Timeline, Watermark

START = 1_700_000_000_000
BOUND = 2_000
REQUESTS = 400
PARTITIONS = {"features": 3, "actions": 2}


def rules(key: Key) -> Rules:
    windows = {"click": 20_000, "buy": 60_000}
    return Rules(
        key, windows, {"click": "count", "buy": "sum"}, skew=500, lateness=1_000, max_actions=4
    )


def story(seed: int, key: Key) -> list[tuple[str, int, Request | Action]]:
    """Stream, partition and event, in the order of arrival. One in ten comes late, by up to two of
    the longest windows, and some come twice.
    """
    choose = random.Random(seed)
    arrivals: list[tuple[int, str, int, Request | Action]] = []

    def send(stream: str, event: Request | Action) -> None:
        for _ in range(1 + (choose.random() < 0.05)):
            lag = choose.randrange(120_000) if choose.random() < 0.1 else choose.randrange(BOUND)
            partition = choose.randrange(PARTITIONS[stream])
            arrivals.append((event.event_time + lag, stream, partition, event))

    for i in range(REQUESTS):
        time, user = START + i * 9_000 + choose.randrange(9_000), f"u{choose.randrange(40)}"
        items = tuple(choose.sample([f"i{n}" for n in range(9)], 3))
        send("features", Request(f"r{i}", user, time, items))
        for n in range(choose.randrange(5)):
            kind = choose.choice(["click", "buy"])
            at = time + choose.randrange(-1_000, 70_000)
            shown = choose.choice([*items, "i9"])
            value = choose.choice([1.0, 2.5])
            send("actions", Action(f"e{i}-{n}", user, shown, f"r{i}", kind, value, at))
    # both streams come equally far
    end = START + REQUESTS * 9_000 + 300_000
    arrivals.append((end, "features", 0, Request("end", "u", end, ("i0",))))
    arrivals.append((end, "actions", 0, Action("end", "u", "i0", "end", "click", 1.0, end)))
    arrivals.sort(key=lambda arrival: arrival[0])
    return [arrival[1:] for arrival in arrivals]


def timeline(arrivals: list[tuple[str, int, Request | Action]]) -> Timeline:
    """As docs/archive.md says that it is replayed: by the greatest time that a partition has shown,
    with the watermark of that.
    """
    shown: dict[tuple[int, int], int] = {}
    records: list[tuple[int, tuple[int, int], int, Request | Action]] = []
    for stream, partition, event in arrivals:
        place = STREAMS.index(stream), partition
        shown[place] = max(shown.get(place, 0), event.event_time)
        records.append((shown[place], place, len(records), event))
    events: list[Event] = []
    for clock, _, _, event in sorted(records, key=lambda record: record[:3]):
        events += [Watermark(clock - clock % 1000 - BOUND - 1), event]
    newest = Counter[str]()
    for stream, _, event in arrivals:
        newest[stream] = max(newest[stream], event.event_time - event.event_time % 1000)
    return Timeline(tuple(events), min(newest.values()))


def keep(folder: Path, arrivals: list[tuple[str, int, Request | Action]], seed: int) -> None:
    offsets = Counter[tuple[str, int]]()
    records: dict[str, list[Kept]] = {stream: [] for stream in STREAMS}
    for stream, partition, event in arrivals:
        value = outcomes.as_record(event)
        at = offsets[stream, partition]
        records[stream].append(Kept(f"t-{stream}", partition, at, event.event_time, value))
        offsets[stream, partition] += 1
    for stream, kept in records.items():
        archives.write(folder / stream, kept, seed=seed)


def configuration(rules: Rules) -> str:
    text = configured.toml(rules, f"{BOUND}ms")
    for stream in STREAMS:
        text = text.replace(
            f'type = "files"\npath = "{stream}"', 'type = "archive"\npath = "archive"'
        )
    head, found, tail = text.partition("[features.")
    assert found
    features = '[features.price]\ntype = "float64"\n[sources.features]'
    return head + features + tail.partition("[sources.features]")[2]


@pytest.mark.parametrize(
    ("key", "parallelism"),
    [
        ("request_id", 3),
        pytest.param("user_id", 1, marks=pytest.mark.thorough),
        pytest.param("user_id", 4, marks=pytest.mark.thorough),
    ],
)
def test_late_records_too_are_decided_by_the_archive_alone(
    tmp_path: Path, key: Key, parallelism: int
) -> None:
    arrivals = story(5, key)
    keep(tmp_path / "archive", arrivals, seed=5)
    config = tmp_path / "pipeline.toml"
    config.write_text(configuration(rules(key)))
    # readers are held back again and again: an hour and more lies in the archive
    drift = [f"sources.{stream}.max_drift=10min" for stream in STREAMS]
    running.join(config, tmp_path / "out", f"runtime.parallelism={parallelism}", *drift)
    expected = oracle.expected(timeline(arrivals), rules(key))
    counters = expected.counters
    assert min(counters["rejected.late_request"], counters["late"]) > 5, counters
    outcomes.check_written(tmp_path / "out", rules(key), expected)
