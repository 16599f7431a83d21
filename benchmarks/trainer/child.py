"""A measurement in a process of its own, and nothing that is left of it afterwards.

Ray starts processes that outlive their parent for a while. Whatever a measurement starts has its
mark in the environment, and what has the mark is ended with it, also on Ctrl-C.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import psutil

_MARK = "SAMPLE_STITCH_BENCHMARK"
_DEADLINE_S = 1_200.0
_TAIL = 2_000
_ROOT = Path(__file__).resolve().parents[2]
#: Ray's sockets lie in its folder, and their paths must be below 108 bytes.
_LONGEST = 32


class RunError(Exception):
    """A measurement failed or took too long; the message ends with its output."""


def run(module: str, spec: msgspec.Struct, deadline_s: float = _DEADLINE_S) -> dict[str, Any]:
    """Runs `benchmarks.trainer.<module>` with `spec`; what its last line says, a JSON object.

    `spec.scratch` is set to an empty folder. Adds `wall_s`: of the whole process. Raises RunError.
    """
    mark = uuid4().hex
    folder = Path(tempfile.mkdtemp(prefix="ssb-"))
    text = msgspec.json.encode(msgspec.structs.replace(spec, scratch=str(folder))).decode()
    log = folder / "log.txt"
    began = time.monotonic()
    try:
        with log.open("wb") as errors:
            child = subprocess.Popen(
                [sys.executable, "-m", f"benchmarks.trainer.{module}", text],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=_ROOT,
                env=_environment(mark, folder),
                start_new_session=True,
            )
        try:
            out, _ = child.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            raise RunError(f"{module}: no end after {deadline_s:.0f} s\n{_tail(log)}") from None
        finally:
            _end(child, mark)
        wall_s = time.monotonic() - began
        if child.returncode != 0:
            raise RunError(f"{module} {text} failed\n{_tail(log)}")
        told: dict[str, Any] = json.loads(out.decode().strip().splitlines()[-1])
        return told | {"wall_s": wall_s}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def tell(**result: Any) -> None:
    """In the child: its result."""
    print("\n" + json.dumps(result), flush=True)


def pin(core: int | None) -> None:
    """In the child, before anything starts threads: to run on one core only."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def _environment(mark: str, folder: Path) -> dict[str, str]:
    own = {_MARK: mark}
    if len(str(folder)) <= _LONGEST:
        own["RAY_TMPDIR"] = str(folder)
    return os.environ | own


def _end(child: subprocess.Popen[bytes], mark: str) -> None:
    """The child, if it is still there, and all that it has started."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        child.wait()
    for process in _marked(mark):
        with contextlib.suppress(psutil.Error):
            process.kill()


def _marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(_MARK) == mark:
                yield process


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-_TAIL:]
