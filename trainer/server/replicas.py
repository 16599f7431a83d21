"""The replicas of shards that one shard server holds, and the state that belongs to all of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from trainer.server.shard import Shard
from trainer.server.sharing import Sharing
from trainer.spec import ModelSpec


@dataclass
class Parked:
    """A push that the backup has not acknowledged yet, and the answer that waits for that.

    `origin` and `answer`: to whom, and the message. `worker`, `sequence`: of the push. `frames`: of
    the message to the backup. `since`: seconds of `Replicas.clock` at which it was forwarded.
    """

    origin: Any
    answer: list[Any]
    worker: int
    sequence: int
    frames: list[Any]
    since: float


@dataclass
class Replica:
    """One replica of a shard.

    `primary`: whether it answers workers. `backup`: the server to which this primary forwards its
    pushes (None: to none). `lineage`: a number that all replicas of one shard share. A roll-back
    gives new replicas a new number, so that late messages from before it are recognised. `parked`:
    by the number of the forwarded message, in the order in which the pushes were taken. `sharing`:
    what it knows of the workers that pull from it.
    """

    shard: Shard
    primary: bool
    backup: int | None = None
    lineage: int = 0
    parked: dict[int, Parked] = field(default_factory=dict)
    sharing: Sharing = field(default_factory=Sharing)


@dataclass
class Replicas:
    """All replicas on the server with the number `server`.

    `later` runs work that takes longer than a command (writing a file), usually in a thread.
    `clock`: in seconds.
    """

    server: int
    later: Callable[[Callable[[], None]], None]
    clock: Callable[[], float] = time.monotonic
    #: The newest routing epoch that this server knows.
    epoch: int = 0
    spec: ModelSpec | None = None
    #: By the number of the shard.
    held: dict[int, Replica] = field(default_factory=dict)
    #: Results of work that `later` has run, by its name: {"of": value} or {"error": text}.
    results: dict[str, Any] = field(default_factory=dict)
    pulls: int = 0
    pushes: int = 0
    keys_pushed: int = 0
    _running: dict[str, int] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def run_later(self, name: str, work: Callable[[], Any]) -> None:
        """Start work that takes longer than a command. `results` has its value or its error later.

        A later call with the same name replaces this one, whichever of the two ends first.
        """
        number = next(self._numbers)
        self._running[name] = number
        self.results.pop(name, None)

        def run() -> None:
            try:
                result = {"of": work()}
            except Exception as error:  # the coordinator asks for it
                result = {"error": f"{type(error).__name__}: {error}"}
            if self._running[name] == number:
                self.results[name] = result

        self.later(run)
