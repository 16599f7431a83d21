"""A Flink session cluster on loopback, started from the wheel.

The ``apache-flink`` wheel holds a whole distribution. Here it is started with its own
scripts, in the foreground, so that each process is a child known by its id, and with
a configuration, lib and log folder of its own; the wheel itself is left alone.

    python -m services.flink_cluster up [--set KEY=VALUE ...]
    python -m services.flink_cluster status|list|down
    python -m services.flink_cluster run [--set KEY=VALUE ...] SCRIPT.py [ARGUMENT ...]
    python -m services.flink_cluster savepoint|stop|drain|cancel|counts [JOB]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from services import flink_metrics, log4j, process
from services.flink_home import flink_home
from services.jars import JarError, jar_paths
from services.java import JavaError, find_java_home
from services.place import LOOPBACK, Place
from services.process import ProcessId
from services.started import Started
from services.waiting import DeadlineError, wait_until
from services.zookeeper import ZooKeeper, ZooKeeperError


def _run_folder() -> Path:
    root = Path(__file__).resolve().parents[1]
    if " " not in str(root):
        return root / ".run" / "flink"
    # Flink's scripts do not quote the path of the lib folder.
    name = hashlib.sha256(str(root).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"sample-stitch-{os.getuid()}-{name}" / "flink"


RUN_FOLDER = _run_folder()
USUAL_PORT = 8081

_READY_DEADLINE_S = 90.0
_SUBMIT_DEADLINE_S = 180.0
_REQUEST_DEADLINE_S = 15.0
#: A line of a log, as text or JSON, that says when a job manager was made the leader.
_LEADERSHIP = re.compile(
    r"(\d{4}-\d\d-\d\d[ T][\d:.,]+).*DefaultDispatcherRunner\b.*was granted leadership"
)
#: What a job manager answers while it does not know who leads.
_NO_LEADER = 503
_JOB_ID = re.compile(r"Job has been submitted with JobID ([0-9a-f]{32})")

# The client writes the whole environment, secrets included, into its log when it starts Python.
_NO_ENVIRONMENT_IN_LOG = """
logger.pythonEnvironment.name = org.apache.flink.client.python.PythonEnvUtils
logger.pythonEnvironment.level = WARN
"""


class ClusterError(Exception):
    """The cluster, or a request to it, failed; the message says what and shows the log's end."""


class _NoLeaderError(ClusterError):
    """A job manager does not know who leads."""


@dataclass(frozen=True)
class Submission:
    """What ``flink run`` said: the jobs it submitted, in order, and all of its output."""

    job_ids: tuple[str, ...]
    output: str

    @property
    def job_id(self) -> str:
        """The only job.

        Raises:
            ClusterError: if the script submitted none or several.
        """
        if len(self.job_ids) != 1:
            raise ClusterError(f"{len(self.job_ids)} jobs were submitted:\n{self.output}")
        return self.job_ids[0]


class FlinkCluster(Started):
    """Job and task managers, with all that is theirs in one folder.

    One job manager, or several with high availability: then a ZooKeeper and a folder remember the
    jobs, one job manager leads, and another takes the jobs over when it is lost.
    """

    def __init__(
        self,
        folder: Path,
        *,
        task_managers: int = 2,
        slots: int = 1,
        rest_port: int = 0,
        metrics_port: int | None = None,
        log_format: log4j.Format = "text",
        settings: Mapping[str, str] | None = None,
        job_managers: int = 1,
        high_availability: bool = False,
        places: Callable[[str], Place] = lambda _: LOOPBACK,
    ) -> None:
        """Describe a cluster; nothing is started.

        Args:
            folder: for configuration, logs and temporary files; replaced by ``start``.
            task_managers: how many. Thread mode shares one interpreter lock in each, so
                it scales by task managers.
            slots: of each task manager.
            rest_port: the port wanted on 127.0.0.1; a free one if it is 0 or taken.
            metrics_port: the first port for Prometheus, on all interfaces; the processes have
                it and the next ones, or free ones if it is 0 or they are taken (see
                ``metrics_ports``). None: no metrics.
            log_format: of the logs, which are rolling files.
            settings: Flink options over the ones chosen here.
            job_managers: how many; all but one stand by.
            high_availability: whether jobs survive the job manager. Several job managers have it.
            places: where a process runs, by its name: `jobmanager-0`, `taskmanager-0`, `zookeeper`.
        """
        self._log_format = log_format
        self.metrics_ports: dict[str, int] = {}
        self._metrics_port = metrics_port
        self.folder = folder.resolve()
        self.log_folder = self.folder / "log"
        self.rest_port = rest_port
        self.task_manager_count = task_managers
        self._slots = slots
        self._settings = dict(settings or {})
        self.job_manager_count = job_managers
        self._places = places
        self._job_managers: dict[str, ProcessId] = {}
        self._rest_ports: dict[str, int] = {}
        self._task_managers: dict[str, ProcessId] = {}
        self._tied = True
        #: How long one job manager may take to answer (s).
        self.request_deadline_s = _REQUEST_DEADLINE_S
        self.zookeeper: ZooKeeper | None = None
        if high_availability or job_managers > 1:
            self.zookeeper = self._new_zookeeper()
        self._note = self.folder / "running.json"

    @classmethod
    def attach(cls, folder: Path = RUN_FOLDER) -> FlinkCluster | None:
        """Return the cluster that an earlier ``start(tied=False)`` left running, if it does."""
        cluster = cls(folder)
        if not cluster._note.exists():
            return None
        note = json.loads(cluster._note.read_text(encoding="utf-8"))
        cluster.metrics_ports = note["metrics_ports"]
        cluster._metrics_port = note["metrics_port"]
        cluster._tied = False
        cluster._rest_ports = note["rest_ports"]
        cluster.rest_port = next(iter(cluster._rest_ports.values()), 0)
        cluster._job_managers = {
            name: ProcessId(**one) for name, one in note["job_managers"].items()
        }
        cluster._task_managers = {
            name: ProcessId(**one) for name, one in note["task_managers"].items()
        }
        cluster.job_manager_count = note["job_manager_count"]
        cluster.task_manager_count = note["task_manager_count"]
        if note["zookeeper"] is not None:
            cluster.zookeeper = cluster._new_zookeeper()
            cluster.zookeeper.take_over(note["zookeeper"])
        return cluster

    @property
    def rest_url(self) -> str:
        """The address of Flink's REST API; with several job managers, of the first that runs."""
        return self._rest_urls()[0]

    def is_running(self) -> bool:
        """Whether a job manager runs."""
        return any(one.is_running() for one in self._job_managers.values())

    def start(self, *, tied: bool = True) -> None:
        """Start the cluster and return when all task managers have registered.

        Args:
            tied: whether it ends with this process, however that ends.

        Raises:
            ClusterError: if a process ends, or they are not ready within 90 seconds.
            JarError, JavaError: if the set-up has not been run.
        """
        self._tied = tied
        self.prepare()
        if self.zookeeper is not None:
            self.zookeeper.start(tied=tied)
            self._write_configuration()  # now that its port is known
        for _ in range(self.job_manager_count):
            self._launch_job_manager()
        for _ in range(self.task_manager_count):
            self._launch_task_manager()
        try:
            self.wait_for_task_managers()
        except DeadlineError as error:
            logs = "\n".join(process.tail(log) for log in sorted(self.log_folder.glob("*")))
            self.stop()
            raise ClusterError(f"{error}; the logs end:\n{logs}") from error
        self._write_note()

    def prepare(self, *, logs: log4j.Target = "files") -> None:
        """Write the folder anew: configuration, links to the jars, empty logs.

        For ``start``, and for whoever runs the wheel's scripts in another way, such as
        the image in ``docker/``.

        Args:
            logs: rolling files in the folder of logs, or the console.

        Raises:
            JarError: if the set-up has not been run.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(_flink_home() / "conf", self.folder / "conf")
        for name in ("lib", "log", "pid", "tmp", "ha", "plugins"):
            (self.folder / name).mkdir()
        # flink-python and pemja have to be loaded once in a process and not once a job:
        # the second job would die with NoSuchFieldException: loadedLibraryNames.
        jars = [
            *(_flink_home() / "lib").glob("*.jar"),
            *(_flink_home() / "opt").glob("flink-python*.jar"),
            *jar_paths("flink"),
        ]
        for jar in jars:
            (self.folder / "lib" / jar.name).symlink_to(jar.resolve())
        for plugin in (_flink_home() / "plugins").iterdir():
            (self.folder / "plugins" / plugin.name).symlink_to(plugin.resolve())
        (self.folder / "plugins" / "s3").mkdir()
        for jar in jar_paths("s3"):
            (self.folder / "plugins" / "s3" / jar.name).symlink_to(jar.resolve())
        self.rest_port = process.free_port(self.rest_port)
        self.metrics_ports = {}
        self._write_configuration()
        (self.folder / "conf" / "log4j-console.properties").write_text(
            log4j.configuration(logs, self._log_format), encoding="utf-8"
        )
        with (self.folder / "conf" / "log4j-cli.properties").open("a", encoding="utf-8") as client:
            client.write(_NO_ENVIRONMENT_IN_LOG)

    def stop(self) -> None:
        """Stop all processes, by force if they take too long; the logs stay."""
        process.stop(*self._processes())
        self._task_managers = {}
        self._job_managers = {}
        if self.zookeeper is not None:
            self.zookeeper.stop()
        self._note.unlink(missing_ok=True)

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The processes of the cluster; what they have started is below them."""
        return tuple(one.pid for one in self._processes())

    @property
    def task_managers(self) -> tuple[str, ...]:
        """The names of the task managers, oldest first; Flink's resource ids are the same."""
        return tuple(self._task_managers)

    def kill_task_manager(self, name: str) -> None:
        """Kill a task manager as a crash would (SIGKILL); the others stay.

        The job manager notices some moments later: wait for ``restarts`` of a job to grow.
        """
        process.kill(self._task_managers.pop(name))
        self.metrics_ports.pop(name, None)
        self._write_note()

    @property
    def job_managers(self) -> tuple[str, ...]:
        """The names of the job managers, oldest first."""
        return tuple(self._job_managers)

    def kill_job_manager(self, name: str | None = None) -> None:
        """Kill a job manager as a crash would (SIGKILL); the only one if none is named.

        Without high availability its jobs are lost, with their progress. With it another job
        manager takes them over: one that stands by, or the next that ``add_job_manager`` starts.
        The task managers stay, and wait for it; ``stop`` ends them.
        """
        for one in [name] if name is not None else list(self._job_managers):
            process.kill(self._job_managers.pop(one))
            self._rest_ports.pop(one)
            self.metrics_ports.pop(one, None)
        self._write_note()

    def add_job_manager(self) -> str:
        """Start one more job manager, which stands by unless none leads; return its name.

        Raises:
            ClusterError: without high availability, where one job manager must not have a rival.
        """
        if self.zookeeper is None:
            raise ClusterError("several job managers need high availability")
        name = self._launch_job_manager()
        self._write_note()
        return name

    def revive(self) -> None:
        """Start again whatever has ended of a cluster with high availability; its jobs go on.

        Raises:
            ClusterError: without high availability, or if a process ends again.
            DeadlineError: if they are not ready within 90 seconds.
        """
        if self.zookeeper is None:
            raise ClusterError("only a cluster with high availability can go on")
        if not self.zookeeper.is_running():
            self.zookeeper.start(tied=self._tied)
        self._job_managers = {n: one for n, one in self._job_managers.items() if one.is_running()}
        self._rest_ports = {n: self._rest_ports[n] for n in self._job_managers}
        self._task_managers = {n: one for n, one in self._task_managers.items() if one.is_running()}
        self.metrics_ports = {
            n: port
            for n, port in self.metrics_ports.items()
            if n in self._job_managers | self._task_managers
        }
        while len(self._job_managers) < self.job_manager_count:
            self._launch_job_manager()
        while len(self._task_managers) < self.task_manager_count:
            self._launch_task_manager()
        self._write_note()
        self.wait_for_task_managers()

    def leader(self) -> str | None:
        """The job manager that leads, by what each has logged; None if none that runs has led."""
        found: dict[str, str] = {}
        for name in self._job_managers:
            for log in self._logs(name):
                times = _LEADERSHIP.findall(log.read_text(encoding="utf-8", errors="replace"))
                if times:
                    found[name] = max(times)
                    break
        return max(found, key=lambda name: found[name], default=None)

    def process_of(self, name: str) -> ProcessId:
        """The process of a job or task manager.

        Raises:
            KeyError: if there is none of that name.
        """
        return (self._job_managers | self._task_managers)[name]

    def add_task_manager(self) -> str:
        """Start one more task manager; return its name when it has registered."""
        name = self._launch_task_manager()
        self._write_note()
        self.wait_for_task_managers()
        return name

    def launch_task_manager(self) -> str:
        """The same, without waiting for it."""
        name = self._launch_task_manager()
        self._write_note()
        return name

    def wait_for_task_managers(self) -> None:
        """Wait until those that were started are registered, with their slots.

        By name and not by number: one that was killed counts until it is missed. Slots are
        reported a moment after a task manager has registered.
        """

        def registered() -> bool:
            for one in self._processes():
                if not one.is_running():
                    raise ClusterError(f"a process of the cluster ended; see {self.log_folder}")
            with contextlib.suppress(OSError, ClusterError):
                listed = self.get("/taskmanagers")["taskmanagers"]
                ready = {one["id"] for one in listed if one["slotsNumber"] > 0}
                return ready >= self._task_managers.keys()
            return False

        wait_until(registered, _READY_DEADLINE_S, "the Flink task managers to register")

    def stop_task_manager(self, name: str) -> None:
        """Stop a task manager in good order (SIGTERM); it does not come back."""
        process.stop(self._task_managers.pop(name))
        self.metrics_ports.pop(name, None)
        self._write_note()

    def stop_job_manager(self, name: str) -> None:
        """Stop a job manager in good order (SIGTERM): it gives up its leadership."""
        process.stop(self._job_managers.pop(name))
        self._rest_ports.pop(name)
        self.metrics_ports.pop(name, None)
        self._write_note()

    # --- jobs ---------------------------------------------------------------------------

    def run(
        self,
        script: Path,
        arguments: Sequence[str] = (),
        *,
        detached: bool = True,
        parallelism: int | None = None,
        savepoint: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> Submission:
        """Submit a script with ``flink run -py`` and return what was said.

        Args:
            script: a Python file; this environment's packages are importable in it.
            arguments: the script's own.
            detached: return when the job is submitted, not when it has ended.
            parallelism: the default one of the job.
            savepoint: where to restore from.
            settings: Flink options of this job, over those of the cluster.

        Raises:
            ClusterError: if the client fails or takes more than three minutes.
        """
        command: list[str | Path] = [_flink_home() / "bin" / "flink", "run"]
        command += ["--detached"] if detached else []
        command += ["--parallelism", str(parallelism)] if parallelism is not None else []
        command += ["--fromSavepoint", savepoint] if savepoint is not None else []
        command += [f"-D{key}={value}" for key, value in (settings or {}).items()]
        command += ["-py", script, *arguments]
        try:
            done = subprocess.run(
                [str(part) for part in command],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_SUBMIT_DEADLINE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(
                f"flink run took more than {_SUBMIT_DEADLINE_S:g} s:\n{error.output}"
            ) from error
        if done.returncode != 0:
            raise ClusterError(f"flink run ended with {done.returncode}:\n{done.stdout}")
        return Submission(tuple(_JOB_ID.findall(done.stdout)), done.stdout)

    def job_state(self, job_id: str) -> str:
        """Return the state of a job, such as RUNNING, FINISHED or FAILED."""
        return str(self.get(f"/jobs/{job_id}")["state"])

    def wait_for_job(self, job_id: str, state: str, deadline_s: float) -> None:
        """Wait until a job is in a state.

        Raises:
            ClusterError: if it ends in another one; the message holds the root exception.
            DeadlineError: after ``deadline_s`` seconds.
        """

        def reached() -> bool:
            now = self.job_state(job_id)
            if now != state and now in ("FAILED", "CANCELED", "FINISHED"):
                raise ClusterError(f"the job is {now}, not {state}: {self.job_exception(job_id)}")
            return now == state

        wait_until(reached, deadline_s, f"job {job_id} to be {state}")

    def wait_for_tasks(self, job_id: str, deadline_s: float = 60.0) -> None:
        """Wait until every task of a job runs, as a savepoint needs it.

        A job itself is RUNNING earlier, while its tasks are still being deployed.

        Raises:
            DeadlineError: after ``deadline_s`` seconds.
        """

        def all_run() -> bool:
            vertices = self.get(f"/jobs/{job_id}")["vertices"]
            return all(vertex["status"] == "RUNNING" for vertex in vertices)

        wait_until(all_run, deadline_s, f"all tasks of job {job_id} to run")

    def restarts(self, job_id: str) -> int:
        """Return how often a job was restarted after a failure."""
        metrics = self.get(f"/jobs/{job_id}/metrics?get=numRestarts")
        return int(metrics[0]["value"]) if metrics else 0

    def job_exception(self, job_id: str) -> str:
        """Return the newest exception of a job, or nothing."""
        history = self.get(f"/jobs/{job_id}/exceptions?maxExceptions=1")["exceptionHistory"]
        return str(history["entries"][0]["stacktrace"]) if history["entries"] else ""

    def cancel(self, job_id: str, deadline_s: float = 30.0) -> None:
        """Cancel a job, as it stands, and wait until it is."""
        self._request("PATCH", f"/jobs/{job_id}?mode=cancel", None)
        self.wait_for_job(job_id, "CANCELED", deadline_s)

    def jobs(self) -> list[dict[str, Any]]:
        """Return the jobs that the cluster knows, newest first, as ``/jobs/overview`` has them."""
        jobs = self.get("/jobs/overview")["jobs"]
        return sorted(jobs, key=lambda job: -int(job["start-time"]))

    def checkpoint(self, job_id: str) -> str | None:
        """Return where the latest complete checkpoint or savepoint of a job lies, if there is one.

        Nothing either when checkpoints are kept in the job manager's memory.
        """
        latest = self.get(f"/jobs/{job_id}/checkpoints")["latest"]
        done = [one for one in (latest["completed"], latest["savepoint"]) if one]
        newest = max(done, key=lambda one: one["id"], default=None)
        path = None if newest is None else newest["external_path"]
        return None if path in (None, "<checkpoint-not-externally-addressable>") else str(path)

    def counts(self, job_id: str) -> dict[str, str]:
        """Return what the operators of a job counted, by name; complete when it has ended."""
        found = self.get(f"/jobs/{job_id}/accumulators")["user-task-accumulators"]
        return {one["name"]: one["value"] for one in found}

    def savepoint(self, job_id: str, folder: Path | str, deadline_s: float = 60.0) -> str:
        """Take a savepoint of a job that goes on; return where it is."""
        body = {"target-directory": _uri(folder), "cancel-job": False}
        return self._savepoint(job_id, f"/jobs/{job_id}/savepoints", body, deadline_s)

    def stop_job(
        self, job_id: str, folder: Path | str, *, drain: bool = False, deadline_s: float = 60.0
    ) -> str:
        """Stop a job with a savepoint; return where that is.

        Args:
            job_id: of the job.
            folder: to put the savepoint in; a path or a URI.
            drain: send the last watermark first, so that all timers fire: for good, the
                job cannot go on from there.
            deadline_s: for savepoint and end together, roughly.
        """
        body = {"targetDirectory": _uri(folder), "drain": drain}
        path = self._savepoint(job_id, f"/jobs/{job_id}/stop", body, deadline_s)
        self.wait_for_job(job_id, "FINISHED", deadline_s)
        return path

    def get(self, path: str) -> Any:
        """Return what the REST API answers to a path such as ``/overview``.

        Raises:
            ClusterError: if it answers with an error.
            OSError: if it cannot be reached.
        """
        return self._request("GET", path, None)

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which Flink's own scripts find this cluster."""
        own = {
            "JAVA_HOME": str(find_java_home()),
            "FLINK_HOME": str(_flink_home()),
            "FLINK_CONF_DIR": str(self.folder / "conf"),
            "FLINK_LIB_DIR": str(self.folder / "lib"),
            "FLINK_OPT_DIR": str(_flink_home() / "opt"),
            "FLINK_PLUGINS_DIR": str(self.folder / "plugins"),
            "FLINK_LOG_DIR": str(self.log_folder),
            "FLINK_PID_DIR": str(self.folder / "pid"),
            "FLINK_IDENT_STRING": "local",
            # Thread mode starts the `python` that is first on PATH.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        inherited = {
            name: value
            for name, value in os.environ.items()
            # A Flink of the machine, or of the test that starts this, must not mix in.
            if not name.startswith(("FLINK_", "_FLINK", "HADOOP_", "PYFLINK_"))
        }
        return inherited | own

    # --- inside -------------------------------------------------------------------------

    def _processes(self) -> list[ProcessId]:
        return [*self._job_managers.values(), *self._task_managers.values()]

    def _write_configuration(self) -> None:
        from ruamel.yaml import YAML

        path = self.folder / "conf" / "config.yaml"
        # The wheel's own, above all the --add-opens without which nothing runs.
        settings = _flat(YAML(typ="safe").load(path.read_text(encoding="utf-8")))
        python = str(Path(sys.executable))
        settings |= {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": str(process.free_port()),
            "jobmanager.bind-host": "127.0.0.1",
            "jobmanager.memory.process.size": "1g",
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.memory.process.size": "1728m",
            "taskmanager.numberOfTaskSlots": str(self._slots),
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": str(self.rest_port),
            "rest.bind-port": str(self.rest_port),
            "io.tmp.dirs": str(self.folder / "tmp"),
            "python.executable": python,
            "python.client.executable": python,
            "classloader.parent-first-patterns.additional": "pemja.",
        }
        if self._metrics_port is not None:
            settings |= flink_metrics.settings(self._metrics_port)
        if self.zookeeper is not None:
            settings |= {
                "high-availability.type": "zookeeper",
                "high-availability.zookeeper.quorum": self.zookeeper.servers,
                "high-availability.storageDir": (self.folder / "ha").as_uri(),
                "high-availability.cluster-id": "/local",
            }
        settings |= self._settings
        # JSON strings are YAML strings; dotted keys are as good as nested ones.
        lines = [f"{key}: {json.dumps(str(value))}" for key, value in sorted(settings.items())]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _launch(self, role: str, name: str, *options: str) -> ProcessId:
        return process.start(
            [
                *self._places(name).prefix,
                _flink_home() / "bin" / f"{role}.sh",
                *("start-foreground", *options, *self._reporter(name)),
            ],
            # what does not come from a logger, such as the last words of a JVM
            log=self.log_folder / f"{name}.out",
            # its name is in that of its log: two that start at once must not share one
            environment=self.environment() | {"FLINK_IDENT_STRING": name},
            tied=self._tied,
        )

    def _reporter(self, name: str) -> list[str]:
        """The options of one process: each has a port of its own."""
        if self._metrics_port is None:
            return []
        first = self._metrics_port
        # one that takes the place of another has its port: Prometheus goes on reading it
        wanted = next(n for n in itertools.count(first) if n not in self.metrics_ports.values())
        port = process.free_port(first and wanted)
        self.metrics_ports[name] = port
        return ["-D", f"{flink_metrics.PORT}={port}"]

    def _launch_job_manager(self) -> str:
        name = self._new_name("jobmanager")
        self._rest_ports[name] = process.free_port() if self._job_managers else self.rest_port
        address, port = self._places(name).address, self._rest_ports[name]
        own = {
            "jobmanager.rpc.address": address,
            "jobmanager.bind-host": address,
            "rest.address": address,
            "rest.bind-address": address,
            "rest.port": port,
            "rest.bind-port": port,
        }
        self._job_managers[name] = self._launch("jobmanager", name, *_dynamic(own))
        return name

    def _launch_task_manager(self) -> str:
        name = self._new_name("taskmanager")
        address = self._places(name).address
        own = {
            "taskmanager.resource-id": name,
            "taskmanager.host": address,
            "taskmanager.bind-host": address,
        }
        self._task_managers[name] = self._launch("taskmanager", name, *_dynamic(own))
        return name

    def _new_name(self, role: str) -> str:
        """One that no process of this cluster ever had: logs and Flink's ids stay apart."""
        return f"{role}-{len(list(self.log_folder.glob(f'{role}-*.out')))}"

    def _logs(self, name: str) -> list[Path]:
        """What a process has logged: rolling files, the newest first."""
        return sorted(self.log_folder.glob(f"flink-{name}-*.log*"))

    def _new_zookeeper(self) -> ZooKeeper:
        jars = sorted((_flink_home() / "lib").glob("*.jar"))
        return ZooKeeper(self.folder / "zookeeper", jars, place=self._places("zookeeper"))

    def _rest_urls(self) -> list[str]:
        """Of the job managers that run, the leader's first."""
        leader = self.leader() if len(self._job_managers) > 1 else None
        names = sorted(self._job_managers, key=lambda name: name != leader)
        return [f"http://{self._places(n).address}:{self._rest_ports[n]}" for n in names] or [
            f"http://127.0.0.1:{self.rest_port}"
        ]

    def _write_note(self) -> None:
        if self._tied:
            return
        note = {
            "job_manager_count": self.job_manager_count,
            "task_manager_count": self.task_manager_count,
            "metrics_port": self._metrics_port,
            "metrics_ports": self.metrics_ports,
            "rest_ports": self._rest_ports,
            "job_managers": {name: asdict(one) for name, one in self._job_managers.items()},
            "zookeeper": None if self.zookeeper is None else self.zookeeper.note(),
            "task_managers": {name: asdict(one) for name, one in self._task_managers.items()},
        }
        self._note.write_text(json.dumps(note), encoding="utf-8")

    def _savepoint(self, job_id: str, path: str, body: object, deadline_s: float) -> str:
        trigger = self._request("POST", path, body)["request-id"]

        def done() -> Any:
            answer = self.get(f"/jobs/{job_id}/savepoints/{trigger}")
            return answer["operation"] if answer["status"]["id"] == "COMPLETED" else None

        operation = wait_until(done, deadline_s, f"a savepoint of job {job_id}")
        if "location" not in operation:
            trace = operation["failure-cause"]["stack-trace"].splitlines()
            causes = [line for line in trace if line.startswith("Caused by: ")]
            raise ClusterError(f"no savepoint: {[*trace[:1], *causes][-1]}")
        return str(operation["location"])

    def _request(self, method: str, path: str, body: object | None) -> Any:
        *others, last = self._rest_urls()
        for url in others:
            # a job manager that is dead, or does not know yet who leads, is passed over
            with contextlib.suppress(OSError, _NoLeaderError):
                return self._ask(url, method, path, body)
        return self._ask(last, method, path, body)

    def _ask(self, url: str, method: str, path: str, body: object | None) -> Any:
        request = urllib.request.Request(
            url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        # Loopback: a proxy of the environment has nothing to do with it.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=self.request_deadline_s) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            answer = error.read().decode(errors="replace")
            if error.code == _NO_LEADER:
                raise _NoLeaderError(f"{method} {path}: {error.code} {answer}") from error
            raise ClusterError(f"{method} {path}: {error.code} {answer}") from error


def _flink_home() -> Path:
    try:
        return flink_home()
    except FileNotFoundError as error:
        raise ClusterError(str(error)) from None


def _uri(folder: Path | str) -> str:
    """As Flink reads it: not percent-encoded."""
    text = str(folder)
    uri = "://" in text or text.startswith("file:/")
    return text if uri else f"file://{Path(text).resolve()}"


def _dynamic(options: Mapping[str, object]) -> list[str]:
    return [word for key, value in options.items() for word in ("-D", f"{key}={value}")]


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# --- the command line ---------------------------------------------------------------------

NOT_RUNNING = 3


def _attached() -> FlinkCluster:
    cluster = FlinkCluster.attach()
    if cluster is None or not cluster.is_running():
        raise _NotRunningError("not running; start it with `make cluster-up`")
    return cluster


class _NotRunningError(ClusterError):
    """There is no cluster to ask."""


def _job(cluster: FlinkCluster, asked: str | None, *, running: bool = True) -> str:
    """The id of the job that is meant: by the beginning of its id or its name; the only one else.

    Raises:
        ClusterError: if there is none, or there are several.
    """
    ended = ("FINISHED", "FAILED", "CANCELED")
    jobs = [job for job in cluster.jobs() if not running or job["state"] not in ended]
    found = [
        str(job["jid"])
        for job in jobs
        if asked is None or job["jid"].startswith(asked) or job["name"] == asked
    ]
    if len(found) == 1:
        return found[0]
    what = "job" if asked is None else f"job {asked!r}"
    if not found:
        raise ClusterError(f"no {'running ' if running else ''}{what}; see `list`")
    raise ClusterError(f"{len(found)} jobs fit; name one by its id: {', '.join(sorted(found))}")


def _up(
    task_managers: int,
    job_managers: int,
    port: int,
    metrics_port: int | None,
    log_format: log4j.Format,
    settings: Mapping[str, str],
) -> int:
    cluster = FlinkCluster.attach()
    if cluster is not None and not cluster.is_running() and cluster.zookeeper is not None:
        print("flink: starting again what has ended; the jobs go on ...", flush=True)
        cluster.revive()
    elif cluster is None or not cluster.is_running():
        if cluster is not None:
            # the job manager died: what it left behind ends, and a new cluster begins
            cluster.stop()
        cluster = FlinkCluster(
            RUN_FOLDER,
            task_managers=task_managers,
            job_managers=job_managers,
            rest_port=port,
            metrics_port=metrics_port,
            log_format=log_format,
            settings=settings,
        )
        print("flink: starting ...", flush=True)
        cluster.start(tied=False)
        if port != cluster.rest_port:
            print(f"flink: port {port} is taken")
    elif settings:
        raise ClusterError("it runs already; --set needs a new one: `make cluster-down` first")
    return _status(cluster)


def _status(cluster: FlinkCluster | None) -> int:
    if cluster is None or not cluster.is_running():
        print("flink: not running")
        return NOT_RUNNING
    overview = cluster.get("/overview")
    print(
        f"flink: up, {cluster.rest_url}, {overview['taskmanagers']} task managers,"
        f" {overview['jobs-running']} jobs running, logs in {cluster.log_folder}"
    )
    for name, port in cluster.metrics_ports.items():
        print(f"flink: metrics of {name}: http://127.0.0.1:{port}/metrics")
    return 0


def _down(cluster: FlinkCluster | None) -> int:
    if cluster is not None:
        cluster.stop()
    print("flink: was not running" if cluster is None else "flink: stopped")
    return 0


def _list(cluster: FlinkCluster) -> int:
    jobs = cluster.jobs()
    if not jobs:
        print("flink: no jobs")
    for job in jobs:
        started = datetime.fromtimestamp(job["start-time"] / 1000, timezone.utc)
        where = cluster.checkpoint(job["jid"]) or "no checkpoint that outlives the cluster"
        print(f"{job['jid']}  {job['state']:<10}  {started:%Y-%m-%d %H:%M:%S}Z  {job['name']}")
        print(f"{'':34}{where}")
    return 0


def _run(
    cluster: FlinkCluster, script: Path, arguments: Sequence[str], settings: Mapping[str, str]
) -> int:
    print(cluster.run(script, arguments, settings=settings).output, end="")
    return 0


def _stop(
    cluster: FlinkCluster, command: str, asked: str | None, folder: str | None, wait: float
) -> int:
    job = _job(cluster, asked)
    folder = folder or _checkpoint_folder(cluster, job) or str(RUN_FOLDER.parent / "savepoints")
    match command:
        case "cancel":
            kept = cluster.checkpoint(job)
            cluster.cancel(job, wait)
            print(f"flink: cancelled {job}; its last checkpoint: {kept or 'none'}")
        case "savepoint":
            print(f"flink: savepoint {cluster.savepoint(job, folder, wait)}")
        case "drain":
            place = cluster.stop_job(job, folder, drain=True, deadline_s=wait)
            print(f"flink: drained {job}: all it held was written, and it cannot go on")
            print(f"flink: savepoint {place}")
        case _:
            place = cluster.stop_job(job, folder, deadline_s=wait)
            print(f"flink: stopped {job}; go on with --restore {place}")
    return 0


def _checkpoint_folder(cluster: FlinkCluster, job: str) -> str | None:
    """Where a job keeps its checkpoints: `--restore latest` looks for savepoints there too."""
    folder, found, _ = (cluster.checkpoint(job) or "").partition(f"/{job}/")
    return folder if found else None


def _counts(cluster: FlinkCluster, asked: str | None) -> int:
    counts = cluster.counts(_job(cluster, asked, running=False))
    for name, value in sorted(counts.items()):
        print(f"{name:<40} {value:>14}")
    return 0


def _settings(texts: Sequence[str]) -> dict[str, str]:
    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z0-9._-]+", key):
            raise ClusterError(f"--set {text}: expected KEY=VALUE, with the name of a Flink option")
        settings[key] = value
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m services.flink_cluster",
        description="A Flink session cluster on loopback, from the apache-flink wheel.",
        epilog=f"Exit codes: 0 done, 1 it did not work, {NOT_RUNNING} the cluster does not run.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def with_settings(command: argparse.ArgumentParser, of: str) -> None:
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help=f"a Flink option of {of}; repeatable",
        )

    up = commands.add_parser("up", help="start it, unless it runs")
    up.add_argument("--task-managers", type=int, default=2, help="default: %(default)s")
    up.add_argument(
        "--job-managers",
        type=int,
        default=1,
        help="several: ZooKeeper runs too, and jobs survive the leader; default: %(default)s",
    )
    up.add_argument("--port", type=int, default=USUAL_PORT, help="REST; default: %(default)s")
    up.add_argument(
        "--metrics-port",
        type=int,
        metavar="PORT",
        help="show metrics to Prometheus, on all interfaces: the job manager on this port, the"
        " task managers on the next ones (docker/prometheus has 9249); default: no metrics",
    )
    up.add_argument("--json-logs", action="store_true", help="a JSON object a line, not text")
    with_settings(up, "the cluster")
    commands.add_parser("status", help="say whether it runs, and where")
    commands.add_parser("down", help="stop it")
    commands.add_parser("list", help="the jobs, with the latest checkpoint of each")
    run = commands.add_parser("run", help="submit a script with flink run -py")
    with_settings(run, "the job")
    run.add_argument("script", type=Path)
    run.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's own")
    for name, says in (
        ("savepoint", "take a savepoint of a job that goes on"),
        ("stop", "stop a job with a savepoint, from which it can go on"),
        ("drain", "write all that a job holds and stop it for good"),
        ("cancel", "cancel a job without a savepoint; checkpoints stay"),
        ("counts", "what a job counted, complete when it has ended"),
    ):
        command = commands.add_parser(name, help=says)
        command.add_argument("job", nargs="?", help="id or its beginning, or name; the only one")
        if name in ("savepoint", "stop", "drain"):
            command.add_argument(
                "--folder", help="of savepoints; default: that of the job's checkpoints"
            )
        if name != "counts":
            command.add_argument(
                "--wait", type=float, default=600, metavar="S", help="default: %(default)g s"
            )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (3: not running, as with services)."""
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "up":
                return _up(
                    options.task_managers,
                    options.job_managers,
                    options.port,
                    options.metrics_port,
                    "json" if options.json_logs else "text",
                    _settings(options.set),
                )
            case "down":
                return _down(FlinkCluster.attach())
            case "status":
                return _status(FlinkCluster.attach())
            case "list":
                return _list(_attached())
            case "run":
                settings = _settings(options.set)
                return _run(_attached(), options.script, options.arguments, settings)
            case "counts":
                return _counts(_attached(), options.job)
            case command:
                folder = getattr(options, "folder", None)
                return _stop(_attached(), command, options.job, folder, options.wait)
    except _NotRunningError as error:
        print(f"flink: {error}", file=sys.stderr)
        return NOT_RUNNING
    except (ClusterError, DeadlineError, JarError, JavaError, OSError, ZooKeeperError) as error:
        print(f"flink: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
