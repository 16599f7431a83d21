"""A job on the mini-cluster of this process, followed to its end: progress, stop, counts."""

from __future__ import annotations

import shlex
import time
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.pipeline import places, restore, stopping
from jobs.pipeline.config import Pipeline, secrets_of
from jobs.pipeline.failures import explain
from jobs.pipeline.file_source import PLAN_FILES
from jobs.pipeline.log_warnings import LogWarnings
from jobs.pipeline.program import Program
from jobs.pipeline.secrets import Redaction

DONE, REJECTED = 0, 3
#: How long the end of a job is waited for that a savepoint has stopped.
_END_AT_MOST_S = 10.0


class LocalRun:
    """A job that runs in this process."""

    def __init__(
        self,
        program: Program,
        pipeline: Pipeline,
        job: Any,
        console: Console,
        *,
        checkpoints: str,
        again: str,
        restored: bool,
        warnings: LogWarnings,
    ) -> None:
        """Follow a job that was just started.

        Args:
            program: the command that started it.
            pipeline: what it was made from.
            job: PyFlink's JobClient.
            console: for a person to read.
            checkpoints: the folder of its checkpoints.
            again: the command that goes on with it, without the snapshot at its end.
            restored: whether it began with the state of an earlier job.
            warnings: those of its operators.
        """
        self._program = program
        self._pipeline = pipeline
        self._job = job
        self._id = str(job.get_job_id())
        self._console = console
        self._checkpoints = checkpoints
        self._again = again
        self._restored = restored
        self._warnings = warnings
        self._hide = Redaction(secrets_of(pipeline))
        self._result = job.get_job_execution_result()

    def to_the_end(self, signals: stopping.Signals) -> int:
        """Until the job ends or a signal stops it; the exit code. Raises what the job failed with.

        What a person has to know is printed: counts, warnings, and after a stop or a failure the
        command that goes on.
        """
        try:
            with signals.deferred():
                self._wait(signals)
                if signals.asked is not None and not self._result.done():
                    return self._stop(signals.asked)
            result = self._result.result()
        except stopping.Stopped as stopped:
            self._cancel()
            return stopped.exit_code
        except Exception:
            self._say_how_to_go_on("the job")
            raise
        if self._pipeline.bounded:
            self._tidy_up()
        code = self._report(result)
        if code == DONE:
            self._say(f"done; {self._program.makes} are in {self._pipeline.output.path}")
        return code

    def _wait(self, signals: stopping.Signals) -> None:
        started = time.monotonic()
        doing = self._program.doing
        with self._console.status(doing) as status:
            while not self._result.done() and signals.asked is None:
                seconds = time.monotonic() - started
                status.update(f"{doing} · {seconds:.0f} s · {self._written()}")
                self._say_warnings()
                time.sleep(0.2)
        self._say_warnings()

    def _say_warnings(self) -> None:
        for line in self._warnings.new():
            self._say(f"warning: {line}")

    def _stop(self, number: int) -> int:
        stopped = stopping.Stopped(number)
        self._say(f"{stopped}: stopping with a savepoint; a second signal stops without one")
        folder = places.as_uri(self._checkpoints)
        try:
            savepoint = stopping.savepoint(self._job, self._result, folder)
        except Exception as error:
            self._say(f"no savepoint could be taken: {explain(error)}")
            self._cancel()
            return stopped.exit_code
        if savepoint is None:
            self._report(self._result.result(), judged=False)
            self._say("the job ended by itself before the savepoint")
        else:
            self._say_counts()
            self._say(
                f"stopped; go on with\n  {self._again} {shlex.quote(places.from_uri(savepoint))}"
            )
        return stopped.exit_code

    def _say_counts(self) -> None:
        """Of a job that a savepoint has stopped: it ends a little later."""
        end = time.monotonic() + _END_AT_MOST_S
        while not self._result.done() and time.monotonic() < end:
            time.sleep(0.1)
        if not self._result.done():
            return
        try:
            self._report(self._result.result(), judged=False)
        except Exception as error:
            # the savepoint is there, and tells how to go on
            self._say(f"warning: there are no counts: {explain(error)}")

    def _cancel(self) -> None:
        try:
            self._job.cancel().result()
        except Exception as error:
            self._say(f"cancelling failed: {explain(error)}")
        self._say_how_to_go_on("stopped without a savepoint; the job")

    def _say_how_to_go_on(self, what: str) -> None:
        """After the end of a job that did not end well."""
        try:
            kept = restore.latest(self._checkpoints, {self._id})
        except Exception as error:
            self._say(f"{what} may have left checkpoints in {self._checkpoints}: {explain(error)}")
            return
        if kept is not None:
            self._say(f"{what} has left a checkpoint; go on with\n  {self._again} latest")
        elif self._restored:
            self._say(f"{what} has no checkpoint of its own; restore the same one again")
        else:
            self._say(
                f"{what} has no checkpoint to go on from; run it again from the beginning, with "
                "--overwrite if it is refused because of rows"
            )

    def _report(self, result: Any, *, judged: bool = True) -> int:
        """Print the counts and what is wrong with them; the exit code that follows."""
        accumulators = dict(result.get_all_accumulator_results())
        report = self._program.report(self._pipeline, accumulators, self._restored)
        self._console.print(report.table)
        if self._restored:
            self._say("these counts begin at the restore")
        if not judged:
            return DONE
        found = report.judgement
        for line in found.warnings:
            self._say(f"warning: {line}")
        for line in found.failures:
            self._say(f"{'failed' if self._pipeline.bounded else 'warning'}: {line}")
        return REJECTED if found.failures and self._pipeline.bounded else DONE

    def _tidy_up(self) -> None:
        """Nothing goes on after the end of bounded input; savepoints that were asked for stay.

        Only in the output's own folder: in another one there may be what other pipelines need.
        What cannot be deleted is said; the job has ended well all the same.
        """
        folder = Path(self._checkpoints)
        own = self._checkpoints == self._pipeline.default_checkpoints
        if not own or places.is_uri(self._checkpoints) or not folder.is_dir():
            return
        try:
            plans = [e.place for e in places.entries(str(folder)) if fnmatch(e.name, PLAN_FILES)]
            for place in (str(folder / self._id), *plans):
                places.delete(place)
        except places.PlaceError as error:
            self._say(f"warning: checkpoints that nothing needs any more are left: {error}")
        with suppress(OSError):  # savepoints are in it, or Flink has deleted it
            folder.rmdir()

    def _say(self, text: str) -> None:
        self._console.print(
            f"{self._program.name}: {self._hide(text)}", markup=False, soft_wrap=True
        )

    def _written(self) -> str:
        """How much lies in the output, for the eye; only local folders can be looked at cheaply."""
        output, table = (
            self._pipeline.output.path,
            self._program.written.by(self._pipeline).tables[0],
        )
        if places.is_uri(output):
            return "running"
        return f"{places.bytes_in(Path(output), f'{table}/*/*/*') / 1e6:.1f} MB of {table}"
