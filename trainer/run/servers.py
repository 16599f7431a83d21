"""The processes of the shard servers, and commands to them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq

from trainer.run.cluster import Cluster, Process
from trainer.run.runner import RunError, ServerGoneError
from trainer.server import wire
from trainer.server.channel import ZmqChannel

_POLL_MS = 20
_START_DEADLINE_S = 120.0
ANSWER_DEADLINE_S = 120.0
#: So many servers in a row may end before they are up.
_FAILED_STARTS = 5

_log = logging.getLogger(__name__)


class Servers:
    """`running`: the servers that are up, by number. Numbers are not used twice."""

    def __init__(self, cluster: Cluster, context: zmq.Context[Any]) -> None:
        self.running: dict[int, Process] = {}
        self._cluster = cluster
        # not checked, because a whole shard is one frame; commands have a deadline instead
        self._channel = ZmqChannel(context, checked=False)
        self._silent: list[Process] = []
        self._starting: list[Process] = []
        self._failed_starts = 0
        self._next = 0
        self._ids = 0

    @property
    def count(self) -> int:
        """The number of servers that are up or starting."""
        return len(self.running) + len(self._starting)

    @property
    def addresses(self) -> dict[int, str]:
        """The addresses of the servers that are up."""
        return {number: process.address for number, process in self.running.items()}

    def start(self) -> None:
        """Start one more server. `take_up` says when it is up."""
        self._starting.append(self._cluster.start_server(self._next))
        self._next += 1

    def take_up(self) -> list[int]:
        """Check the starting servers once. Returns those that are up now.

        All servers get the addresses of the others before any other message. Another one is started
        for one that ended before it was up; the fifth such end in a row raises RunError.
        """
        found = []
        for process in list(self._starting):
            try:
                up = self._cluster.is_up(process)
            except RunError as error:
                self._starting.remove(process)
                self._failed_starts += 1
                if self._failed_starts == _FAILED_STARTS:
                    raise
                _log.warning(f"{error}; another one is started")
                self.start()
                continue
            if up:
                self._failed_starts = 0
                self._starting.remove(process)
                self.running[process.number] = process
                self._channel.connect(process.number, process.address)
                found.append(process.number)
        if found:
            peers = [wire.PEERS, msgspec.msgpack.encode(self.addresses)]
            for number in self.running:
                self._channel.send(number, peers)
        return found

    def await_all(self) -> list[int]:
        """Wait until all starting servers are up, and return them.

        After two minutes it gives up those that are not up, and raises RunError; see `take_up` too.
        """
        found: list[int] = []
        end = time.monotonic() + _START_DEADLINE_S
        while self._starting:
            if time.monotonic() > end:
                late = len(self._starting)
                self._give_up()
                raise RunError(
                    f"{late} of the servers did not start within {_START_DEADLINE_S:.0f} s;"
                    " does the Ray cluster have as many free CPUs as there are servers and workers?"
                )
            found += self.take_up()
        return found

    def _give_up(self) -> None:
        for process in self._starting:
            self._cluster.kill(process)
        self._starting.clear()

    def ended(self) -> list[Process]:
        """Servers that have ended or were given up; they are no longer in `running`."""
        found = self._cluster.ended(self.running.values())
        for process in found:
            del self.running[process.number]
        silent, self._silent = self._silent, []
        return found + silent

    def end(self, number: int) -> None:
        """Ends a server that holds no shard."""
        self._cluster.kill(self.running.pop(number))

    def tell(
        self, server: int, shard: int, command: str, frames: Sequence[Any] = (), **arguments: Any
    ) -> tuple[Any, list[Any]]:
        """See `server_commands.Tell`. Gives up a server that does not answer within two minutes."""
        if server not in self.running:
            raise ServerGoneError(f"server {server}")
        self._ids += 1
        head = wire.Command(self._ids, shard, command, wire.pack_arguments(**arguments))
        self._channel.send(server, wire.pack(head, frames))
        end = time.monotonic() + ANSWER_DEADLINE_S
        while time.monotonic() < end:
            for answer in self._channel.receive(_POLL_MS):
                reply = wire.unpack_reply(answer)
                if reply.id != self._ids:
                    continue  # the late answer to a command that was given up
                if reply.error is not None:
                    raise RunError(f"server {server}, command {command!r}: {reply.error}")
                return wire.unpack_arguments(reply.arguments)["of"], list(answer[1:])
            if self._cluster.ended([self.running[server]]):
                raise ServerGoneError(f"server {server}")
        _log.warning(
            f"server {server} did not answer {command!r} within {ANSWER_DEADLINE_S:.0f} s; it is"
            " given up"
        )
        # Where it cannot be reached it may go on. Then it gets nothing acknowledged, because its
        # shards have other primaries in the next epoch.
        process = self.running.pop(server)
        self._silent.append(process)
        self._cluster.kill(process)
        raise ServerGoneError(f"server {server}")

    def stop(self) -> None:
        """Ends all servers."""
        for process in self.running.values():
            self._cluster.kill(process)
        self._give_up()
        self._channel.close()
