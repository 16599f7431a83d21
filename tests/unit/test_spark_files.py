"""The input of Spark's runs: the same lines in the same order, cut at the same times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.join.spark_files import cut


def _write(folder: Path, times: list[int]) -> list[str]:
    folder.mkdir(parents=True)
    lines = [json.dumps({"event_time": time, "n": n}) + "\n" for n, time in enumerate(times)]
    (folder / "part.jsonl").write_text("".join(lines))
    return lines


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_the_lines_are_all_there_in_files_that_begin_at_the_same_times(
    tmp_path: Path, size: int
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    features = _write(source / "features", [10 * n for n in range(20)])
    actions = _write(source / "actions", [-5, 0, 0, 29, 30, 31, 69, 70, 189, 190, 5_000])
    end = cut(source, target, size)
    files = {stream: sorted((target / stream).iterdir()) for stream in ("features", "actions")}
    assert [f.name for f in files["features"]] == [f.name for f in files["actions"]]
    for stream, lines in (("features", features), ("actions", actions)):
        assert "".join(f.read_text() for f in files[stream]) == "".join(lines)
    starts = [_times(f)[0] for f in files["features"]]
    assert starts == [10 * n for n in range(0, 20, size)]
    for file, start, following in zip(files["actions"], starts, [*starts[1:], 10_000], strict=True):
        first = file.name == files["actions"][0].name
        assert all(start <= time < following or (first and time < start) for time in _times(file))

    end(b'{"event_time":9}')
    for stream in ("features", "actions"):
        # in the order in which Spark reads them
        by_time = sorted((target / stream).iterdir(), key=lambda f: f.stat().st_mtime)
        assert by_time == [*files[stream], target / stream / f"{len(starts):04}.jsonl"]
        assert len({f.stat().st_mtime for f in by_time}) == len(by_time)


def _times(file: Path) -> list[int]:
    return [json.loads(line)["event_time"] for line in file.read_text().splitlines()]
