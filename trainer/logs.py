"""The trainer's log: lines with a time and a level on stderr, as text or as JSON.

Modules log with `logging.getLogger(__name__)`. Numbers for programs are given as
`extra={"fields": {...}}`; they are members of the JSON object, beside `time`, `level`, `logger`
and `message`.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

import msgspec
from rich.console import Console

from trainer.config.sections import LogSection

_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


class _OnConsole(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console


class _Lines(_OnConsole):
    def emit(self, record: logging.LogRecord) -> None:
        text = f"{_moment(record)} {record.levelname:<7} {record.getMessage()}"
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        self._console.print(
            text, style=_STYLES.get(record.levelno), markup=False, soft_wrap=True, highlight=False
        )


class _Objects(_OnConsole):
    def emit(self, record: logging.LogRecord) -> None:
        said = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            said["exception"] = "".join(traceback.format_exception(*record.exc_info))
        self._console.file.write(msgspec.json.encode(said).decode() + "\n")
        self._console.file.flush()


def _moment(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, timezone.utc)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


@contextmanager
def logged(settings: LogSection, console: Console) -> Iterator[None]:
    """What the trainer's modules log goes to this console meanwhile."""
    handler = _Objects(console) if settings.format == "json" else _Lines(console)
    logger = logging.getLogger("trainer")
    before = logger.level
    logger.setLevel(settings.level.upper())
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
