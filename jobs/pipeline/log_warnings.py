"""What a local job warns of while it runs, out of Flink's log and onto the terminal.

Warnings of ours are logged by `sample_stitch.*` (in `udfs/jvm`). On a
cluster they are in the logs of the task managers; a local run has one log, and somebody watching.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

#: As `log4j-local.properties` writes a line: time, level, logger, message.
_WARNING = re.compile(rb"^\S+ \S+ (?:WARN|ERROR)\s+sample_stitch\.(\S+)\s+(?:\[\] - |- )?(.*)$")


class LogWarnings:
    """Reads on in the logs of a folder, from their ends as they are now."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = {path: path.stat().st_size for path in self._logs()}

    def new(self) -> Iterator[str]:
        """The warnings that were written since the last call: `topic: message`, one line each.

        A line that is not whole yet is left for the next call.
        """
        for path in self._logs():
            with path.open("rb") as log:
                log.seek(self._read.get(path, 0))
                text = log.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.splitlines():
                match = _WARNING.match(line)
                if match:
                    topic = match[1].decode(errors="replace").replace("_", " ")
                    yield f"{topic}: {match[2].decode(errors='replace').strip()}"

    def _logs(self) -> list[Path]:
        return sorted(self._folder.glob("flink-*.log"))
