"""Cleans up after a local Ray, however the coordinator ends: ``python watchdog.py FOLDER``.

The coordinator starts it before Ray, and holds the other end of its standard input. When that
closes (a normal end, or kill -9), it ends what is left of Ray's processes and removes the folder.
Ray's own processes notice the end of their parent too, but some of them only after minutes, and the
folder would stay for ever.

It uses the standard library only, so that it is small and starts at once.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import time
from pathlib import Path

#: Held by the watchdog as long as the folder is in use.
LOCK = "in-use"
#: Ray's folder, in that of the run.
SESSIONS = "r"
#: An environment variable that all processes of a run inherit; its value names the run.
MARK = "SAMPLE_STITCH_RUN"
#: Seconds for Ray's processes to end by themselves.
_GRACE_S = 1.0
#: Seconds after which it stops trying to end a process.
_GIVE_UP_S = 20.0


def main(folder: Path) -> None:
    """Waits until standard input closes, and cleans up."""
    coordinator = os.getppid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        print("ready", flush=True)
        sys.stdin.read()
        # the coordinator may have its log open still; it ends by itself
        end_all(folder, but=coordinator)
        shutil.rmtree(folder, ignore_errors=True)


def end_all(folder: Path, but: int | None = None) -> None:
    """Ends all processes of a run (see `running`), but for `but`."""
    began = time.monotonic()
    while (left := set(running(folder)) - {but}) and time.monotonic() - began < _GIVE_UP_S:
        if time.monotonic() - began > _GRACE_S:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    continue
        time.sleep(0.05)


def running(folder: Path) -> list[int]:
    """The processes of a run, but for this one, on Linux; elsewhere none are found.

    They inherited its mark, or have one of its files open, such as their log: processes that give
    themselves a title overwrite their environment with it.
    """
    mark = f"{MARK}={folder.name}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        try:
            if pid != os.getpid() and (
                mark in (path / "environ").read_bytes().split(b"\0") or _has_open(path, folder)
            ):
                found.append(pid)
        except OSError:
            continue  # of another user, or gone meanwhile
    return found


def _has_open(process: Path, folder: Path) -> bool:
    inside = f"{folder / SESSIONS}/"
    for handle in (process / "fd").iterdir():
        try:
            if str(handle.readlink()).startswith(inside):
                return True
        except OSError:
            continue  # closed meanwhile
    return False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
