"""What is read of an archive, and what is said of one that is not whole."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configuration.reading import ConfigError, Duration
from jobs.pipeline.archive_plan import Partition, Plan, plan
from jobs.pipeline.config import ArchiveSource, SourcesSection, hour_ms
from tests import archives
from tests.archives import Kept

START = hour_ms("2026-11-01T00")
HOUR = 3_600_000


def planned(folder: Path, **keys: object) -> Plan:
    source = ArchiveSource(path=str(folder), **keys)  # type: ignore[arg-type]
    return plan(SourcesSection(one_of_features=source, one_of_actions=source))


def archive(folder: Path, features: list[Kept], actions: list[Kept] | None = None) -> Path:
    archives.write(folder / "features", features)
    archives.write(folder / "actions", actions or [Kept("a", 0, 0, START)])
    return folder


def read(folder: Path, partition: Partition) -> list[list[int]]:
    """The offsets of a partition, run by run, as the rows of the files have them."""
    found = []
    for run in partition.runs:
        rows = pq.read_table(folder / partition.source / run.file).to_pylist()
        found.append(
            [
                row["offset"]
                for row in rows[run.first_row : run.end_row]
                if (row["topic"], row["partition"]) == (partition.topic, partition.partition)
            ]
        )
        assert (run.first, run.last) == (found[-1][0], found[-1][-1])
    return found


@pytest.mark.parametrize("seed", range(20))
def test_the_runs_of_a_partition_rise_and_have_every_record_once(tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    offsets: dict[tuple[str, int], int] = {}
    records = []
    for i in range(choose.randrange(1, 200)):
        place = choose.choice("tu"), choose.randrange(3)
        offset = offsets[place] = offsets.get(place, -1) + 1
        at = START + i * 60_000 - choose.choice([0, 0, 0, 2 * HOUR])
        records.append(Kept(*place, offset, at))
    archives.write(tmp_path / "features", records, seed=seed)
    archives.write(tmp_path / "actions", [Kept("a", 7, 5, -1)])
    found = planned(tmp_path)
    assert [(p.topic, p.partition) for p in found.partitions] == [*sorted(offsets), ("a", 7)]
    assert found.records == len(records) + 1
    assert found.warnings == []
    for partition in found.partitions[:-1]:
        runs = read(tmp_path, partition)
        assert all(run == sorted(set(run)) for run in runs)
        last = offsets[partition.topic, partition.partition]
        assert sorted(offset for run in runs for offset in run) == list(range(last + 1))
        assert partition.records == last + 1
        assert [run.first for run in partition.runs] == sorted(run.first for run in partition.runs)


def test_a_range_takes_its_hours_and_no_record_without_a_time(tmp_path: Path) -> None:
    times = [START - 1, START, START + HOUR - 1, START + HOUR, -1]
    folder = archive(tmp_path, [Kept("t", 0, i, at) for i, at in enumerate(times)])
    for keys, offsets in (
        ({}, [0, 1, 2, 3, 4]),
        ({"from_": "2026-11-01T00"}, [1, 2, 3]),
        ({"from_": "2026-11-01T00", "to": "2026-11-01T01"}, [1, 2]),
    ):
        found = planned(folder, **keys).partitions[0]
        assert sorted(o for run in read(folder, found) for o in run) == offsets
    with pytest.raises(ConfigError, match=r"no archived records in .*features from"):
        planned(folder, to="2026-10-01T00")
    (said,) = planned(folder, to="2026-11-01T00").warnings  # one of the features, and no action
    assert said.startswith("sources.actions: no archived records in ")


def test_an_hour_that_is_not_complete_is_refused_or_named(tmp_path: Path) -> None:
    folder = archive(tmp_path, [Kept("t", 0, i, START + i * HOUR) for i in range(3)])
    (folder / "features" / "dt=2026-11-01" / "hr=01" / "_SUCCESS").unlink()
    with pytest.raises(ConfigError, match=r"1 hour is not complete .*: 2026-11-01T01\. Wait"):
        planned(folder)
    (said,) = planned(folder, incomplete="read").warnings
    assert "1 hour is not complete" in said
    with pytest.raises(ConfigError, match="features: 1 hour"):
        planned(folder, to="2026-11-01T02")
    assert planned(folder, to="2026-11-01T01").warnings == []


def test_missing_offsets_are_named_where_nothing_was_left_out(tmp_path: Path) -> None:
    folder = archive(
        tmp_path,
        [Kept("t", 0, i, START + i) for i in (3, 4, 7)] + [Kept("t", 1, i, START) for i in (0, 1)],
    )
    (said,) = planned(folder).warnings
    assert said.startswith("sources.features: offsets are missing in the archive (t[0]: 2).")
    assert planned(folder, from_="2026-11-01T00").warnings == []


def test_files_that_are_not_finished_are_passed_over(tmp_path: Path) -> None:
    folder = archive(tmp_path, [Kept("t", 0, 0, START)])
    hour = folder / "features" / archives.hour_of(START)
    (hour / ".uncompacted-part-1").write_bytes(b"half a file")
    (hour / ".part-1.parquet").write_bytes(b"half a file")
    (folder / "features" / "note.parquet").write_bytes(b"none of ours")
    assert planned(folder).files == 2
    (hour / "part-9.parquet").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"part-9\.parquet"):
        planned(folder)


def test_an_empty_file_and_no_folder(tmp_path: Path) -> None:
    archives.write_file(tmp_path / "features" / archives.hour_of(START) / "part-0.parquet", [])
    (tmp_path / "features" / archives.hour_of(START) / "_SUCCESS").touch()
    with pytest.raises(ConfigError, match=r"no archived records in .*actions"):
        planned(tmp_path)
    archives.write(tmp_path / "actions", [Kept("a", 0, 0, START)])
    assert [p.source for p in planned(tmp_path).partitions] == ["actions"]


def test_how_far_readers_may_drift_follows_from_the_fullest_hour(tmp_path: Path) -> None:
    few = archive(tmp_path, [Kept("t", 0, i, START + i * HOUR) for i in range(3)])
    assert planned(few).drift_ms == HOUR * 50_000 // 2  # an action and a request in one hour
    assert planned(few, max_drift=Duration(5000)).drift_ms == 5000
