"""The process of a shard server: a `Host` behind a ZeroMQ ROUTER socket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from trainer.server import wire
from trainer.server.channel import ZmqChannel, received, send, unbounded
from trainer.server.host import Answer, Forward, Host

_POLL_MS = 1_000


def _in_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


class ServerProcess:
    """Serves as long as its process lasts. `address`: where it is bound, on any free port."""

    def __init__(self, server: int, interface: str) -> None:
        self.host = Host(server, _in_thread)
        self._server = server
        self._context = zmq.Context()
        self._socket = unbounded(self._context, zmq.ROUTER)
        port = self._socket.bind_to_random_port(f"tcp://{interface}")
        self.address = f"tcp://{interface}:{port}"
        self._backups = ZmqChannel(self._context)

    def _connect(self, addresses: dict[int, Any]) -> None:
        for server, address in addresses.items():
            if server != self._server:
                self._backups.connect(server, address)

    def serve(self) -> None:
        """Answers messages. One whose first frame is `peers` has the other servers' addresses."""
        while True:
            for frames in self._backups.receive(_POLL_MS, self._socket):
                self._do(self.host.acknowledge(wire.unpack_reply(frames)))
            for origin, *frames in received(self._socket):
                if bytes(frames[0]) == wire.PEERS:
                    self._connect(wire.unpack_arguments(frames[1]))
                else:
                    self._do(self.host.receive(bytes(origin), frames))

    def _do(self, actions: Sequence[Answer | Forward]) -> None:
        for action in actions:
            if isinstance(action, Answer):
                send(self._socket, [action.origin, *action.frames])
            else:
                self._backups.send(action.server, action.frames)
