"""What the faults are made on: three brokers, ZooKeeper, two job managers and two task managers."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.disks import Disk
from chaos.network import Network
from services.flink_cluster import ClusterError, FlinkCluster
from services.kafka_cluster import KafkaCluster
from services.place import LOOPBACK, Place

#: For how long nothing is heard of a process until it is given up (s).
HEARTBEAT_TIMEOUT = 10
#: Less, so that all that heartbeats can be paused for longer than a checkpoint may take (s).
CHECKPOINT_TIMEOUT = 6

#: As docs/operations.md recommends it, with shorter times: a fault costs some seconds.
SETTINGS: Mapping[str, str] = {
    "heartbeat.interval": "1 s",
    "heartbeat.timeout": f"{HEARTBEAT_TIMEOUT} s",
    "high-availability.zookeeper.client.session-timeout": "4 s",
    "high-availability.zookeeper.client.connection-timeout": "3 s",
    "restart-strategy.type": "exponential-delay",
    "restart-strategy.exponential-delay.initial-backoff": "500 ms",
    "restart-strategy.exponential-delay.max-backoff": "3 s",
    "restart-strategy.exponential-delay.reset-backoff-threshold": "20 s",
    "execution.checkpointing.timeout": f"{CHECKPOINT_TIMEOUT} s",
    "jobmanager.memory.process.size": "800m",
    "taskmanager.memory.process.size": "1100m",
}
_MEGABYTES = 256


@dataclass(frozen=True)
class Status:
    """What the leading job manager says of the job at one moment; times are ms of the clock."""

    state: str
    tasks: tuple[str, ...]
    failed_checkpoints: int
    #: when the latest complete checkpoint was begun; 0 if there is none
    checkpoint_begun: int
    #: when the latest failure was; 0 if there was none
    failed_at: int

    @property
    def runs(self) -> bool:
        """Whether the job and all its tasks run."""
        return self.state == "RUNNING" and set(self.tasks) == {"RUNNING"}


class Cluster:
    """All processes and disks of one harness."""

    def __init__(self, folder: Path, *, network: bool = True) -> None:
        """Describe them; nothing is started.

        Args:
            folder: for everything that they write.
            network: whether to have network namespaces, if the machine lets us.
        """
        self.folder = folder
        self.network: Network | None = None
        #: why there are no network namespaces, or no small disks
        self.lacks: dict[str, str] = {}
        self.output_disk: Disk | None = None
        self.checkpoint_disk: Disk | None = None
        if network:
            try:
                self.network = Network()
            except OSError as error:
                self.lacks["network"] = str(error)
        else:
            self.lacks["network"] = "not asked for"
        try:
            self.output_disk = Disk(folder / "out", _MEGABYTES)
            self.checkpoint_disk = Disk(folder / "checkpoints", _MEGABYTES)
        except OSError as error:
            self.lacks["disks"] = str(error)
        self.kafka = KafkaCluster(
            folder / "kafka", places=[self.place(f"broker-{node}") for node in (1, 2, 3)]
        )
        self.flink = FlinkCluster(
            folder / "flink",
            task_managers=2,
            job_managers=2,
            settings=SETTINGS,
            places=self.place,
        )
        self.flink.request_deadline_s = 3
        #: the job under load
        self.job = ""

    def place(self, name: str) -> Place:
        """Where a process runs. A new one takes the namespace of one that it replaces."""
        if self.network is None:
            return LOOPBACK
        return self.network.place(self.namespace(name))

    @staticmethod
    def namespace(name: str) -> str:
        """`taskmanager-7` is in `tm1`: a process and the one after the next share a place."""
        role, _, number = name.partition("-")
        turns = {"taskmanager": ("tm", 4), "jobmanager": ("jm", 4)}
        if role not in turns:
            return name.replace("broker-", "kafka")
        short, places = turns[role]
        return f"{short}{int(number) % places}"

    def start(self) -> None:
        """Start everything."""
        self.kafka.start()
        self.flink.start()

    def stop(self) -> None:
        """Stop everything."""
        if self.network is not None:
            self.network.heal()
        self.flink.stop()
        self.kafka.stop()

    def close(self) -> None:
        """Stop everything, and take namespaces and disks away."""
        self.stop()
        for disk in (self.output_disk, self.checkpoint_disk):
            if disk is not None:
                disk.close()
        if self.network is not None:
            self.network.close()

    def ask(self, path: str) -> Any:
        """What the REST API answers; None while no job manager can tell."""
        with contextlib.suppress(OSError, ClusterError, ValueError):
            return self.flink.get(path)
        return None

    def busy_task_managers(self) -> list[str]:
        """Those that run a part of the job; none while no job manager can tell."""
        names: set[str] = set()
        with contextlib.suppress(OSError, ClusterError, KeyError):
            for vertex in self.flink.get(f"/jobs/{self.job}")["vertices"]:
                found = self.flink.get(f"/jobs/{self.job}/vertices/{vertex['id']}")
                names |= {subtask["taskmanager-id"] for subtask in found["subtasks"]}
        return sorted(names & set(self.flink.task_managers))

    def status(self) -> Status | None:
        """The job's; None while no job manager can tell."""
        with contextlib.suppress(OSError, ClusterError, KeyError, ValueError):
            job = self.flink.get(f"/jobs/{self.job}")
            checkpoints = self.flink.get(f"/jobs/{self.job}/checkpoints")
            failures = self.flink.get(f"/jobs/{self.job}/exceptions?maxExceptions=1")
            latest = checkpoints["latest"]["completed"] or {}
            history = failures["exceptionHistory"]["entries"]
            return Status(
                state=job["state"],
                tasks=tuple(vertex["status"] for vertex in job["vertices"]),
                failed_checkpoints=checkpoints["counts"]["failed"],
                checkpoint_begun=latest.get("trigger_timestamp", 0),
                failed_at=history[0]["timestamp"] if history else 0,
            )
        return None
