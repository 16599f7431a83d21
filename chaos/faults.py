"""The faults. Each makes itself, tells when the cluster has noticed, and is undone.

A fault that the cluster cannot miss is noticed by the job: a new failure, a failed checkpoint, or
another leader. What it needs of the machine is in `needs`.
"""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass
from typing import ClassVar, Literal

from chaos.cluster import CHECKPOINT_TIMEOUT, HEARTBEAT_TIMEOUT, Cluster, Status
from chaos.disks import Disk
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


class LeaderLost(Fault):
    """The leading job manager is not there any more: another one has to lead."""

    def has_shown(self, scene: Scene, before: Before) -> bool:
        return scene.cluster.flink.leader() not in (None, before.leader)


class BrokerLost(Fault):
    """The broker that leads a partition is not there any more: another one has to lead it."""

    def has_shown(self, scene: Scene, before: Before) -> bool:
        asked = self._asked(scene)
        return scene.cluster.kafka.leader(self._topic, 0, asking=asked) not in (None, self._broker)

    def _choose(self, scene: Scene) -> int:
        self._topic = scene.rng.choice(scene.topics)
        self._broker = _partition_leader(scene, self._topic)
        return self._broker

    def _asked(self, scene: Scene) -> list[int]:
        return list(scene.cluster.kafka.nodes)


class KillTaskManager(Fault):
    """SIGKILL; another one is started."""

    name = "kill -9 a task manager"

    def make(self, scene: Scene) -> str:
        victim = _busy_task_manager(scene)
        scene.cluster.flink.kill_task_manager(victim)
        return victim

    def undo(self, scene: Scene) -> None:
        scene.cluster.flink.revive()


class KillJobManager(LeaderLost):
    """SIGKILL of the one that leads; another one is started, and stands by."""

    name = "kill -9 the leading job manager"

    def make(self, scene: Scene) -> str:
        victim = _leader(scene)
        scene.cluster.flink.kill_job_manager(victim)
        return victim

    def undo(self, scene: Scene) -> None:
        scene.cluster.flink.revive()


class KillBroker(BrokerLost):
    """SIGKILL of the broker that leads a partition; it comes back when another one leads."""

    name = "kill -9 the broker that leads a partition"

    def make(self, scene: Scene) -> str:
        scene.cluster.kafka.kill(self._choose(scene))
        return f"broker-{self._broker}"

    def undo(self, scene: Scene) -> None:
        scene.cluster.kafka.start_node(self._broker)
        scene.cluster.kafka.wait_until_whole()


class KillEverything(Fault):
    """SIGKILL of all brokers, ZooKeeper, job managers and task managers at once."""

    name = "kill -9 everything at once"

    def make(self, scene: Scene) -> str:
        kafka, flink = scene.cluster.kafka, scene.cluster.flink
        for node in kafka.nodes:
            kafka.kill(node)
        assert flink.zookeeper is not None
        flink.zookeeper.kill()
        for name in flink.task_managers:
            flink.kill_task_manager(name)
        flink.kill_job_manager()
        return "all of them"

    def has_shown(self, scene: Scene, before: Before) -> bool:
        return scene.cluster.status() is None

    def undo(self, scene: Scene) -> None:
        kafka = scene.cluster.kafka
        for node in kafka.nodes:
            kafka.start_node(node)
        kafka.wait_until_whole()
        scene.cluster.flink.revive()


class KillZooKeeper(Fault):
    """SIGKILL of ZooKeeper, for longer than a session; the leader cannot be sure that it leads."""

    name = "kill -9 ZooKeeper"

    def make(self, scene: Scene) -> str:
        assert scene.cluster.flink.zookeeper is not None
        scene.cluster.flink.zookeeper.kill()
        return "zookeeper"

    def has_shown(self, scene: Scene, before: Before) -> bool:
        # whoever led gives that up, and then nobody answers for the job
        return scene.cluster.status() is None

    def undo(self, scene: Scene) -> None:
        scene.cluster.flink.revive()


class PauseTaskManager(Fault):
    """SIGSTOP for longer than the heartbeat; it comes back when its work is done by another."""

    name = "SIGSTOP a task manager beyond the heartbeat"

    def make(self, scene: Scene) -> str:
        self._zombie = _busy_task_manager(scene)
        _signal(scene, self._zombie, signal.SIGSTOP)
        return self._zombie

    def undo(self, scene: Scene) -> None:
        flink = scene.cluster.flink
        try:
            flink.launch_task_manager()
            wait_until(lambda: _runs(scene), _DEADLINE_S, "the job to run without the zombie")
        finally:
            _signal(scene, self._zombie, signal.SIGCONT)
        # it wakes, finds that it was given up, and registers again; then one is too many
        flink.wait_for_task_managers()
        flink.stop_task_manager(self._zombie)


class PauseJobManager(LeaderLost):
    """SIGSTOP of the leader until another one leads; then there are two that think they do."""

    name = "SIGSTOP the leading job manager"

    def make(self, scene: Scene) -> str:
        self._zombie = _leader(scene)
        _signal(scene, self._zombie, signal.SIGSTOP)
        return self._zombie

    def undo(self, scene: Scene) -> None:
        try:
            wait_until(lambda: _runs(scene), _DEADLINE_S, "the job to run under the new leader")
        finally:
            _signal(scene, self._zombie, signal.SIGCONT)
        scene.cluster.flink.revive()


class PauseBroker(BrokerLost):
    """SIGSTOP of the broker that leads a partition until another one does."""

    name = "SIGSTOP the broker that leads a partition"

    def make(self, scene: Scene) -> str:
        os.kill(scene.cluster.kafka.process(self._choose(scene)).pid, signal.SIGSTOP)
        return f"broker-{self._broker}"

    def undo(self, scene: Scene) -> None:
        os.kill(scene.cluster.kafka.process(self._broker).pid, signal.SIGCONT)
        scene.cluster.kafka.wait_until_whole()


class SlowCheckpoint(Fault):
    """SIGSTOP of all task managers, longer than a checkpoint may take, shorter than a heartbeat."""

    name = "a checkpoint times out"

    def make(self, scene: Scene) -> str:
        self._expired = _expired_checkpoints(scene)
        return f"more than {CHECKPOINT_TIMEOUT} s"

    def has_shown(self, scene: Scene, before: Before) -> bool:
        names = scene.cluster.flink.task_managers
        for name in names:
            _signal(scene, name, signal.SIGSTOP)
        try:
            time.sleep((CHECKPOINT_TIMEOUT + HEARTBEAT_TIMEOUT) / 2)
        finally:
            for name in names:
                _signal(scene, name, signal.SIGCONT)
        # if none expired, the pause began between two checkpoints: once more, a while later
        time.sleep(2)
        return _expired_checkpoints(scene) > self._expired


class FullDisk(Fault):
    """Not a byte is free on a disk."""

    needs = "disks"
    what: ClassVar[str]

    def make(self, scene: Scene) -> str:
        self._disk(scene).fill()
        return self.what

    def undo(self, scene: Scene) -> None:
        self._disk(scene).free()

    def _disk(self, scene: Scene) -> Disk:
        raise NotImplementedError


class FullCheckpointDisk(FullDisk):
    """Not a byte is free under the checkpoints."""

    name = "the disk of the checkpoints is full"
    what = "checkpoints"

    def _disk(self, scene: Scene) -> Disk:
        assert scene.cluster.checkpoint_disk is not None
        return scene.cluster.checkpoint_disk


class FullOutputDisk(FullDisk):
    """Not a byte is free under the output."""

    name = "the disk of the output is full"
    what = "output"

    def _disk(self, scene: Scene) -> Disk:
        assert scene.cluster.output_disk is not None
        return scene.cluster.output_disk


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


class CutJobManager(Cut):
    """The leader loses the task managers, or ZooKeeper too; Kafka stays."""

    name = "partition: the leading job manager and the rest"

    def make(self, scene: Scene) -> str:
        victim, flink = _leader(scene), scene.cluster.flink
        others = [*flink.task_managers, *(n for n in flink.job_managers if n != victim)]
        zookeeper = scene.rng.random() < 0.7
        self._cut(scene, [victim], [*others, *["zookeeper"] * zookeeper], one_way=False)
        return f"{victim}{'' if zookeeper else ', not ZooKeeper'}"


class CutBroker(BrokerLost, Cut):
    """The broker that leads a partition loses the other brokers; the job reaches all of them."""

    name = "partition: a broker and the other brokers"

    def make(self, scene: Scene) -> str:
        victim = f"broker-{self._choose(scene)}"
        others = [name for name in _brokers(scene) if name != victim]
        self._cut(scene, [victim], others, one_way=False)
        return victim

    def _asked(self, scene: Scene) -> list[int]:
        # the one that is cut off goes on to believe that it leads
        return [node for node in scene.cluster.kafka.nodes if node != self._broker]

    def undo(self, scene: Scene) -> None:
        super().undo(scene)
        scene.cluster.kafka.wait_until_whole()


class CutKafka(Cut):
    """All task managers lose all brokers for some seconds."""

    name = "partition: the task managers and Kafka"
    shows = False

    def make(self, scene: Scene) -> str:
        self._cut(scene, list(scene.cluster.flink.task_managers), _brokers(scene), one_way=False)
        seconds = scene.rng.randrange(4, 12)
        time.sleep(seconds)
        return f"for {seconds} s"


class Rescale(Fault):
    """Stop with a savepoint, and go on from it at another parallelism."""

    name = "stop with a savepoint, another parallelism"
    shows = False

    def make(self, scene: Scene) -> str:
        savepoint = scene.job.stop()
        scene.job.submit(parallelism=3 - scene.job.parallelism, savepoint=savepoint)
        return f"to {scene.job.parallelism}"


class CancelAndRestore(Fault):
    """Cancel without a savepoint; go on from the latest checkpoint at another parallelism."""

    name = "cancel, restore latest, another parallelism"
    shows = False

    def make(self, scene: Scene) -> str:
        scene.job.cancel()
        scene.job.submit(parallelism=3 - scene.job.parallelism, restore_latest=True)
        return f"to {scene.job.parallelism}"


class RollingRestart(Fault):
    """Every process stops in good order and is replaced, one after the other."""

    name = "a rolling restart"
    shows = False

    def make(self, scene: Scene) -> str:
        flink, kafka = scene.cluster.flink, scene.cluster.kafka
        for node in kafka.nodes:
            kafka.stop_node(node)
            kafka.start_node(node)
            kafka.wait_until_whole()
        for name in flink.job_managers:
            flink.stop_job_manager(name)
            flink.revive()
        for name in flink.task_managers:
            flink.stop_task_manager(name)
            flink.revive()
        return "all but ZooKeeper"


FAULTS: tuple[type[Fault], ...] = (
    KillTaskManager,
    KillJobManager,
    KillBroker,
    KillEverything,
    KillZooKeeper,
    PauseTaskManager,
    PauseJobManager,
    PauseBroker,
    SlowCheckpoint,
    FullCheckpointDisk,
    FullOutputDisk,
    CutTaskManager,
    CutJobManager,
    CutBroker,
    CutKafka,
    Rescale,
    CancelAndRestore,
    RollingRestart,
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


def _signal(scene: Scene, name: str, number: signal.Signals) -> None:
    os.kill(scene.cluster.flink.process_of(name).pid, number)


def _runs(scene: Scene) -> bool:
    status = scene.cluster.status()
    return status is not None and status.runs


def _expired_checkpoints(scene: Scene) -> int:
    """How many timed out, of those that Flink still lists."""
    job = scene.cluster.job
    listed = wait_until(
        lambda: scene.cluster.ask(f"/jobs/{job}/checkpoints"), _DEADLINE_S, "the checkpoints"
    )
    failures = [one.get("failure_message") or "" for one in listed["history"]]
    return sum("expired" in failure for failure in failures)
