"""Events that are reshaped at random, and mapped back, are the same events; junk is only refused.

A layout says where each field of ours is in a record of theirs. The record is built from an event
by it, and the mapping is written from it, as a user would write it.
"""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import tomli
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from configuration import event_mapping
from configuration.event_mapping import EventsSection
from configuration.reading import ConfigError
from schemas.actions import ActionKind
from schemas.decoding import ActionDecoder, BadRecord, RequestDecoder
from schemas.events import ActionEvent, Origin, RequestEvent
from schemas.features import Feature, FeatureSchema, FeatureType
from schemas.mapping.decoding import MappedActionDecoder, MappedRequestDecoder, Skipped
from schemas.mapping.paths import quoted
from schemas.mapping.plan import Mappings
from tests.effort import examples

T = 1_700_000_000_000
HERE = Origin("here", None, 0)
SCHEMA = FeatureSchema.of(
    [
        Feature("hour", FeatureType("int64"), "context"),
        Feature("site", FeatureType("string"), "context", required=False),
        Feature("price", FeatureType("float64")),
        Feature("a.b [c]", FeatureType("bool"), required=False),
        Feature("tags", FeatureType("string", is_list=True), required=False),
    ]
)
KINDS = (ActionKind("click", 1), ActionKind("dwell", 1, "max"))
NAMES = ("a", "b", "ctx", "user id", "x.y", "q[0]", 'say "hi"', "é", "items", "$ref", "")

ids = st.sampled_from(["r", "7", "a/b", "%2F", " ", "", "\x00", "é:"]) | st.text(max_size=5)
odd = st.sampled_from([None, True, 0, 1.5, "x", [], {}, [None], {"a": 1}, 2**63, -1, [1], ["s"]])
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)


def value_of(feature: Feature) -> st.SearchStrategy[Any]:
    good: dict[str, st.SearchStrategy[Any]] = {
        "int64": st.integers(-(2**63), 2**63 - 1),
        "float64": numbers,
        "bool": st.booleans(),
        "string": st.text(max_size=4),
    }
    scalar = good[feature.type.scalar]
    usual = st.lists(scalar, max_size=2) if feature.type.is_list else scalar
    return usual if feature.required else usual | st.none()


def rarely(
    usual: st.SearchStrategy[Any], other: st.SearchStrategy[Any] = odd
) -> st.SearchStrategy[Any]:
    return st.integers(0, 30).flatmap(lambda n: other if n == 0 else usual)


def maybe_id(usual: st.SearchStrategy[Any] = ids) -> st.SearchStrategy[Any]:
    # an integer is an id, where records are mapped
    return rarely(usual, odd.filter(lambda value: type(value) is not int))


def check(events: dict[str, Any], *, by_request: bool = True) -> Mappings:
    """The mapping as a file has it."""
    section = msgspec.convert(tomli.loads(tomli_w.dumps(events)), EventsSection)
    return event_mapping.check(
        section,
        SCHEMA,
        {kind.name: kind.label for kind in KINDS},
        by_request=by_request,
        has_record_time=True,
        wrong=lambda key, text: ConfigError(f"{key}: {text}"),
    )


class Layout:
    """Places of a record that do not lie in each other, drawn one after the other."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._random = random.Random(draw(st.integers(0, 2**32)))
        self._used: list[tuple[Any, ...]] = []

    def place(self, root: str) -> tuple[Any, ...]:
        """A place below a root (the record, or an item), as names and indexes."""
        while True:
            below = self._random.choices((*NAMES, 0, 1), k=self._random.randrange(3))
            found = [self._random.choice(NAMES), *below]
            place = (root, *found)
            clash = any(
                place[: min(len(p), len(place))] == p[: min(len(p), len(place))]
                # an object cannot be an array as well
                or self._differs(p, place)
                for p in self._used
            )
            if not clash:
                self._used.append(place)
                return tuple(found)

    @staticmethod
    def _differs(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
        for a, b in zip(one, other, strict=False):
            if type(a) is not type(b):
                return True
            if a != b:
                return False
        return False


def text_of(place: tuple[Any, ...], *, of_item: bool = False) -> str:
    text = ""
    for step in place:
        text += (
            f"[{step}]"
            if isinstance(step, int)
            else ("." if text or of_item else "") + (quoted(step) if step else '""')
        )
    return text


def put(record: Any, place: tuple[Any, ...], value: Any) -> None:
    """Set a value in nested objects and arrays, which are made where they are not there."""
    for step, following in zip(place, (*place[1:], None), strict=True):
        new = value if following is None else [] if isinstance(following, int) else {}
        if isinstance(step, int):
            record += [None] * (step + 1 - len(record))
            if record[step] is None or following is None:
                record[step] = new
        elif step not in record or following is None:
            record[step] = new
        record = record[step]


def theirs_of_id(draw: st.DrawFn, value: Any) -> Any:
    """A number, where the id is one."""
    if (
        isinstance(value, str)
        and value.isdecimal()
        and value == str(int(value))
        and draw(st.booleans())
    ):
        return int(value)
    return value


UNITS = {"s": 1000, "ms": 1, "us": 0.001, "ns": 0.000001}


@st.composite
def requests(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """An event of ours (its keys in the order in which a mapped record is judged), the record of
    theirs, and the mapping.
    """
    layout, ours, theirs = Layout(draw), dict[str, Any](), dict[str, Any]()
    mapping: dict[str, Any] = {"fields": {}}
    in_items, in_context = SCHEMA.scoped("item"), SCHEMA.scoped("context")
    for name in ("request_id", "user_id"):
        ours[name] = draw(maybe_id())
        place = layout.place("record")
        mapping[name] = text_of(place)
        put(theirs, place, theirs_of_id(draw, ours[name]))
    unit = draw(st.sampled_from([*UNITS, "iso"]))
    ours["event_time"] = T if unit in ("s", "iso") else T + draw(st.integers(0, 10**6))
    place = layout.place("record")
    mapping["event_time"] = {"path": text_of(place), "unit": unit}
    time = "2023-11-14T22:13:20Z" if unit == "iso" else round(ours["event_time"] / UNITS[unit])
    put(theirs, place, time)
    ours["context"] = {}
    for feature in in_context:
        value = draw(rarely(value_of(feature)))
        ours["context"][feature.name] = value
        place = layout.place("record")
        mapping["fields"][feature.name] = text_of(place)
        put(theirs, place, value)
    n = draw(st.integers(0, 3))
    items_place = layout.place("record")
    mapping["items"] = text_of(items_place)
    ours["items"] = [{"item_id": draw(maybe_id()), "features": {}} for _ in range(n)]
    elements: list[Any] = [{} for _ in range(n)]
    put(theirs, items_place, elements)
    id_place = layout.place("item")
    mapping["item_id"] = text_of(id_place, of_item=True)
    grouped = draw(st.booleans())
    group = layout.place("item") if grouped else ()
    if grouped:
        mapping["features"] = text_of(group, of_item=True)
    columns: dict[str, list[Any]] = {}
    for feature in in_items:
        columns[feature.name] = [draw(rarely(value_of(feature))) for _ in range(n)]
        if grouped:
            continue
        if draw(st.booleans()):
            beside = layout.place("record")
            mapping["fields"][feature.name] = f"{text_of(beside)}[]"
            put(theirs, beside, columns[feature.name])
        else:
            place = layout.place("item")
            mapping["fields"][feature.name] = text_of(place, of_item=True)
            for element, value in zip(elements, columns[feature.name], strict=True):
                put(element, place, value)
    for i, (item, element) in enumerate(zip(ours["items"], elements, strict=True)):
        put(element, id_place, theirs_of_id(draw, item["item_id"]))
        item["features"] = {name: values[i] for name, values in columns.items()}
        if grouped:
            put(element, group, item["features"])
    if not mapping["fields"]:
        del mapping["fields"]
    return ours, theirs, {"features": mapping}


def verdict(decode: Any, raw: bytes) -> tuple[Any, ...]:
    """What a decoder says, without what differs by design: bytes and messages."""
    try:
        event = decode(raw, HERE, None)
    except BadRecord as bad:
        return "bad", bad.reason, bad.event_time, bool(bad.message)
    if isinstance(event, RequestEvent):
        assert event.raw == raw
        return event.request_id, event.event_time, event.body
    (event,) = event if isinstance(event, list) else [event]
    return (*(getattr(event, f) for f in event.__struct_fields__ if f not in ("raw", "origin")),)


@settings(max_examples=examples(150), deadline=None)
@given(requests())
def test_a_request_that_is_reshaped_and_mapped_is_the_same(
    drawn: tuple[dict[str, Any], dict[str, Any], dict[str, Any]],
) -> None:
    ours, theirs, events = drawn
    mapping = check(events).features
    assert mapping is not None
    mapped = MappedRequestDecoder(mapping, SCHEMA, max_record_bytes=1 << 20, max_items=2)
    plain = RequestDecoder(SCHEMA, max_record_bytes=1 << 20, max_items=2)
    expected = verdict(plain.decode, msgspec.json.encode(ours))
    assert verdict(mapped.decode, json.dumps(theirs).encode()) == expected


@st.composite
def actions(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    layout, theirs = Layout(draw), dict[str, Any]()
    ours = {
        "user_id": draw(maybe_id()),
        "item_id": draw(maybe_id()),
        "action": draw(maybe_id(st.sampled_from(["click", "dwell", "other", "1"]))),
        "event_time": T,
        "event_id": draw(maybe_id(ids | st.none())),
        "request_id": draw(maybe_id(ids | st.none())),
        "value": draw(rarely(numbers | st.none())),
    }
    mapping: dict[str, Any] = {}
    renamed = draw(st.booleans())
    for name, value in ours.items():
        place = layout.place("record")
        mapping[name] = text_of(place)
        if name == "event_time":
            mapping[name] = {"path": mapping[name], "unit": "s"}
            value = T // 1000
        elif name == "action" and renamed and value in ("click", "dwell"):
            value = {"click": 4, "dwell": "DW"}[value]
        elif name != "value":
            value = theirs_of_id(draw, value)
        put(theirs, place, value)
    if renamed:
        mapping["kinds"] = {"4": "click", "DW": "dwell", "TAP": "click"}
    return ours, theirs, {"actions": mapping}


@settings(max_examples=examples(150), deadline=None)
@given(actions(), st.booleans())
def test_an_action_that_is_reshaped_and_mapped_is_the_same(
    drawn: tuple[dict[str, Any], dict[str, Any], dict[str, Any]],
    reject: bool,
) -> None:
    ours, theirs, events = drawn
    mapping = check(events).actions
    assert mapping is not None
    options: dict[str, Any] = {
        "key_is_request_id": True,
        "reject_unknown": reject,
        "max_record_bytes": 1 << 20,
    }
    mapped = MappedActionDecoder(mapping, KINDS, **options)
    plain = ActionDecoder(KINDS, **options)
    expected = verdict(plain.decode, msgspec.json.encode(ours))
    assert verdict(mapped.decode, json.dumps(theirs).encode()) == expected
    assert mapped.ignored == plain.ignored


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False)
    | st.sampled_from(["x", "1e999", "2023-11-14T22:13:20Z", "", "é", "0001-01-01T00:00:00+23:59"])
    | st.just(msgspec.Raw(b"1e999"))
    | st.just(msgspec.Raw(b"9" * 5000)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcdef"), inner),
    max_leaves=12,
)
WHOLE = {
    "features": {
        "request_id": ["a.c", "b"],
        "user_id": "a.b",
        "event_time": {"path": "c", "unit": "iso", "zone": "UTC"},
        "items": "d",
        "item_id": ".a",
        "features": {"names": "e", "values": ".b"},
        "context": "a",
        "fields": {"price": {"path": "f[]", "as": "number", "multiply": 1e300, "divide": 3}},
        "skip": [{"path": "b", "is": 1}, {"path": "f", "above": 2}],
    },
    "actions": {
        "user_id": "a[0].b",
        "items": "b",
        "item_id": ".d",
        "request_id": ["c", "d"],
        "event_time": {"path": "c", "unit": "s", "since": "2020-01-01T00:00:00Z"},
        "event_id": "d",
        "action": ".e",
        "value": {"path": ".b", "as": "number", "divide": 7},
        "says": [
            {"kind": "dwell", "when": ["a", ".b"], "value": {"path": ".c", "as": "number"}},
            {"kind": "click", "event_time": {"path": "f", "unit": "%Y-%m-%d", "zone": "UTC"}},
        ],
    },
}


@settings(max_examples=examples(200), deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), junk) | junk, st.integers(0, 20))
def test_junk_is_refused_with_a_reason(record: Any, cut: int) -> None:
    mappings = check(WHOLE)
    assert mappings.features is not None
    assert mappings.actions is not None
    raw = msgspec.json.encode(record)
    for text in (raw, raw[cut:], raw[:-cut]):
        for decoder in (
            MappedRequestDecoder(mappings.features, SCHEMA, max_record_bytes=1 << 20),
            MappedActionDecoder(
                mappings.actions, KINDS, key_is_request_id=True, max_record_bytes=1 << 20
            ),
        ):
            said: Any
            try:
                said = decoder.decode(text, HERE, T)
            except BadRecord as bad:
                said = "bad" if bad.reason and bad.message else None
            made = said if isinstance(said, list) else [said]
            assert all(isinstance(e, str | RequestEvent | ActionEvent | Skipped) for e in made)
