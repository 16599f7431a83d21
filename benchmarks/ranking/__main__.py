"""``python -m benchmarks.ranking``: how fast the services are, beside the same model in process.

A service has the first core to itself; its clients and the broker have the others. Prints tables.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console

from benchmarks.ranking import asking, setting
from benchmarks.reporting import Table, machine, rich_table
from benchmarks.trainer.data import Traffic, folder_of
from jobs.pipeline import config
from online.model_keeper import ModelKeeper
from services.kafka_broker import KafkaBroker
from services.process import free_port
from services.waiting import wait_until
from trainer.serving.model import ServedModel

_ROOT = Path(__file__).resolve().parents[2]
CANDIDATES = (20, 200)
#: Clients when it is asked how many requests it answers.
MANY = 8
BATCHES = (1, 100)
_ROWS, _QUICK_ROWS = 200_000, 65_536
_SECONDS, _QUICK_SECONDS = 5.0, 2.0
_REQUESTS = 200


@dataclass(frozen=True)
class Took:
    """How long calls took, and what each cost of the core: milliseconds. And how many a second."""

    p50: float
    p99: float
    cpu: float
    per_second: float

    @classmethod
    def of(cls, took: Sequence[float], seconds: float, cpu_s: float = 0.0) -> Took:
        """`took`: of each call. `seconds`, `cpu_s`: of all of them."""
        p50, p99 = np.percentile(took, (50, 99)) * 1e3
        return cls(float(p50), float(p99), cpu_s / len(took) * 1e3, len(took) / seconds)

    def __str__(self) -> str:
        return f"{self.p50:.2f} / {self.p99:.1f}"


def main() -> int:
    """Measure, and print the tables. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranking", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small and short: a minute")
    parser.add_argument("--model", nargs="+", choices=tuple(setting.MODELS), default=None)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "ssb-ranking")
    arguments = parser.parse_args()
    seconds = _QUICK_SECONDS if arguments.quick else _SECONDS
    traffic = Traffic(rows=_QUICK_ROWS if arguments.quick else _ROWS)
    models = arguments.model or (("lr",) if arguments.quick else tuple(setting.MODELS))
    console = Console(highlight=False)
    folder = folder_of(arguments.cache, traffic)
    cores = sorted(os.sched_getaffinity(0))
    service_core, others = cores[0], cores[1:] or cores
    os.sched_setaffinity(0, others)
    ranked: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as broker_folder, KafkaBroker(Path(broker_folder)) as broker:
        for topic in ("features", "actions"):
            broker.create_topic(topic)
        setting.online(folder, broker.bootstrap_servers)
        for model in models:
            output = setting.train(folder, model)
            for many in CANDIDATES:
                asked = list(setting.requests(folder, many, _REQUESTS))
                in_process = _in_process(folder, output, asked, service_core, others)
                one, all_ = _ranked(folder, output, asked, service_core, seconds)
                names = (f"{many}, {model}", *map(str, in_process))
                ranked.append((*names, *_over_http(one, all_)))
                console.print("  ".join(ranked[-1]), markup=False)
        collected = [_collected(folder, size, service_core, seconds) for size in BATCHES]
    over_http = ("HTTP", f"a second, {MANY} clients", "CPU")
    for table in (
        Table(
            "Ranking on one core (milliseconds: p50 / p99)",
            ("candidates", "predict", "and its table", *over_http),
            ranked,
            _about(traffic),
        ),
        Table(
            "Collecting on one core (milliseconds: p50 / p99)",
            ("actions in a batch", *over_http),
            collected,
        ),
    ):
        console.print(rich_table(table))
    return 0


def _over_http(one: Took, many: Took) -> tuple[str, str, str]:
    return str(one), f"{many.per_second:,.0f}", f"{many.cpu:.2f}"


def _about(traffic: Traffic) -> str:
    found = machine()
    return f"{traffic.rows:,} samples; {found['cores']} cores, {found['processor']}"


def _in_process(
    folder: Path, output: Path, asked: Sequence[setting.Asked], core: int, others: list[int]
) -> tuple[Took, Took]:
    """`ServedModel.predict` of a table that is there, and with making it from values."""
    pipeline = config.load(folder / "online.toml")
    os.sched_setaffinity(0, {core})
    try:
        model = ServedModel.open(output / "serving")
        keeper = ModelKeeper(
            output / "serving", {"click": 1.0}, pipeline.schema, 1.0, max_candidates=256
        )
        served = keeper.served
        assert served is not None, keeper.why_none
        return (
            _called([partial(model.predict, one.candidates) for one in asked]),
            _called([partial(served.scores, one.user_id, one.context, one.items) for one in asked]),
        )
    finally:
        os.sched_setaffinity(0, others)


def _called(calls: Sequence[Callable[[], object]]) -> Took:
    took = []
    for call in (*calls, *calls, *calls, *calls, *calls):
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
    return Took.of(took[len(calls) :], sum(took[len(calls) :]))


def _ranked(
    folder: Path, output: Path, asked: Sequence[setting.Asked], core: int, seconds: float
) -> tuple[Took, Took]:
    """Over HTTP: of one client, and of many."""
    port = free_port()
    with _served("online.ranking", setting.ranking(folder, output, port), port, core) as service:
        return _asked(service, port, [one.request for one in asked], seconds)


def _collected(folder: Path, size: int, core: int, seconds: float) -> tuple[str, ...]:
    port = free_port()
    with _served("online.collector", setting.collector(folder, port), port, core) as service:
        return f"{size}", *_over_http(*_asked(service, port, setting.batches(size, 100), seconds))


def _asked(
    service: psutil.Process, port: int, requests: Sequence[bytes], seconds: float
) -> tuple[Took, Took]:
    """By one client, and by many."""
    asking.asked(port, requests, min(seconds, 2.0), 1)
    found = []
    for clients in (1, MANY):
        before = _cpu_s(service)
        took = asking.asked(port, requests, seconds, clients)
        found.append(Took.of(took, seconds, _cpu_s(service) - before))
    return found[0], found[1]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def _served(module: str, path: Path, port: int, core: int) -> Iterator[psutil.Process]:
    """A service that runs on this core alone."""
    with path.with_suffix(".log").open("wb") as log:
        service = subprocess.Popen(
            [sys.executable, "-m", module, "--config", path],
            cwd=_ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        os.sched_setaffinity(service.pid, {core})
        wait_until(partial(_answers, service, port), 60, f"{module} to answer")
        yield psutil.Process(service.pid)
    finally:
        service.terminate()
        service.wait()


def _answers(service: subprocess.Popen[bytes], port: int) -> bool:
    if service.poll() is not None:
        raise RuntimeError(f"the service ended with exit code {service.returncode}")
    try:
        asking.Connection(port).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
