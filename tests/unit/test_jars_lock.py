"""The lock of the jars, and that nothing else than what it says gets in. No network."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from services.jars import (
    POM_FREE,
    Coordinate,
    JarError,
    LockedJar,
    fetch,
    is_fetched,
    jar_paths,
    read_lock,
    read_requested,
    write_lock,
)

GOOD = Coordinate("org.example", "good", "1.0")
OTHER = Coordinate("org.example", "other", "2.0")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Repository:
    """Stands for Maven Central: bytes by coordinate; counts what is asked of it."""

    def __init__(self, **files: bytes) -> None:
        self.files = files
        self.asked: list[str] = []

    def __call__(self, coordinate: Coordinate, scratch: Path) -> Path:
        self.asked.append(coordinate.artifact)
        path = scratch / "downloads" / coordinate.file_name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.files[coordinate.artifact])
        return path


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    write_lock(
        {"s": [LockedJar(GOOD, _sha256(b"good")), LockedJar(OTHER, _sha256(b"other"))]}, tmp_path
    )
    return tmp_path


def test_every_requested_jar_is_locked() -> None:
    lock = read_lock()
    requested = read_requested()
    assert set(lock) == set(requested)
    for name, wanted in requested.items():
        coordinates = {str(jar.coordinate) for jar in lock[name]}
        assert {jar["coordinate"] for jar in wanted["jars"]} <= coordinates
        assert all(jar["why"].strip() for jar in wanted["jars"])
        excluded = {f"{jar.coordinate.group}:{jar.coordinate.artifact}" for jar in lock[name]}
        assert not excluded & set(wanted["exclude"])


def test_lock_holds_checksums_and_no_addresses() -> None:
    text = (POM_FREE / "jars.lock.toml").read_text(encoding="utf-8")
    assert "://" not in text
    for jars in read_lock().values():
        assert jars
        assert all(re.fullmatch(r"[0-9a-f]{64}", jar.sha256) for jar in jars)
        # They share a folder; two versions of one thing would share a class path, too.
        assert len({jar.coordinate.artifact for jar in jars}) == len(jars)


def test_the_broker_is_of_one_version() -> None:
    kafka = [jar.coordinate for jar in read_lock()["kafka"]]
    assert {jar.version for jar in kafka if jar.group == "org.apache.kafka"} == {"4.2.0"}


def test_fetch_brings_exactly_what_is_locked(locked: Path) -> None:
    stale = locked / "jars" / "s" / "good-0.9.jar"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"an earlier version")
    central = Repository(good=b"good", other=b"other")

    assert not is_fetched("s", locked)
    assert fetch("s", central, locked) == 2

    assert is_fetched("s", locked)
    assert sorted(path.name for path in stale.parent.iterdir()) == [
        ".stamp",
        "good-1.0.jar",
        "other-2.0.jar",
    ]
    assert [path.read_bytes() for path in jar_paths("s", locked)] == [b"good", b"other"]


def test_a_jar_that_is_there_is_not_asked_for_again(locked: Path) -> None:
    fetch("s", Repository(good=b"good", other=b"other"), locked)
    (locked / "jars" / "s" / "other-2.0.jar").write_bytes(b"truncat")
    (locked / "jars" / "s" / ".stamp").unlink()

    central = Repository(good=b"good", other=b"other")
    assert fetch("s", central, locked) == 1
    assert central.asked == ["other"]


def test_another_file_under_the_same_coordinates_is_refused(locked: Path) -> None:
    with pytest.raises(JarError, match=r"org\.example:other:2\.0 is not the locked file") as caught:
        fetch("s", Repository(good=b"good", other=b"evil"), locked)

    assert "\n" not in str(caught.value)
    assert not is_fetched("s", locked)
    assert not (locked / "jars" / "s" / "other-2.0.jar").exists()
    assert [path.name for path in (locked / "jars").iterdir()] == ["s"]


def test_a_changed_lock_makes_the_stamp_void(locked: Path) -> None:
    fetch("s", Repository(good=b"good", other=b"other"), locked)
    write_lock({"s": [LockedJar(GOOD, _sha256(b"better"))]}, locked)
    assert not is_fetched("s", locked)


def test_a_missing_jar_says_what_to_run(locked: Path) -> None:
    with pytest.raises(JarError, match=r"good-1\.0\.jar is missing; run `make setup`"):
        jar_paths("s", locked)


@pytest.mark.parametrize("text", ["a:b", "a:b:c:d", "a::c", ""])
def test_malformed_coordinates_are_named(text: str) -> None:
    with pytest.raises(JarError, match="group:artifact:version"):
        Coordinate.parse(text)
