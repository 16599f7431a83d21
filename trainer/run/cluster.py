"""The processes of a run, placed and supervised by Ray: an actor for each server and worker."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import ray

from trainer.run.ray_node import LocalRay, connect, started
from trainer.run.runner import RunError
from trainer.run.shared_chunks import PREFIX
from trainer.server.process import ServerProcess

#: The body of a worker's process: the job in msgpack, the worker's number, the coordinator's
#: address. It returns when the worker is told to stop.
WorkerMain = Callable[[bytes, int, str], None]


@ray.remote(num_cpus=1, max_restarts=0)
class _ServerActor:
    """`serve` lasts as long as the process does."""

    def __init__(self, server: int, loopback: bool) -> None:
        interface = "127.0.0.1" if loopback else ray.util.get_node_ip_address()
        self._server = ServerProcess(server, interface)

    def about(self) -> tuple[int, str]:
        """The process id, and the server's address."""
        return os.getpid(), self._server.address

    def serve(self) -> None:
        self._server.serve()


@ray.remote(num_cpus=1, max_restarts=0)
class _WorkerActor:
    def work(self, main: WorkerMain | None, job: bytes, number: int, control: str) -> None:
        if main is None:
            # imported here, because servers do not need JAX, which takes seconds to import
            from trainer.run.worker import worker_main

            main = worker_main
        main(job, number, control)


@dataclass
class Process:
    """A server or worker.

    `lasting`: the call that ends when the process ends. `about`: the call that ends when a server
    has started.
    """

    number: int
    actor: Any
    lasting: Any
    about: Any = None
    pid: int = 0
    address: str = ""


class Cluster:
    """The processes of a run on Ray.

    `address`: of a Ray cluster to join. None: one is started on loopback, and stopped at the end.
    `processes`: how many processes there will be. `worker_main`: the body of workers, which other
    programs may replace; None: that of `trainer.run.worker`. Raises RunError if Ray cannot be
    reached or started.
    """

    def __init__(
        self, address: str | None, processes: int, worker_main: WorkerMain | None = None
    ) -> None:
        self._local = address is None
        self._ray: LocalRay | None = None
        self._worker_main = worker_main
        self._namespace = f"trainer-{uuid4().hex[:8]}"
        self._started = not ray.is_initialized()
        if self._started and address is None:
            self._ray = started(processes)
        elif self._started and address is not None:
            connect(address)

    @property
    def interface(self) -> str:
        """The IP address on which the coordinator listens."""
        return "127.0.0.1" if self._local else str(ray.util.get_node_ip_address())

    @property
    def shared(self) -> str:
        """A folder for the workers on a machine. Relative: to the machine's temporary folder."""
        return (
            f"{PREFIX}{self._namespace}" if self._ray is None else str(self._ray.folder / "shared")
        )

    @property
    def _cpus(self) -> int:
        """The CPUs that a process asks Ray for. On this machine there may be more processes than
        CPUs.
        """
        return 0 if self._local else 1

    def start_server(self, number: int) -> Process:
        """Start a server. `is_up` says when it has started."""
        actor = (
            cast(Any, _ServerActor)
            .options(
                name=f"{self._namespace}-server-{number}",
                namespace="trainer",
                max_concurrency=64,
                scheduling_strategy="SPREAD",
                num_cpus=self._cpus,
            )
            .remote(number, self._local)
        )
        return Process(number, actor, None, actor.about.remote())

    def is_up(self, process: Process) -> bool:
        """Whether a starting server is up. If so, its pid and address are known.

        Raises RunError if it could not start.
        """
        ready, _ = ray.wait([process.about], timeout=0.02)
        if not ready:
            return False
        try:
            process.pid, process.address = ray.get(process.about)
        except ray.exceptions.RayError as error:
            why = str(error).strip().splitlines()[-1].strip()
            raise RunError(f"server {process.number} did not start: {why}") from None
        process.lasting = process.actor.serve.remote()
        return True

    def start_worker(self, number: int, job: bytes, control: str) -> Process:
        """Starts a worker. `job`: in msgpack. `control`: the coordinator's address."""
        actor = (
            cast(Any, _WorkerActor)
            .options(scheduling_strategy="SPREAD", num_cpus=self._cpus)
            .remote()
        )
        lasting = actor.work.remote(self._worker_main, job, number, control)
        return Process(number, actor, lasting)

    def ended(self, processes: Iterable[Process]) -> list[Process]:
        """The processes that have ended, for whatever reason."""
        lasting = {p.lasting: p for p in processes if p.lasting is not None}
        if not lasting:
            return []
        done, _ = ray.wait(list(lasting), num_returns=len(lasting), timeout=0, fetch_local=False)
        return [lasting[ref] for ref in done]

    def kill(self, process: Process) -> None:
        """Ends a process at once."""
        ray.kill(process.actor)

    def stop(self) -> None:
        """Leaves the Ray cluster, and stops it if it was started here."""
        if self._ray is not None:
            self._ray.stop()
            return
        if self._started:
            ray.shutdown()
        # on other machines the workers of the next run remove it
        shutil.rmtree(Path(tempfile.gettempdir()) / self.shared, ignore_errors=True)
