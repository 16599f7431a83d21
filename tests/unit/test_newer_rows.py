"""Rows that a snapshot knows nothing of are found by the names of their files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.pipeline import newer_rows, restore, runs

HOURS = ("dt=2023-11-14/hr=22", "dt=2023-11-15/hr=00")
#: Four starts: a job, one that went on from its checkpoint 5, one from the savepoint of that, and
#: one that was begun anew beside them (--append).
JOBS = tuple(letter * 32 for letter in "abcd")
FILES = tuple(letter * 12 for letter in "1234")
STARTS = [
    runs.started(JOBS[0], "fresh", None, FILES[0]),
    runs.started(JOBS[3], "append", None, FILES[3]),
    runs.started(JOBS[1], "restore", f"/c/{JOBS[0]}/chk-5", FILES[1]),
    runs.started(JOBS[2], "restore", f"/c/savepoint-{JOBS[1][:6]}-9f", FILES[2]),
]
NUMBERS = st.integers(0, 12)


@given(
    job=st.integers(0, 3),
    number=NUMBERS,
    written=st.lists(
        st.tuples(
            st.integers(0, 3),  # whose file
            NUMBERS,  # begun after this checkpoint
            st.sampled_from(("part-", "compacted-part-", ".part-", ".uncompacted-part-")),
            st.sampled_from(("samples", "late_actions", "rejected")),
            st.sampled_from(HOURS),
        ),
        max_size=5,
    ),
)
def test_a_file_is_newer_when_it_was_begun_after_the_snapshot_by_a_job_of_its_line(
    tmp_path_factory: pytest.TempPathFactory,
    job: int,
    number: int,
    written: list[tuple[int, int, str, str, str]],
) -> None:
    output = tmp_path_factory.mktemp("out")
    newer = set()
    for n, (whose, after, prefix, table, hour) in enumerate(written):
        place = output / table / hour / f"{prefix}{FILES[whose]}-{after}-0-0a1b2c3d-{n}.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"")
        (place.parent / "_SUCCESS").write_bytes(b"")
        # the fourth is of no line but its own
        of_the_line = whose == job if job == 3 else job <= whose < 3
        if of_the_line and after >= number and not prefix.startswith("."):
            newer.add(str(place))
    for snapshot in (f"/c/{JOBS[job]}/chk-{number}", f"/c/savepoint-{JOBS[job][:6]}-7c"):
        found = newer_rows.newer_file(str(output), snapshot, STARTS, lambda _: number)
        assert found in newer if newer else found is None


@pytest.mark.parametrize(
    "name",
    [
        f"part-{FILES[0]}-3-0-0a1b2c3d-1.parquet",  # of no start that is written down
        "part-1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed-0-1.parquet",  # of an earlier release
        "part-0.parquet",
    ],
)
def test_what_cannot_be_known_is_not_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "samples" / HOURS[0] / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    starts = [runs.started(JOBS[0], "fresh", None), STARTS[1]]
    snapshot = f"/c/{JOBS[0]}/chk-1"
    assert newer_rows.newer_file(str(tmp_path), snapshot, starts, lambda _: 1) is None
    assert newer_rows.newer_file(str(tmp_path), snapshot, [], lambda _: 1) is None
    assert newer_rows.newer_file(str(tmp_path), "/c/x", STARTS, lambda _: None) is None


def test_the_number_of_a_checkpoint_is_in_its_path() -> None:
    assert restore.checkpoint_number(f"/c/{JOBS[0]}/chk-17") == 17
    assert restore.checkpoint_number(f"/c/{JOBS[0]}/chk-17/") == 17
