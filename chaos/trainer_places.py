"""The processes of a trainer in places of the harness, in place of Ray.

Ray cannot put each process into a network namespace of its own. `Places` starts them there, and
takes for ended what has ended, or what a file of the harness says. So the harness stands for what
Ray believes of nodes that it cannot reach.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.trainer_plan import ENDED, STATUS, UNREACHABLE, Member, Plan, Status
from trainer.run import coordinator
from trainer.run.cluster import Process, WorkerMain

_STATUS_EVERY_S = 0.03
_folder, _life, _plan = Path(), "", Plan()


def take_over(folder: Path, life: str, plan: Plan) -> None:
    """The coordinators of this process have their servers and workers in the places of the plan."""
    global _folder, _life, _plan
    _folder, _life, _plan = folder, life, plan
    vars(coordinator).update(Cluster=Places, Coordinator=_Watched)


class Places:
    """In place of `trainer.run.cluster.Cluster`: a process in each place of the plan, in turn."""

    def __init__(
        self, address: str | None, processes: int, worker_main: WorkerMain | None = None
    ) -> None:
        """As `Cluster`; the arguments are of no use here."""
        self._folder, self._life, self._plan = _folder, _life, _plan
        self._workers = 0
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def interface(self) -> str:
        """See `Cluster`."""
        return self._plan.coordinator

    @property
    def shared(self) -> str:
        """See `Cluster`."""
        return str(self._folder / f"shared-{self._life}")

    def start_server(self, number: int) -> Process:
        """See `Cluster`."""
        place = number % len(self._plan.servers)
        address, *prefix = self._plan.servers[place]
        said = self._folder / f"address-{self._life}-{number}"
        member = self._start("server", number, f"s{place}", prefix, address, str(said))
        return Process(number, member, None, said)

    def is_up(self, process: Process) -> bool:
        """See `Cluster`."""
        member: _Started = process.actor
        if not process.about.exists():
            return False
        process.pid, process.address = member.process.pid, process.about.read_text()
        process.lasting = member
        return True

    def start_worker(self, number: int, job: bytes, control: str) -> Process:
        """See `Cluster`. A worker that replaces another one is in another place."""
        path = self._folder / f"job-{self._life}"
        path.write_bytes(job)
        place = self._workers % len(self._plan.workers)
        self._workers += 1
        prefix = self._plan.workers[place][1:]
        member = self._start("worker", number, f"w{place}", prefix, control, str(path))
        return Process(number, member, member)

    def ended(self, processes: Iterable[Process]) -> list[Process]:
        """See `Cluster`."""
        said = _names(self._folder / ENDED)
        return [
            process
            for process in processes
            if process.lasting is not None
            and (process.actor.process.poll() is not None or process.actor.name in said)
        ]

    def kill(self, process: Process) -> None:
        """See `Cluster`. One that cannot be reached goes on."""
        member: _Started = process.actor
        if member.name not in _names(self._folder / UNREACHABLE):
            member.process.kill()
            member.process.wait()

    def stop(self) -> None:
        """See `Cluster`."""

    def _start(
        self, role: str, number: int, place: str, prefix: Sequence[str], *arguments: str
    ) -> _Started:
        name = f"{role}-{number}-{len(self._started)}.{self._life}"
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *(*prefix, sys.executable, "-m", "chaos.trainer_process", role),
                    *(str(self._folder), str(number), *arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return _Started(name, place, process)


@dataclass(frozen=True)
class _Started:
    name: str
    place: str
    process: subprocess.Popen[bytes]


def _names(file: Path) -> set[str]:
    return set(file.read_text().split()) if file.exists() else set()


class _Watched(coordinator.Coordinator):
    """Writes down what an operator would see of it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._learned = 0
        threading.Thread(target=self._say_status, daemon=True).start()

    def run(
        self, next_task: Callable[[], Any], done: Callable[[Any], None], pause: Callable[[], bool]
    ) -> None:
        """See `Coordinator.run`."""

        def counted(outcome: Any) -> None:
            self._learned += 1
            done(outcome)

        super().run(next_task, counted, pause)

    def _say_status(self) -> None:
        while True:
            path = _folder / STATUS
            hidden = path.with_suffix(f".{_life}")
            hidden.write_text(json.dumps(self._status_now().as_json()))
            hidden.replace(path)
            time.sleep(_STATUS_EVERY_S)

    def _status_now(self) -> Status:
        placement = self.placement
        # copies, because the coordinator goes on meanwhile
        members = [
            Member(p.actor.name, role, p.number, p.actor.place, p.actor.process.pid)
            for role, processes in (
                ("server", dict(self.servers.running)),
                ("worker", dict(self.workers.processes)),
            )
            for p in processes.values()
        ]
        return Status(
            life=_life,
            batches=self._learned,
            events=tuple(self._events),
            generation=self._generation,
            primaries=dict(placement.primaries),
            backups=dict(placement.backups),
            members=tuple(members),
        )
