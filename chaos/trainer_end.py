"""The end of a trainer's processes, also when the harness is killed.

    python -m chaos.trainer_end FOLDER

Waits until its standard input ends, and kills the processes of that folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from services.waiting import wait_until

_ROOT = Path(__file__).parents[1]
#: The command of all of them; one of its arguments is their folder.
_PROGRAM = b"chaos.trainer_process"
_DEADLINE_S = 60


def watch(folder: Path) -> subprocess.Popen[bytes]:
    """A process that kills those of the folder when this one ends, however it ends.

    It holds the read end of a pipe to this process, which the kernel closes. So it does not matter
    who reaps this one, or who gets its number next. Close `stdin`, and it ends, too.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "chaos.trainer_end", str(folder)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        # what ends the session of the harness does not end this one
        start_new_session=True,
    )


def kill(folder: Path) -> None:
    """SIGKILL of all that run in the folder, until none is left. Raises DeadlineError."""

    def none_left() -> bool:
        found = list(_processes(folder))
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    wait_until(none_left, _DEADLINE_S, f"the processes of {folder} to end", every_s=0.02)


def runs_in(folder: Path, pid: int) -> bool:
    """Whether that is a process of the folder: a number may be used again."""
    with contextlib.suppress(OSError):
        # of one that has ended, and that nobody has reaped, it is empty
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return _PROGRAM in words and os.fsencode(folder) in words
    return False


def _processes(folder: Path) -> Iterator[int]:
    """All of them: a list of ours would lack one that is just being started."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and runs_in(folder, int(entry.name)):
            yield int(entry.name)


def main(folder: str) -> int:
    """Until the harness ends."""
    sys.stdin.buffer.read()
    kill(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
