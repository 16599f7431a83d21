"""Java reads the packed rows as Python packed them: field by field, bit by bit, without a job."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from pyflink.util.java_utils import add_jars_to_context_class_loader

from jobs.pipeline import environment
from schemas.actions import ActionKind
from schemas.events import RequestBody
from schemas.features import FeatureSchema
from schemas.sample_id import sample_ids
from schemas.samples import PARTITIONS
from schemas.samples import samples as sample_layout
from tests.accepted_records import Driver, a_pipeline, records
from tests.effort import examples
from tests.flink import compiled
from udfs.core import wire

#: Pipelines of some 60 records.
PIPELINES = 40
#: Texts are long, and go through the gateway as base64.
MOST_BYTES = 200_000
#: The only lines that need a task; everything else runs as it is.
OF_A_TASK = r"setProcessingTimeService\(processingTime\);\s*setup\(task, config, output\);"

pack = msgspec.msgpack.Encoder().encode
NO_NAMES = msgspec.Raw(pack([]))


@cache
def read_samples() -> Callable[[str, bytes], str]:
    """`ReadSamples.rows`, compiled as the job compiles its operators."""
    operator, times = re.subn(OF_A_TASK, "this.output = output;", compiled.source("ExplodeSamples"))
    assert times == 1
    # the hash of sample ids is Parquet's
    add_jars_to_context_class_loader([jar.as_uri() for jar in environment.jars()])
    rows = compiled.static("ReadSamples", "rows", [operator, compiled.source("Packed")])
    return lambda layout, packed: str(rows(layout, packed))


def said(value: Any, type_: pa.DataType) -> str:
    """As `ReadSamples` says a value of a column."""
    if value is None:
        return "null"
    if pa.types.is_list(type_):
        return f"[{''.join(said(v, type_.value_type) + ' ' for v in value)}]"
    if pa.types.is_string(type_):
        encoded = value.encode()
        return f"string:{len(encoded)}:{java_hash(encoded)}"
    if pa.types.is_float64(type_):
        return f"double:{struct.unpack('>q', struct.pack('>d', value))[0]}"
    if pa.types.is_float32(type_):
        return f"float:{struct.unpack('>i', struct.pack('>f', value))[0]}"
    if pa.types.is_boolean(type_):
        return f"boolean:{str(value).lower()}"
    names = {pa.int8(): "byte", pa.int32(): "integer", pa.int64(): "long"}
    return f"{names[type_]}:{value}"


def java_hash(data: bytes) -> int:
    """`Arrays.hashCode` of bytes."""
    made = 1
    for byte in data:
        made = (31 * made + (byte - 256 if byte > 127 else byte)) & 0xFFFFFFFF
    return made - 2**32 if made >= 2**31 else made


@pytest.mark.parametrize("seed", range(4))
def test_java_reads_what_python_packs(seed: int, tmp_path: Path) -> None:
    read, rows, requests = read_samples(), 0, 0
    for number in range(examples(PIPELINES) // 4):
        choose = random.Random(f"{seed} {number}").choice
        pipeline = a_pipeline(choose, tmp_path)
        layout = wire.sample_layout(pipeline.schema, pipeline.kinds)
        partitions = [(name, pa.string()) for name in PARTITIONS]
        columns = pa.schema([*sample_layout(pipeline.schema, pipeline.kinds), *partitions])
        driver = Driver(pipeline)
        for packed in driver.run(records(choose, pipeline, 60)).packed:
            if len(packed) > MOST_BYTES:
                continue
            expected = [
                [said(row[column.name], column.type) for column in columns]
                for row in driver.read(packed)
            ]
            text = read(layout, packed)
            assert [line.split("\t") for line in text.splitlines()] == expected, (seed, number)
            rows += len(expected)
            requests += 1
    assert rows > requests > 10


#: XXH3 takes short, middle and long inputs by ways of its own, of up to 16, 128, 240 bytes, then in
#: blocks of 1,024; a sample id is the hash of 16 bytes more than its item id has.
LENGTHS = (*range(260), 1_006, 1_007, 1_008, 1_009, 2_031, 2_032, 2_033, 9_999)


@pytest.mark.parametrize("letter", ["x", "\N{GREEK SMALL LETTER OMEGA}", "\N{ROCKET}"])
def test_sample_ids_are_those_of_python(letter: str) -> None:
    read = read_samples()
    size = len(letter.encode())
    items = [letter * (n // size) + "." * (n % size) for n in LENGTHS]
    layout = wire.sample_layout(FeatureSchema.of(()), (ActionKind("click", 1, "any"),))
    for request_id in ("", "r", *items[::37]):
        body = RequestBody("u", items, NO_NAMES, [], NO_NAMES, [])
        rows = wire.SampleRows(
            request_id,
            *(0, "d", "h", len(items), pack(body), [wire.KindLabels(None, None, True)]),
            *("final", None, None, None, None, None),
        )
        for positions in (None, [len(items) - 1, 0, 5]):
            rows.positions = positions
            made = [line.split("\t")[0] for line in read(layout, pack(rows)).splitlines()]
            ids = sample_ids(request_id, items)
            assert made == [f"long:{ids[p]}" for p in positions or range(len(items))]
