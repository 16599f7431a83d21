"""What reads the records beside the job reads them through the same mapping."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pyarrow as pa
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.pipeline.config import Pipeline, load
from jobs.pipeline.sources import decode_settings
from schemas.decoding import BadRecord, IgnoredAction
from schemas.events import STREAMS, Origin, RequestBody, RequestEvent, Stream
from schemas.mapping.decoding import Skipped
from tests.effort import examples
from tests.unit.test_mapping_properties import WHOLE, junk
from tools.advise_window import orphans, read_events
from tools.audit.decoding import DecodedAction, DecodedRequest
from tools.audit.mapped import Decoders
from tools.try_mapping.reading import events_of
from udfs.core.decode_batches import action_decoder, request_decoder

T = 1_700_000_000_000
HERE = Origin("here", None, 0)
REST = """
[join]
unknown_actions = "ignore"
[actions.click]
window = "1h"
[actions.dwell]
window = "1h"
label = "max"
[features.hour]
type = "int64"
scope = "context"
required = false
[features.price]
type = "float64"
required = false
[features.tags]
type = "list<string>"
required = false
[end_of_input]
complete_until = 1700001000000
[sources.features]
type = "files"
path = "features"
[sources.actions]
type = "files"
path = "actions"
[output]
path = "out"
"""


@cache
def pipeline() -> Pipeline:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.toml"
        path.write_text(tomli_w.dumps({"events": WHOLE}) + REST)
        return load(path)


def of_the_job(stream: Stream, raw: bytes) -> Any:
    """What the job's decoder says, in the words of the audit's."""
    how = decode_settings(pipeline(), ())
    decoder: Any = request_decoder(how) if stream == "features" else action_decoder(how)
    try:
        said = decoder.decode(raw, HERE, None)
    except BadRecord as bad:
        return bad.reason
    if isinstance(said, Skipped):
        return said
    found: list[Any] = []
    for event in said if isinstance(said, list) else [said]:
        if isinstance(event, IgnoredAction):
            found.append(event.event_time)
        elif isinstance(event, RequestEvent):
            body = msgspec.msgpack.decode(event.body, type=RequestBody)
            found.append(
                (event.request_id, event.event_time, body.user_id, body.items, body.columns)
            )
        else:
            found.append((event.event_id, event.item_id, event.action, event.value))
    return found


def of_the_audit(stream: Stream, raw: bytes) -> Any:
    said = Decoders(pipeline()).read(stream, raw, None)
    if not isinstance(said, list):
        return said
    found: list[Any] = []
    for event in said:
        if isinstance(event, DecodedRequest):
            e = event
            found.append((e.request_id, e.event_time, e.user_id, e.items, e.columns))
        else:
            assert isinstance(event, DecodedAction)
            a = event
            usual = (a.event_id, a.item_id, a.action, a.value)
            found.append(a.event_time if a.ignored else usual)
    return found


#: A good record of both streams, some of whose fields are then replaced.
GOOD = {
    "a": [{"b": "u"}],
    "b": [{"b": 1, "c": 1, "d": "i", "e": "click"}, {"d": 7, "e": "other"}],
    "c": 120_000_000,
    "d": "e",
    "e": ["price"],
    "f": "2026-01-01",
}
OF_FEATURES = {
    "a": {"b": "u", "c": "u", "hour": 3},
    "b": "q",
    "c": "2023-11-14T22:13:20Z",
    "d": [{"a": 1, "b": [2.5]}],
    "e": ["price"],
    "f": ["3"],
}


@settings(max_examples=examples(200), deadline=None)
@given(
    st.sampled_from([OF_FEATURES, GOOD]),
    st.dictionaries(st.sampled_from("abcdef"), junk, max_size=2) | junk,
)
def test_the_audit_reads_what_the_job_reads(good: dict[str, Any], other: Any) -> None:
    record = {**good, **other} if isinstance(other, dict) else other
    raw = msgspec.json.encode(record)
    for stream in STREAMS:
        assert of_the_audit(stream, raw) == of_the_job(stream, raw)


def test_the_good_records_of_the_test_above_are_good() -> None:
    (request,) = of_the_job("features", msgspec.json.encode(OF_FEATURES))
    assert request[0] == "u/q"
    assert len(of_the_job("actions", msgspec.json.encode(GOOD))) == 4


def test_the_advice_reads_mapped_records(tmp_path: Path) -> None:
    text = """
[events.features]
request_id = "q"
user_id = "u"
event_time = { path = "t", unit = "s" }
items = "shown"
item_id = "."
[events.actions]
request_id = "q"
user_id = "u"
items = "clicked"
item_id = "."
event_time = { path = "t", unit = "s" }
action = { constant = "click" }
"""
    (tmp_path / "pipeline.toml").write_text(text + REST)
    for stream in STREAMS:
        (tmp_path / stream).mkdir()
    at = T // 1000
    with (tmp_path / "features" / "a.jsonl").open("w") as file:
        for n in range(5):
            file.write(json.dumps({"q": n, "u": 1, "t": at + n, "shown": ["a", "b"]}) + "\n")
    with (tmp_path / "actions" / "a.jsonl").open("w") as file:
        for n in range(5):
            file.write(json.dumps({"q": n, "u": 1, "t": at + n + 7, "clicked": ["a", "b"]}) + "\n")
        file.write("junk\n")
    observed = read_events.read(load(tmp_path / "pipeline.toml"))
    click = next(kind for kind in observed.kinds if kind.kind == "click")
    assert sorted(click.delays) == pytest.approx([7_000.0] * 10)


def test_orphans_of_mapped_records_are_read(tmp_path: Path) -> None:
    """An orphan that comes beyond the horizon tells that its impression acted."""
    text = """
[events.actions]
request_id = "q"
user_id = "u"
item_id = "i"
event_time = { path = "t", unit = "s" }
says = [{ kind = "click", when = "c" }, { kind = "dwell", when = "d", value = "d" }]
"""
    (tmp_path / "pipeline.toml").write_text(text + REST)
    loaded = load(tmp_path / "pipeline.toml")
    raw = json.dumps({"q": "r", "u": "u", "i": "a", "t": T // 1000 + 90_000, "c": 1, "d": 2.0})
    rejected = pa.table(
        {"stream": ["actions"] * 2, "reason": ["orphan_action"] * 2, "raw": [raw.encode()] * 2}
    )
    samples = pa.table(
        {
            "request_id": ["r"],
            "item_id": ["a"],
            "event_time": [T],
            "delay_click_ms": pa.array([None], pa.int64()),
            "delay_dwell_ms": pa.array([5]),
        }
    )
    found = orphans.beyond_horizon(rejected, samples, loaded.rules, events_of(loaded, "actions"))
    assert found.of_known == {"click": 1}
    assert not found.others
