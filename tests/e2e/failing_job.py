"""The joining job over files, read in small chunks, that fails between chunks as often as is asked.

    python -m tests.e2e.failing_job TIMES KILL CONFIG [the job's own options ...]

It fails TIMES times: each time when a checkpoint is complete that was taken behind a chunk which
this attempt has read. With KILL = 1 the Java process is killed the last time. It is an error if
the chunks end before that.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jobs import join_samples
from jobs.pipeline import environment
from jobs.pipeline.config import load
from udfs.core.decode_batches import ReadFiles
from udfs.core.decode_settings import DecodeSettings

CHUNK_BYTES = 300
#: Flink takes checkpoints between two chunks, so there is time between them.
PAUSE_S = 0.05
#: The last of them may not be known to the job manager yet, and the first may have been begun
#: before the first chunk; that in between has it behind it.
CHECKPOINTS = 3


class Failing(ReadFiles):
    """Reads chunks; see above. `notes`: a file with a line for each failure."""

    def __init__(
        self, settings: DecodeSettings, *, checkpoints: Path, notes: Path, times: int, kill: bool
    ) -> None:
        super().__init__(settings)
        self._checkpoints, self._notes = checkpoints, notes
        self._times, self._kill = times, kill

    def open(self) -> None:
        super().open()
        self._failed = len(self._notes.read_text().splitlines())
        self._before: set[str] | None = None
        self._since: set[str] = set()

    def run(self, batch: bytes) -> bytes:
        if self._failed < self._times:
            complete = {str(path) for path in self._checkpoints.glob("*/chk-*/_metadata")}
            if self._before is None:
                self._before = complete
            self._since |= complete - self._before
            if len(self._since) >= CHECKPOINTS:
                with self._notes.open("a") as file:
                    file.write("failed\n")
                if self._kill and self._failed + 1 == self._times:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise RuntimeError("as it was told to")
            time.sleep(PAUSE_S)
        return super().run(batch)


def main(times: int, kill: bool, arguments: Sequence[str]) -> int:
    pipeline = load(Path(arguments[0]))
    # pyflink reads the environment when it is imported
    environment.prepare_process(Path(pipeline.output.path) / "_logs")
    from jobs.pipeline import sources

    notes = Path(arguments[0]).with_suffix(".failures")
    notes.write_text("")
    changed: Any = sources
    changed.plan = partial(changed.plan, chunk_bytes=CHUNK_BYTES)
    changed.ReadFiles = partial(
        Failing, checkpoints=Path(pipeline.checkpoints), notes=notes, times=times, kill=kill
    )
    code = join_samples.main(["--config", *arguments])
    failed = len(notes.read_text().splitlines())
    assert failed == times, f"{failed} failures, and not {times}: more chunks are needed"
    return code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2] == "1", sys.argv[3:]))
