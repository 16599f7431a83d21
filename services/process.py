"""Processes that are started and stopped by their id, and never outlive their reason.

A *tied* process ends with the one that started it, however that one ends: besides
``atexit`` there is a small guard that holds a pipe from it and kills the process
group when the pipe breaks. Others stay, and are stopped later from what was noted.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_STOP_DEADLINE_S = 20.0
_KILL_DEADLINE_S = 10.0

# Waits for a line ("released") or the end of its standard input; kills at the latter.
_GUARD = """
import os, signal, sys
if not sys.stdin.readline():
    try:
        os.killpg(int(sys.argv[1]), signal.SIGKILL)
    except ProcessLookupError:
        pass
"""

#: Bound, and never listening: the system gives such a port to no client that connects.
_held_ports: dict[int, socket.socket] = {}


@dataclass(frozen=True)
class ProcessId:
    """A process and its start time (seconds since the epoch), since ids are used again."""

    pid: int
    started: float

    def is_running(self) -> bool:
        """Whether this very process runs; one that ended and was not waited for does not."""
        try:
            process = psutil.Process(self.pid)
            if process.create_time() != self.started:
                return False
            # The first thread of a killed process ends before the others, which still hold its
            # memory, files and ports.
            return bool(process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
        except psutil.NoSuchProcess:
            return False


def start(
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str],
    tied: bool,
) -> ProcessId:
    """Start a process in a session of its own, its output appended to ``log``.

    Raises:
        OSError: if the program cannot be started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
    process = ProcessId(child.pid, psutil.Process(child.pid).create_time())
    # It is waited for by id in stop(); the object would complain when it is collected.
    child.returncode = 0
    if tied:
        _tie(process)
    return process


def stop(*processes: ProcessId, deadline_s: float = _STOP_DEADLINE_S) -> None:
    """Ask the processes to end, and kill the group of each that has not ended in time.

    Whatever one has started is in its group and goes with it.
    """
    end = time.monotonic() + deadline_s
    for process in processes:
        if process.is_running():
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(process.pid).terminate()
    for process in processes:
        if process.is_running():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
                psutil.Process(process.pid).wait(max(0.0, end - time.monotonic()))
        _kill_group(process)
        _release(process)


def command_of(process: psutil.Process) -> str:
    """Its command line; empty when it has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill(process: ProcessId) -> None:
    """Kill the process and its group at once (SIGKILL), as a crash would."""
    _kill_group(process)
    _release(process)


def free_port(preferred: int = 0) -> int:
    """Return a port that is free on loopback: the preferred one, if it is, or any.

    It stays taken while this process runs: no client of any process gets it as its own port, and no
    other caller of this function. A server that sets SO_REUSEADDR, as they do, can listen there,
    and again after it has ended.

    Raises:
        OSError: if no port is free.
    """
    for port in (preferred, 0):
        held = socket.socket()
        # Sockets that all set this may share a port of which none listens.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind(("127.0.0.1", port))
        except OSError:
            held.close()
            continue
        port = int(held.getsockname()[1])
        with contextlib.suppress(KeyError):
            _held_ports.pop(port).close()
        _held_ports[port] = held
        return port
    raise OSError("no free port on 127.0.0.1")


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log, for an error message."""
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _kill_group(process: ProcessId) -> None:
    # Its group is named after it (start_new_session), also when it has ended itself.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        psutil.Process(process.pid).wait(_KILL_DEADLINE_S)


_guards: dict[ProcessId, subprocess.Popen[bytes]] = {}


def _tie(process: ProcessId) -> None:
    _guards[process] = subprocess.Popen(
        [sys.executable, "-S", "-c", _GUARD, str(process.pid)],
        stdin=subprocess.PIPE,
        # Not hit by the Ctrl-C that ends the one it watches.
        start_new_session=True,
    )


def _release(process: ProcessId) -> None:
    guard = _guards.pop(process, None)
    if guard is not None:
        with contextlib.suppress(BrokenPipeError):
            guard.communicate(b"released\n")


@atexit.register
def _stop_tied() -> None:
    stop(*_guards)
