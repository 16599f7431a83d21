"""The join over an archive, against the oracle, late records included: what it decides follows from
the archive alone.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

from schemas.events import STREAMS, Stream
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


#: Of how many records some may be far behind a timestamp that counts.
AHEAD, MOST = 15, 8


class Arrived(NamedTuple):
    """A record. `timestamp`: the time of its event, or half an hour more, of a wrong clock."""

    stream: Stream
    partition: int
    event: Request | Action
    timestamp: int


def story(seed: int) -> list[Arrived]:
    """In the order of arrival. One in ten comes late, by up to two of the longest windows, some
    come twice, and some requests have timestamps that are ahead of time.
    """
    choose = random.Random(seed)
    arrivals: list[tuple[int, Arrived]] = []

    def send(stream: Stream, event: Request | Action) -> None:
        for _ in range(1 + (choose.random() < 0.05)):
            lag = choose.randrange(120_000) if choose.random() < 0.1 else choose.randrange(BOUND)
            partition = choose.randrange(PARTITIONS[stream])
            wrong = stream == "features" and choose.random() < 0.04
            stamp = event.event_time + (1_800_000 if wrong else 0)
            arrivals.append((event.event_time + lag, Arrived(stream, partition, event, stamp)))

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
    last = Action("end", "u", "i0", "end", "click", 1.0, end)
    arrivals.append((end, Arrived("features", 0, Request("end", "u", end, ("i0",)), end)))
    arrivals.append((end, Arrived("actions", 0, last, end)))
    return [arrived for _, arrived in sorted(arrivals, key=lambda arrival: arrival[0])]


def timeline(arrivals: list[Arrived]) -> Timeline:
    """As docs/archive.md says that it is replayed: by the greatest time that a partition has shown,
    with the watermark of that.
    """
    records: list[tuple[int, tuple[int, int], int, Request | Action]] = []
    places: dict[tuple[int, int], list[Arrived]] = defaultdict(list)
    for arrived in arrivals:
        places[STREAMS.index(arrived.stream), arrived.partition].append(arrived)
    for place, all_of in places.items():
        clock = 0
        for offset, arrived in enumerate(all_of):
            following = all_of[offset + 1 : offset + 1 + AHEAD]
            if sum(a.timestamp < arrived.timestamp - BOUND for a in following) < MOST:
                clock = max(clock, arrived.timestamp)
            records.append((clock, place, offset, arrived.event))
    events: list[Event] = []
    for clock, _, _, event in sorted(records, key=lambda record: record[:3]):
        events += [Watermark(clock - clock % 1000 - BOUND - 1), event]
    newest = Counter[str]()
    for arrived in arrivals:
        time = arrived.timestamp - arrived.timestamp % 1000
        newest[arrived.stream] = max(newest[arrived.stream], time)
    return Timeline(tuple(events), min(newest.values()))


def keep(folder: Path, arrivals: list[Arrived], seed: int) -> None:
    offsets = Counter[tuple[str, int]]()
    records: dict[str, list[Kept]] = {stream: [] for stream in STREAMS}
    for stream, partition, event, stamp in arrivals:
        value = outcomes.as_record(event)
        at = offsets[stream, partition]
        records[stream].append(Kept(f"t-{stream}", partition, at, stamp, value))
        offsets[stream, partition] += 1
    for name, kept in records.items():
        archives.write(folder / name, kept, seed=seed)


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
        pytest.param("user_id", 4, marks=pytest.mark.thorough),
    ],
)
def test_late_records_too_are_decided_by_the_archive_alone(
    tmp_path: Path, key: Key, parallelism: int
) -> None:
    arrivals = story(5)
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
