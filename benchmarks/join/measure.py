"""Runs a spec in a process of its own, and watches it: memory, CPU by thread, checkpoints."""

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
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.join.flink_options import HEAP
from benchmarks.join.spec import OURS, PEERS, Spec
from services import process
from services.java import find_java_home

ROOT = Path(__file__).resolve().parents[2]
#: Other systems, and a client of Kafka that is quick, are not installed with this project.
_PYTHON_OF_PEERS = ROOT / ".venv-join-bench" / "bin" / "python"

_EVERY_S = 0.25
_DEADLINE_S = 1_200.0
_TICKS = os.sysconf("SC_CLK_TCK")


class RunError(Exception):
    """A run failed or took too long; the message ends with its output."""


@dataclass
class Watched:
    """What was seen of a process and its children. Bytes, and CPU seconds by kind of thread."""

    jvm_bytes: int = 0
    all_bytes: int = 0
    cpu: dict[str, float] = field(default_factory=dict)


@dataclass
class Result:
    """One finished run. `seconds` is Flink's net runtime; `rows` and `clicks` are what it wrote."""

    spec: Spec
    seconds: float
    watched: Watched
    rows: int = 0
    clicks: int = 0

    @property
    def rate(self) -> float:
        """Impressions a second over the whole run."""
        return self.spec.impressions / self.seconds


def speed(spec: Spec) -> Result:
    """Run to the end of the input. Raises RunError."""
    with scratch(spec) as spec, running(spec) as (child, log):
        watched = _watch(child, lambda: False, of_python=spec.plan == "quix")
        if child.returncode != 0:
            raise RunError(f"{spec.part} {spec.plan} {spec.backend} failed: {why(log)}")
        if not watched.cpu.get("join and sink"):
            raise RunError(f"{spec.part} {spec.plan}: no thread has the name of a join: see _kind")
        answer = json.loads(log.read_text().strip().splitlines()[-1])
        if spec.plan == "quix":
            # without its imports, which cost as much as a short run
            watched.cpu = {"join and sink": answer["cpu_seconds"]}
        result = Result(spec, answer["seconds"], watched)
        if spec.part == "whole":
            result.rows, result.clicks = _written(Path(spec.scratch) / "out" / "samples")
        return result


def join_seconds(module: str, argument: str, folder: Path) -> float:
    """CPU seconds of the join's thread in a run of `python -m module argument`. Raises RunError."""
    log = folder / "log.txt"
    with log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", module, argument],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=_environment(sys.executable, str(folder)),
            start_new_session=True,
        )
    with ended(child):
        watched = _watch(child, lambda: False)
    if child.returncode != 0 or not watched.cpu.get("join and sink"):
        raise RunError(f"{argument} failed: {why(log)}")
    return watched.cpu["join and sink"]


def why(log: Path) -> str:
    """What a log says of a failure: the innermost cause, or else its end."""
    causes = [
        line
        for line in log.read_text(errors="replace").splitlines()
        if line.lstrip().startswith("Caused by: ")
    ]
    return causes[-1] if causes else process.tail(log)


def python_of_peers() -> str:
    """The interpreter that has the packages of `requirements/join-bench.lock`. Raises RunError."""
    if not _PYTHON_OF_PEERS.exists():
        raise RunError("Spark, Quix and Kafka's client are missing: run `make setup-bench-join`")
    return str(_PYTHON_OF_PEERS)


def state_bytes(spec: Spec) -> int:
    """The size of a full checkpoint when all of the input is pending. Raises RunError.

    It has been read when three checkpoints in a row are of one size.
    """
    sizes: list[int] = []

    def done() -> bool:
        size = _checkpoint_size(spec.port)
        if size is not None and size[1] > 10 * spec.impressions:
            seen[size[0]] = size[1]
            sizes[:] = list(seen.values())
        return len(sizes) >= 3 and max(sizes[-3:]) - min(sizes[-3:]) <= 0.001 * sizes[-1]

    seen: dict[int, int] = {}
    spec = replace(spec, port=process.free_port())
    with scratch(spec) as spec, running(spec) as (child, log):
        _watch(child, done)
        if not sizes:
            raise RunError(f"state of {spec.part} {spec.plan}: {why(log)}")
        return sizes[-1]


def rows_out(spec: Spec) -> list[str]:
    """The rows that have come out when the input stands still, as printed. Raises RunError."""
    quiet_s = 8.0
    last: tuple[int, float] = (0, time.monotonic())

    def done() -> bool:
        nonlocal last
        size = log.stat().st_size
        if size != last[0]:
            last = (size, time.monotonic())
        printed = size > 100 * spec.requests
        return printed and time.monotonic() - last[1] > quiet_s

    spec = replace(spec, port=process.free_port())
    with scratch(spec) as spec, running(spec) as (child, log):
        _watch(child, done)
        lines = [line for line in log.read_text().splitlines() if line.startswith("+I[")]
        if not lines:
            raise RunError(f"delay of {spec.plan}: {why(log)}")
        return lines


@contextlib.contextmanager
def scratch(spec: Spec) -> Iterator[Spec]:
    """The spec with a folder of its own, which is deleted at the exit."""
    folder = tempfile.mkdtemp(prefix="sample-stitch-bench-")
    try:
        yield replace(spec, scratch=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running(spec: Spec) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The run as the leader of a process group, which is ended at the exit."""
    log = Path(spec.scratch) / "log.txt"
    with log.open("wb") as out:
        child = subprocess.Popen(
            [_python(spec), "-m", f"benchmarks.join.{_module(spec)}", spec.to_json()],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=_environment(_python(spec), spec.scratch),
            start_new_session=True,
        )
    with ended(child):
        yield child, log


@contextlib.contextmanager
def ended(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """At the exit the process is ended, and whatever else is in its group."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _module(spec: Spec) -> str:
    if spec.plan in OURS:
        return "run_ours"
    return f"run_{spec.plan if spec.plan in PEERS else 'sql'}"


def _python(spec: Spec) -> str:
    return python_of_peers() if spec.plan in PEERS else sys.executable


def _environment(python: str, logs: str) -> dict[str, str]:
    """Java and Python as the job has them, and the same options of the JVM for all."""
    return os.environ | {
        "PATH": os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")]),
        "JAVA_HOME": str(find_java_home()),
        "FLINK_ENV_JAVA_OPTS": f"{_usual_java_options()} -Xmx{HEAP}",
        "FLINK_LOG_DIR": logs,
    }


def _usual_java_options() -> str:
    """Those of the wheel's configuration, which the variable would replace."""
    from pyflink.find_flink_home import _find_flink_home
    from pyflink.pyflink_gateway_server import get_jvm_opts

    return " ".join(get_jvm_opts({"FLINK_CONF_DIR": f"{_find_flink_home()}/conf"}))


def _watch(
    child: subprocess.Popen[bytes], done: Callable[[], bool], *, of_python: bool = False
) -> Watched:
    """Until the process has ended or `done` says so. Raises RunError at the deadline.

    `of_python`: records are worked on in Python's own process, whatever its threads are called.
    """
    watched, threads = Watched(), dict[tuple[int, int], tuple[str, float]]()
    deadline = time.monotonic() + _DEADLINE_S
    while child.poll() is None and not done():
        if time.monotonic() > deadline:
            raise RunError(f"no end after {_DEADLINE_S:.0f} s")
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(child.pid)
            sizes = [(p, p.memory_info().rss) for p in (root, *root.children(recursive=True))]
            watched.all_bytes = max(watched.all_bytes, sum(size for _, size in sizes))
            of_jvm = sum(size for p, size in sizes if p.name() == "java")
            watched.jvm_bytes = max(watched.jvm_bytes, of_jvm)
            for p, _ in sizes:
                if p.name() == "java" or of_python:
                    threads.update(_threads(p.pid))
        time.sleep(_EVERY_S)
    for name, seconds in threads.values():
        kind = "join and sink" if of_python else _kind(name)
        watched.cpu[kind] = watched.cpu.get(kind, 0.0) + seconds
    return watched


def resident_bytes(pid: int) -> int:
    """Of a process and its children."""
    total = 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        total = sum(p.memory_info().rss for p in (root, *root.children(recursive=True)))
    return total


def _threads(pid: int) -> Iterator[tuple[tuple[int, int], tuple[str, float]]]:
    """(pid, thread) to name and CPU seconds."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            stat = (task / "stat").read_text()
            end = stat.rindex(")")
            fields = stat[end + 2 :].split()
            seconds = (int(fields[11]) + int(fields[12])) / _TICKS
            yield (pid, int(task.name)), (stat[stat.index("(") + 1 : end], seconds)


def _kind(thread: str) -> str:
    """The kernel keeps 15 characters of a name."""
    if thread.startswith(("C1 Comp", "C2 Comp")):
        return "JIT"
    if thread.startswith(("GC ", "G1 ")):
        return "GC"
    # ours begins with the operator in front of the join, in the same chain; Spark does all of it
    # in the tasks of its executor
    if thread.startswith(("keep time", "join", "IntervalJoin", "OverAggregate", "Executor task")):
        return "join and sink"
    if thread.startswith(("samples ", "late actions ", "rejected ", "explode")):
        return "sink"
    if thread.startswith(("Source", "Legacy Source")):
        return "source"
    if thread.startswith("rocksdb"):
        return "RocksDB"
    return "other"


def _checkpoint_size(port: int) -> tuple[int, int] | None:
    """Number and bytes of the last full checkpoint; None when there is none."""
    root = f"http://localhost:{port}/jobs"
    try:
        jobs = get(root)["jobs"]
        latest = get(f"{root}/{jobs[0]['id']}/checkpoints")["latest"]["completed"]
        return (latest["id"], latest["state_size"]) if latest else None
    except (OSError, urllib.error.URLError, IndexError, KeyError, TypeError):
        return None


def get(url: str) -> Any:
    """What a REST API answers. Raises OSError while it does not."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def _written(samples: Path) -> tuple[int, int]:
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    labels = ds.dataset(samples, partitioning="hive").to_table(columns=["label_click"])
    return len(labels), int(pc.sum(labels["label_click"]).as_py() or 0)
