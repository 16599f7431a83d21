"""Parameters on shard servers, as a worker uses them.

A request that is not answered is sent again when the routing changes: a backup has become primary,
or rows have moved. It is also sent again after `AGAIN_S` seconds of silence, because a connection
that broke loses what was on its way. That is safe, since pulls change nothing and pushes are
deduplicated.
"""

# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from numba import njit

from trainer.server import ring, wire
from trainer.server.channel import Channel
from trainer.server.parameters import Meanwhile, nothing
from trainer.server.ring import Owners
from trainer.server.routing import Routing
from trainer.server.shard import Pulled, TablePush
from trainer.spec import ModelSpec
from trainer.table.optimizers import Floats
from trainer.table.table import Counts, Keys

_POLL_MS = 100
#: Seconds of silence until a request is sent again: the first time, and at most. (They double.)
AGAIN_S = 10.0
AGAIN_AT_MOST_S = 60.0


class ServerError(Exception):
    """A server refused a request; the text is its error."""


@njit(cache=True, nogil=True)
def _count(owners, keys, shift, sizes):
    for i in range(len(keys)):
        sizes[owners[keys[i] >> shift]] += 1


@njit(cache=True, nogil=True)
def _order(owners, keys, shift, at, order):
    for i in range(len(keys)):
        shard = owners[keys[i] >> shift]
        order[at[shard]] = i
        at[shard] += 1


@dataclass
class _Division:
    """The keys of a table, grouped by shard.

    `order`: positions in the caller's order, int64 (K,); those of shard n are `order[bounds[n]]`.
    `keys`: the keys in that order, uint64 (K,).
    """

    order: npt.NDArray[np.int64]
    bounds: dict[int, slice]
    keys: Keys


def divide(owners: Owners, shards: Sequence[int], keys: Keys) -> _Division:
    """Groups keys, uint64 (K,), by the shard that owns them: a counting sort in two passes.

    `owners`: of `ring.owners`, (ARCS,). `shards`: their numbers, at least one.
    """
    sizes = np.zeros(max(shards) + 1, np.int64)
    _count(owners, keys, np.uint64(64 - ring.ARC_BITS), sizes)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    order = np.empty(len(keys), np.int64)
    _order(owners, keys, np.uint64(64 - ring.ARC_BITS), starts[:-1].copy(), order)
    bounds = {s: slice(int(starts[s]), int(starts[s + 1])) for s in shards}
    return _Division(order, bounds, keys[order])


@dataclass
class _Unanswered:
    """A request, `head` and `frames`, to a shard that has not answered it yet.

    `epoch`: under which it was last sent; -1: it was not sent yet. `refused`: the server was not
    told of that epoch yet. It is sent again at `due`, `wait_s` seconds after it was last sent.
    """

    head: wire.Request
    frames: wire.Frames
    epoch: int = -1
    refused: bool = False
    due: float = 0.0
    wait_s: float = 0.0


class RemoteParameters:
    """`trainer.server.parameters.Parameters` on shard servers.

    `listen` is called while an answer is waited for. It may call `reroute`, or raise to leave.
    `news` is the socket that it reads; waiting ends when that becomes readable. `silent` is called
    with the number of a shard whenever a request to it is sent again after silence. `clock`: in
    seconds.
    """

    def __init__(
        self,
        spec: ModelSpec,
        worker: int,
        channel: Channel,
        listen: Callable[[], None],
        news: Any = None,
        silent: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec, self._worker, self._channel = spec, worker, channel
        self._listen, self._news = listen, news
        self._silent, self._clock = silent, clock
        self._routing = Routing(-1, {}, 1, None)
        self._owners: Owners = np.empty(0, np.int16)
        self._divisions: list[_Division] = []
        #: Of the changes of each key of the last pull, if that asked for them.
        self._divisors: list[Floats] | None = None
        self._next_id = 0

    def reroute(self, routing: Routing) -> None:
        """Takes a newer routing; an older one is ignored. Its servers are connected already."""
        if routing.epoch <= self._routing.epoch:
            return
        if routing.shards != self._routing.shards:
            self._owners = ring.owners(routing.shards, routing.virtual_nodes)
        self._routing = routing

    def pull(
        self,
        step: int,
        keys: Sequence[Keys],
        *,
        states: bool = False,
        samples: Sequence[Counts] | None = None,
        meanwhile: Meanwhile = nothing,
    ) -> Pulled:
        """See `Parameters.pull`. Asks only the shards that own some of the keys."""
        shards = self._routing.shards
        divided = samples is not None
        self._divisions = [divide(self._owners, shards, k) for k in keys]
        messages: dict[int, tuple[wire.Request, wire.Frames]] = {}
        for shard in shards:
            parts = [d.keys[d.bounds[shard]] for d in self._divisions]
            counts = None
            if samples is not None:
                counts = [
                    of[d.order[d.bounds[shard]]]
                    for d, of in zip(self._divisions, samples, strict=True)
                ]
            dense = shard == self._routing.dense
            if dense or any(len(part) for part in parts):
                asking = self._worker if divided else None
                head = wire.PullRequest(0, 0, shard, step, dense, states, asking)
                messages[shard] = head, wire.pull_frames(parts, counts)
        answers = self._exchange(messages, meanwhile)
        values = [
            np.empty((len(k), t.floats if states else t.width), np.float32)
            for k, t in zip(keys, self._spec.tables, strict=True)
        ]
        known = [np.empty(len(k), np.uint8) for k in keys]
        self._divisors = [np.ones(len(k), np.float32) for k in keys] if divided else None
        vector = None
        for shard, frames in answers.items():
            pulled = wire.read_pulled(frames, self._spec, states=states, divisors=divided)
            for t, division in enumerate(self._divisions):
                at = division.order[division.bounds[shard]]
                values[t][at], known[t][at] = pulled.tables[t]
                if self._divisors is not None and pulled.divisors is not None:
                    self._divisors[t][at] = pulled.divisors[t]
            vector = pulled.dense if pulled.dense is not None else vector
        return Pulled(list(zip(values, known, strict=True)), vector)

    def push(
        self,
        sequence: int,
        step: int,
        now: int,
        gradients: Sequence[Floats],
        counts: Sequence[Counts | None],
        dense: Floats | None,
        *,
        changes: bool = False,
        meanwhile: Meanwhile = nothing,
    ) -> None:
        """See `Parameters.push`. Returns when every shard has taken its part."""
        # Empty pushes are sent too, so every shard's deduplication marks agree, and every shard
        # learns of every step.
        if changes and self._divisors is not None:
            divided = zip(gradients, self._divisors, strict=True)
            gradients = [of / by[:, None] for of, by in divided]
        messages: dict[int, tuple[wire.Request, wire.Frames]] = {}
        counted = tuple(c is not None for c in counts)
        for shard in self._routing.shards:
            tables = []
            for d, g, c in zip(self._divisions, gradients, counts, strict=True):
                at = d.order[d.bounds[shard]]
                tables.append(
                    TablePush(d.keys[d.bounds[shard]], g[at], None if c is None else c[at])
                )
            vector = dense if shard == self._routing.dense else None
            marks = (self._worker, sequence, step, now)
            head = wire.PushRequest(
                0, 0, shard, *marks, counted, vector is not None, changes=changes
            )
            messages[shard] = head, wire.push_frames(tables, vector)
        self._exchange(messages, meanwhile)

    def _exchange(
        self, messages: dict[int, tuple[wire.Request, wire.Frames]], meanwhile: Meanwhile
    ) -> dict[int, wire.Frames]:
        """Sends each shard its message, again where needed; returns when all have answered."""
        answers: dict[int, wire.Frames] = {}
        unanswered = {shard: _Unanswered(*message) for shard, message in messages.items()}
        shards: dict[int, int] = {}  # by id
        self._send_due(unanswered, shards)
        meanwhile()
        while unanswered:
            self._send_due(unanswered, shards)
            for reply_frames in self._channel.receive(_POLL_MS, self._news):
                reply = wire.unpack_reply(reply_frames)
                shard = shards.pop(reply.id, -1)
                if shard not in unanswered:
                    continue  # the answer to a message that was sent again since
                if reply.error == wire.OTHER_EPOCH:
                    if unanswered[shard].epoch == self._routing.epoch > reply.epoch:
                        # the server was not told of this epoch yet: ask it again
                        unanswered[shard].refused = True
                elif reply.error is not None:
                    raise ServerError(f"shard {shard}: {reply.error}")
                else:
                    answers[shard] = list(reply_frames)
                    del unanswered[shard]
            self._listen()
        return answers

    def _send_due(self, unanswered: dict[int, _Unanswered], shards: dict[int, int]) -> None:
        """Sends what was not sent yet, or must be sent again. `shards`: gets them by id."""
        for shard, request in unanswered.items():
            if self._is_due(request):
                self._next_id += 1
                shards[self._next_id] = shard
                self._send(shard, request)

    def _is_due(self, request: _Unanswered) -> bool:
        rerouted = request.epoch != self._routing.epoch
        return rerouted or request.refused or self._clock() >= request.due

    def _send(self, shard: int, request: _Unanswered) -> None:
        if request.epoch != self._routing.epoch:
            request.wait_s = AGAIN_S
        elif not request.refused:
            request.wait_s = min(2 * request.wait_s, AGAIN_AT_MOST_S)
            self._silent(shard)
        request.epoch, request.refused = self._routing.epoch, False
        request.due = self._clock() + request.wait_s
        head = msgspec.structs.replace(request.head, id=self._next_id, epoch=request.epoch)
        self._channel.send(self._routing.primaries[shard], wire.pack(head, request.frames))
