"""From the bytes of records to rows and corrections, without Flink: whatever was accepted.

A `Choose` makes up a configuration and records whose values lie at the limits of docs/events.md.
The real decoders say what is accepted. What they accept goes through the join, the rows and the
corrections, and everything on the way has to hold it: timers are Java's longs, and columns have the
types of docs/sample-format.md.
"""

from __future__ import annotations

import heapq
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import tomli_w

from configuration.reading import LONGEST_DURATION
from corrections.apply import corrections
from corrections.result import Corrections
from jobs.pipeline.config import Pipeline, load
from schemas.decoding import ActionDecoder, BadRecord, IgnoredAction, RequestDecoder
from schemas.events import EARLIEST_TIME, LATEST_TIME, ActionEvent, Origin, RequestEvent, Stream
from schemas.features import FLOAT32_MAX, INT64_MAX, INT64_MIN, SCALAR_TYPES
from schemas.labels import without_action
from schemas.sample_id import sample_ids
from schemas.samples import LATE_ACTIONS, PARTITIONS
from schemas.samples import samples as sample_layout
from tests.core_runner import FOREVER, DictStorage
from tests.strategies import Choose
from udfs.core import side_rows, wire
from udfs.core.join_core import Decisions, Hold, LateAction, Refused
from udfs.core.keyed_join import MEMORY, SMALL, KeyedJoin
from udfs.core.sample_rows import SampleWriter
from udfs.core.side_rows import late_row
from udfs.core.trust import Trust, trust_in

HERE = Origin("fuzz", 0, INT64_MAX)
LABELS = ("any", "count", "sum", "max", "last")
_MIDDLE = 1_700_000_000_000
_LONGEST = f"{LONGEST_DURATION}ms"
_DURATIONS = ("1ms", "10ms", "1s", "1h", _LONGEST)
#: Texts that JSON, msgpack or UTF-8 may trip over; some are refused.
_TEXTS = (
    *("a", "i1", "i2", "é", "\U0001f600", "e\u0301", "\u200b", "\x7f", "\x80", "'", '"', "\\"),
    *(
        "x" * 31,
        "x" * 32,
        "x" * 255,
        "x" * 256,
        "x" * 1024,
        "\U0001f600" * 1024,
        "\ufeff",
        "\uffff",
    ),
)
_REFUSED_TEXTS = ("", " ", "\u2028", "\x00", "x" * 1025, "x" * 65_536, "\ud800", "\udfff\ud800")
_REALS = (
    *("0.0", "-0.0", "-0", "1", "5e-324", "-5e-324", "2.2250738585072014e-308", "1e-400"),
    *("1.7976931348623157e308", "-1.7976931348623157e308", "1e308", "-1e308", "9007199254740993"),
    *(str(INT64_MIN), str(2**64 - 1), str(2**64), "1" + "0" * 308, "0.1", "0." + "3" * 400),
)
_REFUSED_REALS = ("1e309", "-1e400", "1" + "0" * 400, "NaN", "Infinity", '"1"', "true", "[]")
_INTEGERS: tuple[str, ...] = (
    "0",
    "-0",
    "-1",
    "127",
    "128",
    "255",
    "256",
    "65535",
    "65536",
    str(2**31),
    str(2**32),
)
_INTEGERS += (str(INT64_MAX), str(INT64_MIN), "1.0", "1e3", "-32", "-33", "-128", "-129", "-32769")
_REFUSED_INTEGERS = (str(INT64_MAX + 1), str(INT64_MIN - 1), "1" + "0" * 400, "1.5", "1e300")
_FLOAT32S: tuple[str, ...] = (
    "0",
    "-0.0",
    "1e-46",
    "1e-45",
    "1.1754942e-38",
    repr(FLOAT32_MAX),
    repr(-FLOAT32_MAX),
)
_FLOAT32S += ("0.1", "16777217", "3.4028234e38")
_REFUSED_FLOAT32S = ("3.4028236e38", "1e39", "-1e308")


def a_pipeline(choose: Choose, folder: Path) -> Pipeline:
    """A configuration of any policy, key, kinds and features, as `load` gives it."""
    longest = not choose(range(3))
    durations = _DURATIONS if longest else _DURATIONS[:-1]
    kinds = {
        f"k{n}": {"window": choose(durations), "label": choose((*LABELS, "sum"))}
        for n in range(choose((1, 2, 5)))
    }
    types = [*SCALAR_TYPES, *(f"list<{t}>" for t in SCALAR_TYPES)]
    features = {
        name: {
            "type": choose(types),
            "scope": choose(("context", "item")),
            "required": choose((False, False, True)),
        }
        for name in ("a", "b.c", "é 'x'", "\U0001f600")[: choose((0, 1, 4))]
    }
    document: dict[str, Any] = {
        "join": {
            "key": choose(("request_id", "user_id")),
            "clock_skew": choose(("0s", *durations)),
            "allowed_lateness": choose(("0s", *durations)),
            "policy": choose(("wait", "wait", "fake_negative", "es_dfm", "defer")),
            "unknown_actions": choose(("reject", "ignore")),
        },
        "emission": {"first_emit_after": "0s"},
        "actions": kinds,
        "features": features,
        "end_of_input": {"immature": choose(("mark", "drop"))},
        "output": {"path": "out", "late_features": choose((False, True))},
        "sources": {n: {"type": "files", "path": "in"} for n in ("features", "actions")},
    }
    if choose((False, True)):
        document["join"]["late_horizon"] = _LONGEST
    if document["join"]["policy"] == "wait":
        del document["emission"]
    if choose((False, True)):
        document["exposure"] = {"action": "k0", "unexposed": choose(("drop", "mark"))}
    if choose((False, True)):
        document["sampling"] = {"rate": choose((0.0, 0.5, 1.0)), "seed": choose((0, 2**62 - 1))}
    if choose((False, True)):
        document["label_silence"] = {"after": choose(durations)}
    path = folder / "pipeline.toml"
    path.write_text(tomli_w.dumps(document), encoding="utf-8")
    return load(path)


def records(choose: Choose, pipeline: Pipeline, n: int) -> Iterator[tuple[Stream, bytes] | int]:
    """`n` records, each with its stream; and watermarks between them, never beyond the last."""
    durations = [0, pipeline.rules.skew, pipeline.rules.longest_window, pipeline.rules.horizon or 0]
    begin = choose((EARLIEST_TIME, _MIDDLE, _MIDDLE, LATEST_TIME - 1))
    times = [begin]
    watermark = begin - choose((1, *(d + 1 for d in durations)))
    for _ in range(n):
        time = choose((begin, choose(times))) + choose((0, 0, 1, -1, *durations, -durations[1]))
        if choose(range(20)) and not EARLIEST_TIME <= time < LATEST_TIME:
            time = min(max(time, EARLIEST_TIME), LATEST_TIME - 1)
        times.append(time)
        if choose((False, True)):
            yield "features", _request(choose, pipeline, time)
        else:
            for _ in range(choose((1, 1, 1, 4))):
                yield "actions", _action(choose, pipeline, time)
        if not choose(range(4)):
            ahead = choose((0, 1, *durations, pipeline.rules.deadline(0)))
            watermark = max(watermark, choose(times) + ahead)
            yield watermark


def _text(choose: Choose) -> str:
    return json.dumps(
        choose(_REFUSED_TEXTS if not choose(range(100)) else _TEXTS),
        ensure_ascii=choose((False, True)),
    )


def _few(choose: Choose) -> str:
    """Mostly an id that others have, too."""
    return f'"{choose(choose(("a", "abc", "abcdefgh")))}"' if choose(range(6)) else _text(choose)


def _real(choose: Choose) -> str:
    if not choose(range(3)):
        return "1.7976931348623157e308"  # a sum of two is too large
    return choose(_REFUSED_REALS if not choose(range(30)) else _REALS)


def _scalar(choose: Choose, scalar: str) -> str:
    refused = not choose(range(200))
    match scalar:
        case "bool":
            return choose(("true", "false"))
        case "int64":
            return choose(_REFUSED_INTEGERS if refused else _INTEGERS)
        case "float32":
            return choose(_REFUSED_FLOAT32S if refused else _FLOAT32S)
        case "float64":
            return choose(_REFUSED_REALS if refused else _REALS)
    text = choose(("", " ", "\x00", "\x1f\n", "x" * 65_536, "\U0001f600" * 16_384, *_TEXTS))
    return json.dumps(text, ensure_ascii=choose((False, True)))


def _features(choose: Choose, pipeline: Pipeline, scope: str) -> str:
    values = []
    for feature in pipeline.schema.features:
        if feature.scope != scope or (not feature.required and not choose(range(4))):
            continue
        if not feature.required and not choose(range(4)):
            value = "null"
        elif feature.type.is_list:
            sizes = (0, 1, 1, 15, 16, 200)
            each = (_scalar(choose, feature.type.scalar) for _ in range(choose(sizes)))
            value = f"[{', '.join(each)}]"
        else:
            value = _scalar(choose, feature.type.scalar)
        values.append(f"{json.dumps(feature.name)}: {value}")
    return "{" + ", ".join(values) + "}"


def _request(choose: Choose, pipeline: Pipeline, time: int) -> bytes:
    sizes = (0, 15, 16, 200) if not choose(range(10)) else (1, 2, 3)
    items = ", ".join(
        f'{{"item_id": {_few(choose)}, "features": {_features(choose, pipeline, "item")}}}'
        for _ in range(choose(sizes))
    )
    context = _features(choose, pipeline, "context")
    return (
        f'{{"request_id": {_few(choose)}, "user_id": {_few(choose)}, "event_time": {time}, '
        f'"context": {context}, "items": [{items}]}}'
    ).encode("utf-8", "surrogatepass")


def _action(choose: Choose, pipeline: Pipeline, time: int) -> bytes:
    kind = choose((*pipeline.actions, *pipeline.actions, "other"))
    fields = [f'"user_id": {_few(choose)}, "item_id": {_few(choose)}, "action": "{kind}"']
    fields.append(f'"event_time": {time}')
    if choose(range(4)):
        fields.append(f'"request_id": {_few(choose)}')
    if choose(range(10)):
        fields.append(f'"value": {_real(choose)}')
    if not choose(range(3)):
        fields.append(f'"event_id": {_few(choose)}')
    return ("{" + ", ".join(fields) + "}").encode("utf-8", "surrogatepass")


@dataclass
class Ran:
    """What became of the records; `packed`: the rows as the JVM gets them (without the pickle)."""

    counts: Counter[str] = field(default_factory=Counter)
    packed: list[bytes] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    late: list[dict[str, Any]] = field(default_factory=list)


class Driver:
    """Decoders, join and writer of one pipeline, as the job puts them together."""

    def __init__(self, pipeline: Pipeline, *, small: int = SMALL, memory: int = MEMORY) -> None:
        rules = pipeline.rules
        self.pipeline = pipeline
        limits = {"max_record_bytes": 16 << 20}
        self._requests = RequestDecoder(pipeline.schema, **limits)
        self._actions = ActionDecoder(
            pipeline.kinds,
            key_is_request_id=rules.key == "request_id",
            reject_unknown=pipeline.join.unknown_actions == "reject",
            **limits,
        )
        self._storage = DictStorage()
        self._join = KeyedJoin(rules, self._storage, small=small, memory=memory)
        self._writer = SampleWriter(
            pipeline.schema, rules.kinds, rules.exposure, pipeline.negative_sampling
        )
        self._wire = msgspec.msgpack.Decoder(RequestEvent | ActionEvent)
        self._timers: list[tuple[int, str]] = []
        self._watermark = INT64_MIN
        self._seen: dict[str, int] = {}
        self.ran = Ran()

    def run(self, records: Iterator[tuple[Stream, bytes] | int]) -> Ran:
        for record in records:
            if isinstance(record, int):
                self._advance(record)
            else:
                self._record(*record)
        self._advance(FOREVER)
        left = {k: s for k, s in self._storage.keys.items() if s.requests or s.log}
        assert not left
        assert not self._timers
        counts = self.ran.counts
        assert counts["requests"] == counts["settled"] + counts["refused"]
        assert counts["actions"] == sum(
            counts[name] for name in ("joined", "late", "orphans", "duplicates")
        )
        return self.ran

    def _record(self, stream: Stream, raw: bytes) -> None:
        self.ran.counts["records"] += 1
        decoder = self._requests if stream == "features" else self._actions
        try:
            event = decoder.decode(raw, HERE)
        except BadRecord as bad:
            self.ran.counts[f"bad: {bad.reason}"] += 1
            return
        time = event.event_time
        self._seen[stream] = max(self._seen.get(stream, time), time)
        if isinstance(event, IgnoredAction):
            self.ran.counts["ignored"] += 1
            return
        # Events cross the network packed.
        event = self._wire.decode(msgspec.msgpack.encode(event))
        by_request = self.pipeline.rules.key == "request_id"
        if isinstance(event, RequestEvent):
            self.ran.counts["requests"] += 1
            user = msgspec.msgpack.decode(event.body)[0]
            self._storage.current = key = event.request_id if by_request else user
            verdict = self._join.request(key, event, self._watermark)
            if isinstance(verdict, Refused):
                self.ran.counts["refused"] += 1
            else:
                self._wake(verdict.wake_at, key)
            return
        self.ran.counts["actions"] += 1
        self._storage.current = key = (event.request_id or "") if by_request else event.user_id
        decided = self._join.action(key, event, self._watermark, self._trust())
        if isinstance(decided, Hold):
            self._wake(() if decided.wake_at is None else (decided.wake_at,), key)
        else:
            self._perform(decided, key)

    def _wake(self, times: Any, key: str) -> None:
        for time in times:
            assert INT64_MIN <= time < FOREVER, time
            if (time, key) not in self._timers:
                heapq.heappush(self._timers, (time, key))

    def _advance(self, watermark: int) -> None:
        if watermark <= self._watermark:
            return
        self._watermark = watermark
        while self._timers and self._timers[0][0] <= watermark:
            time, key = heapq.heappop(self._timers)
            self._storage.current = key
            at_end = watermark == FOREVER
            decisions = self._join.timer(key, time, at_end=at_end, trust=self._trust())
            if decisions is not None:
                self._perform(decisions, key)

    def _trust(self) -> Trust:
        silence = self.pipeline.label_silence
        return trust_in(
            self._seen,
            at_end=self._watermark == FOREVER,
            complete_until=None,
            silence_after=None if silence is None else int(silence.after),
        )

    def _perform(self, decisions: Decisions, key: str) -> None:
        counts = self.ran.counts
        self._wake(decisions.wake_at, key)
        for emitted in decisions.emitted:
            packed, sampled_out = self._writer.rows(emitted)
            counts["sampled_out"] += sampled_out
            for rows in packed:
                self.ran.packed.append(self._writer.pack(rows))
                self.ran.rows += self.read(self.ran.packed[-1])
        counts["settled"] += len(decisions.settled)
        counts["joined"] += sum(settled.joined for settled in decisions.settled)
        counts["orphans"] += len(decisions.orphans)
        counts["duplicates"] += len(decisions.duplicates)
        counts["late"] += len(decisions.late)
        self.ran.late += map(self._late, decisions.late)

    def read(self, packed: bytes) -> list[dict[str, Any]]:
        """The rows, by column, as `ExplodeSamples` is to make them of these bytes."""
        rows = msgspec.msgpack.decode(packed, type=wire.SampleRows)
        body = msgspec.msgpack.decode(rows.body)
        context, items = self._writer.feature_values(rows.body)
        made, ids = [], sample_ids(rows.request_id, body[1])
        for p in range(len(ids)) if rows.positions is None else rows.positions:
            row: dict[str, Any] = {
                "sample_id": ids[p],
                "request_id": rows.request_id,
                "user_id": body[0],
                "item_id": body[1][p],
                "position": p,
                "event_time": rows.event_time,
                **context,
                **{name: column[p] for name, column in items.items()},
                "observed_ms": rows.observed_ms,
                "exposed": None if rows.exposed is None else rows.exposed[p],
                "sampling_rate": 1.0 if rows.rates is None else rows.rates[p],
                "revision": 0 if rows.versions is None else rows.versions[p],
                "kind": rows.kind,
                "dt": rows.dt,
                "hr": rows.hr,
            }
            for kind, labels in zip(self.pipeline.kinds, rows.kinds, strict=True):
                values, delays = labels.values, labels.delays_ms
                label = without_action(kind) if values is None else values[p]
                row[f"label_{kind.name}"] = label
                row[f"delay_{kind.name}_ms"] = None if delays is None else delays[p]
                row[f"mature_{kind.name}"] = labels.mature
            made.append(row)
        return made

    def _late(self, late: LateAction) -> dict[str, Any]:
        return dict(zip(side_rows.LATE_ACTIONS.columns, late_row(late, self._writer), strict=True))

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Samples and late actions in their columns' types. Raises for a value that they cannot
        hold.
        """
        layout = sample_layout(self.pipeline.schema, self.pipeline.kinds)
        partitions = [(name, pa.string()) for name in PARTITIONS]
        return (
            pa.Table.from_pylist(self.ran.rows, schema=pa.schema([*layout, *partitions])),
            pa.Table.from_pylist(self.ran.late, schema=pa.schema([*LATE_ACTIONS, *partitions])),
        )

    def corrected(self, samples: pa.Table, late: pa.Table) -> Corrections:
        exposure, sampling = self.pipeline.exposure_action, self.pipeline.negative_sampling

        def negative_rate(sample: int, features: Any) -> float | None:
            found = sampling.rate_of(features, exposed=True)
            return found if sampling.keeps(sample, found) else None

        return corrections(
            samples,
            late,
            self.pipeline.kinds,
            exposure=exposure,
            anew=self.pipeline.leaves_out,
            negative_rate=negative_rate,
        )


def unusual(table: pa.Table) -> list[str]:
    """What no column of labels may have: infinities, NaN, and zeros with a sign."""
    return [
        f"{name} = {value!r}"
        for name in table.column_names
        if name.startswith("label_")
        for value in table[name].to_pylist()
        if isinstance(value, float)
        and (not math.isfinite(value) or (value == 0 and math.copysign(1, value) < 0))
    ]
