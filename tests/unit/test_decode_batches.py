"""Reading and decoding as Flink calls it, without Flink: what moves time, what leaves by the side.

From files each event has the time whose watermark follows it. From Kafka the source
makes the watermark from record timestamps, and the beacons say how far a stream has come.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.actions import ActionKind
from schemas.events import ActionEvent, Progress, RequestEvent, Stream
from schemas.features import FeatureSchema
from tests.effort import examples
from udfs.core import decode_batches
from udfs.core.decode_batches import DecodeArchive, DecodeRecords, ReadFiles
from udfs.core.decode_settings import Chunk, DecodeSettings, StreamSettings

T = 1_700_000_000_000
BEACON = "beacon"
Event = RequestEvent | ActionEvent | Progress
pack = msgspec.msgpack.encode


def decode_settings(
    kinds: tuple[str, ...], *, reject_unknown: bool = False, bound: int = 0
) -> DecodeSettings:
    stream = StreamSettings(out_of_orderness=bound, max_record_bytes=10_000, max_future_ms=1_000)
    return DecodeSettings(
        FeatureSchema.of([]),
        tuple(ActionKind(kind, 10_000) for kind in kinds),
        "user_id",
        reject_unknown,
        {"features": stream, "actions": stream},
        (BEACON,),
    )


def request(at: int, name: str = "r") -> bytes:
    record = {"request_id": f"{name}{at}", "user_id": "u", "event_time": T + at}
    return json.dumps(record | {"items": [{"item_id": "i"}]}).encode()


def action(kind: str, at: int) -> bytes:
    record = {"user_id": "u", "item_id": "i", "action": kind, "event_time": T + at}
    return json.dumps(record).encode()


Read = list[tuple[Stream, list[bytes]]]


class Replies:
    """What a host says: events with their clocks, in order; counts; rejected rows by column."""

    def __init__(self) -> None:
        self.events: list[tuple[Event, int]] = []
        self.counts: Counter[str] = Counter()
        self.rejected: list[dict[str, Any]] = []
        self.sizes: list[int] = []

    def add(self, packed: bytes) -> bool:
        """Whether there is more of the batch."""
        more, events, (counts, warnings, side) = msgspec.msgpack.decode(packed)
        assert not warnings
        self.sizes.append(len(events))
        for key, event, clock in events:
            self.events.append((msgspec.convert(event, Event), clock))
            assert key in ("u", BEACON)
        self.counts.update(dict(counts))
        for which, values in side:
            columns = decode_batches.SIDE_OUTPUTS[which].columns
            self.rejected.append(dict(zip(columns, values, strict=True)))
        return bool(more)


def read_files(chunks: Read, how: DecodeSettings) -> Replies:
    """Each chunk a batch of its own, as in a job."""
    reader, replies = ReadFiles(how), Replies()
    reader.open()
    with TemporaryDirectory() as folder:
        for i, (stream, lines) in enumerate(chunks):
            path = Path(folder) / f"{i}.jsonl"
            path.write_bytes(b"".join(line + b"\n" for line in lines))
            chunk = Chunk(stream, str(path), 0, path.stat().st_size)
            more = replies.add(reader.run(pack([[msgspec.json.encode(chunk).decode(), i]])))
            while more:
                more = replies.add(reader.more())
    return replies


def from_files(chunks: Read, how: DecodeSettings) -> list[tuple[Event, int]]:
    """Each event and the watermark time after it."""
    return read_files(chunks, how).events


def from_kafka(
    stream: Stream, records: list[bytes], how: DecodeSettings, cut: int = 1_000
) -> Replies:
    """The timestamps are the event times. A batch takes `cut` records."""
    decoding, replies = DecodeRecords(how, stream), Replies()
    decoding.open()
    times = [json.loads(raw)["event_time"] for raw in records]
    all_of_them = [
        (raw, "topic", 0, offset, time)
        for offset, (raw, time) in enumerate(zip(records, times, strict=True))
    ]
    for begin in range(0, len(all_of_them), cut):
        assert not replies.add(decoding.run(pack(all_of_them[begin : begin + cut])))
    return replies


def seen(chunks: Read, how: DecodeSettings) -> list[tuple[str, int, int]]:
    """Of every request and click its time, and the watermark time that was announced before it."""
    found, clock = [], 0
    for event, after in from_files(chunks, how):
        # events before both streams have shown something have no clock
        after = max(clock, after)
        if isinstance(event, RequestEvent):
            found.append((event.request_id, event.event_time, clock))
        elif isinstance(event, ActionEvent) and event.action == "click":
            found.append(("click", event.event_time, clock))
        clock = after
    return found


def test_ignored_actions_move_time_from_files_as_they_do_from_kafka() -> None:
    """`view` is not configured. After views at 50 s and 100 s the watermark is there."""
    ignore = decode_settings(("click",))
    actions = [action("click", 1_000), action("view", 50_000), action("view", 100_000)]
    features = [request(0), request(20_000), request(100_000)]
    read: Read = [("features", features), ("actions", actions), ("features", [request(20_001)])]
    assert seen(read, ignore)[-1] == ("r20001", T + 20_001, T + 100_000)
    # the same as if they were of a kind that is configured
    assert seen(read, decode_settings(("click", "view"))) == seen(read, ignore)
    # a rejected record moves nothing
    reject = decode_settings(("click",), reject_unknown=True)
    assert seen(read, reject)[-1] == ("r20001", T + 20_001, T + 1_000)
    # from Kafka the beacons say the same of both
    for how, latest in ((ignore, 100_000), (reject, 1_000)):
        kafka = from_kafka("actions", actions, how)
        told = [e.time for e, _ in kafka.events if isinstance(e, Progress)]
        files = [
            e.time for e, _ in from_files([("actions", actions)], how) if isinstance(e, Progress)
        ]
        assert max(told) == max(files) == T + latest


times = st.integers(0, 20).map(lambda t: t * 500)
lines = {
    "features": st.lists(times.map(request), max_size=4),
    "actions": st.lists(st.builds(action, st.sampled_from(["click", "view"]), times), min_size=3),
}
chunks = st.lists(
    st.one_of(*(st.tuples(st.just(stream), lines[stream]) for stream in lines)), max_size=6
)


@given(read=chunks, bound=st.sampled_from([0, 700, 2_000]))
@settings(max_examples=examples(100))
def test_time_is_the_same_whether_a_kind_is_ignored_or_configured(read: Any, bound: int) -> None:
    ignore = decode_settings(("click",), bound=bound)
    configured = decode_settings(("click", "view"), bound=bound)
    # actions can only move the watermark when the features are ahead
    read = [("features", [request(20_000)]), *read]
    assert seen(read, ignore) == seen(read, configured)

    def progress(how: DecodeSettings) -> dict[str, int]:
        return {e.source: e.time for e, _ in from_files(read, how) if isinstance(e, Progress)}

    assert progress(ignore) == progress(configured)


@given(records=lines["actions"], bound=st.sampled_from([0, 700, 2_000]), cut=st.integers(1, 4))
@settings(max_examples=examples(100))
def test_any_cut_gives_the_same_from_kafka(records: list[bytes], bound: int, cut: int) -> None:
    how = decode_settings(("click",), reject_unknown=True, bound=bound)
    whole, parts = from_kafka("actions", records, how), from_kafka("actions", records, how, cut)
    assert parts.events == whole.events
    assert parts.rejected == whole.rejected
    assert parts.counts == whole.counts


def test_an_archive_is_decoded_as_its_topics_were() -> None:
    """Both streams in one batch; events and beacons have the clock and place of their record. A
    beacon comes with each new clock, too: after a record that is rejected, the last one again.
    """
    how = decode_settings(("click",), reject_unknown=True)
    lines: dict[Stream, list[bytes]] = {
        "features": [request(0), request(5_000), request(2_000)],
        "actions": [action("click", 1), action("view", 2_000), action("click", 9_000)],
    }
    records = [
        (
            raw,
            "topic",
            0,
            offset,
            json.loads(raw)["event_time"],
            index,
            7 + index,
            2 * offset + index,
        )
        for offset in range(3)
        for index, raw in enumerate(of[offset] for of in lines.values())
    ]
    host = DecodeArchive(how)
    host.open()
    _, events, (counts, _, side) = msgspec.msgpack.decode(host.run(pack(records)))
    due = [from_kafka(stream, raws, how) for stream, raws in lines.items()]
    for place, expected in zip((7, 8), due, strict=True):
        found = [msgspec.convert(event, Event) for _, event, _, at in events if at == place]
        told = [event for event in found if isinstance(event, Progress)]
        again = [event for one, event in pairwise(told) if one == event]
        assert len(again) == 1
        once = [e for i, e in enumerate(found) if e not in again or e not in found[:i]]
        assert once == [event for event, _ in expected.events]
    assert [clock for *_, clock, _ in events] == sorted(clock for *_, clock, _ in events)
    assert Counter(dict(counts)) == due[0].counts + due[1].counts
    assert len(side) == len(due[1].rejected) == 1


def test_a_large_chunk_comes_in_parts() -> None:
    how = decode_settings(("click",), reject_unknown=True)
    records = [action("click" if i % 7 else "clik", i) for i in range(1_000)]
    replies = read_files([("actions", records)], how)
    assert max(replies.sizes) == decode_batches.AT_ONCE
    assert replies.counts["actions_read"] == 1_000
    bad = replies.counts["rejected/actions/unknown_action"]
    assert bad == len(replies.rejected) == 143
    events = [e for e, _ in replies.events if isinstance(e, ActionEvent)]
    assert [e.event_time - T for e in events] == [i for i in range(1_000) if i % 7]


@pytest.mark.parametrize("timestamp", [-1, 0, 2**62, 2**63 - 1])
def test_a_timestamp_that_is_no_time_costs_no_more_than_its_record(timestamp: int) -> None:
    decoding, replies = (
        DecodeRecords(decode_settings(("click",), reject_unknown=True), "actions"),
        Replies(),
    )
    decoding.open()
    replies.add(decoding.run(pack([(action("clik", 0), "topic", 0, 7, timestamp)])))
    (rejected,) = replies.rejected
    assert rejected["raw"] == action("clik", 0)
    assert rejected["record_time"] is None
    assert (rejected["dt"], rejected["hr"]) == ("1970-01-01", "00")


def test_a_kafka_record_without_a_value_is_empty() -> None:
    decoding, replies = DecodeRecords(decode_settings(("click",)), "actions"), Replies()
    decoding.open()
    replies.add(decoding.run(pack([(None, "topic", 0, 7, T)])))
    assert [row["reason"] for row in replies.rejected] == ["empty_record"]
    assert replies.events == []
