"""Stopping a local job by a signal: with a savepoint, so that it can be gone on with."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

#: How long it is tried; a job whose tasks are still starting refuses a savepoint at first.
_DEADLINE_S = 60.0


class Stopped(BaseException):
    """A signal has ended the run. Not an Exception, so that nothing takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Signals:
    """SIGINT (Ctrl-C) and SIGTERM, from `with` on: they raise `Stopped`.

    Inside of `deferred` the first one is only noted in `asked`, and a second one raises.
    Outside of the main thread, where Python has no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._deferred = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While this is open, a first signal is only remembered, in `asked`; a second one stops."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _came(self, number: int, frame: FrameType | None) -> None:
        if not self._deferred or self.asked is not None:
            raise Stopped(number)
        self.asked = number


def savepoint(job: Any, result: Any, folder: str, deadline_s: float = _DEADLINE_S) -> str | None:
    """Stop a job of this process with a savepoint.

    Args:
        job: PyFlink's JobClient.
        result: its `get_job_execution_result()`.
        folder: URI of the folder to put the savepoint in.
        deadline_s: how long a refusal is answered with another attempt.

    Returns the savepoint's URI, or None when the job ended by itself meanwhile. Raises what Flink
    refused the last attempt with.
    """
    end = time.monotonic() + deadline_s
    while True:
        attempt = _stop(job, folder)
        while not attempt.done():
            time.sleep(0.1)
        try:
            return str(attempt.result())
        except Exception:
            if result.done():
                return None
            if time.monotonic() > end:
                raise
        time.sleep(0.5)


def _stop(job: Any, folder: str) -> Any:
    """Ask for it. `JobClient.stop_with_savepoint` of PyFlink 2.3 calls a method that Java does not
    have any more: the one there is wants the format too.
    """
    from pyflink.common.completable_future import CompletableFuture
    from pyflink.java_gateway import get_gateway

    formats = get_gateway().jvm.org.apache.flink.core.execution.SavepointFormatType
    return CompletableFuture(
        job._j_job_client.stopWithSavepoint(False, folder, formats.CANONICAL), str
    )
