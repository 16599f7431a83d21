"""The joining job over files, read in small chunks, that fails as often as it is asked to.

    python -m tests.e2e.failing_job WHERE TIMES CONFIG [the job's own options ...]

It fails TIMES times: each time when a checkpoint is complete that was taken behind something which
this attempt has done. It is an error if the input ends before that. WHERE is

- `between-chunks`: in a reader of files;
- `by-a-kill`: there, and the last time the Java process is killed.
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
from udfs.core.decode_batches import ReadChunks, ReadFiles

#: About a record a chunk.
CHUNK_BYTES = 300
#: Flink takes checkpoints between two chunks, so there is time between them.
PAUSE_S = 0.1
#: The last of them may not be known to the job manager yet, and the first may have been begun
#: before anything was done; that in between has something behind it.
CHECKPOINTS = 3


class Failures:
    """Says when to fail. `notes`: a folder with a file for each failure."""

    def __init__(self, checkpoints: Path, notes: Path, times: int) -> None:
        self._checkpoints, self._notes, self.times = checkpoints, notes, times
        self._before: set[str] | None = None
        self._since: set[str] = set()

    @property
    def number(self) -> int:
        """How many there were."""
        return len(list(self._notes.iterdir()))

    def due(self) -> bool:
        """Whether it is time for one."""
        complete = {str(path) for path in self._checkpoints.glob("*/chk-*/_metadata")}
        if self._before is None:
            self._before = complete
        self._since |= complete - self._before
        return self.number < self.times and len(self._since) >= CHECKPOINTS

    def note(self) -> None:
        """Write the next one down."""
        (self._notes / str(self.number)).touch(exist_ok=False)


class Failing:
    """Reads chunks, with pauses until it is time for a failure. It stands before a reader."""

    def __init__(self, settings: Any, *, failures: Failures, kills: bool) -> None:
        super().__init__(settings)  # type: ignore[call-arg]
        self._failures, self._kills = failures, kills

    def run(self, batch: bytes) -> bytes:
        failures = self._failures
        if failures.due():
            failures.note()
            if self._kills and failures.number == failures.times:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("between chunks, as it was told to")
        if failures.number < failures.times:
            time.sleep(PAUSE_S)
        return super().run(batch)  # type: ignore[misc,no-any-return]


class FailingAlone(Failing, ReadFiles):
    pass


class FailingBesideOthers(Failing, ReadChunks):
    pass


def main(where: str, times: int, arguments: Sequence[str]) -> int:
    pipeline = load(Path(arguments[0]))
    # pyflink reads the environment when it is imported
    environment.prepare_process(Path(pipeline.output.path) / "_logs")
    from jobs.pipeline import file_plan, file_source

    notes = Path(arguments[0]).with_suffix(".failures")
    notes.mkdir(exist_ok=True)
    for note in notes.iterdir():
        note.unlink()
    failures = Failures(Path(pipeline.checkpoints), notes, times)
    planning: Any = file_plan
    planning.plan = partial(planning.plan, chunk_bytes=CHUNK_BYTES)
    reading: Any = file_source
    how: dict[str, Any] = {"failures": failures, "kills": where == "by-a-kill"}
    reading.ReadFiles = partial(FailingAlone, **how)
    reading.ReadChunks = partial(FailingBesideOthers, **how)
    return join_samples.main(["--config", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
