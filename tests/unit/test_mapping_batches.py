"""Mapped records in batches, as Flink has them decoded: what moves time, what is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from jobs.pipeline.file_plan import of_pipeline
from jobs.pipeline.sources import decode_settings
from schemas.events import STREAMS, ActionEvent, Progress, RequestEvent
from tests.unit.mapped import BASE
from tests.unit.test_decode_batches import Replies, from_files, read_files
from tests.unit.test_mapping import pipeline
from udfs.core.decode_batches import DecodeArchive, DecodeRecords
from udfs.core.decode_settings import DecodeSettings

T = 1_700_000_000_000
EVENTS = """
[join]
key = "user_id"
[events.features]
request_id = "r"
user_id = "u"
event_time = "t"
items = "shown"
item_id = "."
skip = "bot"
fields = {price = {constant = 1.0}, hour = {constant = 1}}
[events.actions]
user_id = "u"
item_id = "i"
event_time = "t"
says = [
  {kind = "click", when = "click"},
  {kind = "dwell", when = "bought", value = {constant = 1.0}, event_time = "bought"},
]
"""


def how(tmp_path: Path) -> DecodeSettings:
    base = BASE.replace('type = "files"', 'type = "files"\nout_of_orderness = "0s"')
    return decode_settings(pipeline(tmp_path, EVENTS, base=base), ("beacon",))


def request(at: int, **more: Any) -> bytes:
    return json.dumps({"r": f"r{at}", "u": "u", "t": T + at, "shown": ["i"]} | more).encode()


def action(at: int, **more: Any) -> bytes:
    return json.dumps({"u": "u", "i": "i", "t": T + at} | more).encode()


def test_an_action_that_is_foretold_does_not_move_time(tmp_path: Path) -> None:
    lines = [action(10, click=1, bought=T + 9_000), action(20, click=1)]
    found = from_files([("features", [request(5_000)]), ("actions", lines)], how(tmp_path))
    actions = [
        (e.action, e.event_time - T, clock - T) for e, clock in found if isinstance(e, ActionEvent)
    ]
    assert actions == [("click", 10, 10), ("dwell", 9_000, 10), ("click", 20, 20)]
    assert (
        max(e.time for e, _ in found if isinstance(e, Progress) and e.source == "actions") == T + 20
    )


def test_what_is_skipped_moves_time_and_is_counted(tmp_path: Path) -> None:
    features = [request(0), request(700, bot=1), b'{"bot": 1, "t": "soon"}', b'{"t": 3}']
    actions = [action(500, click=1, bought=T + 501), action(600)]
    replies = read_files([("features", features), ("actions", actions)], how(tmp_path))
    # the action that says nothing tells that both streams have reached its time
    assert max(clock for _, clock in replies.events) == T + 600
    assert [e.request_id for e, _ in replies.events if isinstance(e, RequestEvent)] == ["r0"]
    counts = replies.counts
    assert (counts["features_read"], counts["features_skipped"]) == (4, 2)
    assert (counts["actions_read"], counts["actions_skipped"]) == (3, 1)
    assert [row["raw"] for row in replies.rejected] == [b'{"t": 3}']


def test_records_of_a_topic(tmp_path: Path) -> None:
    decoding, replies = DecodeRecords(how(tmp_path), "actions"), Replies()
    decoding.open()
    raws = [action(0, click=1, bought=T), action(1), b"{}", None]
    batch = [(raw, "topic", 0, n, T + n) for n, raw in enumerate(raws)]
    assert not replies.add(decoding.run(msgspec.msgpack.encode(batch)))
    of_record = [e for e, _ in replies.events if isinstance(e, ActionEvent)]
    assert [(e.action, e.origin.offset) for e in of_record] == [("click", 0), ("dwell", 0)]
    assert [(r["reason"], r["offset"]) for r in replies.rejected] == [
        ("missing_field", 2),
        ("empty_record", 3),
    ]
    assert replies.counts["actions_read"] == 5


def test_records_of_an_archive(tmp_path: Path) -> None:
    decoding = DecodeArchive(how(tmp_path))
    decoding.open()
    of_actions = STREAMS.index("actions")
    raws = [action(0, click=1, bought=T + 50), b"{}"]
    batch = [("t", raw, n) for n, raw in enumerate(raws)]
    packed = [(raw, topic, 0, n, T + n, of_actions, 3, T + n) for topic, raw, n in batch]
    _, events, (_, _, side) = msgspec.msgpack.decode(decoding.run(msgspec.msgpack.encode(packed)))
    found = [(e[5], clock - T, place) for _, e, clock, place in events if e[0] == "a"]
    assert found == [("click", 0, 3), ("dwell", 0, 3)]
    assert len(side) == 1


def test_the_plan_of_files_reads_their_times(tmp_path: Path) -> None:
    for name, lines in (
        ("features/b.jsonl", [request(20_000)]),
        ("features/a.jsonl", [b"junk", request(1, bot=True), request(30_000)]),
        ("actions/a.jsonl", [action(10_000)]),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\n".join(lines) + b"\n")
    planned = of_pipeline(pipeline(tmp_path, EVENTS))
    assert [Path(chunk.path).parts[-2:] for chunk in planned.chunks] == [
        ("features", "a.jsonl"),
        ("actions", "a.jsonl"),
        ("features", "b.jsonl"),
    ]
    assert not planned.warnings
