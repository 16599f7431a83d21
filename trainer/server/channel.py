"""How messages get to shard servers and back, over ZeroMQ.

A channel does not retry: it sends, and gives what has arrived. `trainer.server.client` decides what
to send again, and where to. ZeroMQ connects again when a connection breaks; what was on its way in
either direction is lost then, and what is sent later arrives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import zmq

#: A message: bytes-like objects, see `trainer.server.wire`.
Frames = Sequence[Any]

#: Seconds between two heartbeats; seconds without an answer until a connection counts as broken.
_HEARTBEAT_S = 5
_BROKEN_AFTER_S = 20
#: Seconds until an attempt to connect is given up, and followed by another.
_CONNECT_S = 5

#: Bytes. Smaller frames are copied, which is cheaper than tracking when ZeroMQ has sent them.
_COPY_BELOW = 65_536


class Channel(Protocol):
    """Sends to servers by their number, and receives their answers. Not for several threads."""

    def connect(self, server: int, address: Any) -> None:
        """Makes `server` known to `send`. A second call for the same server does nothing.

        `address`: as the server gave it (ZeroMQ: `tcp://host:port`).
        """

    def send(self, server: int, frames: Frames) -> None:
        """Queues a message, and does not wait. A server that is gone never gets it.

        Raises KeyError for a server that is not connected.
        """

    def receive(self, timeout_ms: int, also: zmq.Socket[bytes] | None = None) -> list[Frames]:
        """All messages that have arrived, in their order for each server.

        Waits up to `timeout_ms` milliseconds if there are none. Returns early, with an empty list,
        when `also` becomes readable.
        """

    def close(self) -> None:
        """Closes all connections. Messages that were not sent yet are lost."""


def unbounded(context: zmq.Context[Any], kind: int) -> zmq.Socket[bytes]:
    """A socket whose queues have no limit, and which discards what is unsent when it is closed.

    `kind`: a ZeroMQ socket type, such as `zmq.DEALER`.
    """
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    return socket


def check(socket: zmq.Socket[bytes], broken_after_s: float) -> None:
    """Let a socket that is to connect replace a connection that has become silent.

    Otherwise it would notice only when TCP gives up: after a quarter of an hour, or, if it only
    listens, never. What was on its way is lost. The frames of messages must be so small that each
    takes much less than `broken_after_s` seconds.
    """
    socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_S * 1_000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(broken_after_s * 1_000))
    socket.setsockopt(zmq.CONNECT_TIMEOUT, _CONNECT_S * 1_000)


class ZmqChannel:
    """A DEALER socket to the ROUTER of each server. Addresses are ZeroMQ's.

    `checked`: whether broken connections are replaced, see `check`.
    """

    def __init__(self, context: zmq.Context[Any], *, checked: bool = True) -> None:
        self._context, self._checked = context, checked
        self._sockets: dict[int, zmq.Socket[bytes]] = {}
        self._poller = zmq.Poller()

    def connect(self, server: int, address: Any) -> None:
        """See `Channel.connect`."""
        if server in self._sockets:
            return
        socket = unbounded(self._context, zmq.DEALER)
        if self._checked:
            check(socket, _BROKEN_AFTER_S)
        socket.connect(address)
        self._sockets[server] = socket
        self._poller.register(socket, zmq.POLLIN)

    def send(self, server: int, frames: Frames) -> None:
        """See `Channel.send`."""
        send(self._sockets[server], frames)

    def receive(self, timeout_ms: int, also: zmq.Socket[bytes] | None = None) -> list[Frames]:
        """See `Channel.receive`."""
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
        """See `Channel.close`."""
        for socket in self._sockets.values():
            socket.close()
        self._sockets.clear()


def send(socket: zmq.Socket[bytes], frames: Frames) -> None:
    """Sends all frames as one message. Large frames are not copied, so they must not change."""
    for n, frame in enumerate(frames):
        more = zmq.SNDMORE if n + 1 < len(frames) else 0
        socket.send(frame, more, copy=len(frame) < _COPY_BELOW)


def received(socket: zmq.Socket[bytes]) -> list[Frames]:
    """All messages that have arrived, without waiting; the frames are memoryviews."""
    messages: list[Frames] = []
    while True:
        try:
            parts = socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return messages
        messages.append([part.buffer for part in parts])
