"""What an application logs is what the join reads: nothing changed, nothing silently dropped."""

from __future__ import annotations

import enum
import math
import uuid
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online.events import ActionEncoder, InvalidEventError, Record, RequestEncoder
from schemas.actions import ActionKind
from schemas.decoding import ActionDecoder, RequestDecoder
from schemas.events import Origin, RequestBody
from schemas.features import Feature, FeatureSchema, FeatureType, Scope

NOW = 1_700_000_000_000
FUTURE = 600_000
SCHEMA = FeatureSchema.of(
    Feature(name, FeatureType.parse(type_), cast(Scope, scope), required=required)
    for name, type_, scope, required in (
        ("hour", "int64", "context", True),
        ("query", "string", "context", False),
        ("price", "float64", "item", False),
        ("small", "float32", "item", False),
        ("shown", "bool", "item", False),
        ("tags", "list<string>", "item", False),
        ("vector", "list<float64>", "item", False),
    )
)
ITEM_FEATURES = ("price", "small", "shown", "tags", "vector")
KINDS = (ActionKind("click", 600_000, "any"), ActionKind("purchase", 600_000, "sum"))


def _requests() -> RequestDecoder:
    return RequestDecoder(SCHEMA, max_record_bytes=1 << 20, max_items=50, max_future_ms=FUTURE)


def _actions(**options: Any) -> ActionDecoder:
    return ActionDecoder(
        KINDS,
        **{"key_is_request_id": True, "max_record_bytes": 1 << 20, "max_future_ms": FUTURE}
        | options,
    )


def _request(
    items: Any, context: Any = None, time: Any = NOW, *, by_user: bool = False, id_: str = "r-1"
) -> Record:
    encoder = RequestEncoder(_requests(), SCHEMA, by_user=by_user)
    return encoder.record(id_, "u-1", items, {"hour": 3} if context is None else context, time, NOW)


def _refused(items: Any, context: Any = None, time: int = NOW, **options: Any) -> str:
    with pytest.raises(InvalidEventError) as raised:
        _request(items, context, time, **options)
    return raised.value.reason


def _body(record: Record) -> RequestBody:
    event = _requests().decode(record.value, Origin("", None, 0), record.time)
    return msgspec.msgpack.decode(event.body, type=RequestBody)


def test_the_record_has_the_event_the_key_and_the_time() -> None:
    items = [("i-1", {"price": 2.5, "tags": ["a"]}), ("i-2", {"shown": True})]
    record = _request(items, {"hour": 3, "query": "ü"}, NOW - 5)
    assert (record.key, record.time) == (b"r-1", NOW - 5)
    body = _body(record)
    assert body.items == ["i-1", "i-2"]
    assert body.context == [3, "ü"]
    assert body.columns == [[2.5, None], [None, None], [None, True], [["a"], None], [None, None]]
    assert _request(items, by_user=True).key == b"u-1"


def test_numbers_of_numpy_are_numbers() -> None:
    features = {
        "price": np.float64(0.1),
        "small": np.float32(0.5),
        "shown": np.bool_(1),
        "vector": np.arange(3.0),
    }
    body = _body(_request([("i-1", features)], {"hour": np.int64(7)}))
    assert body.context == [7, None]
    assert body.columns == [[0.1], [0.5], [True], [None], [[0.0, 1.0, 2.0]]]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["price", "small", "vector", "numpy", "array", "context"])
def test_a_number_that_json_has_not_is_refused_and_does_not_become_an_absent_feature(
    place: str, number: float
) -> None:
    if place == "context":
        assert _refused([("i-1", {})], {"hour": number}) == "not_finite"
        return
    value: Any = {
        "vector": [1.0, number], "numpy": np.float32(number), "array": np.array([number]),
    }.get(place, number)  # fmt: skip
    name = {"numpy": "price", "array": "vector"}.get(place, place)
    assert _refused([("i-1", {}), ("i-2", {name: value})]) == "not_finite"


def test_a_null_that_was_meant_is_none() -> None:
    assert _body(_request([("i-1", {"price": None})])).columns[0] == [None]


@pytest.mark.parametrize(
    ("items", "context", "time", "reason"),
    [
        ([("i-1", {"prize": 1.0})], {"hour": 3}, NOW, "undeclared_feature"),
        ([("i-1", {"hour": 3})], {"hour": 3}, NOW, "undeclared_feature"),
        ([("i-1", {})], {"hour": 3, "price": 1.0}, NOW, "undeclared_feature"),
        ([("i-1", {"price": "1"})], {"hour": 3}, NOW, "wrong_type"),
        ([("i-1", {"price": object()})], {"hour": 3}, NOW, "wrong_type"),
        ([("i-1", {"tags": [b"a"]})], {"hour": 3}, NOW, "wrong_type"),
        ([("i-1", {})], {"hour": 3, "query": b"a"}, NOW, "wrong_type"),
        ([("i-1", {})], {"hour": 3, "query": uuid.UUID(int=1)}, NOW, "wrong_type"),
        ([(b"i-1", {})], {"hour": 3}, NOW, "wrong_type"),
        ([(uuid.UUID(int=1), {})], {"hour": 3}, NOW, "wrong_type"),
        ([("i-1", {})], {"hour": 3}, float(NOW), "wrong_type"),
        ([("i-1", {"price": 1 << 5000})], {"hour": 3}, NOW, "out_of_range"),
        ([("i-1", {"small": 1e39})], {"hour": 3}, NOW, "out_of_range"),
        ([("i-1", {"tags": ["\ud800"]})], {"hour": 3}, NOW, "invalid_utf8"),
        ([("i-1", None)], {"hour": 3}, NOW, "wrong_type"),
        ([], {"hour": 3}, NOW, "empty_items"),
        ([("i-1", {})] * 51, {"hour": 3}, NOW, "too_many_items"),
        ([("i-1", {})], {}, NOW, "missing_field"),
        ([(" ", {})], {"hour": 3}, NOW, "bad_id"),
        ([(7, {})], {"hour": 3}, NOW, "wrong_type"),
        ([("i-1", {})], {"hour": 3}, NOW // 1000, "wrong_time_unit"),
        ([("i-1", {})], {"hour": 3}, NOW + FUTURE + 1, "future_clock"),
        ([("i-1", {"tags": ["x" * (1 << 20)]})], {"hour": 3}, NOW, "too_large"),
    ],
)
def test_what_the_join_would_reject_is_refused_with_its_reason(
    items: Any, context: Any, time: int, reason: str
) -> None:
    assert _refused(items, context, time) == reason


@pytest.mark.parametrize("id_", [uuid.UUID(int=1), b"r-1", 7, None])
def test_an_id_is_text(id_: Any) -> None:
    assert _refused([("i-1", {})], id_=id_) == "wrong_type"


def test_a_time_of_numpy_is_a_time() -> None:
    record = _request([("i-1", {})], time=np.int64(NOW))
    assert (type(record.time), record.time) == (int, NOW)


def test_the_message_says_which_feature_and_which_are_declared() -> None:
    with pytest.raises(InvalidEventError, match=r"no \[features.prize\] of scope 'item'.*price"):
        _request([("i-1", {"prize": 1.0})])
    with pytest.raises(InvalidEventError, match="'hour' is declared for scope 'context'"):
        _request([("i-1", {"hour": 1})])


class Kind(enum.Enum):
    CLICK = "click"


_anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.uuids()
    | st.dates()
    | st.decimals()
    | st.sampled_from([np.bytes_(b"a"), np.str_("a"), np.int32(7), np.array([b"a"]), Kind.CLICK]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)
_likely: dict[str, Any] = {
    "price": st.floats(),
    "small": st.floats(width=32),
    "shown": st.booleans(),
    "tags": st.lists(st.text(), max_size=3),
    "vector": st.lists(st.floats(), max_size=3),
}


@settings(max_examples=500)
@given(data=st.data())
def test_either_the_join_reads_what_was_said_or_the_call_fails(data: st.DataObject) -> None:
    items = []
    for n in range(data.draw(st.integers(1, 3))):
        names = data.draw(st.lists(st.sampled_from(ITEM_FEATURES), unique=True))
        items.append((f"i-{n}", {k: data.draw(_likely[k] | _anything) for k in names}))
    try:
        record = _request(items)
    except InvalidEventError:
        return
    columns = _body(record).columns
    for name, column in zip(ITEM_FEATURES, columns, strict=True):
        said = [_plain(features.get(name)) for _, features in items]
        assert [_single(v) if name == "small" else v for v in column] == [
            _single(v) if name == "small" else v for v in said
        ]


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _single(value: Any) -> Any:
    return value if value is None else float(np.float32(value))


def _action(decoder: ActionDecoder | None = None, *, by_user: bool = False, **said: Any) -> Record:
    action = {"action": "click", "user_id": "u-1", "item_id": "i-1", "request_id": "r-1"} | said
    return ActionEncoder(decoder or _actions(), by_user=by_user).record(action, NOW - 1, NOW)


def test_the_record_of_an_action() -> None:
    record = _action(action="purchase", value=2.5, event_id="e-1")
    assert (record.key, record.time) == (b"r-1", NOW - 1)
    event = _actions().decode(record.value, Origin("", None, 0), record.time)
    assert msgspec.structs.asdict(event) | {"origin": None, "raw": None} == {
        "event_id": "e-1", "user_id": "u-1", "item_id": "i-1", "request_id": "r-1",
        "action": "purchase", "value": 2.5, "event_time": NOW - 1, "origin": None, "raw": None,
    }  # fmt: skip
    by_user = _actions(key_is_request_id=False)
    assert _action(by_user, by_user=True, request_id=None).key == b"u-1"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"action": "clik"}, "unknown_action"),
        ({"request_id": None}, "missing_field"),
        ({"action": "purchase"}, "missing_value"),
        ({"action": "purchase", "value": math.nan}, "not_finite"),
        ({"item_id": "a\nb"}, "bad_id"),
        ({"user_id": 7}, "wrong_type"),
        ({"user_id": None}, "missing_field"),
        ({"request_id": b"r-1"}, "wrong_type"),
        ({"action": "purchase", "value": "2.5"}, "wrong_type"),
    ],
)
def test_an_action_that_the_join_would_reject_is_refused(said: Any, reason: str) -> None:
    with pytest.raises(InvalidEventError) as raised:
        _action(**said)
    assert raised.value.reason == reason


def test_an_action_that_the_join_ignores_is_sent_for_it_moves_time() -> None:
    assert _action(_actions(reject_unknown=False), action="hover").key == b"r-1"
