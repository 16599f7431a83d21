"""Waiting for a condition with a deadline, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class DeadlineError(TimeoutError):
    """The condition did not come true in time; the message says which."""


def wait_until(
    condition: Callable[[], T | None],
    deadline_s: float,
    what: str,
    *,
    every_s: float = 0.1,
) -> T:
    """Call ``condition`` until it returns something true, and return that.

    The condition is tried at least once, and once more when the deadline is over, so
    that a slow machine does not fail on something that has happened meanwhile.

    Raises:
        DeadlineError: after ``deadline_s`` seconds. Errors of the condition pass through.
    """
    end = time.monotonic() + deadline_s
    while True:
        late = time.monotonic() >= end
        result = condition()
        if result:
            return result
        if late:
            raise DeadlineError(f"waited {deadline_s:g} s in vain for {what}")
        time.sleep(every_s)
