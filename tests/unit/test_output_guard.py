"""When a job may write into an output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.pipeline import output_guard, places, runs
from jobs.pipeline.config import ConfigError
from tests.flink.running import ROOT

STARTS = get_args(runs.Start)


def put(output: Path, *names: str) -> None:
    for name in names:
        file = output / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")


HOUR = "dt=2023-11-14/hr=22"
#: What a job leaves behind that is not rows: an output with it alone may be written.
NOT_ROWS = (
    f"samples/{HOUR}/.part-1.inprogress.2",
    f"samples/{HOUR}/_SUCCESS",
    f"samples/.staging_1/{HOUR}/part-0",
    f"samples/_temporary/{HOUR}/part-0.parquet",
    f"late_actions/{HOUR}/.uncompacted-part-0",
    "corrections/dt=2023-11-14/hr=22/corrections.parquet",
    "_logs/join_samples.log",
    "_checkpoints/abc/chk-1/_metadata",
    "_runs.jsonl",
    "notes.txt",
)
ROWS = (
    f"samples/{HOUR}/part-0.parquet",
    f"samples/{HOUR}/compacted-part-0",
    f"late_actions/{HOUR}/part-0.parquet",
    f"rejected/{HOUR}/part-0.parquet",
    "samples/part-0",
)


@given(others=st.sets(st.sampled_from(NOT_ROWS)), rows=st.sets(st.sampled_from(ROWS)))
def test_a_fresh_start_is_refused_exactly_when_there_are_rows(
    tmp_path_factory: pytest.TempPathFactory, others: set[str], rows: set[str]
) -> None:
    output = tmp_path_factory.mktemp("out") / "a b's [x]"
    put(output, *others, *rows)
    if not rows:
        output_guard.check(str(output), "fresh")
    else:
        with pytest.raises(ConfigError) as refused:
            output_guard.check(str(output), "fresh")
        (line,) = str(refused.value).splitlines()
        for choice in (str(output), "--overwrite", "--append", "--restore latest", "output.path"):
            assert choice in line
    output_guard.check(str(output), "append")
    output_guard.check(str(output), "restore")


def test_no_folder_at_all_is_an_empty_output(tmp_path: Path) -> None:
    for start in STARTS:
        output_guard.check(str(tmp_path / "none"), start)


def test_overwrite_deletes_what_a_join_made_and_nothing_else(tmp_path: Path) -> None:
    put(tmp_path, *NOT_ROWS, *ROWS[:4])
    output_guard.check(str(tmp_path), "overwrite")
    output_guard.clear(str(tmp_path))
    left = {str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()}
    assert left == {
        "_logs/join_samples.log",
        "_checkpoints/abc/chk-1/_metadata",
        "notes.txt",
    }
    output_guard.check(str(tmp_path), "fresh")


def test_overwrite_refuses_a_folder_that_no_join_has_written(tmp_path: Path) -> None:
    put(tmp_path, f"samples/{HOUR}/part-0.parquet", "samples/holiday.jpg")
    with pytest.raises(ConfigError, match=r"holiday\.jpg was not written by a join"):
        output_guard.check(str(tmp_path), "overwrite")
    assert (tmp_path / "samples" / "holiday.jpg").exists()


def test_clearing_follows_no_link_out_of_the_output(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", f"{HOUR}/part-0.parquet")
    output = tmp_path / "out"
    output.mkdir()
    (output / "samples").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        output_guard.check(str(output), "fresh")
    output_guard.clear(str(output))
    assert (tmp_path / "elsewhere" / HOUR / "part-0.parquet").exists()
    output_guard.check(str(output), "fresh")


_HOLDER = """
import sys
from jobs.pipeline import output_guard
with output_guard.locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_is_held_by_one_process_and_gone_with_it(tmp_path: Path) -> None:
    output = tmp_path / "out"
    link = tmp_path / "same"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(output)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        link.symlink_to(output)
        for place in (output, link):
            with (
                pytest.raises(ConfigError, match=f"another join writes.*process {holder.pid} on"),
                output_guard.locked(str(place)),
            ):
                raise AssertionError("two hold it")
        holder.kill()
        holder.wait(timeout=60)
    with output_guard.locked(str(output)):
        pass
    with output_guard.locked(str(output)):
        pass


def test_places_are_written_whole_and_read_back(tmp_path: Path) -> None:
    place = places.below(str(tmp_path), "a b", "c'd.json")
    assert places.read(place) is None
    assert places.entries(str(tmp_path)) == []
    places.write(place, b"1")
    places.write(place, b"22")
    assert places.read(place) == b"22"
    ((name, size),) = [(e.name, e.size) for e in places.entries(str(tmp_path / "a b"))]
    assert (name, size) == ("c'd.json", 2)
    places.delete(str(tmp_path / "a b"))
    places.delete(str(tmp_path / "a b"))
    assert places.read(place) is None


@given(path=st.text(min_size=1).map(lambda text: f"/{text}".replace("\0", "")))
def test_a_path_is_the_same_after_a_uri_of_it(path: str) -> None:
    absolute = str(Path(path).absolute())
    if absolute.startswith("//"):  # POSIX leaves two slashes to the system
        return
    assert places.from_uri(places.as_uri(absolute)) == absolute
    # as Flink shows it
    assert places.from_uri(f"file:{absolute}") == absolute
