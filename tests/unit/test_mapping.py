"""Records of any shape as events: what a mapping makes of them, and what it says of bad ones."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobs.pipeline.config import Pipeline, load
from jobs.pipeline.sources import decode_settings
from schemas.decoding import BadRecord, IgnoredAction
from schemas.events import ActionEvent, Origin, RequestBody, RequestEvent
from schemas.mapping.decoding import MappedActionDecoder, MappedRequestDecoder, Skipped
from tests.unit.mapped import BASE, pipeline_text
from udfs.core.decode_batches import action_decoder, request_decoder

HERE = Origin("here", None, 0)
T = 1_700_000_000_000
ISO = "2023-11-14T22:13:20Z"

REQUESTS = """
[events.features]
request_id = "ctx.req"
user_id = "ctx.user.id"
event_time = "ts"
items = "slate"
item_id = ".id"
features = ".f"
context = "ctx"
"""
ACTIONS = """
[events.actions]
request_id = "req"
user_id = "user"
item_id = "item"
event_time = "ts"
event_id = "id"
action = "type"
value = "v"
"""
RECORD = {
    "ts": T,
    "ctx": {"req": "r", "hour": 3, "user": {"id": 7}},
    "slate": [{"id": "a", "f": {"price": 1.5}}, {"id": 2, "f": {"price": 2, "more": 1}}],
}
ACTION = {"req": 5, "user": "u", "item": "i", "ts": T, "id": "e", "type": "click", "v": 2}


def pipeline(tmp_path: Path, events: str, *overrides: str, base: str = BASE) -> Pipeline:
    path = tmp_path / "pipeline.toml"
    path.write_text(pipeline_text(events, base=base))
    return load(path, overrides)


def requests(tmp_path: Path, events: str, *overrides: str) -> MappedRequestDecoder:
    decoder = request_decoder(decode_settings(pipeline(tmp_path, events, *overrides), ()))
    assert isinstance(decoder, MappedRequestDecoder)
    return decoder


def actions(tmp_path: Path, events: str, *overrides: str) -> MappedActionDecoder:
    decoder = action_decoder(decode_settings(pipeline(tmp_path, events, *overrides), ()))
    assert isinstance(decoder, MappedActionDecoder)
    return decoder


def raw(record: object) -> bytes:
    return json.dumps(record).encode()


def body(event: RequestEvent | Skipped) -> RequestBody:
    assert isinstance(event, RequestEvent)
    return msgspec.msgpack.decode(event.body, type=RequestBody)


def said(events: list[ActionEvent | IgnoredAction] | Skipped) -> list[tuple[Any, ...]]:
    assert isinstance(events, list)
    return [
        (e.event_id, e.item_id, e.action, e.value, e.event_time)
        if isinstance(e, ActionEvent)
        else ("ignored", e.event_time)
        for e in events
    ]


def refused(decoder: MappedRequestDecoder | MappedActionDecoder, record: object) -> tuple[str, str]:
    with pytest.raises(BadRecord) as raised:
        decoder.decode(record if isinstance(record, bytes) else raw(record), HERE)
    return raised.value.reason, raised.value.message


def test_a_request_keeps_its_own_bytes(tmp_path: Path) -> None:
    decoder = requests(tmp_path, REQUESTS)
    event = decoder.decode(raw(RECORD), HERE)
    made = body(event)
    assert isinstance(event, RequestEvent)
    assert (event.request_id, event.event_time, event.raw) == ("r", T, raw(RECORD))
    assert (made.user_id, made.items, made.context, made.columns) == (
        "7",
        ["a", "2"],
        [3],
        [[1.5, 2.0]],
    )
    assert decoder.undeclared == 1


@pytest.mark.parametrize(
    ("features", "item", "more"),
    [
        ('features = ".f"', {"f": {"price": 9.5}}, {}),
        ("", {"price": 9.5}, {}),  # the item itself
        ('fields.price = ".deep[1].amount"', {"deep": [0, {"amount": 9.5}]}, {}),
        ('fields.price = "prices[]"', {}, {"prices": [9.5]}),
        ('fields.price = "rows[].p"', {}, {"rows": [{"p": 9.5}]}),
        ('fields.price = "price"', {}, {"price": 9.5}),  # one for all items
        ("fields.price = {constant = 9.5}", {}, {}),
        ('fields.price = {path = ".c", divide = 100}', {"c": 950}, {}),
        ('fields.price = {path = ".t", as = "number"}', {"t": "9.5"}, {}),
        ('features = {names = ".n", values = ".v"}', {"n": ["x", "price"], "v": [1, 9.5]}, {}),
        ('features = {names = "names", values = ".v"}', {"v": [9.5]}, {"names": ["price"]}),
        ('fields.price = ".\\"a.b\\""', {"a.b": 9.5}, {}),
    ],
)
def test_where_features_may_be(
    tmp_path: Path, features: str, item: dict[str, Any], more: dict[str, Any]
) -> None:
    events = REQUESTS.replace('features = ".f"', features)
    record = RECORD | {"slate": [{"id": "a"} | item]} | more
    assert body(requests(tmp_path, events).decode(raw(record), HERE)).columns == [[9.5]]


@pytest.mark.parametrize(
    ("time", "value", "ms"),
    [
        ('"ts"', T, T),
        ('{path = "ts", unit = "s"}', T // 1000, T),
        ('{path = "ts", unit = "s"}', T / 1000 + 0.25, T + 250),
        ('{path = "ts", unit = "us"}', T * 1000 + 999, T),
        ('{path = "ts", unit = "ns"}', T * 1_000_000, T),
        ('{path = "ts", unit = "iso"}', ISO, T),
        ('{path = "ts", unit = "iso"}', "2023-11-15 00:13:20.500+02:00", T + 500),
        ('{path = "ts", unit = "iso", zone = "UTC"}', "2023-11-14T22:13:20", T),
        ('{path = "ts", unit = "iso", zone = "-02:30"}', "2023-11-14T19:43:20", T),
        ('{path = "ts", unit = "iso", zone = "-02:30"}', ISO, T),  # the text says it
        (
            '{path = "ts", unit = "%m/%d/%Y %I:%M:%S %p", zone = "UTC"}',
            "11/14/2023 10:13:20 PM",
            T,
        ),
        ('{path = "ts", unit = "s", since = "2023-11-14T22:13:00Z"}', 20, T),
    ],
)
def test_units_of_times(tmp_path: Path, time: str, value: object, ms: int) -> None:
    decoder = requests(tmp_path, REQUESTS.replace('"ts"', time))
    event = decoder.decode(raw(RECORD | {"ts": value}), HERE)
    assert isinstance(event, RequestEvent)
    assert event.event_time == ms


@pytest.mark.parametrize(
    ("time", "value", "reason", "words"),
    [
        ('{path = "ts", unit = "s"}', T, "wrong_time_unit", "ts: 1700000000000 is no time in unit"),
        ('"ts"', T // 1000, "wrong_time_unit", 'unit = "ms"; it looks like "s"'),
        ('{path = "ts", unit = "s"}', 1e300, "out_of_range", "is not from 1971 up to 2100"),
        ('{path = "ts", unit = "s"}', True, "wrong_type", "ts: True is no number (s)"),
        (
            '{path = "ts", unit = "ms", since = "2026-01-01T00:00:00Z"}',
            -(10**13),
            "out_of_range",
            "",
        ),
        ('{path = "ts", unit = "iso"}', "2023-11-14T22:13:20", "wrong_type", "has no offset; set"),
        ('{path = "ts", unit = "iso"}', "yesterday", "wrong_type", "ts: 'yesterday' is no time li"),
        ('{path = "ts", unit = "iso"}', T, "wrong_type", "is no text with a time"),
        ('{path = "ts", unit = "iso"}', "1960-01-01T00:00:00Z", "out_of_range", "is not from 1971"),
        ('{path = "ts", unit = "iso"}', None, "missing_field", "ts: missing, or null"),
    ],
)
def test_times_that_are_none(
    tmp_path: Path, time: str, value: object, reason: str, words: str
) -> None:
    decoder = requests(tmp_path, REQUESTS.replace('"ts"', time))
    found, message = refused(decoder, RECORD | {"ts": value})
    assert found == reason
    assert words in message


def test_the_timestamp_of_the_record_is_its_time(tmp_path: Path) -> None:
    from tests.unit.mapped import KAFKA_SOURCES

    base = BASE[: BASE.index("[sources.features]")] + KAFKA_SOURCES + '[output]\npath = "out"\n'
    events = ACTIONS.replace('"ts"', '{unit = "record"}')
    decoder = action_decoder(decode_settings(pipeline(tmp_path, events, base=base), ()))
    assert isinstance(decoder, MappedActionDecoder)
    assert said(decoder.decode(raw(ACTION), HERE, T + 5))[0][-1] == T + 5


PLACES: list[tuple[list[Any], Any, str, str]] = [
    (["ctx", "user", "id"], 1.5, "wrong_type", "ctx.user.id: Expected `str`, got `float`"),
    (["ctx", "user"], "x", "missing_field", "ctx.user.id: missing, or null"),
    (["ctx", "req"], " ", "bad_id", "ctx.req: the id ' ' is blank"),
    (["ctx", "req"], 10**1100, "out_of_range", "ctx.req: Number out of range"),
    (["ctx", "hour"], "3", "wrong_type", "ctx.hour: Expected `int`, got `str`"),
    (["slate"], None, "missing_field", "slate: missing, or null"),
    (["slate"], {}, "wrong_type", "slate: Expected `array`, got `object`"),
    (["slate"], [], "empty_items", "slate: Expected `array` of length >= 1"),
    (["slate", 1], None, "missing_field", "slate[1].id: missing, or null"),
    (["slate", 1, "id"], "\x00", "bad_id", "slate[1].id: the id '\\x00' has control characters"),
    (["slate", 1, "f", "price"], "x", "wrong_type", "slate[1].f.price: Expected `float`, got"),
    (["slate", 1, "f"], {}, "missing_field", "slate[1].f.price: missing, or null"),
    (["slate", 1, "f"], 3, "wrong_type", "slate[1].f: Expected `object`, got `int`"),
]


@pytest.mark.parametrize(("place", "value", "reason", "words"), PLACES)
def test_a_bad_field_is_named_as_the_record_has_it(
    tmp_path: Path, place: list[Any], value: Any, reason: str, words: str
) -> None:
    record: Any = copy.deepcopy(RECORD)
    inner = record
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    found, message = refused(requests(tmp_path, REQUESTS), record)
    assert found == reason
    assert message.startswith(words), message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "empty_record"),
        (b"{" + b" " * (4 << 20), "too_large"),
        (b'{"a": "\xff"}', "invalid_utf8"),
        (b"[" * 101, "too_deep"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "too_deep"),
        (b'{"a": ', "broken_json"),
        (b'{"a": NaN}', "not_finite"),
        (b'{"a": "\\ud800"}', "invalid_utf8"),
        (b'{"x": {"a": 1, "\\u0061": 2}}', "duplicate_key"),
        (b'{"x": 1e999, "y": {"a": 1, "a": 2}}', "duplicate_key"),
        (b"[1e999]", "wrong_type"),
        (b"3", "wrong_type"),
        (b"null", "wrong_type"),
        (b"{}", "missing_field"),
    ],
)
def test_what_is_no_record_is_refused_as_ever(tmp_path: Path, text: bytes, reason: str) -> None:
    assert refused(requests(tmp_path, REQUESTS), text)[0] == reason
    assert refused(actions(tmp_path, ACTIONS), text)[0] == reason


def test_a_number_that_nobody_asks_for_may_be_out_of_range(tmp_path: Path) -> None:
    text = raw(RECORD | {"other": "HERE"}).replace(b'"HERE"', b"1e999")
    decoder = requests(tmp_path, REQUESTS)
    assert body(decoder.decode(text, HERE)).items == ["a", "2"]
    asked = raw(RECORD).replace(b"1.5", b"1e999")
    reason, message = refused(decoder, asked)
    assert (reason, message[:17]) == ("out_of_range", "slate[0].f.price:")


def test_arrays_side_by_side_must_be_equally_long(tmp_path: Path) -> None:
    events = REQUESTS.replace('features = ".f"', 'fields.price = "prices[]"')
    decoder = requests(tmp_path, events)
    assert body(decoder.decode(raw(RECORD | {"prices": [1, 2]}), HERE)).columns == [[1.0, 2.0]]
    reason, message = refused(decoder, RECORD | {"prices": [1, 2, 3]})
    assert reason == "wrong_type"
    assert message.startswith("prices[]: 3 elements beside 2 in slate")
    assert refused(decoder, RECORD | {"prices": [1, "x"]})[1].startswith("prices[1] (the feature p")


def test_ids_of_several_fields_never_meet(tmp_path: Path) -> None:
    events = REQUESTS.replace('"ctx.req"', '["a", "b"]')
    decoder = requests(tmp_path, events)
    parts = [("x", "y"), ("x/y", "z"), ("x", "y/z"), ("x%2Fy", "z"), (1, "2"), ("1/2", "")]
    made = []
    for a, b in parts[:-1]:
        event = decoder.decode(raw(RECORD | {"a": a, "b": b}), HERE)
        assert isinstance(event, RequestEvent)
        made.append(event.request_id)
    assert made == ["x/y", "x%2Fy/z", "x/y%2Fz", "x%252Fy/z", "1/2"]
    assert refused(decoder, RECORD | {"a": "1/2", "b": ""})[0] == "missing_field"
    assert refused(decoder, RECORD | {"a": "1/2"}) == ("missing_field", "a + b: missing, or null")


def test_records_are_skipped_by_a_condition_and_tell_the_time(tmp_path: Path) -> None:
    events = REQUESTS + 'skip = ["bot", {path = "type", is_not = ["reco", 1]}]'
    decoder = requests(tmp_path, events)
    good = RECORD | {"type": "reco"}
    assert isinstance(decoder.decode(raw(good), HERE), RequestEvent)
    assert isinstance(decoder.decode(raw(good | {"type": 1}), HERE), RequestEvent)
    assert decoder.decode(raw(good | {"type": True}), HERE) == Skipped(T)
    assert decoder.decode(raw(good | {"bot": True}), HERE) == Skipped(T)
    assert decoder.decode(raw({"type": "page", "ts": "soon"}), HERE) == Skipped(None)
    assert decoder.decode(raw({"ts": 5}), HERE) == Skipped(None)
    late = requests(tmp_path, events, f"sources.features.not_after={T - 1}")
    assert late.decode(raw(good | {"bot": True}), HERE) == Skipped(None)


@pytest.mark.parametrize(
    ("condition", "holds", "does_not"),
    [
        ('"x"', [True, 1, "0", [0], {"a": 0}], [None, False, 0, "", [], {}]),
        ('{path = "x", is = 1}', [1, 1.0], [True, "1", None]),
        ('{path = "x", is = [true, "a"]}', [True, "a"], [1, "b", None]),
        ('{path = "x", is_not = "a"}', ["b", None, 1], ["a"]),
        ('{path = "x", above = 1}', [1.5, 2], [1, True, "2", None]),
        ('{path = "x", above = 1, below = 3}', [2], [3, 1]),
        ('{path = "x", exists = true}', [0, "", False], [None]),
        ('{path = "x", exists = false}', [None], [0]),
        ('{path = "x", exists = true, is_not = ["a", "b"]}', ["c"], [None, "a"]),
    ],
)
def test_conditions(
    tmp_path: Path, condition: str, holds: list[object], does_not: list[object]
) -> None:
    decoder = requests(tmp_path, REQUESTS + f"skip = {condition}")
    for values, skipped in ((holds, True), (does_not, False)):
        for value in values:
            event = decoder.decode(raw(RECORD | {"x": value}), HERE)
            assert isinstance(event, Skipped) is skipped, value
    if None in holds + does_not:  # what is not there is as if it was null
        event = decoder.decode(raw(RECORD), HERE)
        assert isinstance(event, Skipped) is (None in holds)


SAYS = """
[[events.actions.says]]
kind = "dwell"
when = {path = "dwell_ms", above = 0}
value = {path = "dwell_ms", divide = 1000}
[[events.actions.says]]
kind = "click"
when = "tapped"
"""


def test_a_record_may_say_several_things(tmp_path: Path) -> None:
    decoder = actions(tmp_path, ACTIONS + SAYS)
    record = ACTION | {"dwell_ms": 1500, "tapped": True}
    events = decoder.decode(raw(record), HERE)
    # it is a click already: each kind is said once
    assert said(events) == [("e/click", "i", "click", 2.0, T), ("e/dwell", "i", "dwell", 1.5, T)]
    assert isinstance(events, list)
    assert all(isinstance(e, ActionEvent) and e.raw == raw(record) for e in events)
    only_flags = ACTIONS.replace('action = "type"\nvalue = "v"', "") + SAYS
    decoder = actions(tmp_path, only_flags)
    assert said(decoder.decode(raw(record), HERE)) == [
        ("e/dwell", "i", "dwell", 1.5, T),
        ("e/click", "i", "click", None, T),
    ]
    assert decoder.decode(raw(ACTION), HERE) == Skipped(T)
    without_id = {k: v for k, v in record.items() if k != "id"}
    assert [s[0] for s in said(decoder.decode(raw(without_id), HERE))] == [None, None]


def test_a_record_with_one_bad_action_is_rejected_whole(tmp_path: Path) -> None:
    decoder = actions(tmp_path, ACTIONS + SAYS, "join.unknown_actions=ignore")
    record = ACTION | {"type": "scroll", "dwell_ms": 1500}
    assert said(decoder.decode(raw(record), HERE)) == [
        ("ignored", T),
        ("e/dwell", "i", "dwell", 1.5, T),
    ]
    assert decoder.ignored == 1
    events = ACTIONS + SAYS.replace("divide = 1000", 'as = "text"')
    decoder = actions(tmp_path, events, "join.unknown_actions=ignore")
    assert refused(decoder, record) == (
        "wrong_type",
        "dwell_ms: Expected `float | null`, got `str`",
    )
    assert decoder.ignored == 0


def test_kinds_of_theirs(tmp_path: Path) -> None:
    decoder = actions(tmp_path, ACTIONS + 'kinds = {OPEN = "click", TAP = "click", 3 = "dwell"}')
    for theirs, ours in (("OPEN", "click"), ("TAP", "click"), (3, "dwell"), ("click", "click")):
        assert said(decoder.decode(raw(ACTION | {"type": theirs}), HERE))[0][2] == ours
    reason, message = refused(decoder, ACTION | {"type": "open"})
    assert (reason, message.startswith("type: action 'open' is not")) == ("unknown_action", True)
    assert refused(decoder, ACTION | {"type": 3, "v": None}) == (
        "missing_value",
        "v: 'dwell' needs a value",
    )


ELEMENTS = """
[events.actions]
request_id = "req"
user_id = "user"
items = "clicked"
item_id = "."
event_time = "ts"
event_id = "id"
action = {constant = "click"}
"""


def test_a_record_may_be_about_several_items(tmp_path: Path) -> None:
    decoder = actions(tmp_path, ELEMENTS)
    record = ACTION | {"clicked": ["a", 2]}
    assert said(decoder.decode(raw(record), HERE)) == [
        ("e/0", "a", "click", None, T),
        ("e/1", "2", "click", None, T),
    ]
    assert decoder.decode(raw(record | {"clicked": []}), HERE) == Skipped(T)
    assert refused(decoder, ACTION) == ("missing_field", "clicked is missing")
    assert refused(decoder, record | {"clicked": "a"}) == ("wrong_type", "clicked: 'a' is no array")
    assert refused(decoder, record | {"clicked": ["a", 1.5]})[0] == "wrong_type"
    of_element = ELEMENTS.replace('"."', '".i"').replace('"id"', '".e"').replace('"ts"', '".t"')
    record = ACTION | {"clicked": [{"i": "a", "e": "x", "t": T + 9}, {"i": "b", "e": "y", "t": T}]}
    assert said(actions(tmp_path, of_element).decode(raw(record), HERE)) == [
        ("x", "a", "click", None, T + 9),
        ("y", "b", "click", None, T),
    ]


IMPRESSION = """
[events.features]
record = "impression"
request_id = "req"
user_id = "user"
event_time = "ts"
item_id = "item"
"""


def test_a_record_that_is_one_impression_is_a_request_of_its_own(tmp_path: Path) -> None:
    decoder = requests(tmp_path, IMPRESSION + ACTIONS)
    record = ACTION | {"price": 1, "hour": 2}
    ids = []
    for req, item in ((5, "i"), (5, "j"), ("5/i", "j"), ("5", "i/j")):
        event = decoder.decode(raw(record | {"req": req, "item": item}), HERE)
        assert body(event).items == [str(item)]
        assert (body(event).context, body(event).columns) == ([2], [[1.0]])
        assert isinstance(event, RequestEvent)
        ids.append(event.request_id)
    assert ids == ["5/i", "5/j", "5%2Fi/j", "5/i%2Fj"]
    # an action names the impression as its record does
    (event_of_action,) = actions(tmp_path, IMPRESSION + ACTIONS).decode(raw(ACTION), HERE)  # type: ignore[misc]
    assert isinstance(event_of_action, ActionEvent)
    assert (event_of_action.request_id, event_of_action.item_id) == ("5/i", "i")
    by_user = actions(tmp_path, IMPRESSION + ACTIONS, "join.key=user_id")
    (event_of_action,) = by_user.decode(raw(ACTION), HERE)  # type: ignore[misc]
    assert isinstance(event_of_action, ActionEvent)
    assert event_of_action.request_id == "5"
    several = IMPRESSION.replace('"req"', '["req", "position"]')
    event = requests(tmp_path, several + ACTIONS).decode(raw(record | {"position": 3}), HERE)
    assert isinstance(event, RequestEvent)
    assert event.request_id == "5/3/i"
    assert refused(decoder, record | {"price": "x"})[1].startswith("price: Expected `float`")
