"""The plan of reading files: whole lines, every byte once, one order whatever the file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.pipeline.config import ConfigError
from jobs.pipeline.file_plan import plan


def line(time: int) -> str:
    return f'{{"event_time": {1_700_000_000_000 + time}}}\n'


def write(folder: Path, **files: list[int]) -> str:
    folder.mkdir()
    for name, times in files.items():
        (folder / f"{name}.jsonl").write_text("".join(map(line, times)))
    return str(folder)


def test_streams_are_interleaved_by_time_and_files_go_by_path(tmp_path: Path) -> None:
    features = write(tmp_path / "f", b=[300], a=[100])
    actions = write(tmp_path / "a", x=[100], y=[200])
    order = [(c.stream, Path(c.path).stem) for c in plan(features, actions)]
    assert order == [("features", "a"), ("actions", "x"), ("actions", "y"), ("features", "b")]


def test_a_chunk_without_a_time_goes_after_its_predecessor(tmp_path: Path) -> None:
    features = write(tmp_path / "f", a=[500])
    (tmp_path / "f" / "b.jsonl").write_text("garbage\n")
    actions = write(tmp_path / "a", x=[400], y=[600])
    order = [Path(c.path).stem for c in plan(features, actions)]
    assert order == ["x", "a", "b", "y"]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 40, 10_000])
def test_chunks_are_whole_lines_and_cover_every_byte_once(tmp_path: Path, chunk_bytes: int) -> None:
    features = write(tmp_path / "f", a=list(range(1000, 1030)))
    (tmp_path / "f" / "b.jsonl").write_bytes(b"no newline at the end")
    actions = write(tmp_path / "a", x=[1])
    chunks = [c for c in plan(features, actions, chunk_bytes) if c.stream == "features"]
    for path in {c.path for c in chunks}:
        content = Path(path).read_bytes()
        mine = [c for c in chunks if c.path == path]
        assert b"".join(content[c.start : c.end] for c in mine) == content
        assert all(content[c.end - 1 : c.end] == b"\n" for c in mine[:-1])


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    actions = write(tmp_path / "a", x=[1])
    with pytest.raises(ConfigError, match=r"sources.features.path: no .jsonl files in .*/none"):
        plan(str(tmp_path / "none"), actions)
