"""The lock that a join and a trainer take on their output."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path

import pytest

from configuration import output_lock


def test_the_second_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with output_lock.take(path), pytest.raises(output_lock.HeldError) as refused:
        output_lock.take(path)
    assert str(refused.value) == f"process {os.getpid()} on {socket.gethostname()}"


def test_it_can_be_taken_again_and_forgets_a_longer_name(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("process 123456789 on a machine with a long name, which is gone\n")
    for _ in range(2):
        with output_lock.take(path):
            assert path.read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_without_locks_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with output_lock.take(tmp_path / "lock"), output_lock.take(tmp_path / "lock"):
        pass


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_what_cannot_be_written_to_is_an_error_and_stays_closed() -> None:
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208  names alone
    with pytest.raises(OSError, match=r"Invalid argument|No space left"):
        output_lock.take(Path("/dev/full"))
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
