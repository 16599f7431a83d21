"""From an exception of Flink's to one line that says what to do."""

from __future__ import annotations

import re

_KNOWN: tuple[tuple[str, str], ...] = (
    (
        r"UnknownTopicOrPartition|TopicAuthorization",
        "a Kafka topic is not there, or may not be read: {found}",
    ),
    (
        r"TimeoutException: Timed out waiting for a node assignment|DisconnectException",
        "a Kafka broker stopped answering; check that it is up: {found}",
    ),
    (
        r"StateVersionError: (.*)",
        "the savepoint is of a newer release: {found}",
    ),
    (
        r"No space left on device",
        "the disk is full",
    ),
    (
        r"Cannot map checkpoint/savepoint state",
        "the savepoint is of another job graph; start without it, or with the release that made it",
    ),
    (
        r"OutOfMemoryError",
        "out of memory: give the task managers more, or set runtime.state_backend = 'rocksdb'",
    ),
)
_CAUSE = re.compile(r"Caused by: ([^\n]+)")


def explain(error: BaseException) -> str:
    """One line; the trace is for the log."""
    text = str(error)
    for pattern, line in _KNOWN:
        match = re.search(pattern, text)
        if match:
            return line.format(found=match[0])
    causes = _CAUSE.findall(text)
    deepest = causes[-1] if causes else text.strip().splitlines()[0] if text.strip() else ""
    return f"the job failed: {deepest or type(error).__name__}"
