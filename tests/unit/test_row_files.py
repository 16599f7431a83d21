"""Avro containers and Parquet files as lines of JSON: what they say, where they are cut, damage."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import random
import tempfile
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configuration.paths import pattern_beside
from jobs.pipeline.file_plan import find
from schemas import event_files
from schemas.decoding import BadRecord, RequestDecoder
from schemas.event_files import EventFileError
from schemas.events import Origin
from tests.record_formats import REQUEST_AVSC, SCHEMA

TIME = 1_700_000_000_000
_text = st.text(st.characters(codec="utf-8"), max_size=5)
_rows = st.lists(
    st.fixed_dictionaries(
        {
            "time": st.integers(TIME, TIME + 10**9),
            "name": _text,
            "score": st.none() | st.floats(allow_nan=False, allow_infinity=False),
            "tags": st.lists(_text, max_size=3),
            "by_key": st.dictionaries(_text, st.integers(-5, 5), max_size=2),
            "inner": st.none() | st.fixed_dictionaries({"flag": st.booleans()}),
        }
    ),
    max_size=30,
)
AVRO = {
    "type": "record",
    "name": "Row",
    "fields": [
        {"name": "time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "name", "type": "string"},
        {"name": "score", "type": ["null", "double"]},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "by_key", "type": {"type": "map", "values": "long"}},
        {
            "name": "inner",
            "type": [
                "null",
                {
                    "type": "record",
                    "name": "Inner",
                    "fields": [{"name": "flag", "type": "boolean"}],
                },
            ],
        },
    ],
}
PARQUET = pa.schema(
    [
        ("time", pa.timestamp("ms")),
        ("name", pa.string()),
        ("score", pa.float64()),
        ("tags", pa.list_(pa.string())),
        ("by_key", pa.map_(pa.string(), pa.int64())),
        ("inner", pa.struct([("flag", pa.bool_())])),
    ]
)


def as_avro(path: Path, rows: list[dict[str, Any]], codec: str = "deflate") -> None:
    with path.open("wb") as file:
        fastavro.writer(file, fastavro.parse_schema(AVRO), rows, codec=codec, sync_interval=500)


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pairs = [{**row, "by_key": list(row["by_key"].items())} for row in rows]
    pq.write_table(pa.Table.from_pylist(pairs, schema=PARQUET), path, row_group_size=7)


WRITERS = {"avro": as_avro, "parquet": as_parquet}


@pytest.mark.parametrize("kind", WRITERS)
@given(rows=_rows, chunk_rows=st.integers(1, 9), order=st.randoms(use_true_random=False))
def test_lines_say_what_the_rows_say_however_they_are_cut(
    kind: str, rows: list[dict[str, Any]], chunk_rows: int, order: random.Random
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows.{kind}"
        WRITERS[kind](path, rows)
        lines = list(event_files.lines(path))
        assert [json.loads(raw) for _, raw in lines] == rows
        assert [at for at, _ in lines] == list(range(len(rows)))
        reader, chunks = event_files.RangeReader(), []
        for start, end, between in event_files.cut(path, chunk_rows * 1024):
            chunks.append((start, end))
            if start % 2:  # they need not be read
                assert list(between) == [raw for _, raw in lines[start:end]]
        read = [record for chunk in chunks for record in reader.records(str(path), *chunk)]
        assert read == lines
        # as after a restart, or beside other readers: any of them, in any order
        again = event_files.RangeReader()
        for start, end in order.sample(chunks, len(chunks)):
            assert list(again.records(str(path), start, end)) == lines[start:end]


@pytest.mark.parametrize("codec", ["null", "deflate", "snappy", "zstandard", "bzip2"])
def test_every_usual_codec_of_avro(tmp_path: Path, codec: str) -> None:
    rows: list[dict[str, Any]] = [
        {"time": TIME, "name": str(n), "score": None, "tags": [], "by_key": {}, "inner": None}
        for n in range(2000)
    ]
    as_avro(tmp_path / "a.avro", rows, codec)
    assert [json.loads(raw) for _, raw in event_files.lines(tmp_path / "a.avro")] == rows


def test_types_that_json_has_not(tmp_path: Path) -> None:
    schema = pa.schema(
        [
            ("us", pa.timestamp("us", "UTC")),
            ("day", pa.date32()),
            ("cost", pa.decimal128(9, 2)),
            ("word", pa.dictionary(pa.int32(), pa.string())),
            ("raw", pa.binary()),
            ("nested", pa.list_(pa.struct([("at", pa.timestamp("ms"))]))),
            ("maps", pa.list_(pa.map_(pa.int32(), pa.timestamp("ms")))),
        ]
    )
    moment = datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=datetime.timezone.utc)
    row = {
        "us": moment,
        "day": moment.date(),
        "cost": decimal.Decimal("1.50"),
        "word": "w",
        "raw": b"\xff",
        "nested": [{"at": moment}],
        "maps": [[(3, moment)], None],
    }
    pq.write_table(pa.Table.from_pylist([row], schema=schema), tmp_path / "t.parquet")
    ((_, line),) = event_files.lines(tmp_path / "t.parquet")
    assert json.loads(line) == {
        "us": 1_700_000_000_000_000,
        "day": 19_675,
        "cost": 1.5,
        "word": "w",
        "raw": "/w==",
        "nested": [{"at": 1_700_000_000_000}],
        "maps": [{"3": 1_700_000_000_000}, None],
    }


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_rejected_and_not_lost(
    tmp_path: Path, number: float
) -> None:
    features = {"price": 1.0, "score": number, "tags": []}
    request = {
        "request_id": "r",
        "user_id": "u",
        "event_time": TIME,
        "context": {"hour": 1},
        "items": [{"item_id": "i", "features": features}],
    }
    path = tmp_path / "a.avro"
    with path.open("wb") as file:
        fastavro.writer(file, fastavro.parse_schema(json.loads(REQUEST_AVSC)), [request])
    ((at, line),) = event_files.lines(path)
    decoder = RequestDecoder(SCHEMA, max_record_bytes=10_000)
    with pytest.raises(BadRecord) as bad:
        decoder.decode(line, Origin(str(path), None, at))
    assert bad.value.reason == "not_finite"
    features["score"] = 0.5
    with path.open("wb") as file:
        fastavro.writer(file, fastavro.parse_schema(json.loads(REQUEST_AVSC)), [request])
    ((at, line),) = event_files.lines(path)
    assert decoder.decode(line, Origin(str(path), None, at)).request_id == "r"


@pytest.mark.parametrize("kind", WRITERS)
def test_damage_is_named_in_one_line_where_it_shows(tmp_path: Path, kind: str) -> None:
    rows: list[dict[str, Any]] = [
        {"time": TIME + n, "name": "x" * n, "score": n / 7, "tags": [], "by_key": {}, "inner": None}
        for n in range(60)
    ]
    whole, path = tmp_path / f"whole.{kind}", tmp_path / f"a\n.{kind}"
    WRITERS[kind](whole, rows)
    content = whole.read_bytes()
    rng, refused = random.Random(3), 0
    for _ in range(300):
        damaged = bytearray(content)
        if rng.random() < 0.5:
            del damaged[rng.randrange(4, len(damaged)) :]
        else:
            for _ in range(8):
                damaged[rng.randrange(4, len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            list(event_files.lines(path))
        except EventFileError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017 - not every damage is an error
            assert r"a\n" in str(error)  # noqa: PT017
    assert refused > 150


def test_a_schema_that_is_refused_says_why(tmp_path: Path) -> None:
    schema = {"type": "record", "name": "N", "fields": [{"name": "n", "type": ["null", "N"]}]}
    with (tmp_path / "n.avro").open("wb") as file:
        fastavro.writer(file, fastavro.parse_schema(schema), [{"n": None}])
    with pytest.raises(EventFileError, match=r"n\.avro: its rows cannot be read: .* recursive"):
        list(event_files.lines(tmp_path / "n.avro"))


@pytest.mark.parametrize("kind", WRITERS)
def test_half_read_files_keep_no_file_open(tmp_path: Path, kind: str) -> None:
    row = {"time": TIME, "name": "x" * 50, "score": None, "tags": [], "by_key": {}, "inner": None}
    paths = [tmp_path / f"{n}.{kind}" for n in range(20)]
    for path in paths:
        WRITERS[kind](path, [row] * 100)
    reader, opened = event_files.RangeReader(), Path("/proc/self/fd")
    before = len(list(opened.iterdir())) if opened.is_dir() else 0
    for start in range(0, 100, 10):
        for path in paths:
            assert len(list(reader.records(str(path), start, start + 10))) == 10
    assert not opened.is_dir() or len(list(opened.iterdir())) <= before


def test_folders_are_searched_for_them(tmp_path: Path) -> None:
    for name in ("b.avro", "c.PARQUET", "a.jsonl", "d.csv", "_x.parquet"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text("")
    found = find("features", pattern_beside(tmp_path / "pipeline.toml", "in"))
    assert [path.name for path in found] == ["a.jsonl", "b.avro", "c.PARQUET"]
