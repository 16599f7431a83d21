"""The audit's own decoder and the job's: the same verdict, reason and event for every record."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from jobs.pipeline.config import KafkaSource, Pipeline, load
from schemas.decoding import ActionDecoder, BadRecord, IgnoredAction, RequestDecoder
from schemas.events import STREAMS, Origin, RequestBody, Stream
from tests.effort import examples
from tools.audit.decoding import DecodedAction, DecodedRequest, Decoder

T = TypeVar("T")

HERE = Origin("here", 0, 0)
TIME = 1_700_000_000_000
CONFIG = """
[join]
key = "{key}"
unknown_actions = "{unknown}"
[actions.click]
window = "10min"
[actions.buy]
window = "1d"
label = "{label}"
[features.hour]
scope = "context"
type = "int64"
required = {required}
[features.where]
scope = "context"
type = "string"
required = false
[features.price]
type = "float64"
required = {required}
[features.small]
type = "float32"
required = false
[features.new]
type = "bool"
required = false
[features.tags]
type = "list<string>"
required = false
[features.numbers]
type = "list<int64>"
required = false
[features.weights]
type = "list<float32>"
required = false
{sources}[limits]
items_per_request = {items}
[output]
path = "out"
"""

KAFKA = """
type = "kafka"
topic = "{stream}"
bootstrap_servers = "127.0.0.1:1"
max_future = "1min"
"""
FILES = """
type = "files"
path = "{stream}"
not_after = 1700000000000
"""

_NUMBERS = (
    "0", "1", "-1", "-0", "0.0", "-0.0", "0.5", "1.0", "1e3", "1E+3", "1e308", "1e309", "-1e999",
    "1e-999", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
    "-9223372036854775809", "18446744073709551615", "18446744073709551616",
    "3.4028234663852886e38", "3.4028234663852887e38", "3.4028235e38", "3.4028236e38",
    "1.7976931348623157e308", "1.7976931348623158e308", "1.7976931348623159e308", "5e-324",
    "9" * 400, "9" * 5_000, "0." + "3" * 400, "-" + "9" * 20, "12345678901234567890123",
)  # fmt: skip
_TIMES = (
    "1700000000000", "1700000000000", "1700000000001", "1700000000000.0", "17e11", "1700000000",
    "1700000000000000", "1700000000000000000", "31536000000", "31535999999", "4102444799999",
    "4102444800000", "31536000", "4102444800", "0", "-1", "-1700000000", "true",
    '"1700000000000"', "null", "9" * 5_000, "-0",
)  # fmt: skip
_STRINGS = (
    '"a"', '"i1"', '""', '" "', '"\\u0020"', '"\\u00a0"', '"\\u2003"', '"\\u0001"', '"\\u0000"',
    '"\\u001f"', '"\\u007f"', '"\\ud83d\\ude00"', '"\\ud800"', '"\\udc00x"', '"\\ude00\\ud83d"',
    '"\u20ac"', '"\U0001f600"', '"a:b"', '"{["', '"]}"', '"\\""', '"\\\\"', '"\\q"', '"\t"',
    '"\x7f"', '"' + "x" * 1_024 + '"', '"' + "x" * 1_025 + '"', '"' + "\U0001f600" * 1_024 + '"',
    '"' + "\u00e9" * 1_025 + '"', '"\\/"', '"\u2028"', '"\ufeff"', '"unfinished',
)  # fmt: skip
_OTHERS = (
    "null",
    "true",
    "false",
    "[]",
    "{}",
    "[null]",
    "NaN",
    "-Infinity",
    "Infinity",
    "-NaN",
    "nul",
    "01",
    "1.",
    ".5",
    "+1",
    "",
)
_BLANKS = ("", "", "", "", " ", "\n", "\t", "\r\n", "\x0c", "\u00a0")
_KEYS = (
    "request_id", "user_id", "event_time", "items", "context", "item_id", "features", "action",
    "event_id", "value", "price", "hour", "x", "", "a:b", "\\u0078", "\\u0070rice", "Price",
    "tags", "\\ud800",
)  # fmt: skip


class _Writer:
    """Texts of records, some good, most with something odd in one or two places."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._odd = 0.0

    def record(self, stream: Stream) -> bytes:
        self._odd = self._rng.choice((0.0, 0.01, 0.03, 0.03, 0.1, 0.3))
        text = self._request() if stream == "features" else self._action()
        text = self._blank() + text + self._blank()
        raw = text.encode("utf-8", "surrogatepass")
        how = self._rng.random()
        if how < 0.75 or not raw:
            return raw
        at = self._rng.randrange(len(raw))
        if how < 0.80:
            return raw[:at]
        if how < 0.85:
            return raw[:at] + bytes([self._rng.randrange(256)]) + raw[at + 1 :]
        if how < 0.90:
            return (
                raw[:at]
                + self._pick((b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\x00", b'"', b"{", b"]"))
                + raw[at:]
            )
        if how < 0.93:
            return raw[:at] + raw[at + 1 :]
        if how < 0.96:
            to = self._rng.randrange(len(raw))
            return raw[: max(at, to)] + raw[min(at, to) :]
        return self._pick(
            (
                b"",
                b" ",
                b"\xef\xbb\xbf" + raw,
                raw + raw,
                b"[" + raw + b"]",
                raw + b"\n",
                b"null",
                b'"r"',
                b"1",
            )
        )

    def _pick(self, options: Sequence[T]) -> T:
        return self._rng.choice(options)

    def _blank(self) -> str:
        return self._pick(_BLANKS) if self._rng.random() < self._odd else ""

    def _or_odd(self, usual: str) -> str:
        return self._value(0) if self._rng.random() < self._odd else usual

    def _value(self, level: int) -> str:
        how = self._rng.random()
        if how < 0.05:
            depth = self._pick((3, 94, 95, 96, 97, 98, 99, 100, 101, 300, 2_000))
            begin, end = self._pick((("[", "]"), ('{"k":', "}")))
            return begin * depth + self._pick(("1", '"]"', '"\\""', "{}")) + end * depth
        if how < 0.20 and level < 3:
            return (
                "[" + ",".join(self._value(level + 1) for _ in range(self._rng.randrange(3))) + "]"
            )
        if how < 0.35 and level < 3:
            return self._object(
                [(self._pick(_KEYS), self._value(level + 1)) for _ in range(self._rng.randrange(4))]
            )
        return self._pick(self._pick((_NUMBERS, _STRINGS, _OTHERS, _TIMES)))

    def _object(self, pairs: list[tuple[str, str]]) -> str:
        pairs = [pair for pair in pairs if self._rng.random() >= self._odd / 2]
        if self._rng.random() < self._odd:
            pairs.append((self._pick(_KEYS), self._value(1)))
        if pairs and self._rng.random() < self._odd / 2:
            pairs.append(self._pick(pairs))
        if self._rng.random() < 0.5:
            self._rng.shuffle(pairs)
        return (
            "{"
            + ",".join(
                f'{self._blank()}"{k}"{self._blank()}:{self._blank()}{v}{self._blank()}'
                for k, v in pairs
            )
            + "}"
        )

    def _request(self) -> str:
        items = [self._or_odd(self._item(n)) for n in range(self._pick((1, 1, 2, 3)))]
        context = [("hour", self._or_odd("9"))]
        if self._rng.random() < 0.5:
            context.append(("where", self._or_odd('"here"')))
        return self._object(
            [
                ("request_id", self._or_odd('"r"')),
                ("user_id", self._or_odd('"u"')),
                ("event_time", self._pick(_TIMES) if self._rng.random() < self._odd else str(TIME)),
                ("items", self._or_odd("[" + ",".join(items) + "]")),
                ("context", self._or_odd(self._object(context))),
            ]
        )

    def _item(self, n: int) -> str:
        features = [("price", self._or_odd("2.5"))]
        for name, usual in (
            ("small", "0.1"), ("new", "true"), ("tags", '["a","b"]'), ("numbers", "[1,-2]"),
            ("weights", "[0.5,3]"),
        ):  # fmt: skip
            if self._rng.random() < 0.4:
                if usual[0] == "[" and self._rng.random() < self._odd * 3:
                    usual = (
                        "["
                        + ",".join(self._pick((usual[1:-1], self._value(2))) for _ in range(2))
                        + "]"
                    )
                features.append((name, self._or_odd(usual)))
        return self._object(
            [
                ("item_id", self._or_odd(f'"i{n}"')),
                ("features", self._or_odd(self._object(features))),
            ]
        )

    def _action(self) -> str:
        pairs = [
            ("user_id", self._or_odd('"u"')),
            ("item_id", self._or_odd('"i"')),
            ("action", self._or_odd(self._pick(('"click"', '"buy"', '"buy"', '"scroll"')))),
            ("event_time", self._pick(_TIMES) if self._rng.random() < self._odd else str(TIME)),
        ]
        for name, usual in (("request_id", '"r"'), ("event_id", '"e"'), ("value", "3.5")):
            if self._rng.random() < 0.7:
                pairs.append((name, self._or_odd(self._pick((usual, usual, "null")))))
        return self._object(pairs)


class _OfTheJob:
    """The decoders that the job has, in the words of the audit's."""

    def __init__(self, pipeline: Pipeline) -> None:
        features, actions = pipeline.sources.features, pipeline.sources.actions
        self.of_kafka = isinstance(features, KafkaSource)
        clock: dict[str, Any] = {"max_future_ms": 60_000} if self.of_kafka else {"not_after": TIME}
        self._requests = RequestDecoder(
            pipeline.schema,
            max_record_bytes=features.max_record_bytes,
            max_items=pipeline.limits.items_per_request,
            **clock,
        )
        self._actions = ActionDecoder(
            pipeline.kinds,
            key_is_request_id=pipeline.join.key == "request_id",
            reject_unknown=pipeline.join.unknown_actions == "reject",
            max_record_bytes=actions.max_record_bytes,
            **clock,
        )
        self._width = len(pipeline.schema.scoped("item"))

    def decode(self, stream: Stream, raw: bytes, record_time: int | None) -> object:
        try:
            if stream == "features":
                event = self._requests.decode(raw, HERE, record_time)
                body = msgspec.msgpack.decode(event.body, type=RequestBody)
                columns = body.columns or [[] for _ in range(self._width)]
                return DecodedRequest(
                    event.request_id,
                    body.user_id,
                    event.event_time,
                    body.items,
                    body.context,
                    columns,
                )
            action = self._actions.decode(raw, HERE, record_time)
        except BadRecord as bad:
            return bad.reason
        if isinstance(action, IgnoredAction):
            return action.event_time
        a = action
        return DecodedAction(
            a.event_id, a.user_id, a.item_id, a.request_id, a.action, a.value, a.event_time
        )


def _configurations(folder: Path) -> list[Pipeline]:
    made = []
    for n, (key, unknown, label, required, source, max_bytes, items) in enumerate(
        (
            ("request_id", "reject", "sum", "true", KAFKA, 1_000_000, 2),
            ("user_id", "ignore", "count", "false", FILES, 1_000_000, 1),
            ("request_id", "ignore", "last", "false", KAFKA, 300, 3),
        )
    ):
        sources = "".join(
            f"[sources.{s}]{source.format(stream=s)}max_record_bytes = {max_bytes}\n"
            for s in STREAMS
        )
        text = CONFIG.format(
            key=key,
            unknown=unknown,
            label=label,
            required=required,
            sources=sources,
            items=items,
        )
        (folder / f"{n}.toml").write_text(text)
        made.append(load(folder / f"{n}.toml"))
    return made


def _exact(event: object) -> str:
    """-0.0 is not 0.0, and 1 is not 1.0."""
    return repr(event)


def test_both_decoders_say_the_same(tmp_path: Path) -> None:
    rng = random.Random(16)
    writer, seen = _Writer(rng), Counter[str]()
    for pipeline in _configurations(tmp_path):
        audits, jobs = Decoder(pipeline), _OfTheJob(pipeline)
        for _ in range(examples(2_500)):
            for stream in STREAMS:
                raw = writer.record(stream)
                time = rng.choice((None, TIME, TIME - 60_000, TIME - 60_001, TIME + 10**9))
                if not jobs.of_kafka:
                    time = None
                found = audits.decode(stream, raw, time)
                expected = jobs.decode(stream, raw, time)
                if isinstance(found, DecodedAction) and found.ignored:
                    assert found.event_time == expected, raw
                else:
                    assert _exact(found) == _exact(expected), raw
                seen[f"{stream} {expected if isinstance(expected, str) else 'good'}"] += 1
    reasons = {
        "empty_record", "too_large", "invalid_utf8", "too_deep", "broken_json", "not_finite",
        "duplicate_key", "wrong_type", "missing_field", "out_of_range", "wrong_time_unit",
        "bad_id", "good",
    }  # fmt: skip
    assert seen.keys() >= {
        f"{stream} {reason}" for stream in ("features", "actions") for reason in reasons
    }
    others = {
        "features empty_items",
        "features too_many_items",
        "actions future_clock",
        "actions unknown_action",
        "actions missing_value",
    }
    assert seen.keys() >= others
    assert seen["features good"] + seen["actions good"] > 0.2 * seen.total()
