"""Workers whose channel goes wrong, in the worker's process (see `faulty_main`).

`folder` is where a test and the workers tell each other things: the processes of the servers, and
what has happened already (so that it happens once).
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import zmq

from trainer.reading.ledger import Entry
from trainer.reading.tables import SampleReader
from trainer.run import shared_chunks
from trainer.run.job import Job
from trainer.run.worker import Worker
from trainer.server import wire
from trainer.server.channel import Channel, Frames

#: The push in the middle of which something ends.
AT = 5


class _Wrapped:
    def __init__(self, channel: Channel, number: int, folder: Path) -> None:
        self._channel, self._number, self._folder = channel, number, folder

    def connect(self, server: int, address: Any) -> None:
        self._channel.connect(server, address)

    def receive(self, timeout_ms: int, also: zmq.Socket[bytes] | None = None) -> list[Frames]:
        return self._channel.receive(timeout_ms, also)

    def close(self) -> None:
        self._channel.close()

    def send(self, server: int, frames: Frames) -> None:
        request = wire.unpack_request(frames)
        if isinstance(request, wire.PushRequest):
            self.push(server, frames, request)
        else:
            self._channel.send(server, frames)

    def push(self, server: int, frames: Frames, request: wire.PushRequest) -> None:
        raise NotImplementedError

    def once(self, what: str) -> bool:
        """True the first time in a test, whichever process asks."""
        try:
            (self._folder / what).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class TwiceAndOutOfOrder(_Wrapped):
    """Every push comes twice, and once more after a later one (there are two servers)."""

    def __init__(self, channel: Channel, number: int, folder: Path) -> None:
        super().__init__(channel, number, folder)
        self._before: deque[tuple[int, Sequence[Any]]] = deque(maxlen=4)

    def push(self, server: int, frames: Frames, request: wire.PushRequest) -> None:
        # of its own: the arrays that it was made of are the worker's
        copied = [bytes(frame) for frame in frames]
        self._channel.send(server, frames)
        self._channel.send(server, copied)
        if len(self._before) == self._before.maxlen and self._before[0][0] == server:
            self._channel.send(*self._before[0])
            self.once("an old push was sent again")
        self._before.append((server, copied))


class WorkerDies(_Wrapped):
    """Worker 1 kills itself when its push has gone to one server and not to the other."""

    def push(self, server: int, frames: Frames, request: wire.PushRequest) -> None:
        dying = self._number == 1 and request.sequence == AT and request.shard == 1
        if dying and self.once("a worker died"):
            # the push to the first shard is to be there: its answer comes first
            self._channel.receive(10_000)
            os.kill(os.getpid(), signal.SIGKILL)
        self._channel.send(server, frames)


class ServerDies(_Wrapped):
    """Worker 0 kills server 0 when its push for it is on its way."""

    def push(self, server: int, frames: Frames, request: wire.PushRequest) -> None:
        self._channel.send(server, frames)
        hit = self._number == 0 and request.sequence == AT and request.shard == 0
        if hit and self.once("a server died"):
            os.kill(int((self._folder / "server-0").read_text()), signal.SIGKILL)


class NotesDecoding(_Wrapped):
    """Nothing goes wrong; each chunk that a worker decodes is a line of `decoded`."""

    def __init__(self, channel: Channel, number: int, folder: Path) -> None:
        super().__init__(channel, number, folder)
        chunk = SampleReader.chunk

        def noting(reader: SampleReader, entry: Entry, index: int) -> Any:
            with (folder / "decoded").open("a") as notes:
                notes.write(f"{entry.path} {index}\n")
            return chunk(reader, entry, index)

        SampleReader.chunk = noting  # type: ignore[method-assign,assignment]
        # compiling its code may take the first worker long
        shared_chunks.WAIT_S = 120.0

    def push(self, server: int, frames: Frames, request: wire.PushRequest) -> None:
        self._channel.send(server, frames)


def faulty_main(fault: str, folder: Path, job: bytes, number: int, control: str) -> None:
    """A `cluster.WorkerMain` once a class of this module and its folder are given."""

    class Faulty(Worker):
        def make_channel(self, context: zmq.Context[Any]) -> Channel:
            made: Channel = globals()[fault](super().make_channel(context), number, folder)
            return made

    Faulty(msgspec.msgpack.decode(job, type=Job), number, control).run()
