"""The operators that read and decode, without Flink: what moves time, and what leaves by the side.

From files the third field of a row is the time whose watermark follows it. From Kafka the source
makes the watermark from record timestamps, and the beacons say how far a stream has come.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyflink.common import Row

from schemas.actions import ActionKind
from schemas.events import ActionEvent, Progress, RequestEvent, Stream
from schemas.features import FeatureSchema
from tests.effort import examples
from udfs.core.decode_settings import Chunk, DecodeSettings, StreamSettings
from udfs.operators import decode as operators
from udfs.operators.side_outputs import REJECTED, SideOutput

T = 1_700_000_000_000
BEACON = "beacon"
unpack = msgspec.msgpack.Decoder(RequestEvent | ActionEvent | Progress).decode


class _Counter:
    def __init__(self) -> None:
        self.count = 0

    def inc(self, by: int = 1) -> None:
        self.count += by

    def get_count(self) -> int:
        return self.count


class _Context:
    """The part of Flink's runtime context that the operators use."""

    def get_metrics_group(self) -> _Context:
        return self

    def add_group(self, name: str) -> _Context:
        return self

    def counter(self, name: str) -> _Counter:
        return _Counter()


@pytest.fixture(autouse=True)
def _no_jvm(monkeypatch: pytest.MonkeyPatch) -> None:
    # a real tag holds a type of the JVM
    monkeypatch.setattr(SideOutput, "tag", lambda side: side.name)


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


def from_files(chunks: Read, how: DecodeSettings) -> Iterator[tuple[Any, int]]:
    """Each event (or rejected row) and the watermark time after it."""
    reader = operators.ReadFiles(how)
    reader.open(_Context())
    clock = 0
    with TemporaryDirectory() as folder:
        for i, (stream, lines) in enumerate(chunks):
            path = Path(folder) / f"{i}.jsonl"
            path.write_bytes(b"".join(line + b"\n" for line in lines))
            chunk = Chunk(stream, str(path), 0, path.stat().st_size)
            for out in reader.process_element([msgspec.json.encode(chunk)], None):
                if isinstance(out, Row):
                    clock = max(clock, out[2])
                    yield unpack(out[1]), clock
                else:
                    yield out[1], clock


def from_kafka(stream: Stream, records: list[bytes], how: DecodeSettings) -> Iterator[Any]:
    """Each event or rejected row. The timestamps are the event times."""
    decoding = operators.DecodeRecords(how, stream)
    decoding.open(_Context())
    for offset, raw in enumerate(records):
        time = json.loads(raw)["event_time"]
        value = [raw.decode("latin-1"), "topic", 0, offset, time]
        for out in decoding.process_element(value, None):
            yield unpack(out[1]) if isinstance(out, Row) else out[1]


def seen(chunks: Read, how: DecodeSettings) -> list[tuple[str, int, int]]:
    """Of every request and click its time, and the watermark time that was announced before it."""
    found, clock = [], 0
    for event, after in from_files(chunks, how):
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
        told = [e.time for e in from_kafka("actions", actions, how) if isinstance(e, Progress)]
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
        return {e.stream: e.time for e, _ in from_files(read, how) if isinstance(e, Progress)}

    assert progress(ignore) == progress(configured)


@pytest.mark.parametrize("timestamp", [-1, 0, 2**62, 2**63 - 1])
def test_a_timestamp_that_is_no_time_costs_no_more_than_its_record(timestamp: int) -> None:
    decoding = operators.DecodeRecords(decode_settings(("click",), reject_unknown=True), "actions")
    decoding.open(_Context())
    value = [action("clik", 0).decode(), "topic", 0, 7, timestamp]
    ((name, row),) = decoding.process_element(value, None)
    columns = SideOutput("", REJECTED.schema).columns
    rejected = dict(zip(columns, row, strict=True))
    assert name == REJECTED.name
    assert rejected["record_time"] is None
    assert (rejected["dt"], rejected["hr"]) == ("1970-01-01", "00")
