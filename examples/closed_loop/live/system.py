"""The processes of the loop: Kafka, Flink with the join, the trainer, two rankers, a collector.

Each is a process of its own on loopback, started by the command that a user would start, and ends
with this one. Whatever can be killed can be started again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
import tomli
import tomli_w

from examples.closed_loop.live.journal import ARMS, Arm
from services import process, prometheus
from services.flink_cluster import ClusterError, FlinkCluster
from services.kafka_broker import KafkaBroker
from services.process import ProcessId
from services.started import Started
from services.waiting import wait_until
from trainer.serving.format import CURRENT

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parents[1]
_STREAMS = ("features", "actions")
_PARTITIONS = 2
#: How soon samples are there to be learned, and a model to be served.
CHECKPOINT_S, EXPORT_S = 3, 3
_READY_S = 180.0
_METRIC_S = 5.0

_FLINK: Mapping[str, str] = {
    "restart-strategy.type": "exponential-delay",
    "restart-strategy.exponential-delay.initial-backoff": "500 ms",
    "restart-strategy.exponential-delay.max-backoff": "3 s",
    "heartbeat.interval": "1 s",
    "heartbeat.timeout": "10 s",
    "metrics.fetcher.update-interval": "1000",
    "jobmanager.memory.process.size": "800m",
    "taskmanager.memory.process.size": "1200m",
}


#: Of the trainer and of the services beside an application.
PYTHON = ROOT / ".venv-trainer" / "bin" / "python"


@dataclass
class Service:
    """A process with HTTP at `port`. It comes back at the same one."""

    name: str
    command: list[str]
    log: Path
    port: int
    process: ProcessId | None = None

    @property
    def address(self) -> str:
        """Of its pages."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns at once."""
        self.process = process.start(
            self.command, log=self.log, environment=dict(os.environ), tied=True
        )

    def await_answer(self, path: str) -> None:
        """Returns when it answers. Raises RuntimeError if it ends, DeadlineError."""

        def answers() -> bool:
            self.must_run()
            with contextlib.suppress(OSError):
                return bool(self.get(path).status_code == requests.codes.ok)
            return False

        wait_until(answers, _READY_S, f"{self.name} to answer", every_s=0.2)

    def must_run(self) -> None:
        """Raises RuntimeError, with its log, if it has ended."""
        if self.process is None or not self.process.is_running():
            raise RuntimeError(f"{self.name} ended; its log:\n{process.tail(self.log)}")

    def get(self, path: str) -> requests.Response:
        """Raises OSError (requests' errors are) where it does not answer."""
        with requests.Session() as session:
            session.trust_env = False
            return session.get(f"{self.address}{path}", timeout=_METRIC_S)

    def metrics(self) -> dict[str, float]:
        """Its series by name, labels included as they stand; empty while it does not answer."""
        with contextlib.suppress(OSError):
            return prometheus.parsed(self.get("/metrics").text)
        return {}

    def kill(self) -> None:
        """As a crash would."""
        if self.process is not None:
            process.kill(self.process)

    def stop(self) -> None:
        """It may finish what it does."""
        if self.process is not None:
            process.stop(self.process)


class System(Started):
    """All of them. `output`: what the join writes; `model`: what the trainer does."""

    def __init__(self, folder: Path, *, epsilon: float) -> None:
        """Describe them; nothing is started.

        Args:
            folder: for all that they write. Emptied.
            epsilon: the share of requests that are ranked at random, to learn from.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder = folder
        self.output, self.model = folder / "joined", folder / "model"
        self.pipeline = folder / "pipeline.toml"
        self.kafka = KafkaBroker(folder / "kafka")
        self.flink = FlinkCluster(folder / "flink", task_managers=2, settings=_FLINK)
        self._epsilon = epsilon
        self._job = ""
        self._join_vertex = ""
        logs = folder / "logs"
        self.serving = self.model / "serving"
        self.rankers: dict[Arm, Service] = {}
        for arm in ARMS:
            config = folder / f"ranking-{arm}.toml"
            command = [str(PYTHON), "-m", "online.ranking", "--config", str(config)]
            self.rankers[arm] = Service(
                f"the ranking service ({arm})", command, logs / f"ranking-{arm}.log", _port()
            )
        collector = folder / "collector.toml"
        self.collector = Service(
            "the action collector",
            [str(PYTHON), "-m", "online.collector", "--config", str(collector)],
            logs / "collector.log",
            _port(),
        )
        trainer = [str(PYTHON), "-m", "trainer.train"]
        port = _port()
        settings = {
            "samples.follow": "true",
            "samples.poll": "500ms",
            "train.servers": "2",
            "train.workers": "1",
            "train.batch": "1024",
            "metrics.port": str(port),
            "output.path": str(self.model),
            "output.checkpoint_every": "10s",
            "output.export_every": f"{EXPORT_S}s",
            "evaluation.every": "5s",
        }
        trainer += ["--config", str(folder / "trainer.toml")]
        trainer += [word for one in settings.items() for word in ("--set", "=".join(one))]
        self.trainer = Service("the trainer", trainer, logs / "trainer.log", port)

    # -- start and stop ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything, and return when all of it answers."""
        self.kafka.start()
        for stream in _STREAMS:
            self.kafka.create_topic(f"loop-{stream}", partitions=_PARTITIONS)
        self._write_configurations()
        for service in (*self.rankers.values(), self.collector, self.trainer):
            service.start()
        self.flink.start()
        arguments = ["--config", str(self.pipeline)]
        self._job = self.flink.run(ROOT / "jobs" / "join_samples.py", arguments).job_id
        self.flink.wait_for_tasks(self._job, _READY_S)
        for vertex in self.flink.get(f"/jobs/{self._job}")["vertices"]:
            if "join" in vertex["name"]:
                self._join_vertex = vertex["id"]
                break
        for service in (*self.rankers.values(), self.collector):
            service.await_answer("/healthz")
        self.trainer.await_answer("/metrics")

    def drain(self) -> None:
        """All windows close, and the job ends: whatever came in is decided."""
        self.flink.stop_job(self._job, self.folder / "checkpoints", drain=True, deadline_s=180)

    def stop(self) -> None:
        """Stop everything that runs."""
        for service in (*self.rankers.values(), self.collector, self.trainer):
            service.stop()
        self.flink.stop()
        self.kafka.stop()

    def freeze(self) -> None:
        """What is served now is served to the frozen arm from now on. Before, it was the newest.

        Its service is started again with the copy.
        """
        copy = self.folder / "frozen"
        wait_until(lambda: self._copied(copy), _READY_S, "a copy of the model")
        self._write_ranking("frozen", copy)
        self.rankers["frozen"].stop()
        self.rankers["frozen"].start()

    def _copied(self, copy: Path) -> bool:
        """Whether no file went away while the exports were copied: old ones are removed."""
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        try:
            # first of all what names the newest export: all of its files are there
            shutil.copy2(self.serving / CURRENT, copy / CURRENT)
            # what is being written is of a later one
            later = shutil.ignore_patterns(CURRENT, "*.tmp")
            shutil.copytree(self.serving, copy, ignore=later, dirs_exist_ok=True)
        except (shutil.Error, FileNotFoundError):
            return False
        return True

    # -- what they say -----------------------------------------------------------------------------

    def settled(self) -> bool:
        """Whether no feature waits in a ranking service for the broker."""
        waiting = [service.metrics().get(PENDING_EVENTS) for service in self.rankers.values()]
        return all(pending == 0 for pending in waiting)

    def has_model(self) -> bool:
        """Whether the learning arm is ranked by a model."""
        return self.rankers["learning"].metrics().get(MODEL_TIME, 0.0) > 0

    def pending_requests(self) -> int | None:
        """Requests that wait in the join for their deadline; None while it cannot tell."""
        path = f"/jobs/{self._job}/vertices/{self._join_vertex}/subtasks/metrics"
        with contextlib.suppress(OSError, ClusterError, KeyError, IndexError, ValueError):
            found = self.flink.get(f"{path}?get=join.pending_requests&agg=sum")
            return int(found[0]["sum"])
        return None

    # -- faults ------------------------------------------------------------------------------------

    def kill_task_manager(self) -> None:
        """One that runs a part of the join. Another one takes its place, as on any platform."""
        self.flink.kill_task_manager(self.flink.task_managers[0])
        self.flink.add_task_manager()

    def kill_parameter_server(self) -> None:
        """One of the trainer's; the trainer itself starts another one."""
        assert self.trainer.process is not None
        trainer = psutil.Process(self.trainer.process.pid)

        def servers() -> list[psutil.Process]:
            children = trainer.children(recursive=True)
            return [child for child in children if "_ServerActor" in process.command_of(child)]

        wait_until(servers, _READY_S, "a parameter server to kill")[0].kill()

    def kill_ranker(self) -> None:
        """The one of the learning arm, which is started again."""
        ranker = self.rankers["learning"]
        ranker.kill()
        ranker.start()

    def kill_broker(self) -> None:
        """It is started again with its data."""
        assert self.kafka.process_ids
        os.kill(self.kafka.process_ids[0], signal.SIGKILL)
        wait_until(lambda: not self.kafka.is_running(), 30, "the broker to be dead")
        self.kafka.start()

    # -- configurations ----------------------------------------------------------------------------

    def _write_configurations(self) -> None:
        pipeline = tomli.loads((HERE / "pipeline.toml").read_text(encoding="utf-8"))
        pipeline["sources"] = {
            stream: {
                "type": "kafka",
                "topic": f"loop-{stream}",
                "bootstrap_servers": self.kafka.bootstrap_servers,
                "out_of_orderness": "15min",
                "idle_timeout": "1h",
            }
            for stream in _STREAMS
        }
        pipeline["output"] = pipeline.get("output", {}) | {"path": str(self.output)}
        pipeline["runtime"] = {
            "checkpoint_interval": f"{CHECKPOINT_S}s",
            "checkpoint_path": str(self.folder / "checkpoints"),
        }
        _write(self.pipeline, pipeline)
        trainer = tomli.loads((HERE / "trainer.toml").read_text(encoding="utf-8"))
        trainer["samples"] = {"pipeline": str(self.pipeline), "path": str(self.output)}
        _write(self.folder / "trainer.toml", trainer)
        for arm in ARMS:
            self._write_ranking(arm, self.serving)
        collector = {"pipeline": str(self.pipeline), "server": {"port": self.collector.port}}
        _write(self.folder / "collector.toml", collector)

    def _write_ranking(self, arm: Arm, model: Path) -> None:
        ranking = tomli.loads((HERE / "ranking.toml").read_text(encoding="utf-8"))
        own = {
            "pipeline": str(self.pipeline),
            "model": str(model),
            "exploration": {"type": "epsilon", "epsilon": self._epsilon},
            "server": {"port": self.rankers[arm].port},
        }
        _write(self.folder / f"ranking-{arm}.toml", ranking | own)


#: Of a ranking service: events that the broker does not have yet.
PENDING_EVENTS = "sample_stitch_ranking_log_pending"
#: And up to when its model has learned, epoch seconds; 0: it has none.
MODEL_TIME = "sample_stitch_ranking_model_event_timestamp_seconds"


def _port() -> int:
    return process.free_port()


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(tomli_w.dumps(content), encoding="utf-8")
