"""The shards of one server, as primaries and as backups: what it does with each message.

No sockets in here. `receive` and `acknowledge` give what is to be sent: an answer to where a
message came from, or a push on its way to the backup. A push is answered when the backup has it, so
what a worker was told is on two servers.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.server import wire
from trainer.server.commands import COMMANDS
from trainer.server.shard import Shard
from trainer.spec import ModelSpec


@dataclass
class Answer:
    """To whoever sent the message."""

    origin: Any
    frames: wire.Frames


@dataclass
class Forward:
    """To the server with the backup, which answers with the id `id`."""

    server: int
    id: int
    frames: wire.Frames


@dataclass
class Copy:
    """A shard here. `primary`: answers workers. `backup`: the server that gets its pushes too.

    `lineage`: copies of one shard have the same; those that a roll-back makes have another.
    """

    shard: Shard
    primary: bool
    backup: int | None = None
    lineage: int = 0


@dataclass
class _Parked:
    origin: Any
    frames: wire.Frames
    shard: int


@dataclass
class Host:
    """`server`: its number. Work that outlasts a command (writing a file) is given to `later`."""

    server: int
    later: Callable[[Callable[[], None]], None]
    epoch: int = 0
    spec: ModelSpec | None = None
    copies: dict[int, Copy] = field(default_factory=dict)
    #: Results of work that was given to `later`, by name.
    results: dict[str, Any] = field(default_factory=dict)
    pulls: int = 0
    pushes: int = 0
    keys_moved: int = 0
    _running: dict[str, int] = field(default_factory=dict)
    _parked: dict[int, _Parked] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def receive(self, origin: Any, frames: Sequence[Any]) -> list[Answer | Forward]:
        """What to send for a message from `origin`."""
        request = wire.unpack_request(frames)
        try:
            if isinstance(request, wire.PullRequest):
                return [self._pull(origin, request, frames)]
            if isinstance(request, wire.PushRequest):
                return [self._push(origin, request, frames)]
            return self._command(origin, request, frames)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            traceback.print_exc()
            reply = wire.Reply(request.id, request.shard, self.epoch, text)
            return [Answer(origin, wire.pack(reply))]

    def acknowledge(self, reply: wire.Reply) -> list[Answer | Forward]:
        """What a backup says of a push that was forwarded to it."""
        if reply.error is not None:
            # it is no backup of this one: the coordinator is about to say who is, and until then
            # nobody is told
            return []
        return self._release(reply.id)

    def _release(self, forwarded: int) -> list[Answer | Forward]:
        parked = self._parked.pop(forwarded, None)
        return [] if parked is None else [Answer(parked.origin, parked.frames)]

    def _refuses(self, request: wire.PullRequest | wire.PushRequest) -> bool:
        copy = self.copies.get(request.shard)
        if copy is None:
            return True
        if isinstance(request, wire.PushRequest) and request.forwarded is not None:
            # Whatever the epoch: a backup gets what its primary got, in that order. But a server
            # that still takes itself for the primary must not reach what was made primary, nor what
            # was on its way before a roll-back what is there now.
            return copy.primary or copy.lineage != request.forwarded
        return request.epoch != self.epoch or not copy.primary

    def _pull(self, origin: Any, request: wire.PullRequest, frames: Sequence[Any]) -> Answer:
        if self._refuses(request):
            return self._other_epoch(origin, request)
        self.pulls += 1
        keys = wire.read_pull(frames)
        copy = self.copies[request.shard]
        pulled = copy.shard.pull(request.step, keys, dense=request.dense)
        reply = wire.Reply(request.id, request.shard, self.epoch)
        return Answer(origin, wire.pack(reply, wire.pulled_frames(pulled)))

    def _push(
        self, origin: Any, request: wire.PushRequest, frames: Sequence[Any]
    ) -> Answer | Forward:
        if self._refuses(request):
            return self._other_epoch(origin, request)
        assert self.spec is not None
        copy = self.copies[request.shard]
        push = wire.read_push(request, frames, self.spec)
        copy.shard.push(push)
        self.pushes += 1
        self.keys_moved += sum(len(t.keys) for t in push.tables)
        answer = wire.pack(wire.Reply(request.id, request.shard, self.epoch))
        if copy.backup is None:
            return Answer(origin, answer)
        # also what was taken before: the backup may not have it, if its answer was lost
        forwarded = next(self._numbers)
        self._parked[forwarded] = _Parked(origin, answer, request.shard)
        copied = wire.PushRequest(
            forwarded,
            request.epoch,
            request.shard,
            request.worker,
            request.sequence,
            request.step,
            request.now,
            request.counts,
            request.dense,
            forwarded=copy.lineage,
        )
        return Forward(copy.backup, forwarded, wire.pack(copied, list(frames[1:])))

    def _other_epoch(self, origin: Any, request: wire.PullRequest | wire.PushRequest) -> Answer:
        reply = wire.Reply(request.id, request.shard, self.epoch, wire.OTHER_EPOCH)
        return Answer(origin, wire.pack(reply))

    def _command(
        self, origin: Any, request: wire.Command, frames: Sequence[Any]
    ) -> list[Answer | Forward]:
        told = wire.told(request.arguments) if request.arguments else {}
        command = COMMANDS[request.name]
        result, more = command(self, request.shard, list(frames[1:]), **told)
        reply = wire.Reply(request.id, request.shard, self.epoch, None, wire.arguments(of=result))
        return [*self._released(), Answer(origin, wire.pack(reply, more))]

    def run_later(self, name: str, work: Callable[[], Any]) -> None:
        """Work that outlasts a command; what it gives, or its error, is in `results` then."""

        number = next(self._numbers)
        self._running[name] = number
        self.results.pop(name, None)

        def run() -> None:
            try:
                result = {"of": work()}
            except Exception as error:  # the coordinator asks for it
                result = {"error": f"{type(error).__name__}: {error}"}
            # work of an earlier command may end after that of a later one
            if self._running[name] == number:
                self.results[name] = result

        self.later(run)

    def _released(self) -> list[Answer | Forward]:
        """Answers that waited for a backup which is no longer one.

        Of a shard that is no longer primary here nothing is answered: whoever is may not have it.
        """
        answers: list[Answer | Forward] = []
        for n, parked in list(self._parked.items()):
            copy = self.copies.get(parked.shard)
            if copy is None or not copy.primary:
                del self._parked[n]
            elif copy.backup is None:
                answers += self._release(n)
        return answers
