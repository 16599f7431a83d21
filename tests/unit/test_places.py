"""Folders that change while they are looked at: Flink, and other commands, delete in them too."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.pipeline import places

#: Enough for two that delete to meet in the middle of it.
FILES, TURNS = 300, 8


def _checkpoints(job: Path) -> None:
    for number in range(FILES):
        inside = job / f"chk-{number % 10}"
        inside.mkdir(parents=True, exist_ok=True)
        (inside / f"file-{number}").touch()


def _delete(job: str, together: Barrier, errors: multiprocessing.SimpleQueue[str]) -> None:
    for turn in range(TURNS):
        together.wait(60)
        try:
            places.delete(f"{job}-{turn}")
        except places.PlaceError as error:
            errors.put(str(error))


def test_two_delete_the_same_folder(tmp_path: Path) -> None:
    job = tmp_path / "job"
    for turn in range(TURNS):
        _checkpoints(tmp_path / f"job-{turn}")
    spawn = multiprocessing.get_context("spawn")
    together, errors = spawn.Barrier(2), spawn.SimpleQueue()
    both = [spawn.Process(target=_delete, args=(str(job), together, errors)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
        assert one.exitcode == 0
    assert errors.empty(), errors.get()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", range(0, 10, 3))
def test_one_that_is_deleted_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    for number in range(10):
        (tmp_path / f"chk-{number}").mkdir()
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    original = places._status
    looked_at = []

    def status(entry: os.DirEntry[str]) -> os.stat_result:
        looked_at.append(entry)
        if len(looked_at) == when + 1:
            places.delete(entry.path)
        return original(entry)

    monkeypatch.setattr(places, "_status", status)
    there = places.entries(str(tmp_path))
    assert {entry.name for entry in there} == {path.name for path in tmp_path.iterdir()}
    assert all(entry.is_folder == entry.name.startswith("chk-") for entry in there)


def test_links_that_lead_nowhere_are_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "below-a-file").symlink_to(tmp_path / "file" / "x")
    (tmp_path / "missing").symlink_to(tmp_path / "nothing")
    there = {entry.name: entry.is_folder for entry in places.entries(str(tmp_path))}
    assert there == dict.fromkeys(("below-a-file", "circle", "file", "missing"), False)


class _JavaError(Exception):
    """As Py4J raises what the JVM threw."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.java_exception = SimpleNamespace(
            getClass=lambda: SimpleNamespace(getName=lambda: name), getMessage=lambda: name
        )


@pytest.mark.parametrize("name", ["java.io.FileNotFoundException", "java.io.IOException"])
def test_what_another_deletes_in_a_store_while_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fails(_path: object) -> None:
        raise _JavaError(name)

    system = SimpleNamespace(exists=lambda _path: True, listStatus=fails, open=fails)
    path = SimpleNamespace(getFileSystem=lambda: system)
    core = SimpleNamespace(fs=SimpleNamespace(Path=lambda _place: path))
    flink = SimpleNamespace(apache=SimpleNamespace(flink=SimpleNamespace(core=core)))
    monkeypatch.setattr(places, "_jvm", lambda: SimpleNamespace(org=flink))
    if name.endswith("FileNotFoundException"):
        assert places.entries("s3://b/checkpoints") == []
        assert places.read("s3://b/checkpoints/_metadata") is None
        return
    for look in (places.entries, places.read):
        with pytest.raises(places.PlaceError, match="IOException"):
            look("s3://b/checkpoints")


def test_a_folder_that_is_not_there_is_empty_and_deleted_already(tmp_path: Path) -> None:
    assert places.entries(str(tmp_path / "none")) == []
    places.delete(str(tmp_path / "none"))


def test_what_cannot_be_deleted_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(places.PlaceError, match="file/inside: Not a directory"):
        places.delete(str(tmp_path / "file" / "inside"))
