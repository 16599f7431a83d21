"""The processes of a run, placed and supervised by Ray: an actor a server, an actor a worker."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

import ray

from trainer.server.process import RayServer, ZmqServer

#: Ray replaces 127.0.0.1 by an address that others can reach. (Apart from Linux it does not, and
#: there is no 127.0.0.2.)
_LOOPBACK = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"


@ray.remote(num_cpus=1, max_restarts=0)
class _ServerActor:
    """`serve` lasts as long as the process; with ZeroMQ it is what does the work."""

    def __init__(self, server: int, transport: str, loopback: bool) -> None:
        interface = "127.0.0.1" if loopback else ray.util.get_node_ip_address()
        self._server: ZmqServer | RayServer
        if transport == "zmq":
            self._server = ZmqServer(server, interface)
        else:
            self._server = RayServer(server)

    def about(self) -> tuple[int, str]:
        """The process id, and where messages go to (ZeroMQ)."""
        return os.getpid(), getattr(self._server, "address", "")

    def serve(self) -> None:
        self._server.serve()

    def connect(self, addresses: dict[int, str]) -> None:
        self._server.connect(addresses)

    def call(self, frames: list[bytes]) -> list[bytes]:
        assert isinstance(self._server, RayServer)
        return self._server.call(frames)


@ray.remote(num_cpus=1, max_restarts=0)
class _WorkerActor:
    def work(self, job: bytes, number: int, control: str, transport: str) -> None:
        # here: servers do without JAX, which takes seconds to import
        from trainer.run.worker import worker_main

        worker_main(job, number, control, transport)


@dataclass
class Process:
    """A server or worker. `lasting`: the call that ends when the process does; `about`: what tells

    that a server has started.
    """

    number: int
    actor: Any
    lasting: Any
    name: str
    about: Any = None
    pid: int = 0
    address: str = ""


class Cluster:
    """`address`: of a Ray cluster; None: one is started on loopback, and stopped again."""

    def __init__(self, address: str | None, transport: str, processes: int) -> None:
        self.transport = transport
        self._local = address is None
        self._namespace = f"trainer-{uuid4().hex[:8]}"
        self._started = not ray.is_initialized()
        if self._started:
            _quietly_start(address, processes)

    @property
    def interface(self) -> str:
        """Where the coordinator listens."""
        return "127.0.0.1" if self._local else str(ray.util.get_node_ip_address())

    def start_server(self, number: int) -> Process:
        """A server that is starting; `is_up` says when it has."""
        name = f"{self._namespace}-server-{number}"
        actor = (
            cast(Any, _ServerActor)
            .options(
                name=name, namespace="trainer", max_concurrency=64, scheduling_strategy="SPREAD"
            )
            .remote(number, self.transport, self._local)
        )
        return Process(number, actor, None, name, actor.about.remote())

    def is_up(self, process: Process) -> bool:
        """Whether a server that is starting can be told things; its address is known then."""
        ready, _ = ray.wait([process.about], timeout=0.02)
        if not ready:
            return False
        process.pid, process.address = ray.get(process.about)
        if self.transport == "ray":
            process.address = process.name
        process.lasting = process.actor.serve.remote()
        return True

    def introduce(self, server: Process, addresses: dict[int, str]) -> None:
        """Tells a server where the others are, by a call that has ended when this returns."""
        ray.get(server.actor.connect.remote(addresses))

    def start_worker(self, number: int, job: bytes, control: str) -> Process:
        actor = cast(Any, _WorkerActor).options(scheduling_strategy="SPREAD").remote()
        lasting = actor.work.remote(job, number, control, self.transport)
        return Process(number, actor, lasting, f"worker {number}")

    def ended(self, processes: Iterable[Process]) -> list[Process]:
        """Those that have ended, however they did."""
        lasting = {p.lasting: p for p in processes if p.lasting is not None}
        if not lasting:
            return []
        done, _ = ray.wait(list(lasting), num_returns=len(lasting), timeout=0, fetch_local=False)
        return [lasting[ref] for ref in done]

    def kill(self, process: Process) -> None:
        """At once."""
        ray.kill(process.actor)

    def stop(self) -> None:
        if self._started:
            ray.shutdown()


def _quietly_start(address: str | None, processes: int) -> None:
    import logging

    # what its own log has is for its folder; here a person reads
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {
            "address": "local",
            "num_cpus": processes,
            "include_dashboard": False,
            "_node_ip_address": _LOOPBACK,
            "object_store_memory": 200 << 20,
        }
    else:
        options |= {"address": address}
    ray.init(namespace="trainer", **options)
