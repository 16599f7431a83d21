"""The protocol of what runs the batches and keeps the parameters, and its errors.

`trainer.run.local` runs them in this process, `trainer.run.coordinator` on many. This module
imports neither, so that training in one process imports no Ray and no ZeroMQ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from configuration.stores import Folder
from trainer.evaluation.tally import Tally
from trainer.run.instruments import Instruments
from trainer.run.job import Job, Outcome, Task
from trainer.server.shard import ShardSnapshot
from trainer.server.shard_file import File
from trainer.serving.format import PartInfo

_T = TypeVar("_T")
#: Asks for what is being written: all of it, or None while it is not complete. Raises
#: ServerGoneError and RunError.
Written = Callable[[], Sequence[_T] | None]


class RunError(Exception):
    """Training cannot continue; the message says why."""


class LostShardError(Exception):
    """The only replica of a shard is lost, so the run must go back to its last checkpoint."""


class ServerGoneError(Exception):
    """A shard server ended while a command waited for it. Backups replace its shards."""


class Runner(Protocol):
    """All methods but `run` are called between batches, when nothing is in flight.

    Any of them may raise RunError, and, with servers, LostShardError and ServerGoneError.
    """

    job: Job
    #: Told of processes that end, and of what is up.
    instruments: Instruments

    @property
    def wants_pause(self) -> bool:
        """Whether there is work between batches, so that `run` should return."""

    def start(self, shards: Sequence[ShardSnapshot]) -> None:
        """Set all parameters: to those of `shards` (any number of them), or to new ones if it is
        empty.
        """

    def run(
        self,
        next_task: Callable[[], Task | None],
        done: Callable[[Outcome], None],
        pause: Callable[[], bool],
    ) -> None:
        """Does tasks until `next_task` gives None or `pause` gives True.

        `done` is called after each batch. Nothing is in flight when this returns.
        """

    def take_tally(self) -> Tally:
        """The metrics of the batches since the last call."""

    def expire(self, now: int) -> int:
        """Drops rows that are too old at `now` (event time, seconds); returns how many."""

    def checkpoint(self, folder: Folder) -> Written[File]:
        """Writes all parameters as they are now to `folder`, while training goes on."""

    def export(
        self, folder: Folder, number: int, *, everything: bool
    ) -> tuple[Written[PartInfo], Any]:
        """Writes what changed since the last export (or everything) while training goes on.

        Returns the dense vector too, float32 (D,), or None.
        """

    def stats(self) -> Mapping[str, Any]:
        """`rows` and `bytes` of all tables, and more."""

    def facts(self) -> list[tuple[str, str]]:
        """Facts about the finished run that a person should know: names and values."""

    def resize(self, servers: int) -> float:
        """Changes the number of servers; returns the share of the rows that moved.

        Raises ValueError, and changes nothing, where that number is not possible.
        """

    def stop(self) -> None:
        """End all processes that this has started."""
