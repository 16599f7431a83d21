"""Records as Avro and Protocol Buffers: the events that JSON gives, and a reason for all else."""

from __future__ import annotations

import json
import math
import struct
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
import pytest
from confluent_kafka.schema_registry import header_schema_id_serializer
from confluent_kafka.schema_registry.serde import SchemaId
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import message_factory
from hypothesis import given
from hypothesis import strategies as st

from schemas.actions import ActionKind
from schemas.decoding import ActionDecoder, BadRecord, RequestDecoder
from schemas.events import Origin
from schemas.formats import avro, compiled, framing, protobuf
from schemas.formats.declared import Avro, Format, FormatError, Json, Protobuf, Registry
from schemas.formats.framing import Framed
from schemas.formats.json_form import json_text
from schemas.formats.registry import Registered
from schemas.formats.transcode import Transcoding, transcoder
from tests.record_formats import (
    ACTION_AVSC,
    AVSC,
    MESSAGES,
    PROTO,
    REQUEST_AVSC,
    SCHEMA,
    as_avro,
    as_protobuf,
    descriptors,
)

HERE = Origin("topic", 0, 7)
TIME = 1_700_000_000_000
KINDS = (ActionKind("click", 60_000), ActionKind("purchase", 60_000, "sum"))
_ANY = 1 << 30

_ids = st.text(st.characters(min_codepoint=33, codec="utf-8"), min_size=1, max_size=8).filter(
    lambda text: not text.isspace()
)
_times = st.integers(TIME, TIME + 10**9)
_items = st.lists(
    st.fixed_dictionaries(
        {
            "item_id": _ids,
            "features": st.fixed_dictionaries(
                {
                    "price": st.floats(allow_nan=False, allow_infinity=False),
                    "score": st.none() | st.floats(-1024, 1024, width=32),
                    "tags": st.lists(_ids, max_size=3),
                }
            ),
        }
    ),
    min_size=1,
    max_size=4,
)
_requests = st.fixed_dictionaries(
    {
        "request_id": _ids,
        "user_id": _ids,
        "event_time": _times,
        "context": st.fixed_dictionaries({"hour": st.integers(0, 2**31 - 1)}),
        "items": _items,
    }
)
_actions = st.fixed_dictionaries(
    {
        "event_id": st.none() | _ids,
        "user_id": _ids,
        "item_id": _ids,
        "request_id": _ids,
        "action": st.sampled_from(["click", "purchase"]),
        "value": st.floats(allow_nan=False, allow_infinity=False),
        "event_time": _times,
    }
)


def of_json(stream: str, max_record_bytes: int = _ANY) -> RequestDecoder | ActionDecoder:
    if stream == "features":
        return RequestDecoder(SCHEMA, max_record_bytes=max_record_bytes)
    return ActionDecoder(KINDS, key_is_request_id=True, max_record_bytes=max_record_bytes)


def decoder(stream: str, declared: Format, client: Any = None) -> Transcoding[Any]:
    make = transcoder(declared) if client is None else transcoder(declared, lambda _: client)
    inner: Any = of_json(stream)
    return Transcoding(make, inner, 1 << 20)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or the BadRecord that it raises."""
    try:
        return call()
    except BadRecord as bad:
        return bad


def without_raw(event: Any) -> Any:
    return msgspec.structs.replace(event, raw=b"")


FORMATS: dict[str, Callable[[str], tuple[Format, Callable[[dict[str, Any]], bytes]]]] = {
    "avro": lambda s: (Avro(AVSC[s]), lambda record: as_avro(record, AVSC[s])),
    "protobuf": lambda s: (
        Protobuf(descriptors(), MESSAGES[s]),
        lambda record: as_protobuf(record, MESSAGES[s]),
    ),
}


@pytest.mark.parametrize("name", FORMATS)
@given(request=_requests)
def test_a_request_is_the_same_event_in_every_format(name: str, request: dict[str, Any]) -> None:
    declared, write = FORMATS[name]("features")
    raw = write(request)
    event = decoder("features", declared).decode(raw, HERE, TIME)
    assert event.raw == raw
    expected = of_json("features").decode(json.dumps(request).encode(), HERE, TIME)
    assert without_raw(event) == without_raw(expected)


@pytest.mark.parametrize("name", FORMATS)
@given(action=_actions)
def test_an_action_is_the_same_event_in_every_format(name: str, action: dict[str, Any]) -> None:
    declared, write = FORMATS[name]("actions")
    event = decoder("actions", declared).decode(write(action), HERE, TIME)
    expected = of_json("actions").decode(json.dumps(action).encode(), HERE, TIME)
    assert without_raw(event) == without_raw(expected)


REQUEST = {
    "request_id": "r",
    "user_id": "u",
    "event_time": TIME,
    "context": {"hour": 9},
    "items": [
        {"item_id": "a", "features": {"price": 1.5, "score": None, "tags": ["x", "y"]}},
        {"item_id": "b", "features": {"price": 2.0, "score": 0.25, "tags": []}},
    ],
}


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_damaged_bytes_are_an_event_or_a_reason(name: str, data: st.DataObject) -> None:
    declared, write = FORMATS[name]("features")
    raw = bytearray(write(REQUEST))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw)))
        match data.draw(st.sampled_from(["cut", "change", "insert"])):
            case "cut":
                del raw[at:]
            case "change" if at < len(raw):
                raw[at] = data.draw(st.integers(0, 255))
            case _:
                raw[at:at] = data.draw(st.binary(max_size=9))
    out = outcome(lambda: decoder("features", declared).decode(bytes(raw), HERE, TIME))
    if isinstance(out, BadRecord):
        assert out.reason
        assert "\n" not in out.message
    else:
        assert out.raw == bytes(raw)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_no_missing_value(name: str, number: float) -> None:
    declared, _ = FORMATS[name]("features")
    record = json.loads(json.dumps(REQUEST))
    if name == "avro":
        record["items"][1]["features"]["score"] = number
        raw = as_avro(record, REQUEST_AVSC)
    else:
        # the JSON form of Protocol Buffers has text for these
        record["items"][1]["features"]["score"] = {"inf": "Infinity", "-inf": "-Infinity"}.get(
            str(number), "NaN"
        )
        raw = as_protobuf(record, MESSAGES["features"])
    with pytest.raises(BadRecord) as bad:
        decoder("features", declared).decode(raw, HERE, TIME)
    assert (bad.value.reason, bad.value.message) == (
        "not_finite",
        "$.items[1].features.score is NaN or infinite",
    )


def test_bytes_after_an_avro_datum_are_a_sign_of_another_schema() -> None:
    declared, write = FORMATS["avro"]("features")
    with pytest.raises(BadRecord, match="2 bytes are left") as bad:
        decoder("features", declared).decode(write(REQUEST) + b"\0\0", HERE, TIME)
    assert bad.value.reason == "broken_record"


def test_what_is_too_large_or_empty_is_not_read() -> None:
    for name in FORMATS:
        decoding = decoder("features", FORMATS[name]("features")[0])
        for raw, reason in ((b"", "empty_record"), (b"x" * ((1 << 20) + 1), "too_large")):
            with pytest.raises(BadRecord) as bad:
                decoding.decode(raw, HERE, TIME)
            assert bad.value.reason == reason


# -- Avro ------------------------------------------------------------------------------------------


def test_times_stay_numbers_and_decimals_become_numbers() -> None:
    schema = {
        "type": "record",
        "name": "R",
        "fields": [
            {"name": "us", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}]},
            {
                "name": "cost",
                "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
            },
            {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
            {"name": "raw", "type": {"type": "fixed", "name": "F", "size": 2}},
            {"name": "again", "type": "F"},
        ],
    }
    unscaled = struct.pack(">h", 1234)
    raw = b"\x02" + b"\x02\x02" + b"\x04" + unscaled + b"\x04ab" + b"xy" + b"zz"
    read = avro.reader(avro.parsed(json.dumps(schema)))
    assert json_text(read(raw)) == (
        b'{"us":1,"day":1,"cost":12.34,"id":"ab","raw":"eHk=","again":"eno="}'
    )


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("{", "this is no Avro schema"),
        ('{"type": "enum", "name": "E"}', "this is no Avro schema"),
        ('"unheard_of"', "unknown type"),
        ('{"type": "array", "items": "null"}', "take no bytes"),
        (
            '{"type": "array", "items": {"type": "record", "name": "E", "fields": []}}',
            "take no bytes",
        ),
        (
            '{"type": "record", "name": "N", "fields": [{"name": "n", "type": ["null", "N"]}]}',
            "recursive",
        ),
    ],
)
def test_a_schema_that_is_none_or_has_no_bound_is_refused(schema: str, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        avro.parsed(schema)


def test_an_older_record_is_read_as_the_newer_schema() -> None:
    older = json.loads(ACTION_AVSC)
    older["fields"] = [f for f in older["fields"] if f["name"] not in ("value", "event_id")]
    written = avro.parsed(json.dumps(older))
    action = {"user_id": "u", "item_id": "i", "request_id": "r", "action": "click", "event_time": 5}
    raw = as_avro(action, json.dumps(older))
    read = avro.reader(written, avro.parsed(ACTION_AVSC))
    assert read(raw) == {**action, "value": None, "event_id": None}


def test_a_record_that_the_reader_cannot_have_is_of_the_wrong_schema() -> None:
    older = json.loads(ACTION_AVSC)
    older["fields"] = [f for f in older["fields"] if f["name"] != "user_id"]
    raw = as_avro(
        {"item_id": "i", "request_id": "r", "action": "click", "event_time": 5}, json.dumps(older)
    )
    read = avro.reader(avro.parsed(json.dumps(older)), avro.parsed(ACTION_AVSC))
    with pytest.raises(BadRecord) as bad:
        read(raw)
    assert bad.value.reason == "wrong_schema"


# -- Protocol Buffers ------------------------------------------------------------------------------


def test_every_kind_of_field() -> None:
    text = """
        syntax = "proto3";
        import "google/protobuf/timestamp.proto";
        import "google/protobuf/wrappers.proto";
        import "google/protobuf/struct.proto";
        message M {
          google.protobuf.Timestamp at = 1;
          google.protobuf.DoubleValue wrapped = 2;
          google.protobuf.Struct free = 3;
          map<int32, double> by_number = 4;
          map<string, M> by_name = 5;
          enum E { ZERO = 0; ONE = 1; }
          repeated E several = 6;
          bytes raw = 7;
          uint64 large = 8;
          oneof choice { string left = 9; bool right = 10; }
          string empty = 11;
          map<bool, string> by_flag = 12;
        }
    """
    pool = protobuf.pool_of(compiled.descriptor_set(text, {}))
    descriptor = protobuf.message_named(pool, "M")
    message = message_factory.GetMessageClass(descriptor)()
    message.at.FromMilliseconds(TIME)
    message.wrapped.value = 0.0
    message.free["a"] = [1, None]
    message.by_number[3] = 2.5
    message.by_name["m"].right = True
    message.several.extend([1, 0, 7])
    message.raw, message.large, message.left = b"\xff", 2**64 - 1, ""
    message.by_flag[True] = "yes"
    read = protobuf.reader(descriptor)
    value = read(message.SerializeToString())
    inner = value.pop("by_name")["m"]
    assert json.loads(json_text(value)) == {
        "at": "2023-11-14T22:13:20Z",
        "wrapped": 0.0,
        "free": {"a": [1.0, None]},
        "by_number": {"3": 2.5},
        "several": ["ONE", "ZERO", 7],
        "raw": "/w==",
        "large": 2**64 - 1,
        "left": "",
        "by_flag": {"true": "yes"},
    }
    assert inner["right"] is True
    assert "empty" not in inner


def test_a_message_that_is_nested_too_deep_is_broken() -> None:
    text = 'syntax = "proto3"; message N { N n = 1; }'
    read = protobuf.reader(
        protobuf.message_named(protobuf.pool_of(compiled.descriptor_set(text, {})), "N")
    )
    raw = b""
    while len(raw) < 100_000:
        raw = b"\x0a" + _varint(len(raw)) + raw
    with pytest.raises(BadRecord) as bad:
        read(raw)
    assert bad.value.reason == "broken_record"


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('syntax = "proto3"; message {', "registered.proto:1"),
        ('syntax = "proto3"; import "gone.proto"; message M {}', "gone.proto"),
        ('syntax = "proto3"; import "google/protobuf/any.proto"; message M '
         "{ google.protobuf.Any a = 1; }", "M.a is an Any"),
    ],
)  # fmt: skip
def test_a_schema_that_does_not_compile_says_where(text: str, says: str) -> None:
    def compile_all() -> None:
        pool = protobuf.pool_of(compiled.descriptor_set(text, {}))
        protobuf.reader(protobuf.message_named(pool, "M"))

    with pytest.raises(FormatError, match=says):
        compile_all()


@pytest.mark.parametrize("as_text", ["", "main", "import", "main import"])
def test_a_registered_schema_is_text_or_a_descriptor(as_text: str) -> None:
    """All four ways in which a schema and what it imports can be registered."""
    imported = 'syntax = "proto3"; package o; message O { int32 z = 1; }'
    main = 'syntax = "proto3"; import "o/o.proto"; message M { o.O o = 1; }'
    schemas = {"main": main, "import": imported}
    names = {"main": compiled.MAIN, "import": "o/o.proto"}
    whole = protobuf.pool_of(compiled.descriptor_set(main, {"o/o.proto": imported}))
    for part in set(schemas) - set(as_text.split()):
        file = whole.FindFileByName(names[part])
        schemas[part] = b64encode(file.serialized_pb).decode()
    pool = protobuf.pool_of(
        compiled.descriptor_set(schemas["main"], {"o/o.proto": schemas["import"]})
    )
    read = protobuf.reader(protobuf.message_at(pool.FindFileByName(compiled.MAIN), [0]))
    assert read(b"\x0a\x02\x08\x05") == {"o": {"z": 5}}


def test_imports_cannot_leave_their_folder() -> None:
    with pytest.raises(FormatError, match=r"is no name of a \.proto file"):
        compiled.descriptor_set(PROTO, {"../../gone.proto": ""})


@pytest.mark.parametrize("raw", [b"\xff\xff", b"{}"])
def test_what_is_no_descriptor_set_says_how_to_make_one(raw: bytes) -> None:
    with pytest.raises(FormatError, match="--include_imports"):
        protobuf.pool_of(raw)
    with pytest.raises(FormatError, match=r"no message 'shop\.Gone'"):
        protobuf.message_named(protobuf.pool_of(descriptors()), "shop.Gone")


# -- Confluent's wire format -----------------------------------------------------------------------


class Known:
    """A registry that knows what it is given, and counts how often it is asked."""

    def __init__(self, guids: dict[str, Registered] | None = None, **schemas: Registered) -> None:
        self._schemas: dict[int | str, Registered] = {
            int(name[1:]): schema for name, schema in schemas.items()
        }
        self._schemas.update(guids or {})
        self.asked = 0

    def registered(self, schema_id: int | str) -> Registered:
        self.asked += 1
        if schema_id not in self._schemas:
            raise BadRecord("unknown_schema", f"no schema {schema_id}")
        return self._schemas[schema_id]


REGISTRY = Registry("http://127.0.0.1:1")


def framed(schema_id: int, payload: bytes, path: bytes = b"") -> bytes:
    return b"\0" + struct.pack(">I", schema_id) + path + payload


def test_each_schema_is_asked_for_once_and_named_in_what_is_wrong() -> None:
    known = Known(_7=Registered("AVRO", REQUEST_AVSC, {}), _8=Registered("JSON", "{}", {}))
    decoding = decoder("features", Avro(registry=REGISTRY), known)
    good = framed(7, as_avro(REQUEST, REQUEST_AVSC))
    expected = of_json("features").decode(json.dumps(REQUEST).encode(), HERE)
    for _ in range(3):
        assert without_raw(decoding.decode(good, HERE)) == without_raw(expected)
    assert known.asked == 1
    blank = {**REQUEST, "user_id": " "}
    for raw, reason, says in [
        (framed(7, as_avro(blank, REQUEST_AVSC)), "bad_id", "schema 7: the id ' ' is blank"),
        (framed(7, b"\xff"), "broken_record", "schema 7: it is no datum"),
        (framed(8, b"{}"), "wrong_schema", "the schema is JSON, and the format says AVRO"),
        (framed(9, b""), "unknown_schema", "no schema 9"),
        (b"\x02" + good[1:], "no_schema_id", "the record begins with 02 00 00 00 07"),
        (good[:4], "no_schema_id", "the record begins with 00 00 00 00"),
    ]:
        with pytest.raises(BadRecord) as bad:
            decoding.decode(raw, HERE)
        assert (bad.value.reason, bad.value.message[: len(says)]) == (reason, says)


GUID = "6e9a0c8e-4b0e-4f5e-9d52-3f1c8c1f7a10"
BY_GUID = b"\x01" + UUID(GUID).bytes


def test_the_header_names_the_schema_and_the_value_is_all_record() -> None:
    avsc = Registered("AVRO", REQUEST_AVSC, {})
    known = Known({GUID: avsc}, _7=avsc)
    decoding = decoder("features", Avro(registry=REGISTRY), known)
    value = as_avro(REQUEST, REQUEST_AVSC)
    expected = of_json("features").decode(json.dumps(REQUEST).encode(), HERE)
    for header in (BY_GUID, framed(7, b"")):
        event = decoding.decode(Framed.of(value, header), HERE)
        assert without_raw(event) == without_raw(expected)
        assert (event.raw, type(event.raw)) == (value, bytes)
    # the GUID may stand before the record, too; and without a header the value begins with an id
    event = decoding.decode(BY_GUID + value, HERE)
    assert without_raw(event) == without_raw(expected)
    assert without_raw(decoding.decode(Framed.of(framed(7, value), None), HERE)) == without_raw(
        expected
    )
    blank = as_avro({**REQUEST, "user_id": " "}, REQUEST_AVSC)
    unknown = UUID(int=5)
    for raw, header, reason, says in [
        (blank, BY_GUID, "bad_id", f"schema {GUID}: the id ' ' is blank"),
        (value[:-1], BY_GUID, "broken_record", f"schema {GUID}: it is no datum"),
        (value, b"\x01" + unknown.bytes, "unknown_schema", f"no schema {unknown}"),
        # the header counts, whatever the value begins with
        (framed(7, value), b"", "no_schema_id", f"the header {framing.HEADER} begins with nothing"),
        (framed(7, value), b"\x00\x00\x00\x07", "no_schema_id", f"the header {framing.HEADER}"),
        (value, BY_GUID[:-1], "no_schema_id", f"the header {framing.HEADER} begins with 01 6e"),
        (
            value,
            b"\x02" + BY_GUID[1:],
            "no_schema_id",
            f"the header {framing.HEADER} begins with 02",
        ),
        (framed(7, value), BY_GUID, "broken_record", f"schema {GUID}: "),
    ]:
        with pytest.raises(BadRecord) as bad:
            decoding.decode(Framed.of(raw, header), HERE)
        assert (bad.value.reason, bad.value.message[: len(says)]) == (reason, says)


@pytest.mark.parametrize("of_type", ["list", "dict"])
def test_headers_that_confluents_client_writes(of_type: str) -> None:
    """Its own serialiser of headers, for each format: the message's path stands in the header."""
    nested = 'syntax = "proto3"; message A {} message B { message C { string v = 1; } }'
    cases: list[tuple[str, str, list[int] | None, Format, bytes, bytes]] = [
        ("AVRO", '"string"', None, Avro(registry=REGISTRY), b"\x02x", b'"x"'),
        ("JSON", "{}", None, Json(REGISTRY), b'{"v":1}', b'{"v":1}'),
        ("PROTOBUF", nested, [1, 0], Protobuf(registry=REGISTRY), b"\x0a\x01x", b'{"v":"x"}'),
    ]
    for kind, text, path, declared, payload, expected in cases:
        headers: Any = [("trace", None)] if of_type == "list" else {"trace": None}
        context = SerializationContext("t", MessageField.VALUE, headers)
        value = header_schema_id_serializer(payload, context, SchemaId(kind, 7, GUID, path))
        listed = headers if of_type == "list" else list(headers.items())
        known = Known({GUID: Registered(kind, text, {})})
        transcode = transcoder(declared, lambda _, known=known: known)  # type: ignore[misc]
        assert transcode(Framed.among(value, listed)) == (expected, GUID)


def test_of_several_headers_the_last_one_counts() -> None:
    value = Framed.among(b"v", [(framing.HEADER, b"a"), ("x", b"y"), (framing.HEADER, b"b")])
    assert isinstance(value, Framed)
    assert value.header == b"b"
    assert not isinstance(Framed.among(b"v", [(framing.HEADER, None)]), Framed)


def test_a_message_is_found_by_its_path_in_the_file() -> None:
    nested = 'syntax = "proto3"; message A {} message B { message C { string v = 1; } }'
    known = Known(_1=Registered("PROTOBUF", nested, {}))
    transcode = transcoder(Protobuf(registry=REGISTRY), lambda _: known)  # type: ignore[arg-type,return-value]
    assert transcode(framed(1, b"\x0a\x01x", b"\x04\x02\x00")) == (b'{"v":"x"}', 1)
    assert transcode(framed(1, b"", b"\x00")) == (b"{}", 1)
    with pytest.raises(BadRecord) as bad:
        transcode(framed(1, b"", b"\x04\x02\x02"))
    assert bad.value.reason == "wrong_schema"


def test_a_registered_schema_without_a_bound_is_the_record_s_fault() -> None:
    recursive = '{"type": "record", "name": "N", "fields": [{"name": "n", "type": ["null", "N"]}]}'
    transcode = transcoder(
        Avro(registry=REGISTRY),
        lambda _: Known(_1=Registered("AVRO", recursive, {})),  # type: ignore[arg-type,return-value]
    )
    with pytest.raises(BadRecord, match="recursive") as bad:
        transcode(framed(1, b"\x02" * 1_000_000))
    assert bad.value.reason == "wrong_schema"


def test_json_of_a_registry_is_what_stands_after_the_id() -> None:
    known = Known(_3=Registered("JSON", "{}", {}), _4=Registered("AVRO", REQUEST_AVSC, {}))
    raw = framed(3, json.dumps(REQUEST).encode())
    decoding = decoder("features", Json(REGISTRY), known)
    assert decoding.decode(raw, HERE).raw == raw
    assert known.asked == 0, "without subjects nothing hangs on the schema"
    asking = decoder("features", Json(Registry("http://127.0.0.1:1", ("s",))), known)
    assert asking.decode(raw, HERE).raw == raw
    with pytest.raises(BadRecord) as bad:
        asking.decode(framed(4, b"{}"), HERE)
    assert bad.value.reason == "wrong_schema"


@given(st.binary(max_size=40))
def test_any_bytes_after_a_schema_id_have_a_path_or_a_reason(payload: bytes) -> None:
    out = outcome(lambda: framing.message_path(payload))
    if isinstance(out, BadRecord):
        assert out.reason == "no_schema_id"
    else:
        path, rest = out
        assert path
        assert payload.endswith(rest)


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        (Avro(), "Avro needs a schema, or a registry"),
        (Protobuf(), "need a descriptor set, or a registry"),
        (Protobuf(b""), "set `message`"),
    ],
)
def test_a_format_that_says_too_little_is_refused(declared: Format, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        transcoder(declared)
