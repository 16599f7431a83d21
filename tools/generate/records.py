"""The log records: as JSON lines, spoilt ones among them, in the order of receipt."""

from __future__ import annotations

import heapq
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tools.generate.draw import ActionRow, Block
from tools.generate.model import ACTIONS, HOUR, LONGEST, Ints, Traffic, feature_name
from tools.generate.truth import write_rows

_encode = msgspec.json.Encoder().encode


def request_records(traffic: Traffic, block: Block) -> list[dict[str, Any]]:
    """The feature events of a block, as they are to be encoded."""
    names = [feature_name(n) for n in range(traffic.features)]
    features = [
        dict(zip(names, values, strict=True)) for values in zip(*block.columns, strict=True)
    ]
    item_ids = [f"i{item}" for item in block.items.ravel().tolist()]
    items = [
        {"item_id": item, "features": values}
        for item, values in zip(item_ids, features, strict=True)
    ]
    width = traffic.items
    return [
        {
            "request_id": block.request_id(n),
            "user_id": f"u{user}",
            "event_time": time,
            "context": {"hour": time // HOUR % 24},
            "items": items[n * width : (n + 1) * width],
        }
        for n, (user, time) in enumerate(
            zip(block.users.tolist(), block.times.tolist(), strict=True)
        )
    ]


def action_record(
    traffic: Traffic, block: Block, action: ActionRow, event_id: str | None
) -> dict[str, Any]:
    """The action event, as it is to be encoded. With the user as key it names no request."""
    out: dict[str, Any] = {} if event_id is None else {"event_id": event_id}
    out["user_id"] = f"u{block.users[action.row]}"
    out["item_id"] = f"i{block.items[action.row, action.position]}"
    if traffic.key == "request_id":
        out["request_id"] = block.request_id(action.row)
    out["action"] = ACTIONS[action.kind].kind
    if action.value is not None:
        out["value"] = action.value
    out["event_time"] = action.event_time
    return out


class Record(NamedTuple):
    """A line to be written; `event_time` is None where it must not count."""

    line: bytes
    name: str
    event_time: int | None
    what: Literal["good", "duplicate", "bad"]
    reason: str | None = None


def _inject(record: dict[str, Any], path: Sequence[str | int], literal: bytes) -> bytes:
    """The record encoded with `literal`, which need not be JSON, in the place of a value."""
    marked: Any = json.loads(_encode(record))
    inner = marked
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = "\ufffc"
    return _encode(marked).replace('"\ufffc"'.encode(), literal)


def _without(record: dict[str, Any], name: str) -> bytes:
    return _encode({k: v for k, v in record.items() if k != name})


def _spoil_any(traffic: Traffic, record: dict[str, Any], name: str) -> dict[str, bytes]:
    """By reason, what can be wrong with a record of either stream; `name` is its id field."""
    line = _encode(record)
    return {
        "broken_json": line[: len(line) * 2 // 3],
        "invalid_utf8": _inject(record, ["user_id"], b'"\xff\xfe"'),
        "wrong_type": _encode({**record, "event_time": str(record["event_time"])}),
        "missing_field": _without(record, "user_id"),
        "out_of_range": _encode({**record, "event_time": 7_258_118_400_000}),
        "too_deep": _inject(record, [name], b"[" * 5_000 + b"]" * 5_000),
        "too_large": line + b" " * (traffic.max_record_bytes + 1 - len(line)) + b"?",
        "future_clock": _encode({**record, "event_time": traffic.end + 1}),
    }


def spoil_request(traffic: Traffic, record: dict[str, Any]) -> dict[str, bytes]:
    """By reason (sample-format.md, rejected), the lines that a feature event becomes."""
    feature: list[str | int] = ["items", 0, "features", feature_name(0)]
    return _spoil_any(traffic, record, "context") | {
        "empty_items": _encode({**record, "items": []}),
        "not_finite": _inject(record, feature, b"NaN"),
        "out_of_range": _inject(record, feature, b"1e999"),
        "wrong_type": _inject(record, feature, b'"cheap"'),
    }


def spoil_action(traffic: Traffic, record: dict[str, Any]) -> dict[str, bytes]:
    """By reason (sample-format.md, rejected), the lines that an action event becomes."""
    return _spoil_any(traffic, record, "value") | {
        "unknown_action": _encode({**record, "action": "teleport"}),
        "missing_value": _without({**record, "action": "purchase"}, "value"),
        "not_finite": _inject(record, ["value"], b"-Infinity"),
    }


def arrivals(traffic: Traffic, times: Ints, rng: np.random.Generator) -> Ints:
    """When records of these times are received; see `tools.generate.model`."""
    n = len(times)
    late = rng.random(n) < traffic.late_share
    far = np.exp(rng.uniform(math.log(1_000), math.log(2 * LONGEST), n)).astype(np.int64)
    jitter = rng.integers(0, traffic.disorder_ms + 1, n)
    beyond = np.where(late, traffic.disorder_ms + far, 0)
    return np.asarray(times + jitter + beyond, dtype=np.int64)


def schedule(
    traffic: Traffic,
    records: Sequence[dict[str, Any]],
    names: Sequence[str],
    spoil: Callable[[Traffic, dict[str, Any]], dict[str, bytes]],
    rng: np.random.Generator,
) -> Iterator[tuple[int, Record]]:
    """Every line that the good records give, with the time at which it is received."""
    if not records:
        return
    times = np.array([record["event_time"] for record in records], dtype=np.int64)
    first, second = arrivals(traffic, times, rng), arrivals(traffic, times, rng)
    twice = rng.random(len(records)) < traffic.duplicate_share
    bad = rng.random(len(records)) < traffic.bad_share
    sort = rng.integers(0, 1 << 30, len(records))
    for n, (record, name) in enumerate(zip(records, names, strict=True)):
        line, time = _encode(record), int(times[n])
        one, two = int(first[n]), int(second[n])
        if twice[n]:
            one, two = min(one, two), max(one, two)
            yield two, Record(line, name, time, "duplicate")
        yield one, Record(line, name, time, "good")
        if bad[n]:
            spoilt = sorted(spoil(traffic, record).items())
            reason, line = spoilt[int(sort[n]) % len(spoilt)]
            yield one, Record(line, name, None, "bad", reason)


class Log:
    """One stream as it is written: lines wait here until nothing earlier can come."""

    SCHEMA = pa.schema(
        [
            ("stream", pa.string()),
            ("file", pa.string()),
            ("offset", pa.int64()),
            ("name", pa.string()),
            ("what", pa.string()),
            ("reason", pa.string()),
            ("event_time", pa.int64()),
            ("behind_ms", pa.int64()),
        ]
    )

    def __init__(self, traffic: Traffic, out: Path, stream: str, truth: pq.ParquetWriter) -> None:
        self._traffic, self._out, self._stream, self._truth = traffic, out, stream, truth
        self._waiting: list[tuple[int, int, Record]] = []
        self._count = itertools.count()
        self._file: IO[bytes] | None = None
        self._name, self._offset, self._latest = "", 0, -1
        self.counts: Counter[str] = Counter()
        (out / stream).mkdir(parents=True)

    def add(self, received: int, record: Record) -> None:
        """Let a line wait; lines received at one time keep the order in which they were added."""
        heapq.heappush(self._waiting, (received, next(self._count), record))

    def flush(self, before: float) -> None:
        """Write what was received before that time."""
        rows: list[tuple[Any, ...]] = []
        while self._waiting and self._waiting[0][0] < before:
            received, _, record = heapq.heappop(self._waiting)
            self._rotate(received)
            assert self._file is not None
            self._file.write(record.line + b"\n")
            behind = None
            if record.event_time is not None:
                behind = max(0, self._latest - record.event_time)
                self._latest = max(self._latest, record.event_time)
            where = (self._stream, self._name, self._offset)
            rows.append(
                (*where, record.name, record.what, record.reason, record.event_time, behind)
            )
            self._offset += len(record.line) + 1
            self.counts[record.what] += 1
            if record.reason is not None:
                self.counts[f"bad:{record.reason}"] += 1
        if rows:
            write_rows(self._truth, self.SCHEMA, rows)

    def close(self) -> None:
        """Write the rest."""
        self.flush(math.inf)
        if self._file is not None:
            self._file.close()

    def _rotate(self, received: int) -> None:
        """A file has what was received in its interval; names sort by time."""
        start = received - received % self._traffic.rotate_ms
        name = f"{self._stream}/{start}.jsonl"
        if name != self._name:
            if self._file is not None:
                self._file.close()
            self._file = (self._out / name).open("wb")
            self._name, self._offset = name, 0
