"""What is said of records that are archived is what the join's decoders say of them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from schemas.actions import ActionKind
from schemas.bad_record import BadRecord
from schemas.events import Stream
from schemas.features import FeatureSchema
from schemas.formats.declared import RegistryError
from udfs.core import archive_batches
from udfs.core.archive_batches import ReadRecords
from udfs.core.decode_settings import DecodeSettings, StreamSettings

T = 1_700_000_000_000
NOTHING = [None] * 4


def settings(*, reject_unknown: bool) -> DecodeSettings:
    stream = StreamSettings(out_of_orderness=0, max_record_bytes=1_000, max_future_ms=1_000)
    return DecodeSettings(
        FeatureSchema.of([]),
        (ActionKind("click", 10_000),),
        "request_id",
        reject_unknown,
        {"features": stream, "actions": stream},
        (),
    )


def said(
    stream: Stream, records: list[tuple[bytes | None, int]], *, reject_unknown: bool = True
) -> tuple[list[list[Any]], dict[str, int]]:
    """What is said of each record, and the counts."""
    host = ReadRecords(settings(reject_unknown=reject_unknown), stream)
    host.open()
    batch = msgspec.msgpack.encode([(value, time, None) for value, time in records])
    rows, (counts, warnings, side) = msgspec.msgpack.decode(host.run(batch))
    assert not warnings
    assert not side
    assert {name for name, _ in counts} <= set(archive_batches.counters(stream))
    return rows, dict(counts)


def request(*items: str) -> bytes:
    record = {"request_id": "r", "user_id": "u", "event_time": T}
    return json.dumps(record | {"items": [{"item_id": item} for item in items]}).encode()


def action(**fields: Any) -> bytes:
    record = {"request_id": "r", "user_id": "u", "item_id": "i", "action": "click"}
    return json.dumps(record | {"event_time": T} | fields).encode()


def test_requests_good_and_bad_in_their_order() -> None:
    records = [(None, T), (request("a", "b"), T), (b"{", -1), (request("a"), -1), (b"x" * 2000, T)]
    rows, counts = said("features", records)
    assert [row[4] for row in rows] == [
        *("empty_record", None, "broken_json", "future_clock", "too_large")
    ]
    assert rows[1] == [T, "r", "u", ["a", "b"], None, None]
    for row in (rows[0], *rows[2:]):
        assert row[:4] == NOTHING
        assert row[5]
    assert counts == {
        "features_archived": 5,
        **{f"unusable/features/{row[4]}": 1 for row in rows if row[4]},
    }


def test_actions() -> None:
    rows, counts = said("actions", [(action(), T), (action(request_id=None), T), (b"[]", T)])
    assert rows[0] == [T, "r", "u", ["i"], None, None]
    assert [row[4] for row in rows[1:]] == ["missing_field", "wrong_type"]
    assert counts["actions_archived"] == 3


@pytest.mark.parametrize("reject_unknown", [True, False])
def test_an_action_of_a_kind_that_is_not_configured(reject_unknown: bool) -> None:
    rows, _ = said("actions", [(action(action="scroll"), T)], reject_unknown=reject_unknown)
    if reject_unknown:
        assert rows[0][:5] == [*NOTHING, "unknown_action"]
    else:
        assert rows == [[T, None, None, None, None, None]]


def test_counts_are_those_of_one_batch() -> None:
    host = ReadRecords(settings(reject_unknown=True), "actions")
    host.open()
    for _ in range(2):
        _, (counts, _, _) = msgspec.msgpack.decode(
            host.run(msgspec.msgpack.encode([(None, T, None)]))
        )
        assert sorted(counts) == [["actions_archived", 1], ["unusable/actions/empty_record", 1]]


def test_a_registry_that_cannot_be_asked_costs_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """The join would wait for it. An archive that waits loses what retention removes."""
    down = True

    class Decoder:
        def decode(self, raw: bytes, *_: object) -> object:
            if down and raw != b"known":
                raise RegistryError("the schema registry gives no answer")
            raise BadRecord("broken_record", "as ever")

    monkeypatch.setattr(archive_batches, "request_decoder", lambda _: Decoder())
    host = ReadRecords(settings(reject_unknown=True), "features")
    host.open()

    def run(*values: bytes) -> tuple[list[list[Any]], dict[str, int], list[list[str]]]:
        records = [(value, T, None) for value in values]
        rows, (counts, warnings, _) = msgspec.msgpack.decode(
            host.run(msgspec.msgpack.encode(records))
        )
        assert {name for name, _ in counts} <= set(archive_batches.counters("features"))
        return rows, dict(counts), warnings

    rows, counts, warnings = run(b"new", b"known", b"new")
    assert [row[4] for row in rows] == [
        *("registry_unavailable", "broken_record", "registry_unavailable")
    ]
    assert rows[0][:4] == NOTHING
    assert counts["unusable/features/registry_unavailable"] == 2
    assert counts["features_archived"] == 3
    assert warnings == [
        [
            "archive",
            "records kept without their ids (registry_unavailable) by this subtask: 1;"
            " the schema registry gives no answer",
        ]
    ]
    _, _, warnings = run(*[b"new"] * 10)
    assert len(warnings) == 1, "and not for each"
    assert " by this subtask: 10;" in warnings[0][1]
    down = False
    rows, counts, warnings = run(b"new")
    assert (rows[0][4], warnings) == ("broken_record", [])
