"""Decoding: what is taken, what is dropped and counted, and the reason for what is refused."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.actions import ActionKind
from schemas.decoding import (
    MAX_ID_LENGTH,
    ActionDecoder,
    BadRecord,
    IgnoredAction,
    RequestDecoder,
)
from schemas.events import EARLIEST_TIME, LATEST_TIME, ActionEvent, Origin
from schemas.features import Feature, FeatureSchema, FeatureType
from schemas.json_text import MAX_DEPTH, too_deep
from tests.effort import examples
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


def test_a_request_may_have_so_many_items_and_no_more() -> None:
    raw = json.dumps(request()).encode()
    assert decoder(max_items=2).decode(raw, HERE).raw == raw
    assert refused(raw, decoder(max_items=1)) == "too_many_items"
    # a fault of the record itself gives the reason first
    assert refused(raw, decoder(max_items=1, not_after=TIME - 1)) == "future_clock"
    bad = json.dumps(request(user_id=" ")).encode()
    assert refused(bad, decoder(max_items=1)) == "bad_id"


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


def test_thousands_of_undeclared_names_are_counted_and_cost_nothing_later() -> None:
    decoding = decoder()
    for n in range(3):
        many = {f"n{n}-{i}": i for i in range(5_000)}
        items = [{"item_id": "a", "features": {"price": 1} | many}]
        decoding.decode(json.dumps(request(items=items)).encode(), HERE)
    assert decoding.undeclared == 15_000


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
        (json.dumps(request(event_time=0)).encode(), "out_of_range"),
        (json.dumps(request(event_time=EARLIEST_TIME - 1)).encode(), "out_of_range"),
        (json.dumps(request(event_time=LATEST_TIME)).encode(), "out_of_range"),
        (json.dumps(request(event_time=2**64)).encode(), "out_of_range"),
        (json.dumps(request(event_time=TIME // 1000)).encode(), "wrong_time_unit"),
        (json.dumps(request(event_time=TIME * 1000)).encode(), "wrong_time_unit"),
        (json.dumps(request(event_time=TIME * 1_000_000)).encode(), "wrong_time_unit"),
        (json.dumps(request(user_id="  ")).encode(), "bad_id"),
        (json.dumps(request(user_id="\u3000")).encode(), "bad_id"),
        (json.dumps(request(request_id="\0progress-0")).encode(), "bad_id"),
        (json.dumps(request(user_id="u" * (MAX_ID_LENGTH + 1))).encode(), "bad_id"),
        (json.dumps(request(user_id="\ud800")).encode(), "invalid_utf8"),
        (json.dumps(request(note="\udc00")).encode(), "invalid_utf8"),
        (json.dumps(request()).replace('"hour"', '"hour": 1, "hour"').encode(), "duplicate_key"),
        (json.dumps(request()).replace('"hour"', '"hour": "x", "hour"').encode(), "duplicate_key"),
        (
            json.dumps(request()).replace('"hour"', '"\\u0068our": 1, "hour"').encode(),
            "duplicate_key",
        ),
        (
            json.dumps(request(note=[{"k": 1}])).replace('"k"', '"k":0,"k"').encode(),
            "duplicate_key",
        ),
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
    return ActionDecoder(kinds, **({"key_is_request_id": True, "max_record_bytes": 10_000} | over))


def action(**over: Any) -> bytes:
    record = {"user_id": "u", "item_id": "i", "request_id": "r", "action": "click"}
    return json.dumps(record | {"event_time": TIME} | over).encode()


def test_an_action_may_lack_event_id_and_value() -> None:
    event = actions().decode(action(), HERE)
    assert isinstance(event, ActionEvent)
    assert (event.event_id, event.value, event.request_id) == (None, None, "r")
    event = actions(key_is_request_id=False).decode(action(request_id=None), HERE)
    assert isinstance(event, ActionEvent)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (action(request_id=None), "missing_field"),
        (action(event_id=""), "missing_field"),
        (action(action="clik"), "unknown_action"),
        (action(event_id=" "), "bad_id"),
        (action(item_id="a\x1f"), "bad_id"),
        (action(action="c" * (MAX_ID_LENGTH + 1)), "bad_id"),
        (action(event_time=TIME // 1000), "wrong_time_unit"),
        (action()[:-1] + b',"user_id":"v"}', "duplicate_key"),
        (action()[:-1] + b',"x":1,"x":1}', "duplicate_key"),
        (action()[:-1] + b',"x":{"y":1,"y":1}}', "duplicate_key"),
        (action(action="pay"), "missing_value"),
        (action(action="pay", value="3"), "wrong_type"),
        (action(action="pay", value=float("inf")), "not_finite"),
    ],
)
def test_the_reason_for_a_bad_action(raw: bytes, reason: str) -> None:
    assert refused(raw, actions()) == reason


def test_unknown_kinds_can_be_ignored_and_are_counted() -> None:
    decoding = actions(reject_unknown=False)
    assert decoding.decode(action(action="scroll"), HERE) == IgnoredAction(TIME)
    assert decoding.ignored == 1


@pytest.mark.parametrize(
    ("time", "unit"),
    [
        (TIME // 1000, "seconds"),
        (TIME * 1000, "microseconds"),
        (TIME * 1_000_000, "nanoseconds"),
    ],
)
def test_a_time_in_another_unit_is_refused_with_the_unit_that_it_seems_to_have(
    time: int, unit: str
) -> None:
    with pytest.raises(BadRecord) as raised:
        actions().decode(action(event_time=time), HERE)
    assert f"looks like {unit} (2023-11-14 22:13:20 UTC)" in raised.value.message
    assert str(TIME) in raised.value.message
    assert raised.value.event_time is None


def test_ids_are_opaque_and_may_be_long() -> None:
    for user in ("u" * MAX_ID_LENGTH, " u", "a:b", "\u20ac\u00a0", "\x7f", 'say "hi" \\'):
        event = decoder().decode(json.dumps(request(user_id=user)).encode(), HERE)
        assert unpack_body(event.body).user_id == user


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, *range(950, 1_030, 10), 10_000])
@pytest.mark.parametrize("text", [b"1", b'"]]]"', b'{"a":1}'])
def test_the_bound_on_nesting_is_exact_in_every_place(depth: int, text: bytes) -> None:
    """A value of so many levels, in what is ignored at the top, in an item and as a feature."""
    record = json.dumps(request())
    for place, level in (
        (record.replace('"user_id"', '"note": 0, "user_id"'), 1),
        (record.replace('"hour"', '"note": 0, "hour"'), 2),
        (record.replace('"item_id": "b"', '"note": 0, "item_id": "b"'), 3),
        (record.replace('"tags"', '"note": 0, "tags"'), 4),
    ):
        inner = depth - level - (text[:1] == b"{")
        nested = b"[" * inner + text + b"]" * inner
        raw = place.encode().replace(b'"note": 0', b'"note": ' + nested)
        if depth > MAX_DEPTH:
            assert refused(raw, decoder()) == "too_deep"
        else:
            assert decoder().decode(raw, HERE).request_id == "r"


# -- the verdict is a function of the record and the configuration --------------------------------

ODD_TEXT = (
    "price", "hour", "tags", "a:b", "x : y", '\\"quoted\\"', '\\":', "\\u0001", "\\u0000", "\\\\",
    "{[", "]}",
    "\\ud83d\\ude00", "\u20ac", "", " ", "\\u0070rice", "true", "user_id", "features", "items",
)  # fmt: skip
BROKEN_TEXT = ("\\ud800", "\\udc00x", "\\q", "\t", '"')
NUMBERS = (
    "0", "1", "-0", "0.5", "1e3", "1e308", "1e999", "-1e999", "1e-999", "1234567890123456789012345",
    "9223372036854775807", "9223372036854775808", "-9223372036854775809", "3.5e38",
    "9" * 400, "9" * 5_000,
)  # fmt: skip
BROKEN_NUMBERS = ("NaN", "-Infinity", "01", "1.", "tru", "")

names = st.one_of(
    st.sampled_from(ODD_TEXT),
    st.integers(0, 3_000).map("n{}".format),
    st.just("long" * 500),
    st.text(max_size=3).map(lambda t: json.dumps(t)[1:-1]),
)
blanks = st.sampled_from(["", "", "", " ", "\n", "\t "])


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str], fixed: dict[str, str]) -> str:
    """The text of an object: `fixed` keys, and others, in any order, some of them twice."""
    pairs = list(fixed.items()) + draw(st.lists(st.tuples(names, values), max_size=3))
    if draw(st.integers(0, 7)) == 0:
        pairs += draw(st.lists(st.sampled_from(pairs), max_size=1)) if pairs else []
    if draw(st.booleans()):
        pairs = draw(st.permutations(pairs))
    return "{" + ",".join(f'"{k}"{draw(blanks)}:{draw(blanks)}{v}' for k, v in pairs) + "}"


scalars = st.one_of(
    st.sampled_from(NUMBERS), st.sampled_from(ODD_TEXT).map('"{}"'.format), st.just("null")
)
broken = st.one_of(st.sampled_from(BROKEN_NUMBERS), st.sampled_from(BROKEN_TEXT).map('"{}"'.format))
levels = st.integers(90, 105) | st.integers(900, 1_100) | st.just(2_000)
nested = st.tuples(levels, st.sampled_from(["1", '"]"', '"\\""', "{}"])).map(
    lambda d: "[" * d[0] + d[1] + "]" * d[0]
)
odd = st.one_of(scalars, scalars, scalars, broken, nested).flatmap(
    lambda v: st.one_of(st.just(v), st.just(f"[{v},{v}]"), objects(st.just(v), {"k": v}))
)


@st.composite
def request_texts(draw: st.DrawFn) -> bytes:
    """Records of which about half are good, and the others bad for one reason or several."""
    values = scalars if draw(st.booleans()) else odd
    price = draw(st.sampled_from(["1", "2.5", "1", "1e999", "null", '"x"']))
    group = objects(values, {"price": price})
    items = [
        draw(objects(values, {"item_id": f'"i{i}"', "features": draw(group)}))
        for i in range(draw(st.integers(1, 3)))
    ]
    context = draw(objects(values, {"hour": "9"}))
    time = draw(st.sampled_from([str(TIME), str(TIME), str(TIME // 1000), "1.5", "9" * 5_000]))
    text = draw(
        objects(
            values,
            {
                "request_id": draw(st.sampled_from(['"r"', '"r:1"', '""', '"\\u0000"'])),
                "user_id": '"u"',
                "event_time": time,
                "items": "[" + ",".join(items) + "]",
                "context": context,
            },
        )
    )
    return _spoilt(draw, text)


@st.composite
def action_texts(draw: st.DrawFn) -> bytes:
    values = scalars if draw(st.booleans()) else odd
    kind = draw(st.sampled_from(['"click"', '"click"', '"pay"', '"scroll"']))
    fixed = {"user_id": '"u"', "item_id": '"i"', "action": kind, "event_time": str(TIME)}
    if draw(st.booleans()):
        fixed |= {"request_id": '"r"', "value": draw(st.sampled_from(NUMBERS))}
    return _spoilt(draw, draw(objects(values, fixed)))


def _spoilt(draw: st.DrawFn, text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    how = draw(st.integers(0, 15))
    cut = draw(st.integers(0, len(raw)))
    if how == 0:
        return raw[:cut]
    if how == 1:
        return raw[:cut] + b"\xff" + raw[cut:]
    return b"" if how == 2 else raw


def verdict(decoding: RequestDecoder | ActionDecoder, raw: bytes) -> tuple[object, ...]:
    """All that a decoder says of a record: the packed event, or the reason; and what it counts."""
    before = getattr(decoding, "undeclared", 0), getattr(decoding, "ignored", 0)
    said: tuple[object, ...]
    try:
        said = (msgspec.msgpack.encode(decoding.decode(raw, HERE, TIME)),)
    except BadRecord as bad:
        said = (bad.reason, bad.message, bad.event_time)
    after = getattr(decoding, "undeclared", 0), getattr(decoding, "ignored", 0)
    return (*said, after[0] - before[0], after[1] - before[1])


def with_little_stack(function: Callable[[], Any], left: int) -> Any:
    """Calls it with so many of Python's frames left."""
    depth = len(inspect.stack(0))

    def down(more: int) -> Any:
        return function() if more <= 0 else down(more - 1)

    return down(sys.getrecursionlimit() - depth - left)


MAKERS: dict[str, Callable[[], RequestDecoder | ActionDecoder]] = {
    "requests": lambda: decoder(max_record_bytes=1 << 20),
    "actions": lambda: actions(reject_unknown=False, max_record_bytes=1 << 20),
}
TEXTS = {"requests": request_texts(), "actions": action_texts()}


@pytest.mark.parametrize("stream", MAKERS)
@given(data=st.data())
def test_a_verdict_does_not_depend_on_what_was_decoded_before(
    stream: str, data: st.DataObject
) -> None:
    """Any records, in any order, after any others: each is decided as by a decoder that is new."""
    make = MAKERS[stream]
    records = data.draw(st.lists(TEXTS[stream], min_size=1, max_size=6))
    alone = [verdict(make(), raw) for raw in records]
    shared = make()
    order = data.draw(st.permutations(range(len(records))))
    for i in [*order, *range(len(records))]:
        assert verdict(shared, records[i]) == alone[i]


@pytest.mark.parametrize("stream", MAKERS)
@given(data=st.data())
@settings(max_examples=examples(40))
def test_a_verdict_does_not_depend_on_the_stack_that_is_left(
    stream: str, data: st.DataObject
) -> None:
    decoding = MAKERS[stream]()
    raw = data.draw(TEXTS[stream])
    there = with_little_stack(lambda: verdict(decoding, raw), left=60)
    assert there == verdict(decoding, raw)


class _Text:
    """What the standard library's parser sees of a text: another way to the same answers."""

    def __init__(self, raw: bytes) -> None:
        self.duplicate = self.not_finite = self.broken = False
        self.value: Any = None
        depth = deepest = 0
        for mark in re.sub(rb'"(\\.|[^"\\])*("|$)', b"", raw, flags=re.DOTALL).decode("latin-1"):
            depth += (mark in "[{") - (mark in "]}")
            deepest = max(depth, deepest)
        self.too_deep = deepest > MAX_DEPTH
        if self.too_deep:
            return  # nor could this parser read it
        try:
            self.value = json.loads(
                raw.decode(),
                object_pairs_hook=self._object,
                parse_constant=self._constant,
                parse_int=float,  # an int of thousands of digits is refused
            )
            json.dumps(self.value, ensure_ascii=False).encode()
        except ValueError:
            self.broken = True

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # half of a surrogate pair cannot be encoded; one of two equal keys would be lost later
        json.dumps(pairs, ensure_ascii=False).encode()
        self.duplicate |= len({name for name, _ in pairs}) < len(pairs)
        return dict(pairs)

    def _constant(self, literal: str) -> float:
        self.not_finite = True
        return 0.0

    def undeclared(self) -> int:
        groups = [(self.value.get("context") or {}, {"hour"})]
        of_items = {"price", "score", "tags"}
        groups += [(item.get("features") or {}, of_items) for item in self.value["items"]]
        return sum(len(group.keys() - declared) for group, declared in groups)


TEXT_REASONS = {"too_deep", "broken_json", "invalid_utf8", "not_finite", "duplicate_key"}


@pytest.mark.parametrize("stream", MAKERS)
@given(data=st.data())
@settings(max_examples=examples(300))
def test_what_is_said_of_the_text_is_what_another_parser_sees(
    stream: str, data: st.DataObject
) -> None:
    decoding = MAKERS[stream]()
    raw = data.draw(TEXTS[stream].filter(bool))
    said = verdict(decoding, raw)
    reason = said[0] if isinstance(said[0], str) else None
    text = _Text(raw)
    if b"\xff" in raw:
        assert reason == "invalid_utf8"
    elif text.too_deep:
        assert reason == "too_deep"
    elif text.broken:
        assert reason in {"broken_json", "invalid_utf8", "not_finite"}
    elif text.not_finite:
        assert reason == "not_finite"
    elif text.duplicate:
        assert reason == "duplicate_key"
    else:
        assert reason not in TEXT_REASONS
    if reason is None and stream == "requests":
        assert said[-2] == text.undeclared()


@given(st.text('[]{}"\\a:', max_size=40), st.integers(0, 5))
def test_brackets_are_counted_outside_of_strings(text: str, limit: int) -> None:
    raw = text.encode()
    depth = deepest = 0
    inside = escaped = False
    for mark in text:
        if escaped:
            escaped = False
        elif inside:
            escaped, inside = mark == "\\", mark != '"'
        else:
            inside = mark == '"'
            depth += (mark in "[{") - (mark in "]}")
            deepest = max(depth, deepest)
    assert too_deep(raw, limit) == (deepest > limit)
