"""The Iceberg table over the files of samples/ has each file once, whenever a job failed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyflink.util.java_utils import add_jars_to_context_class_loader

from jobs.pipeline import environment
from schemas import generations
from schemas.generations import Generation
from tests.flink import compiled

COLUMNS = "id BIGINT price FLOAT tags ARRAY<STRING>"
HOUR = "dt=2026-11-26/hr=07"
NEXT, EMPTIED = "dt=2026-11-26/hr=08", "dt=2026-11-26/hr=06"


@cache
def java(method: str) -> Callable[..., Any]:
    jars = [*environment.jars(), *environment.jars("iceberg")]
    add_jars_to_context_class_loader([jar.as_uri() for jar in jars])
    sources = ["ParquetFiles", "ParquetRows", "FileListener", "IcebergTable"]
    return compiled.static("IcebergSteps", method, [compiled.source(name) for name in sources])


class Output:
    """A folder `samples/`, and the table over it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "samples"
        self.made = 0

    def file(self, after: int, hour: str = HOUR, into: str = "") -> str:
        """Makes a visible file that was begun after a checkpoint; its partition and name.

        `into`: the folder of a generation.
        """
        self.made += 1
        name = f"{hour}/part-0123456789ab-{after}-0-deadbeef-{self.made}.parquet"
        rows = pa.table(
            {
                "id": pa.array([self.made], pa.int64()),
                "price": pa.array([0.5], pa.float32()),
                "tags": pa.array([["a"]]),
            }
        )
        folder = self.folder.parent / into / "samples"
        (folder / hour).mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, folder / name)
        return name

    def publish(self, *made: Generation) -> None:
        before = generations.current(self.folder.parent).generations
        pointer = generations.encode([*before, *made])
        (self.folder.parent / generations.POINTER).write_bytes(pointer)

    def start(
        self, *files: str, checkpoint: int = 0, again: bool = False, columns: str = COLUMNS
    ) -> list[str]:
        """A job begins and tells of files; those that the table has then."""
        every = f"{columns} dt STRING hr STRING"
        found = java("step")(str(self.folder), every, "\n".join(files), checkpoint, again)
        return sorted(found.split())

    def metadata(self) -> dict[str, Any]:
        folder = self.folder / "_iceberg" / "metadata"
        version = (folder / "version-hint.text").read_text()
        read: dict[str, Any] = json.loads((folder / f"v{version}.metadata.json").read_text())
        return read


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path)


def test_a_new_table_has_the_files_that_are_there_already(output: Output) -> None:
    old = [output.file(0), output.file(1)]
    for name in (".uncompacted-part-x", "_SUCCESS", f".{Path(old[0]).name}.inprogress.1"):
        (output.folder / HOUR / name).write_text("not data")
    assert output.start() == old
    # a restored job tells again of what it had made visible
    assert output.start(*old, checkpoint=2, again=True) == old
    assert len(output.metadata()["snapshots"]) == 1


def test_what_was_appended_before_a_failure_is_not_appended_again(output: Output) -> None:
    assert output.start() == []
    first = [output.file(0), output.file(0)]
    assert output.start(*first, checkpoint=1) == first
    # the job failed behind the append of checkpoint 1, in front of that of checkpoint 2, behind it
    assert output.start(*first, checkpoint=1, again=True) == first
    second = output.file(1)
    assert output.start(*first, second, checkpoint=2, again=True) == [*first, second]
    assert output.start(*first, second, checkpoint=2, again=True) == [*first, second]
    numbers = [s["summary"]["sample-stitch.checkpoint"] for s in output.metadata()["snapshots"]]
    assert numbers == ["1", "2"]


def test_a_file_that_somebody_else_has_compacted_stays_so(output: Output) -> None:
    output.start()
    file = output.file(0)
    output.start(file, checkpoint=1)
    java("compact")(str(output.folder), HOUR, Path(file).name, "compacted-by-others.parquet")
    assert output.start(file, checkpoint=1, again=True) == [f"{HOUR}/compacted-by-others.parquet"]


def generation(folder: str, first: str, end: str) -> Generation:
    return Generation(folder=folder, first=first, end=end, published="")


def test_hours_that_a_backfill_has_replaced_have_its_files_and_no_others(output: Output) -> None:
    output.start()
    kept, gone = output.file(0, NEXT), [output.file(0), output.file(0)]
    output.start(kept, *gone, checkpoint=1)
    new = output.file(0, into="g/000")
    empty = output.file(0, EMPTIED)
    output.start(empty, checkpoint=2)
    # beyond the hours that it holds
    output.file(0, NEXT, into="g/000")
    output.publish(generation("g/000", "2026-11-26T06", "2026-11-26T08"))
    before = len(output.metadata()["snapshots"])
    assert output.start() == sorted([new, kept])
    (snapshot,) = output.metadata()["snapshots"][before:]
    assert snapshot["summary"]["operation"] == "overwrite"
    # done before, it does nothing, also if somebody compacts its files meanwhile
    assert output.start() == sorted([new, kept])
    java("compact")(str(output.folder), HOUR, Path(new).name, "compacted-by-others.parquet")
    assert output.start() == sorted([f"{HOUR}/compacted-by-others.parquet", kept])
    # what the job adds to such an hour afterwards is in the generation already
    late = output.file(2), output.file(2, NEXT)
    assert output.start(*late, checkpoint=3)[2:] == [late[1]]
    # replaced once more, in part
    newer = output.file(0, into="h/000")
    output.publish(generation("h/000", "2026-11-26T07", "2026-11-26T08"))
    assert output.start() == sorted([newer, kept, late[1]])


def test_a_job_that_goes_on_behind_a_backfill(output: Output) -> None:
    """It was killed with files visible and not in the table, or the table was deleted."""
    output.start()
    old, other = output.file(0), output.file(0, NEXT)
    new = output.file(0, into="g/000")
    output.publish(generation("g/000", "2026-11-26T07", "2026-11-26T08"))
    assert output.start(old, other, checkpoint=1, again=True) == sorted([new, other])
    shutil.rmtree(output.folder / "_iceberg")
    assert output.start() == sorted([new, other])


def test_old_snapshots_go_and_files_stay(output: Output) -> None:
    output.start()
    java("set")(str(output.folder), "history.expire.max-snapshot-age-ms", "1")
    files: list[str] = []
    for checkpoint in (1, 2, 3):
        files.append(output.file(checkpoint - 1))
        assert output.start(files[-1], checkpoint=checkpoint) == files
    assert len(output.metadata()["snapshots"]) == 1
    assert len(list((output.folder / "_iceberg" / "metadata").glob("snap-*.avro"))) == 1
    assert all((output.folder / file).is_file() for file in files)


def test_a_hint_that_is_behind_is_written_again(output: Output) -> None:
    output.start()
    file = output.file(0)
    hint = output.folder / "_iceberg" / "metadata" / "version-hint.text"
    before = hint.read_text()
    output.start(file, checkpoint=1)
    # killed behind the commit, in front of the hint; the checksum is Hadoop's, of the old text
    hint.write_text(before)
    (hint.parent / f".{hint.name}.crc").unlink()
    assert output.start(file, checkpoint=1, again=True) == [file]
    (snapshot,) = output.metadata()["snapshots"]
    assert snapshot["summary"]["added-data-files"] == "1"


def test_the_columns_are_those_of_the_last_declaration_and_the_earlier_ones(
    output: Output,
) -> None:
    output.file(0)
    output.start()
    output.start(columns="id BIGINT price DOUBLE colour STRING")
    metadata = output.metadata()
    current = metadata["current-schema-id"]
    (schema,) = [s for s in metadata["schemas"] if s["schema-id"] == current]
    types = {field["name"]: field["type"] for field in schema["fields"]}
    assert types.pop("tags")["element"] == "string"
    text = {"colour": "string", "dt": "string", "hr": "string"}
    assert types == {"id": "long", "price": "double", **text}
    # files have no field ids: their columns are found by name, those of new columns too
    mapping = json.loads(metadata["properties"]["schema.name-mapping.default"])
    assert {name for field in mapping for name in field["names"]} == {*types, "tags"}


def test_a_type_that_iceberg_cannot_widen_is_refused(output: Output) -> None:
    output.start()
    with pytest.raises(Exception, match=r"output\.table: the Iceberg .* id: long -> double"):
        output.start(columns="id DOUBLE")
