"""What a local job warns of while it runs, out of Flink's log and onto the terminal.

Warnings of ours are logged by `sample_stitch.*` (in `udfs/jvm`). On a
cluster they are in the logs of the task managers; a local run has one log, and somebody watching.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

#: As `services.log4j` writes a line of text: time, level, logger, message.
_WARNING = re.compile(rb"^\S+ \S+ (?:WARN|ERROR)\s+sample_stitch\.(\S+)\s+(?:\[\] - |- )?(.*)$")
_OURS = "sample_stitch."


class LogWarnings:
    """Reads on in the logs of a folder, from their ends as they are now."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # By inode: a log that is full gets another name, and its last lines are read under that.
        self._read: dict[int, int] = {}
        for path in self._logs():
            with suppress(FileNotFoundError):  # it has just got another name
                status = path.stat()
                self._read[status.st_ino] = status.st_size

    def new(self) -> Iterator[str]:
        """The warnings that were written since the last call: `topic: message`, one line each.

        A line that is not whole yet is left for the next call.
        """
        read: dict[int, int] = {}
        for path in self._logs():
            try:
                log = path.open("rb")
            except FileNotFoundError:  # it has just got another name; the next call reads it
                read = self._read | read
                continue
            with log:
                inode = os.fstat(log.fileno()).st_ino
                begin = self._read.get(inode, 0)
                log.seek(begin)
                text = log.read()
            whole = text[: text.rfind(b"\n") + 1]
            read[inode] = begin + len(whole)
            for line in whole.splitlines():
                warning = _from_json(line) if line.startswith(b"{") else _from_text(line)
                if warning is not None:
                    topic, message = warning
                    yield f"{topic.replace('_', ' ')}: {message.strip()}"
        self._read = read

    def _logs(self) -> list[Path]:
        """The older ones first: `a.log.1` was `a.log` before it was full."""
        return sorted(self._folder.glob("flink-*.log*"), reverse=True)


def _from_text(line: bytes) -> tuple[str, str] | None:
    match = _WARNING.match(line)
    if match is None:
        return None
    return match[1].decode(errors="replace"), match[2].decode(errors="replace")


def _from_json(line: bytes) -> tuple[str, str] | None:
    try:
        entry: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    logger = str(entry.get("log.logger"))
    if entry.get("log.level") not in ("WARN", "ERROR") or not logger.startswith(_OURS):
        return None
    return logger.removeprefix(_OURS), str(entry.get("message"))
