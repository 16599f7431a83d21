"""How messages get to servers and back: one interface, over ZeroMQ or over Ray's calls.

A channel neither waits nor retries: it sends, and gives what has come. `trainer.server.client`
decides what to send again, and where to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import zmq

Frames = Sequence[Any]

#: Below it a frame is copied: that is cheaper than to keep track of the buffer.
_COPY_BELOW = 65_536


class Channel(Protocol):
    """To servers by their number."""

    def connect(self, server: int, address: Any) -> None:
        """From here on `send` may name it. `address` as the server gave it."""

    def send(self, server: int, frames: Frames) -> None:
        """Sends, or keeps to be sent; a server that is gone loses it."""

    def receive(self, timeout_ms: int, also: zmq.Socket[bytes] | None = None) -> list[Frames]:
        """What has come, waiting for so long if nothing has; it returns when `also` is readable."""

    def close(self) -> None:
        """Nothing is sent or received after it."""


def unbounded(context: zmq.Context[Any], kind: int) -> zmq.Socket[bytes]:
    """A socket that keeps what it cannot send yet, and forgets it when it is closed."""
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    return socket


class ZmqChannel:
    """A DEALER socket to the ROUTER of each server. Addresses are ZeroMQ's."""

    def __init__(self, context: zmq.Context[Any]) -> None:
        self._context = context
        self._sockets: dict[int, zmq.Socket[bytes]] = {}
        self._poller = zmq.Poller()

    def connect(self, server: int, address: Any) -> None:
        if server in self._sockets:
            return
        socket = unbounded(self._context, zmq.DEALER)
        socket.connect(address)
        self._sockets[server] = socket
        self._poller.register(socket, zmq.POLLIN)

    def send(self, server: int, frames: Frames) -> None:
        send(self._sockets[server], frames)

    def receive(self, timeout_ms: int, also: zmq.Socket[bytes] | None = None) -> list[Frames]:
        if also is not None:
            self._poller.register(also, zmq.POLLIN)
        try:
            ready = dict(self._poller.poll(timeout_ms))
        finally:
            if also is not None:
                self._poller.unregister(also)
        return [
            frames
            for socket in self._sockets.values()
            if socket in ready
            for frames in received(socket)
        ]

    def close(self) -> None:
        for socket in self._sockets.values():
            socket.close()
        self._sockets.clear()


def send(socket: zmq.Socket[bytes], frames: Frames) -> None:
    """All frames as one message; large ones are not copied."""
    for n, frame in enumerate(frames):
        more = zmq.SNDMORE if n + 1 < len(frames) else 0
        socket.send(frame, more, copy=len(frame) < _COPY_BELOW)


def received(socket: zmq.Socket[bytes]) -> list[Frames]:
    """All messages that have come, without waiting."""
    messages: list[Frames] = []
    while True:
        try:
            parts = socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return messages
        messages.append([part.buffer for part in parts])


class RayChannel:
    """A call of the server's actor for each message. Addresses are names of actors."""

    def __init__(self) -> None:
        import ray

        self._ray = ray
        self._actors: dict[int, Any] = {}
        self._calls: list[Any] = []

    def connect(self, server: int, address: Any) -> None:
        if server not in self._actors:
            self._actors[server] = self._ray.get_actor(address, namespace="trainer")

    def send(self, server: int, frames: Frames) -> None:
        # Ray sends what is small with the call, and puts the rest where the actor can map it
        self._calls.append(self._actors[server].call.remote([bytes(f) for f in frames]))

    def receive(self, timeout_ms: int, also: zmq.Socket[bytes] | None = None) -> list[Frames]:
        if not self._calls:
            if also is not None:
                also.poll(timeout_ms)
            return []
        # Ray cannot wait for a socket as well, so it looks there every few milliseconds
        wait_s = (min(timeout_ms, 5) if also is not None else timeout_ms) / 1e3
        done, self._calls = self._ray.wait(
            self._calls, num_returns=1, timeout=wait_s, fetch_local=True
        )
        messages: list[Frames] = []
        for call in done:
            try:
                got: Frames = [memoryview(frame) for frame in self._ray.get(call)]
            except self._ray.exceptions.RayError:
                continue  # the server is gone; the client hears where to send it instead
            messages.append(got)
        return messages

    def close(self) -> None:
        self._calls.clear()
