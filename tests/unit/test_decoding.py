"""Decoding: what is taken, what is dropped and counted, and the reason for what is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.actions import ActionKind
from schemas.decoding import MAX_UNDECLARED, ActionDecoder, BadRecord, RequestDecoder
from schemas.events import Origin
from schemas.features import Feature, FeatureSchema, FeatureType
from udfs.core.state_codec import unpack_body

HERE = Origin("topic", 0, 7)
TIME = 1_700_000_000_000


def feature(name: str, type_: str, **more: Any) -> Feature:
    return Feature(name, FeatureType.parse(type_), **more)


SCHEMA = FeatureSchema.of(
    [
        feature("hour", "int64", scope="context"),
        feature("price", "float64"),
        feature("score", "float32", required=False),
        feature("tags", "list<string>", required=False),
    ]
)


def request(**over: Any) -> dict[str, Any]:
    record = {
        "request_id": "r",
        "user_id": "u",
        "event_time": TIME,
        "context": {"hour": 9},
        "items": [
            {"item_id": "a", "features": {"price": 1.5, "tags": ["x", "\U0001f600\x00"]}},
            {"item_id": "b", "features": {"price": 2, "score": 0.25}},
        ],
    }
    return record | over


def decoder(**over: Any) -> RequestDecoder:
    return RequestDecoder(SCHEMA, **({"max_record_bytes": 100_000} | over))


def refused(raw: bytes, decoding: RequestDecoder | ActionDecoder) -> str:
    with pytest.raises(BadRecord) as raised:
        decoding.decode(raw, HERE, TIME)
    return raised.value.reason


def test_a_request_becomes_columns_in_the_order_of_the_schema() -> None:
    raw = json.dumps(request()).encode()
    event = decoder().decode(raw, HERE)
    assert (event.request_id, event.event_time, event.origin, event.raw) == ("r", TIME, HERE, raw)
    body = unpack_body(event.body)
    assert (body.user_id, body.items) == ("u", ["a", "b"])
    assert msgspec.msgpack.decode(body.context_names) == ["hour"]
    assert body.context == [9]
    assert msgspec.msgpack.decode(body.column_names) == ["price", "score", "tags"]
    assert body.columns == [[1.5, 2.0], [None, 0.25], [["x", "\U0001f600\x00"], None]]


def test_undeclared_features_are_dropped_and_every_value_is_counted() -> None:
    decoding = decoder()
    items = [{"item_id": "a", "features": {"price": 1, "new": {"deep": [1]}, "other": None}}]
    for _ in range(3):
        event = decoding.decode(json.dumps(request(items=items)).encode(), HERE)
        assert unpack_body(event.body).columns == [[1.0], [None], [None]]
    assert decoding.undeclared == 6
    context = {"hour": 1, "also": 2}
    decoding.decode(json.dumps(request(context=context)).encode(), HERE)
    assert decoding.undeclared == 7


def test_more_undeclared_names_than_are_remembered_are_still_counted() -> None:
    decoding = decoder()
    many = {f"n{i}": i for i in range(MAX_UNDECLARED + 5)}
    items = [{"item_id": "a", "features": {"price": 1} | many}]
    decoding.decode(json.dumps(request(items=items)).encode(), HERE)
    assert decoding.undeclared == MAX_UNDECLARED + 5


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty_record"),
        (b"{", "broken_json"),
        (b"\xff\xfe", "invalid_utf8"),
        (json.dumps(request(note="x")).encode().replace(b'"x"', b'"\xff"'), "invalid_utf8"),
        (b"[1]", "wrong_type"),
        (json.dumps(request(user_id=None)).encode(), "missing_field"),
        (json.dumps(request(user_id="")).encode(), "missing_field"),
        (json.dumps(request(items=[])).encode(), "empty_items"),
        (json.dumps(request(context={})).encode(), "missing_field"),
        (json.dumps(request(context={"hour": 2**63})).encode(), "out_of_range"),
        (json.dumps(request(context={"hour": 1.5})).encode(), "wrong_type"),
        (json.dumps(request(context={"hour": float("nan")})).encode(), "not_finite"),
        (json.dumps(request(event_time=-1)).encode(), "out_of_range"),
        (json.dumps(request(event_time=TIME * 10)).encode(), "out_of_range"),
        (json.dumps(request(event_time=str(TIME))).encode(), "wrong_type"),
        (json.dumps(request()).replace("0.25", "1e39").encode(), "out_of_range"),
        (json.dumps(request()).replace("1.5", "1e999").encode(), "out_of_range"),
        (b'{"a":' * 9_000 + b"1" + b"}" * 9_000, "too_deep"),
        (b"x" * 100_001, "too_large"),
        (json.dumps(request(event_time=TIME + 1_001)).encode(), "future_clock"),
    ],
)
def test_the_reason_for_a_bad_request(raw: bytes, reason: str) -> None:
    assert refused(raw, decoder(max_future_ms=1_000)) == reason


@given(st.binary(max_size=300))
def test_garbage_is_rejected_and_never_raises_anything_else(raw: bytes) -> None:
    with pytest.raises(BadRecord):
        decoder().decode(raw, HERE)


def actions(**over: Any) -> ActionDecoder:
    kinds = (ActionKind("click", 10), ActionKind("pay", 10, "sum"))
    return ActionDecoder(kinds, **({"key_is_request_id": True, "max_record_bytes": 1_000} | over))


def action(**over: Any) -> bytes:
    record = {"user_id": "u", "item_id": "i", "request_id": "r", "action": "click"}
    return json.dumps(record | {"event_time": TIME} | over).encode()


def test_an_action_may_lack_event_id_and_value() -> None:
    event = actions().decode(action(), HERE)
    assert event is not None
    assert (event.event_id, event.value, event.request_id) == (None, None, "r")
    assert actions(key_is_request_id=False).decode(action(request_id=None), HERE) is not None


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (action(request_id=None), "missing_field"),
        (action(event_id=""), "missing_field"),
        (action(action="clik"), "unknown_action"),
        (action(action="pay"), "missing_value"),
        (action(action="pay", value="3"), "wrong_type"),
        (action(action="pay", value=float("inf")), "not_finite"),
    ],
)
def test_the_reason_for_a_bad_action(raw: bytes, reason: str) -> None:
    assert refused(raw, actions()) == reason


def test_unknown_kinds_can_be_ignored_and_are_counted() -> None:
    decoding = actions(reject_unknown=False)
    assert decoding.decode(action(action="scroll"), HERE) is None
    assert decoding.ignored == 1
