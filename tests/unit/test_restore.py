"""Which checkpoint or savepoint a job goes on from."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.pipeline import restore, runs
from jobs.pipeline.config import ConfigError

JOBS = ("a" * 32, "b" * 32)
WHOLE = b"whole"


def readable(data: bytes, place: str) -> bool:
    return data == WHOLE


def snapshot(folder: Path, name: str, *, made: int, data: bytes | None = WHOLE) -> str:
    place = folder / name
    place.mkdir(parents=True)
    if data is not None:
        (place / "_metadata").write_bytes(data)
        os.utime(place / "_metadata", (made, made))
    return str(place)


#: Job, whether it is a savepoint, when it was made, and what its `_metadata` is.
SNAPSHOTS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.booleans(),
        st.integers(1_000, 1_020),
        st.sampled_from([WHOLE, b"", b"cut", None]),
    ),
    max_size=8,
)


@given(made=SNAPSHOTS, asked=st.sets(st.sampled_from(JOBS)))
def test_latest_is_the_newest_that_is_whole_and_of_these_jobs(
    tmp_path_factory: pytest.TempPathFactory,
    made: list[tuple[int, bool, int, bytes | None]],
    asked: set[str],
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    good: dict[str, tuple[int, int]] = {}
    for number, (job, is_savepoint, at, data) in enumerate(made, start=1):
        name = (
            f"savepoint-{JOBS[job][:6]}-{number}" if is_savepoint else f"{JOBS[job]}/chk-{number}"
        )
        place = snapshot(folder, name, made=at, data=data)
        # files that checkpoints share are never one
        (folder / JOBS[job] / "shared").mkdir(parents=True, exist_ok=True)
        (folder / JOBS[job] / "shared" / "_metadata").write_bytes(WHOLE)
        if data == WHOLE and (not asked or JOBS[job] in asked):
            good[place] = (at, 0 if is_savepoint else number)
    found = restore.latest(str(folder), asked, readable)
    if not good:
        assert found is None
        with pytest.raises(ConfigError, match="no complete checkpoint or savepoint"):
            restore.find("latest", str(folder), asked, readable)
    else:
        assert found is not None
        assert good[found.place] == max(good.values())
        assert restore.find("latest", str(folder), asked, readable) == found.place


def test_a_path_may_be_a_snapshot_its_metadata_or_a_folder_of_them(tmp_path: Path) -> None:
    older = snapshot(tmp_path, f"{JOBS[0]}/chk-1", made=1_000)
    newer = snapshot(tmp_path, f"{JOBS[0]}/chk-2", made=1_001)
    # Flink names places as URIs, with one slash; people write three
    uris = (f"file:{older}", f"file://{older}/_metadata")
    for asked in (older, f"{older}/", f"{older}/_metadata", *uris):
        assert restore.find(asked, "/nowhere", (), readable) == older
    for asked in (str(tmp_path), str(tmp_path / JOBS[0])):
        assert restore.find(asked, "/nowhere", (), readable) == newer
    for asked in (str(tmp_path / "none"), str(tmp_path / JOBS[0] / "chk-3")):
        with pytest.raises(ConfigError, match=r"--restore .*: no complete checkpoint"):
            restore.find(asked, "/nowhere", (), readable)


def test_latest_of_another_pipeline_is_named_and_not_taken(tmp_path: Path) -> None:
    other = snapshot(tmp_path, f"{JOBS[1]}/chk-7", made=1_000)
    with pytest.raises(ConfigError) as refused:
        restore.find("latest", str(tmp_path), {JOBS[0]}, readable)
    assert other in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_starts_are_noted_and_known_again(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    assert runs.known(output) == []
    first = runs.started(JOBS[0], "fresh", None)
    second = runs.started(JOBS[1], "restore", "/checkpoints/chk-1")
    for run in (first, second):
        runs.note(output, run, {"output": {"path": "."}})
    with (tmp_path / "out" / runs.RUNS).open("a") as file:
        file.write('{"job": "cut off')
    written = {"output": {"path": "."}}
    noted = [msgspec.structs.replace(run, pipeline=written) for run in (first, second)]
    assert runs.known(output) == noted
    assert 'path = "."' in (tmp_path / "out" / runs.PIPELINE).read_text()
