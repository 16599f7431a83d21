"""What runs from `start` to `stop`, and can be used in a `with`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from services.process import ProcessId, tail
from services.waiting import DeadlineError, wait_until

_Service = TypeVar("_Service", bound="Started")


class Started:
    """A service. In a `with` it is started, and stopped at the end."""

    def start(self) -> None:
        """Start it, and return when it answers."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop it; what it has written stays."""
        raise NotImplementedError

    def __enter__(self: _Service) -> _Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def await_answer(
    process: ProcessId,
    answers: Callable[[], bool],
    *,
    name: str,
    within_s: float,
    log: Path,
    stop: Callable[[], None],
    error: type[Exception],
) -> None:
    """Return when a server that was started answers.

    When it ends, or does not answer in time, it is stopped, and `error` is raised: `name`, and the
    end of its log.
    """
    try:
        wait_until(lambda: not process.is_running() or answers(), within_s, f"{name} to answer")
    except DeadlineError as late:
        stop()
        raise error(f"{late}; its log ends:\n{tail(log)}") from late
    if not process.is_running():
        stop()
        raise error(f"{name} ended; its log:\n{tail(log)}")
