"""What a shard server does with each message. No sockets in here.

`receive` and `acknowledge` return what is to be sent: an answer to the sender of the message, or a
push that is forwarded to the backup. A push is answered only when the backup has it too, so
whatever a worker was told is done is on two servers.

A connection that breaks may lose forwarded pushes and the replies to them. The backup refuses what
comes after a gap, and the primary forwards all that is not acknowledged again, in its order, when a
worker that waits asks again. So the backup takes the same pushes in the same order.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from trainer.server import wire
from trainer.server.commands import COMMANDS
from trainer.server.replicas import Parked, Replica, Replicas


@dataclass
class Answer:
    """To be sent to `origin`, the sender of the message that it answers."""

    origin: Any
    frames: wire.Frames


@dataclass
class Forward:
    """A push to be sent to the backup on `server`, which acknowledges it with the number `id`."""

    server: int
    id: int
    frames: wire.Frames


class Host:
    """The server with the number `server`. `later`: see `Replicas`."""

    def __init__(self, server: int, later: Callable[[Callable[[], None]], None]) -> None:
        self.replicas = Replicas(server, later)
        self._numbers = itertools.count(1)

    def receive(self, origin: Any, frames: Sequence[Any]) -> list[Answer | Forward]:
        """What to send for a message from `origin`. An error is an answer, and never raised."""
        request = wire.unpack_request(frames)
        try:
            if isinstance(request, wire.PullRequest):
                return [self._pull(origin, request, frames)]
            if isinstance(request, wire.PushRequest):
                return self._push(origin, request, frames)
            return self._command(origin, request, frames)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            traceback.print_exc()
            reply = wire.Reply(request.id, request.shard, self.replicas.epoch, text)
            return [Answer(origin, wire.pack(reply))]

    def acknowledge(self, reply: wire.Reply) -> list[Answer | Forward]:
        """What to send when a backup has replied to a push that was forwarded to it."""
        replica = self.replicas.held.get(reply.shard)
        if reply.error is not None or replica is None:
            # The backup lacks an earlier push, or refuses all of this primary, because the
            # coordinator has named another one. Until this is resolved the worker gets no answer.
            return []
        return self._release(replica, reply.id)

    def _release(self, replica: Replica, forwarded: int) -> list[Answer | Forward]:
        parked = replica.parked.pop(forwarded, None)
        return [] if parked is None else [Answer(parked.origin, parked.answer)]

    def _refuses(self, request: wire.PullRequest | wire.PushRequest) -> bool:
        replica = self.replicas.held.get(request.shard)
        if replica is None:
            return True
        if isinstance(request, wire.PushRequest) and request.forwarded is not None:
            # Forwarded pushes are taken in any epoch: a backup needs all that its primary took, in
            # the same order. Two cases are refused. The replica here is the primary now, and the
            # sender does not know that yet. Or the push was sent before a roll-back, and the
            # replica here was created after it.
            return replica.primary or replica.lineage != request.forwarded
        return request.epoch != self.replicas.epoch or not replica.primary

    def _pull(self, origin: Any, request: wire.PullRequest, frames: Sequence[Any]) -> Answer:
        if self._refuses(request):
            return self._other_epoch(origin, request)
        self.replicas.pulls += 1
        keys, samples = wire.read_pull(frames, samples=request.worker is not None)
        replica = self.replicas.held[request.shard]
        pulled = replica.shard.pull(request.step, keys, dense=request.dense, states=request.states)
        if request.worker is not None and samples is not None:
            pulled.divisors = replica.sharing.pulled(request.worker, keys, samples)
        reply = wire.Reply(request.id, request.shard, self.replicas.epoch)
        return Answer(origin, wire.pack(reply, wire.pulled_frames(pulled)))

    def _push(
        self, origin: Any, request: wire.PushRequest, frames: Sequence[Any]
    ) -> list[Answer | Forward]:
        if self._refuses(request):
            return [self._other_epoch(origin, request)]
        replicas = self.replicas
        assert replicas.spec is not None
        replica = replicas.held[request.shard]
        shard, before = replica.shard, replica.shard.taken
        is_new = not shard.has_taken(request.worker, request.sequence)
        if is_new and request.forwarded is not None and request.after != before:
            reply = wire.Reply(request.id, request.shard, replicas.epoch, wire.GAP)
            return [Answer(origin, wire.pack(reply))]
        push = wire.read_push(request, frames, replicas.spec)
        shard.push(push)
        replicas.pushes += 1
        replicas.keys_pushed += sum(len(t.keys) for t in push.tables)
        answer = wire.pack(wire.Reply(request.id, request.shard, replicas.epoch))
        if replica.backup is None:
            return [Answer(origin, answer)]
        if not is_new:
            return self._ask_again(replica, origin, request, answer)
        number = next(self._numbers)
        copied = msgspec.structs.replace(
            request, id=number, forwarded=replica.lineage, after=before
        )
        forwarded = wire.pack(copied, list(frames[1:]))
        replica.parked[number] = Parked(
            *(origin, answer, request.worker, request.sequence, forwarded, replicas.clock())
        )
        return [Forward(replica.backup, number, forwarded)]

    def _ask_again(
        self, replica: Replica, origin: Any, request: wire.PushRequest, answer: wire.Frames
    ) -> list[Answer | Forward]:
        """A push that was taken before has come again: forward all that may be lost, in order."""
        assert replica.backup is not None
        again: list[Answer | Forward] = []
        for number, parked in replica.parked.items():
            again.append(Forward(replica.backup, number, parked.frames))
            if (parked.worker, parked.sequence) == (request.worker, request.sequence):
                parked.origin, parked.answer = origin, answer
                return again
        return [Answer(origin, answer)]  # the backup has it

    def _other_epoch(self, origin: Any, request: wire.PullRequest | wire.PushRequest) -> Answer:
        reply = wire.Reply(request.id, request.shard, self.replicas.epoch, wire.OTHER_EPOCH)
        return Answer(origin, wire.pack(reply))

    def _command(
        self, origin: Any, request: wire.Command, frames: Sequence[Any]
    ) -> list[Answer | Forward]:
        named = wire.unpack_arguments(request.arguments) if request.arguments else {}
        command = COMMANDS[request.name]
        result, more = command(self.replicas, request.shard, list(frames[1:]), **named)
        reply = wire.Reply(
            *(request.id, request.shard, self.replicas.epoch, None),
            wire.pack_arguments(of=result),
        )
        return [*self._released(), Answer(origin, wire.pack(reply, more))]

    def _released(self) -> list[Answer | Forward]:
        """Answers that no longer wait, as their shard has no backup any more.

        For a shard that is not primary here any more the answers are discarded: the new primary may
        lack the push, and the worker sends it again.
        """
        answers: list[Answer | Forward] = []
        for replica in self.replicas.held.values():
            if not replica.primary:
                replica.parked.clear()
            elif replica.backup is None:
                for number in list(replica.parked):
                    answers += self._release(replica, number)
        return answers
