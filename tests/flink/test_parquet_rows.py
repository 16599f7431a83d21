"""Our writer of rows makes the files that Flink's makes."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyflink.util.java_utils import add_jars_to_context_class_loader

from jobs.pipeline import environment
from tests.effort import examples
from tests.flink import compiled

SCALARS = ("BOOLEAN", "TINYINT", "INT", "BIGINT", "FLOAT", "DOUBLE", "STRING", "BYTES")
TYPES = (*SCALARS, *(f"ARRAY<{scalar}>" for scalar in SCALARS))


@cache
def write_twice() -> Any:
    # a job has Parquet from its connector jars, and the gateway has none
    add_jars_to_context_class_loader([jar.as_uri() for jar in environment.jars()])
    return compiled.static("WriteTwice", "write", [compiled.source("ParquetRows")])


def pages(file: Path) -> bytes:
    """All but the footer, which has sets in it, in no order."""
    data = file.read_bytes()
    return data[: -8 - int.from_bytes(data[-8:-4], "little")]


def head(file: pq.ParquetFile) -> tuple[object, ...]:
    schema = str(file.schema).split("\n", 1)[1]  # the first line has an address of Python's
    return schema, file.metadata.metadata, file.metadata.created_by


def statistics(file: pq.ParquetFile) -> list[str]:
    """What the footer says of each column, by which readers pass over what they do not need."""
    of_groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
    columns = [group.column(i) for group in of_groups for i in range(group.num_columns)]
    # a text, for a NaN is not equal to itself
    return [str(c.statistics and c.statistics.to_dict()) for c in columns]


def test_the_files_are_those_of_flinks_writer(tmp_path: Path) -> None:
    for number in range(examples(20)):
        choose = random.Random(number)
        types = [*TYPES, *choose.choices(TYPES, k=4)]
        choose.shuffle(types)
        compression = choose.choice(["ZSTD", "SNAPPY", "GZIP", "UNCOMPRESSED"])
        rows = choose.choice([0, 1, 20, 700])
        ours, theirs = tmp_path / f"{number}-ours", tmp_path / f"{number}-theirs"
        write_twice()(" ".join(types), compression, number, rows, ours.as_uri(), theirs.as_uri())
        assert pages(ours) == pages(theirs), (number, types)
        read, again = pq.ParquetFile(ours), pq.ParquetFile(theirs)
        assert read.metadata.num_rows == rows
        assert head(read) == head(again)
        assert statistics(read) == statistics(again), (number, types)


def test_a_type_that_it_does_not_know_is_refused(tmp_path: Path) -> None:
    ours, theirs = (tmp_path / name for name in ("ours", "theirs"))
    with pytest.raises(Exception, match="no such type: DATE"):
        write_twice()("DATE", "ZSTD", 1, 1, ours.as_uri(), theirs.as_uri())
