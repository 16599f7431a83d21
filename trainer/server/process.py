"""A server's process: a host behind a ROUTER socket, or behind calls of its actor."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import zmq

from trainer.server import wire
from trainer.server.channel import RayChannel, ZmqChannel, received, send, unbounded
from trainer.server.host import Answer, Forward, Host

_POLL_MS = 1_000
_BACKUP_MS = 60_000


def _in_thread(work: Any) -> None:
    threading.Thread(target=work, daemon=True).start()


class ZmqServer:
    """Serves as long as its process lasts. `address`: where it is bound, on any free port."""

    def __init__(self, server: int, interface: str) -> None:
        self.host = Host(server, _in_thread)
        self._context = zmq.Context()
        self._socket = unbounded(self._context, zmq.ROUTER)
        port = self._socket.bind_to_random_port(f"tcp://{interface}")
        self.address = f"tcp://{interface}:{port}"
        self._backups = ZmqChannel(self._context)

    def connect(self, addresses: dict[int, Any]) -> None:
        for server, address in addresses.items():
            if server != self.host.server:
                self._backups.connect(server, address)

    def serve(self) -> None:
        """Answers messages. One whose first frame is `peers` tells where other servers are."""
        while True:
            for frames in self._backups.receive(_POLL_MS, self._socket):
                self._do(self.host.acknowledge(wire.unpack_reply(frames)))
            for origin, *frames in received(self._socket):
                if bytes(frames[0]) == b"peers":
                    self.connect(wire.told(frames[1]))
                else:
                    self._do(self.host.receive(bytes(origin), frames))

    def _do(self, actions: Sequence[Answer | Forward]) -> None:
        for action in actions:
            if isinstance(action, Answer):
                send(self._socket, [action.origin, *action.frames])
            else:
                self._backups.send(action.server, action.frames)


class RayServer:
    """Answers calls, in as many threads as there are callers; one at a time for each shard."""

    def __init__(self, server: int) -> None:
        self.host = Host(server, _in_thread)
        self._names: dict[int, Any] = {}
        self._locks: dict[int, threading.Lock] = defaultdict(threading.Lock)
        self._all = threading.Lock()

    def connect(self, addresses: dict[int, Any]) -> None:
        """The backups are found by their names."""
        self._names = dict(addresses)

    def serve(self) -> None:
        """Lasts as long as the process does."""
        threading.Event().wait()

    def call(self, frames: Sequence[bytes]) -> list[bytes]:
        """One message, to its answer; a push has been to the backup by then."""
        shard = wire.unpack_request(frames).shard
        with self._all:
            lock = self._locks[shard]
        # A lock a shard, so that its backup gets pushes in their order; not one for all, as two
        # servers that are each other's backup would wait for each other.
        with lock:
            with self._all:
                actions = self.host.receive(None, [memoryview(frame) for frame in frames])
            answers: list[Any] = [a for a in actions if isinstance(a, Answer)]
            for forward in (a for a in actions if isinstance(a, Forward)):
                backup = RayChannel()
                backup.connect(forward.server, self._names[forward.server])
                backup.send(forward.server, forward.frames)
                for reply in backup.receive(_BACKUP_MS):
                    with self._all:
                        answers += self.host.acknowledge(wire.unpack_reply(reply))
        if not answers:
            raise ConnectionError("the backup of this shard is gone")
        return [bytes(frame) for frame in answers[-1].frames]
