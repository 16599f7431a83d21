"""The faults. Each makes itself, tells when the cluster has noticed, and is undone.

A fault that the cluster cannot miss is noticed by the job: a new failure, a failed checkpoint, or
another leader. What it needs of the machine is in `needs`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar, Literal

from chaos.cluster import Cluster, Status
from chaos.job import JoinJob
from services.waiting import wait_until

Need = Literal["network", "disks"]

#: How long a fault may take to show, and the job to run again while it lasts (s).
_DEADLINE_S = 120


@dataclass(frozen=True)
class Scene:
    """What a fault may look at and touch."""

    cluster: Cluster
    job: JoinJob
    rng: random.Random

    @property
    def topics(self) -> tuple[str, str]:
        """Those of features and actions."""
        return self.job.topics


@dataclass(frozen=True)
class Before:
    """How things were when the fault was made."""

    at: int
    leader: str | None
    status: Status


class Fault:
    """Something that goes wrong, once."""

    name: ClassVar[str]
    needs: ClassVar[Need | None] = None
    #: whether the job is meant to fail over, so that one can wait for that
    shows: ClassVar[bool] = True

    def make(self, scene: Scene) -> str:
        """Let it happen; return what was hit."""
        raise NotImplementedError

    def has_shown(self, scene: Scene, before: Before) -> bool:
        """Whether the cluster has noticed."""
        if scene.cluster.flink.leader() != before.leader:
            return True
        now = scene.cluster.status()
        # no answer is no sign: a machine that is busy is slow to answer
        return now is not None and (
            not now.runs
            or now.failed_at > before.at
            or now.failed_checkpoints > before.status.failed_checkpoints
        )

    def undo(self, scene: Scene) -> None:
        """Give back what was taken."""


class KillTaskManager(Fault):
    """SIGKILL; another one is started."""

    name = "kill -9 a task manager"

    def make(self, scene: Scene) -> str:
        victim = _busy_task_manager(scene)
        scene.cluster.flink.kill_task_manager(victim)
        return victim

    def undo(self, scene: Scene) -> None:
        scene.cluster.flink.revive()


class KillJobManager(Fault):
    """SIGKILL of the one that leads; another one is started, and stands by."""

    name = "kill -9 the leading job manager"

    def make(self, scene: Scene) -> str:
        victim = _leader(scene)
        scene.cluster.flink.kill_job_manager(victim)
        return victim

    def has_shown(self, scene: Scene, before: Before) -> bool:
        return scene.cluster.flink.leader() not in (None, before.leader)

    def undo(self, scene: Scene) -> None:
        scene.cluster.flink.revive()


class KillBroker(Fault):
    """SIGKILL of the broker that leads a partition; it comes back when another one leads."""

    name = "kill -9 the broker that leads a partition"

    def make(self, scene: Scene) -> str:
        self._topic = scene.rng.choice(scene.topics)
        self._broker = _partition_leader(scene, self._topic)
        scene.cluster.kafka.kill(self._broker)
        return f"broker-{self._broker}"

    def has_shown(self, scene: Scene, before: Before) -> bool:
        return scene.cluster.kafka.leader(self._topic, 0) not in (None, self._broker)

    def undo(self, scene: Scene) -> None:
        scene.cluster.kafka.start_node(self._broker)
        scene.cluster.kafka.wait_until_whole()


class FullCheckpointDisk(Fault):
    """Not a byte is free under the checkpoints."""

    name = "the disk of the checkpoints is full"
    needs = "disks"

    def make(self, scene: Scene) -> str:
        assert scene.cluster.checkpoint_disk is not None
        scene.cluster.checkpoint_disk.fill()
        return "checkpoints"

    def undo(self, scene: Scene) -> None:
        assert scene.cluster.checkpoint_disk is not None
        scene.cluster.checkpoint_disk.free()


class Cut(Fault):
    """Some of the processes do not hear each other, though everybody else hears both."""

    needs = "network"

    def undo(self, scene: Scene) -> None:
        assert scene.cluster.network is not None
        scene.cluster.network.heal()
        scene.cluster.flink.revive()

    def _cut(self, scene: Scene, some: list[str], others: list[str], *, one_way: bool) -> None:
        assert scene.cluster.network is not None
        places = [[scene.cluster.namespace(name) for name in names] for names in (some, others)]
        scene.cluster.network.cut(*places, one_way=one_way)


class CutTaskManager(Cut):
    """A task manager loses all others, in one direction or both."""

    name = "partition: a task manager and the rest"

    def make(self, scene: Scene) -> str:
        flink = scene.cluster.flink
        victim = _busy_task_manager(scene)
        one_way = scene.rng.random() < 0.3
        others = [name for name in (*flink.task_managers, *flink.job_managers) if name != victim]
        others += [*_brokers(scene), "zookeeper"]
        self._cut(scene, [victim], others, one_way=one_way)
        return f"{victim}{', one way' if one_way else ''}"


FAULTS: tuple[type[Fault], ...] = (
    KillTaskManager,
    KillJobManager,
    KillBroker,
    FullCheckpointDisk,
    CutTaskManager,
)
#: What a short run makes, in this order.
SHORT: tuple[type[Fault], ...] = (
    KillTaskManager,
    KillJobManager,
    KillBroker,
    FullCheckpointDisk,
    CutTaskManager,
)


def _leader(scene: Scene) -> str:
    return wait_until(scene.cluster.flink.leader, _DEADLINE_S, "a job manager that leads")


def _busy_task_manager(scene: Scene) -> str:
    """One that runs a part of the job: it would not be missed otherwise."""
    busy = wait_until(scene.cluster.busy_task_managers, _DEADLINE_S, "the job to run somewhere")
    return scene.rng.choice(busy)


def _partition_leader(scene: Scene, topic: str) -> int:
    # never 0, so that it may be told from "none"
    return wait_until(
        lambda: scene.cluster.kafka.leader(topic, 0), _DEADLINE_S, f"a leader of {topic}"
    )


def _brokers(scene: Scene) -> list[str]:
    return [f"broker-{node}" for node in scene.cluster.kafka.nodes]
