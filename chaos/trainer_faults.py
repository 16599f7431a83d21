"""The faults of the trainer. Each makes itself, tells when the trainer has noticed, and is undone.

The coordinator notes what happens to processes, so a fault that it is meant to notice is one more
event. A fault that is shorter than all time-outs is not noticed.
"""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from chaos.trainer_cluster import COORDINATOR, TrainerCluster, send
from chaos.trainer_plan import Member, Status
from services.waiting import wait_until

_DEADLINE_S = 240
#: How long a cut lasts that ends before anything is given up (s).
_SHORT_S = 2.0
#: Longer than a connection may be silent until it is replaced (s).
_LONG_S = 10.0
#: None: the coordinator.
_Side = list["Member | None"]


@dataclass
class TrainerScene:
    """What a fault may look at and touch.

    `zombies`: processes that the trainer has given up, and that go on.
    """

    cluster: TrainerCluster
    rng: random.Random
    zombies: list[Member] = field(default_factory=list)

    def give_up(self, *members: Member) -> None:
        """The coordinator cannot end them any more."""
        self.cluster.say_unreachable(members)
        self.zombies += members

    def wait_until_it_goes_on(self) -> None:
        """Until a batch is learned after this moment. Raises DeadlineError, RuntimeError."""
        before = self.cluster.now()

        def goes_on() -> bool:
            self.cluster.check()
            now = self.cluster.status()
            more = now is not None and (now.life != before.life or now.batches > before.batches)
            return more or self.cluster.saved() == self.cluster.due

        wait_until(goes_on, _DEADLINE_S, "the trainer to go on", every_s=0.05)


class TrainerFault:
    """Something that goes wrong, once."""

    name: ClassVar[str]
    needs: ClassVar[Literal["network"] | None] = None
    #: whether the coordinator is meant to notice, so that one can wait for that
    shows = True

    def make(self, scene: TrainerScene) -> str:
        """Let it happen; return what was hit."""
        raise NotImplementedError

    def has_shown(self, scene: TrainerScene, before: Status) -> bool:
        """Whether the coordinator has noticed."""
        scene.cluster.check()
        now = scene.cluster.status()
        return now is not None and (
            len(now.events) > len(before.events) or now.generation > before.generation
        )

    def undo(self, scene: TrainerScene) -> None:
        """Give back what was taken."""


class KillCopies(TrainerFault):
    """SIGKILL of servers that have a copy of some shard."""

    def make(self, scene: TrainerScene) -> str:
        shard, primary, backup = _shard(scene)
        victims = self._victims(primary, backup)
        for victim in victims:
            send(victim.pid, signal.SIGKILL)
        return f"shard {shard} on {', '.join(victim.name for victim in victims)}"

    def _victims(self, primary: Member, backup: Member) -> list[Member]:
        raise NotImplementedError


class KillPrimary(KillCopies):
    """The primary: its backup takes over."""

    name = "trainer: kill -9 a primary"

    def _victims(self, primary: Member, _: Member) -> list[Member]:
        return [primary]


class KillBackup(KillCopies):
    """The backup: pushes wait for it."""

    name = "trainer: kill -9 a backup"

    def _victims(self, _: Member, backup: Member) -> list[Member]:
        return [backup]


class KillBoth(KillCopies):
    """Both: the run goes back to its last checkpoint."""

    name = "trainer: kill -9 a primary and its backup"

    def _victims(self, primary: Member, backup: Member) -> list[Member]:
        return [primary, backup]


class KillWorker(TrainerFault):
    """SIGKILL in the middle of its batch: another process does it again."""

    name = "trainer: kill -9 a worker"

    def make(self, scene: TrainerScene) -> str:
        victim = _worker(scene)
        send(victim.pid, signal.SIGKILL)
        return victim.name


class KillCoordinator(TrainerFault):
    """SIGKILL; the same command goes on from the checkpoint, while the old servers still run."""

    name = "trainer: kill -9 the coordinator, and go on"
    shows = False

    def make(self, scene: TrainerScene) -> str:
        scene.give_up(*scene.cluster.now().members)
        scene.cluster.kill_coordinator()
        scene.cluster.start()
        return "the coordinator"


class KillTrainer(TrainerFault):
    """SIGKILL of all its processes; the same command goes on from the checkpoint."""

    name = "trainer: kill -9 everything at once, and go on"
    shows = False

    def make(self, scene: TrainerScene) -> str:
        scene.cluster.kill_everything()
        scene.cluster.start()
        return "all of them"


class StopAndGoOn(TrainerFault):
    """SIGTERM: it saves and ends; the same command goes on."""

    name = "trainer: SIGTERM, and go on"
    shows = False

    def make(self, scene: TrainerScene) -> str:
        code = scene.cluster.stop()
        scene.cluster.start()
        return f"exit code {code}"


class Resize(TrainerFault):
    """Another number of servers, while it runs."""

    name = "trainer: another number of servers"

    def make(self, scene: TrainerScene) -> str:
        present = len(scene.cluster.now().primaries)
        number = scene.rng.choice([n for n in (2, 3, 4) if n != present])
        (scene.cluster.model / "servers").write_text(str(number))
        return f"{present} to {number}"


class PauseServer(TrainerFault):
    """SIGSTOP until the run goes on without it; then a zombie wakes up."""

    name = "trainer: SIGSTOP a server"

    def make(self, scene: TrainerScene) -> str:
        self._zombie = scene.rng.choice(scene.cluster.now().servers)
        scene.give_up(self._zombie)
        send(self._zombie.pid, signal.SIGSTOP)
        return self._zombie.name

    def undo(self, scene: TrainerScene) -> None:
        scene.wait_until_it_goes_on()
        send(self._zombie.pid, signal.SIGCONT)


class Cut(TrainerFault):
    """Some do not hear each other, for less than all time-outs, or until the run goes on.

    `way`: whether only what the first ("there") or the second side sends ("back") is dropped. What
    is None is drawn.
    """

    needs = "network"
    #: Whether the coordinator notices a long one.
    is_noticed: ClassVar[bool] = True

    def __init__(
        self, way: Literal["both", "there", "back"] | None = None, *, long: bool | None = None
    ) -> None:
        self._way, self._long = way, long

    def make(self, scene: TrainerScene) -> str:
        some, others, what = self._chosen(scene)
        way = self._way or scene.rng.choice(("both", "both", "there", "back"))
        long = scene.rng.random() < 0.7 if self._long is None else self._long
        self.shows = long and self.is_noticed
        if self.shows:
            self._give_up(scene, others)
        sides = _places(some), _places(others)
        scene.cluster.cut(*(sides[::-1] if way == "back" else sides), one_way=way != "both")
        what += ", both ways" if way == "both" else ", one way"
        if self.shows:
            return what
        seconds = _LONG_S if long else _SHORT_S
        time.sleep(seconds)
        return f"{what}, for {seconds:g} s"

    def undo(self, scene: TrainerScene) -> None:
        if self.shows:
            scene.wait_until_it_goes_on()
        scene.cluster.heal()

    def _chosen(self, scene: TrainerScene) -> tuple[_Side, _Side, str]:
        """The two sides, and what they are."""
        raise NotImplementedError

    def _give_up(self, scene: TrainerScene, others: _Side) -> None:
        """Those that the coordinator cannot end, if it gives them up."""
        scene.give_up(*(member for member in others if member is not None))


class CutWorker(Cut):
    """A worker and a server; nothing is given up, the batch waits."""

    name = "trainer: partition: a worker and a server"
    is_noticed = False

    def _chosen(self, scene: TrainerScene) -> tuple[_Side, _Side, str]:
        worker, (_, server, _) = _worker(scene), _shard(scene)
        return [worker], [server], f"{worker.name}, {server.name}"


class CutReplicas(Cut):
    """A primary and its backup: the shard goes on without one."""

    name = "trainer: partition: a primary and its backup"

    def _chosen(self, scene: TrainerScene) -> tuple[_Side, _Side, str]:
        shard, primary, backup = _shard(scene)
        return [primary], [backup], f"shard {shard} on {primary.name}, {backup.name}"

    def _give_up(self, scene: TrainerScene, others: _Side) -> None:
        """The coordinator reaches both."""


class CutServer(Cut):
    """A server loses all others; its backups take over."""

    name = "trainer: partition: a server and the rest"

    def _chosen(self, scene: TrainerScene) -> tuple[_Side, _Side, str]:
        status = scene.cluster.now()
        server = scene.rng.choice(status.servers)
        others = [m for m in status.members if m.place != server.place]
        return [None, *others], [server], server.name


class CutCoordinatorAndServer(Cut):
    """The coordinator loses a server, which still reaches all others."""

    name = "trainer: partition: coordinator and a server"

    def _chosen(self, scene: TrainerScene) -> tuple[_Side, _Side, str]:
        server = scene.rng.choice(scene.cluster.now().servers)
        return [None], [server], server.name


class CutCoordinatorAndWorker(Cut):
    """The coordinator loses a worker, which ends itself."""

    name = "trainer: partition: coordinator and a worker"

    def _chosen(self, scene: TrainerScene) -> tuple[_Side, _Side, str]:
        worker = _worker(scene)
        return [None], [worker], worker.name


class CutCoordinator(Cut):
    """The coordinator loses all others: new ones are started elsewhere, the old ones go on."""

    name = "trainer: partition: coordinator and the rest"

    def _chosen(self, scene: TrainerScene) -> tuple[_Side, _Side, str]:
        return [None], list(scene.cluster.now().members), "all of them"


TRAINER_FAULTS: tuple[type[TrainerFault], ...] = (
    KillPrimary,
    KillBackup,
    KillBoth,
    KillWorker,
    KillCoordinator,
    KillTrainer,
    StopAndGoOn,
    Resize,
    PauseServer,
    CutWorker,
    CutReplicas,
    CutServer,
    CutCoordinatorAndServer,
    CutCoordinatorAndWorker,
    CutCoordinator,
)


def _shard(scene: TrainerScene) -> tuple[int, Member, Member]:
    """A shard, and the servers with its primary and its backup."""
    status = scene.cluster.now()
    shard = scene.rng.choice(sorted(status.primaries))
    backup = status.backups[shard]
    assert backup is not None
    return shard, status.server(status.primaries[shard]), status.server(backup)


def _worker(scene: TrainerScene) -> Member:
    return scene.rng.choice(scene.cluster.now().workers)


def _places(members: _Side) -> list[str]:
    return [COORDINATOR if member is None else member.place for member in members]
