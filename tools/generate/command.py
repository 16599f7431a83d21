"""Realistic traffic from a seed, with the truth about it: ``python -m tools.generate --out DIR``.

Writes, ready for ``python -m jobs.join_samples --config DIR/pipeline.toml``::

    features/*.jsonl  actions/*.jsonl   the two logs, in the order of receipt by a collector
    pipeline.toml                       keys, windows, features, sources
    truth/impressions.parquet           per impression and kind: label, delay, value, with infinite
                                        patience (no window, no end of the log)
    truth/actions.parquet               per action: the impression that caused it, and whether the
                                        log reaches far enough to have it
    truth/records.parquet               per written line: good, duplicate or bad (with the reason),
                                        and how far it is behind the stream (ms)
    truth/parameters.json               the distributions below, with their parameters

The model (times in ms unless said otherwise; everything follows from the seed, no clock is read):

* Request times are a Poisson process given its number: N uniform times over the hours.
* Users and items are drawn by Zipf-Mandelbrot popularity, p(k) ~ 1 / (k + 10). The items of a
  request are distinct; an item comes to a user again in later requests.
* A click needs examination and attraction (the position-based model; examination 1 / (k + 1)^eta at
  position k as in Joachims et al., "Unbiased learning-to-rank with biased feedback", WSDM 2017).
  Attraction is a logistic function of the first feature, so that there is something to learn.
* Other kinds happen to clicked impressions with a fixed probability, at most once each.
* Delays from the request are log-normal, and independent for each kind (also of the click), so that
  quantiles are analytic: `LogNormal.quantile`. Delayed feedback with a long tail is the setting of
  Chapelle, "Modeling delayed feedback in display advertising", KDD 2014, who has exponential
  delays; the log-normal is heavier, as dwell and purchase logs are.
* A record is received up to `disorder_ms` after its time (uniform); a `late_share` of them later
  by up to twice the longest window (log-uniform). A `duplicate_share` is received twice.
* A `bad_share` of extra records is made from good ones by `spoil_request` and `spoil_action`.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import IO, Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.progress import Progress

from configuration.command_line import run

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: 2023-11-14 23:00 UTC: the start of an hour, so that partitions are whole.
START = 1_700_002_800_000
HOUR = 3_600_000

#: Requests that are made at a time. Part of what a seed means: another size, other traffic.
BLOCK = 1_000

_encode = msgspec.json.Encoder().encode


# -- parameters ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogNormal:
    """A log-normal distribution by its median (seconds, or another unit) and its shape sigma."""

    median: float
    sigma: float

    def quantile(self, p: float) -> float:
        """The value that a share `p` of draws stays below, 0 < p < 1."""
        return self.median * math.exp(self.sigma * NormalDist().inv_cdf(p))

    def share_within(self, x: float) -> float:
        """The share of draws up to `x`."""
        return NormalDist().cdf(math.log(x / self.median) / self.sigma) if x > 0 else 0.0

    def draw(self, rng: np.random.Generator, n: int) -> Floats:
        return rng.lognormal(math.log(self.median), self.sigma, n)


@dataclass(frozen=True)
class ActionModel:
    """A kind of action: how often, how late (seconds after the request), and with what value."""

    kind: str
    label: Literal["any", "count", "sum", "max", "last"]
    window: str
    window_ms: int
    delay: LogNormal
    #: given a click; the click itself has the position-based model
    probability: float | None = None
    value: LogNormal | None = None


ACTIONS = (
    ActionModel("click", "any", "2min", 120_000, LogNormal(8.0, 1.0)),
    ActionModel("dwell", "max", "10min", 600_000, LogNormal(40.0, 0.9), 0.8, LogNormal(25.0, 1.1)),
    ActionModel("like", "count", "15min", 900_000, LogNormal(60.0, 1.2), 0.1),
    ActionModel(
        "purchase", "sum", "3h", 3 * HOUR, LogNormal(2_700.0, 1.0), 0.05, LogNormal(20.0, 0.8)
    ),
)
LONGEST = max(action.window_ms for action in ACTIONS)


@dataclass(frozen=True)
class Traffic:
    """What to make. Shares are of good records; times are milliseconds."""

    requests: int
    items: int = 20
    features: int = 8
    seed: int = 0
    key: Literal["request_id", "user_id"] = "request_id"
    hours: float = 12.0
    users: int = 5_000
    catalogue: int = 10_000
    eta: float = 0.7
    attraction: tuple[float, float] = (-1.5, 1.0)  # logistic(a + b * first feature)
    missing_share: float = 0.02  # of feature values
    no_event_id_share: float = 0.05  # of actions
    disorder_ms: int = 2_000
    late_share: float = 0.002
    duplicate_share: float = 0.01
    bad_share: float = 0.002
    rotate_ms: int = 600_000

    def __post_init__(self) -> None:
        if self.requests < 1 or self.items < 1 or self.features < 1 or self.hours <= 0:
            raise ValueError("requests, items, features and hours must be positive")
        if self.catalogue < 2 * self.items:
            raise ValueError("the catalogue needs at least twice the items of a request")

    @property
    def end(self) -> int:
        """The end of both logs: actions after it are in the truth only."""
        return START + round(self.hours * HOUR)

    @property
    def max_record_bytes(self) -> int:
        """Well above a good request."""
        return max(65_536, 64 * self.items * (self.features + 2))


# -- features --------------------------------------------------------------------------------------

_WORDS = np.array(["red", "green", "blue", "small", "large", "new", "sale", "gift"])


def feature_type(n: int) -> str:
    """The type of item feature number n, in turns, so that every width has a mixture."""
    turns = ("float64", "float64", "int64", "string", "float32", "int64", "bool", "list<string>")
    return turns[n % len(turns)]


def feature_name(n: int) -> str:
    """`f00` is the one that clicks depend on."""
    return f"f{n:02}"


def draw_feature(n: int, size: int, rng: np.random.Generator) -> list[Any]:
    """Values of feature number n: normal, exponential, geometric, categorical or a few words."""
    match feature_type(n):
        case "float64" if n % 8 == 0:
            return _listed(np.round(rng.standard_normal(size), 4))
        case "float64":
            return _listed(np.round(rng.exponential(10.0, size), 2))
        case "float32":
            return _listed(np.round(rng.random(size), 3))
        case "int64":
            return _listed(rng.geometric(0.02, size))
        case "bool":
            return _listed(rng.random(size) < 0.3)
        case "string":
            return _listed(_WORDS[rng.integers(0, len(_WORDS), size)])
        case _:
            words: list[str] = _listed(_WORDS)
            pairs = list(itertools.combinations(words, 2))
            choices: list[list[str]] = [[], *([w] for w in words), *(list(p) for p in pairs)]
            return [choices[i] for i in rng.integers(0, len(choices), size).tolist()]


def _listed(values: npt.NDArray[Any]) -> list[Any]:
    return values.tolist()  # type: ignore[no-any-return]


# -- requests, impressions, actions ----------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """Requests in the order of time, with impressions as (request, position) matrices."""

    first: int
    times: Ints  # (requests,)
    users: Ints  # (requests,)
    items: Ints  # (requests, items)
    columns: list[list[Any]]  # by feature, requests * items values each

    def request_id(self, n: int) -> str:
        return f"r{self.first + n:08}"


class ActionRow(NamedTuple):
    """An action with its cause. `row` is the request within its block."""

    kind: int
    row: int
    position: int
    event_time: int
    delay_ms: int
    value: float | None


def request_times(traffic: Traffic, rng: np.random.Generator) -> Ints:
    """A Poisson process given its number: uniform, sorted."""
    return np.sort(rng.integers(START, traffic.end + 1, traffic.requests))


def popularity(size: int) -> Floats:
    """The distribution function of Zipf-Mandelbrot popularity, exponent 1, shift 10."""
    weights = 1.0 / (np.arange(size) + 11.0)
    return np.asarray(np.cumsum(weights) / weights.sum(), dtype=np.float64)


def draw_popular(cdf: Floats, shape: tuple[int, ...], rng: np.random.Generator) -> Ints:
    """Indices by `popularity`."""
    # rounding may leave the last value short of 1, and a draw beyond it
    return np.minimum(np.searchsorted(cdf, rng.random(shape)), len(cdf) - 1)


def distinct_items(cdf: Floats, n: int, items: int, rng: np.random.Generator) -> Ints:
    """`items` distinct items for each of n requests; a repeated one is replaced by any other."""
    drawn = draw_popular(cdf, (n, items), rng)
    while True:
        order = np.argsort(drawn, axis=1, kind="stable")
        ranked = np.take_along_axis(drawn, order, axis=1)
        again = np.zeros_like(drawn, dtype=bool)
        np.put_along_axis(again[:, :], order[:, 1:], ranked[:, 1:] == ranked[:, :-1], axis=1)
        if not again.any():
            return drawn
        drawn[again] = rng.integers(0, len(cdf), int(again.sum()))


def draw_block(
    traffic: Traffic, first: int, times: Ints, cdfs: tuple[Floats, Floats], rng: np.random.Generator
) -> Block:
    """Users, items and features for requests at `times`."""
    n = len(times)
    users = draw_popular(cdfs[0], (n,), rng)
    items = distinct_items(cdfs[1], n, traffic.items, rng)
    columns = [draw_feature(f, n * traffic.items, rng) for f in range(traffic.features)]
    for column in columns[1:]:  # the first is never missing: clicks depend on it
        for index in np.flatnonzero(rng.random(len(column)) < traffic.missing_share).tolist():
            column[index] = None
    return Block(first, times, users, items, columns)


def click_probability(traffic: Traffic, first_feature: Floats) -> Floats:
    """(requests, items): examination at the position times attraction of the item."""
    examined = (np.arange(traffic.items) + 1.0) ** -traffic.eta
    a, b = traffic.attraction
    return np.asarray(examined / (1.0 + np.exp(-(a + b * first_feature))), dtype=np.float64)


def draw_actions(traffic: Traffic, block: Block, rng: np.random.Generator) -> list[ActionRow]:
    """All actions that the impressions of a block cause, whenever they happen."""
    shape = block.items.shape
    chance = click_probability(traffic, np.array(block.columns[0]).reshape(shape))
    clicked = rng.random(shape) < chance
    out: list[ActionRow] = []
    for kind, model in enumerate(ACTIONS):
        happened = clicked
        if model.probability is not None:
            happened = clicked & (rng.random(shape) < model.probability)
        rows, positions = np.nonzero(happened)
        delays = np.rint(model.delay.draw(rng, len(rows)) * 1_000).astype(np.int64)
        values: list[float | None] = [None] * len(rows)
        if model.value is not None:
            values = _listed(np.round(model.value.draw(rng, len(rows)), 2))
        times = block.times[rows] + delays
        out += map(
            ActionRow,
            itertools.repeat(kind),
            _listed(rows),
            _listed(positions),
            _listed(times),
            _listed(delays),
            values,
        )
    return out


# -- records ---------------------------------------------------------------------------------------


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


# -- arrival ---------------------------------------------------------------------------------------


def arrivals(traffic: Traffic, times: Ints, rng: np.random.Generator) -> Ints:
    """When records of these times are received; see the module's docstring."""
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
            _write_rows(self._truth, self.SCHEMA, rows)

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


# -- truth -----------------------------------------------------------------------------------------


def impressions_schema() -> pa.Schema:
    """Of truth/impressions.parquet: `label` 0 or 1, `delay` and `value` null without an action."""
    fields = [
        ("request_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("position", pa.int32()),
        ("event_time", pa.int64()),
    ]
    for model in ACTIONS:
        fields += [
            (f"label_{model.kind}", pa.int8()),
            (f"delay_{model.kind}_ms", pa.int64()),
            (f"value_{model.kind}", pa.float64()),
        ]
    return pa.schema(fields)


def actions_schema() -> pa.Schema:
    """Of truth/actions.parquet: `written` is false for those after the end of the log."""
    return pa.schema(
        [
            ("name", pa.string()),
            ("event_id", pa.string()),
            ("action", pa.string()),
            ("request_id", pa.string()),
            ("user_id", pa.string()),
            ("item_id", pa.string()),
            ("position", pa.int32()),
            ("event_time", pa.int64()),
            ("delay_ms", pa.int64()),
            ("value", pa.float64()),
            ("written", pa.bool_()),
        ]
    )


def true_impressions(traffic: Traffic, block: Block, actions: Sequence[ActionRow]) -> pa.Table:
    """What became of every impression, with infinite patience."""
    n, width = block.items.shape
    columns: list[Any] = [
        [block.request_id(i) for i in range(n) for _ in range(width)],
        [f"u{user}" for user in np.repeat(block.users, width).tolist()],
        [f"i{item}" for item in block.items.ravel().tolist()],
        np.tile(np.arange(width, dtype=np.int32), n),
        np.repeat(block.times, width),
    ]
    for kind in range(len(ACTIONS)):
        label = np.zeros(n * width, dtype=np.int8)
        delay: list[int | None] = [None] * (n * width)
        value: list[float | None] = [None] * (n * width)
        for action in actions:
            if action.kind == kind:
                index = action.row * width + action.position
                label[index], delay[index], value[index] = 1, action.delay_ms, action.value
        columns += [label, delay, value]
    schema = impressions_schema()
    arrays = [pa.array(c, type=f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _write_rows(
    writer: pq.ParquetWriter, schema: pa.Schema, rows: Sequence[tuple[Any, ...]]
) -> None:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, type=f.type) for c, f in zip(columns, schema, strict=True)]
    writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


# -- configuration ---------------------------------------------------------------------------------


def pipeline(traffic: Traffic) -> str:
    """The pipeline.toml of this traffic."""
    parts = [
        f'[pipeline]\nname = "generated-{traffic.seed}"',
        f'[join]\nkey = "{traffic.key}"\npolicy = "wait"',
        '[end_of_input]\nimmature = "mark"',
    ]
    parts += (
        f'[actions.{model.kind}]\nwindow = "{model.window}"\nlabel = "{model.label}"'
        for model in ACTIONS
    )
    parts.append('[features.hour]\nscope = "context"\ntype = "int64"')
    parts += (
        f'[features.{feature_name(n)}]\nscope = "item"\ntype = "{feature_type(n)}"\n'
        f"required = {'true' if n == 0 else 'false'}"
        for n in range(traffic.features)
    )
    parts += (
        f'[sources.{stream}]\ntype = "files"\npath = "{stream}"\n'
        f'out_of_orderness = "{traffic.disorder_ms}ms"\nnot_after = {traffic.end}\n'
        f"max_record_bytes = {traffic.max_record_bytes}"
        for stream in ("features", "actions")
    )
    parts.append('[output]\npath = "out"')
    return "\n\n".join(parts) + "\n"


def parameters(traffic: Traffic) -> dict[str, Any]:
    """Everything that a reader of the truth needs to compute expectations, JSON-able."""
    return {
        "traffic": asdict(traffic),
        "start": START,
        "end": traffic.end,
        "actions": [
            asdict(model) | {"share_within_window": model.delay.share_within(model.window_ms / 1e3)}
            for model in ACTIONS
        ],
    }


# -- all of it -------------------------------------------------------------------------------------


def generate(
    traffic: Traffic, out: Path, progress: Callable[[int], None] = lambda _: None
) -> dict[str, Counter[str]]:
    """Write everything under `out`; `progress` is told how many requests were made.

    Returns the numbers of lines by stream and sort. Raises FileExistsError if `out` has a log or
    a truth already, OSError if it cannot be written.
    """
    seeds = np.random.SeedSequence(traffic.seed)
    times = request_times(traffic, np.random.default_rng(seeds.spawn(1)[0]))
    cdfs = (popularity(traffic.users), popularity(traffic.catalogue))
    truth = out / "truth"
    truth.mkdir(parents=True)
    (out / "pipeline.toml").write_text(pipeline(traffic))
    (truth / "parameters.json").write_text(json.dumps(parameters(traffic), indent=2) + "\n")

    with (
        pq.ParquetWriter(truth / "impressions.parquet", impressions_schema()) as impressions,
        pq.ParquetWriter(truth / "actions.parquet", actions_schema()) as caused,
        pq.ParquetWriter(truth / "records.parquet", Log.SCHEMA) as records,
    ):
        features = Log(traffic, out, "features", records)
        actions = Log(traffic, out, "actions", records)
        for first in range(0, traffic.requests, BLOCK):
            part = times[first : first + BLOCK]
            # nothing from here on can be received before its own time
            features.flush(int(part[0]))
            actions.flush(int(part[0]))
            rng = np.random.default_rng(seeds.spawn(1)[0])
            block = draw_block(traffic, first, part, cdfs, rng)
            drawn = draw_actions(traffic, block, rng)
            impressions.write_table(true_impressions(traffic, block, drawn))

            made = request_records(traffic, block)
            names = [record["request_id"] for record in made]
            for received, record in schedule(traffic, made, names, spoil_request, rng):
                features.add(received, record)
            _add_actions(traffic, block, drawn, actions, caused, rng)
            progress(len(part))
        features.close()
        actions.close()
    return {"features": features.counts, "actions": actions.counts}


def _add_actions(
    traffic: Traffic,
    block: Block,
    drawn: Sequence[ActionRow],
    log: Log,
    truth: pq.ParquetWriter,
    rng: np.random.Generator,
) -> None:
    nameless = rng.random(len(drawn)) < traffic.no_event_id_share
    made, names, rows = [], [], []
    for n, action in enumerate(drawn):
        name = f"e{block.first:08}-{n}"
        event_id = None if nameless[n] else name
        record = action_record(traffic, block, action, event_id)
        written = action.event_time <= traffic.end
        if written:
            made.append(record)
            names.append(name)
        rows.append(
            (
                name,
                event_id,
                record["action"],
                block.request_id(action.row),
                record["user_id"],
                record["item_id"],
                action.position,
                action.event_time,
                action.delay_ms,
                action.value,
                written,
            )
        )
    if rows:
        _write_rows(truth, actions_schema(), rows)
    for received, spooled in schedule(traffic, made, names, spoil_action, rng):
        log.add(received, spooled)


def make(
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new or empty folder.")],
    requests: Annotated[int, typer.Option(help="How many requests.")] = 10_000,
    items: Annotated[int, typer.Option(help="Items per request.")] = 20,
    features: Annotated[int, typer.Option(help="Features per item.")] = 8,
    seed: Annotated[int, typer.Option(help="The same seed gives the same traffic.")] = 0,
    key: Annotated[
        Literal["request_id", "user_id"], typer.Option(help="What the actions carry.")
    ] = "request_id",
    hours: Annotated[float, typer.Option(help="How long the logs are.")] = 12.0,
    users: Annotated[int, typer.Option(help="How many users there are.")] = 5_000,
    catalogue: Annotated[int, typer.Option(help="How many items there are.")] = 10_000,
    bad_share: Annotated[float, typer.Option(help="Share of broken records.")] = 0.002,
    duplicate_share: Annotated[float, typer.Option(help="Share of repeated records.")] = 0.01,
    late_share: Annotated[
        float, typer.Option(help="Share of records later than --disorder-ms.")
    ] = 0.002,
    disorder_ms: Annotated[int, typer.Option(help="How far out of order the others are.")] = 2_000,
) -> int:
    """Generate realistic traffic: two event logs, a pipeline.toml, and the truth about the labels.

    Exit codes: 0 written, 2 it cannot be.
    """
    code = write(
        out,
        requests=requests,
        items=items,
        features=features,
        seed=seed,
        key=key,
        hours=hours,
        users=users,
        catalogue=catalogue,
        bad_share=bad_share,
        duplicate_share=duplicate_share,
        late_share=late_share,
        disorder_ms=disorder_ms,
    )
    if code == 0:
        Console(stderr=True).print(
            f"now: sample-stitch join --config {out / 'pipeline.toml'}",
            markup=False,
            soft_wrap=True,
        )
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return run(make, argv, "python -m tools.generate")


def write(out: Path, **options: Any) -> int:
    """`generate` for a person: `options` are those of `Traffic`. Exit codes as those of `main`."""
    console = Console(stderr=True)
    try:
        traffic = Traffic(**options)
        if out.exists() and any(out.iterdir()):
            raise FileExistsError(f"{out} is not empty: give a new directory")
        with Progress(console=console) as bar:
            task = bar.add_task("requests", total=traffic.requests)
            counts = generate(traffic, out, lambda n: bar.advance(task, n))
    except (ValueError, OSError) as error:
        console.print(f"cannot generate: {error}", style="red", markup=False, soft_wrap=True)
        return 2
    for stream, sorts in counts.items():
        text = ", ".join(f"{sorts[what]:,} {what}" for what in ("good", "duplicate", "bad"))
        console.print(f"{stream}: {text}", markup=False)
    return 0
