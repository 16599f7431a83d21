"""The parameters as a worker uses them: pull by key, push gradients.

`LocalParameters` has them in this process. `trainer.server.client.RemoteParameters` has them on
shard servers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from trainer.server.shard import Pulled, Push, Shard, TablePush
from trainer.table.optimizers import Floats
from trainer.table.table import Counts, Keys

#: Work to be done while servers prepare their answer.
Meanwhile = Callable[[], None]


def nothing() -> None:
    """The `Meanwhile` of a caller that has no other work."""


class Parameters(Protocol):
    """What a worker needs of the parameters. K is the number of keys of one table.

    `meanwhile` is called once, after the request is sent and before its answer is waited for.
    """

    def pull(
        self,
        step: int,
        keys: Sequence[Keys],
        *,
        states: bool = False,
        samples: Sequence[Counts] | None = None,
        meanwhile: Meanwhile = nothing,
    ) -> Pulled:
        """Values of the keys of each table, in their order, and the dense vector.

        `keys`: for each table distinct keys, uint64 (K,). `step`: the global batch (BSP).
        `states`: the states of the optimizers instead of the values. `samples`: for each table in
        how many samples of this worker each key is, uint32 (K,), if others change the same states
        meanwhile; what is pushed is divided then (`trainer.server.sharing`). Raises
        `client.ServerError` where a server refuses.
        """

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
        """Sends the gradients of the keys that were pulled last; returns when they are taken.

        `sequence`: counts this worker's pushes from 0. `now`: the newest sample, in seconds of
        event time. `gradients`: for each table float32 (K, width). `counts`: for each table that
        counts keys before admission uint32 (K,), the samples with each key; else None. `dense`: the
        gradient of the dense vector. `changes`: `gradients` are changes of the states that were
        pulled, float32 (K, floats). Raises `client.ServerError` where a server refuses.
        """


class LocalParameters:
    """One shard in this process, for one worker."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self._keys: Sequence[Keys] = []

    def pull(
        self,
        step: int,
        keys: Sequence[Keys],
        *,
        states: bool = False,
        samples: Sequence[Counts] | None = None,
        meanwhile: Meanwhile = nothing,
    ) -> Pulled:
        """See `Parameters.pull`. There are no other workers."""
        self._keys = keys
        meanwhile()
        return self.shard.pull(step, keys, dense=True, states=states)

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
        """See `Parameters.push`."""
        tables = [TablePush(k, g, c) for k, g, c in zip(self._keys, gradients, counts, strict=True)]
        self.shard.push(Push(0, sequence, step, now, tables, dense, changes))
        meanwhile()
