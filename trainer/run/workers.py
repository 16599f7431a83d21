"""The processes of the workers, and messages to and from them."""

from __future__ import annotations

from typing import Any

import msgspec
import zmq

from trainer.features.encode import SliceNames
from trainer.run.cluster import Cluster, Process
from trainer.run.job import Job
from trainer.run.messages import (
    Abandon,
    FromWorker,
    Name,
    Named,
    Ready,
    Route,
    Stop,
    ToWorker,
    pack,
    read_from_worker,
)


class Workers:
    """`processes`: by the worker's number. A process that ended is replaced under its number.

    `names`: numbers of the slices' values, which all workers share.
    """

    def __init__(
        self, cluster: Cluster, context: zmq.Context[Any], job: Job, names: SliceNames
    ) -> None:
        self.processes: dict[int, Process] = {}
        self._cluster, self._names = cluster, names
        # one worker alone decodes each file once anyway
        shared = cluster.shared if job.workers > 1 else ""
        self._job = msgspec.msgpack.encode(msgspec.structs.replace(job, shared=shared))
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 500)
        port = self._socket.bind_to_random_port(f"tcp://{cluster.interface}")
        self._address = f"tcp://{cluster.interface}:{port}"
        self._identities: dict[int, bytes] = {}
        self._generation = 0
        self._route: Route | None = None

    def start(self, number: int) -> None:
        """Start a process for the worker. Messages to it are lost until its first message."""
        self._identities.pop(number, None)
        self.processes[number] = self._cluster.start_worker(number, self._job, self._address)

    def abandon(self, generation: int) -> None:
        """A roll-back: workers give up their batches, and forget the routing from before."""
        self._generation, self._route = generation, None
        for number in self._identities:
            self.send(number, Abandon(generation))

    def reroute(self, route: Route) -> None:
        """Send a routing to all workers, and to each that starts later."""
        self._route = route
        for number in self._identities:
            self.send(number, route)

    def send(self, number: int, message: ToWorker) -> None:
        """Send a message, if the worker is there."""
        if number in self._identities:
            self._send_to(self._identities[number], message)

    def _send_to(self, identity: bytes, message: ToWorker) -> None:
        self._socket.send_multipart([identity, pack(message)])

    def receive(self, timeout_ms: int) -> list[FromWorker]:
        """Messages that have arrived; waits up to `timeout_ms` if there are none.

        Requests for the number of a slice's value are answered here, and not returned.
        """
        found: list[FromWorker] = []
        if not self._socket.poll(timeout_ms):
            return found
        while True:
            try:
                identity, data = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return found
            message = read_from_worker(data)
            if isinstance(message, Name):
                self._names.number(message.column, message.text)
                self._send_to(identity, Named(message.column, self._names.names[message.column]))
                continue
            if isinstance(message, Ready) and self._identities.get(message.worker) != identity:
                self._greet(identity, message)
            found.append(message)

    def _greet(self, identity: bytes, message: Ready) -> None:
        """Send a worker that has started what the others know."""
        self._identities[message.worker] = identity
        self.processes[message.worker].pid = message.pid
        if message.generation != self._generation:
            self.send(message.worker, Abandon(self._generation))
        if self._route is not None:
            self.send(message.worker, self._route)

    def ended(self) -> list[int]:
        """The numbers of workers whose processes have ended."""
        return [process.number for process in self._cluster.ended(self.processes.values())]

    def stop(self) -> None:
        """Ends all workers."""
        for number in self._identities:
            self.send(number, Stop())
        for process in self.processes.values():
            self._cluster.kill(process)
        self._socket.close()
