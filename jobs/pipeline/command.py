"""What the commands that start a job have in common: guards, restore, the run itself, its log.

`Program` says what is particular to a command; `start` does the rest.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import typer

from configuration.stores import is_stored
from jobs.pipeline import environment, output_guard, places, runs
from jobs.pipeline.config import ConfigError, Pipeline, secrets_of
from jobs.pipeline.failures import explain as explain_failure
from jobs.pipeline.log_warnings import LogWarnings
from jobs.pipeline.program import Program, console
from jobs.pipeline.secrets import Redaction
from jobs.pipeline.stopping import Signals, Stopped

DONE, FAILED, WRONG = 0, 1, 2

Explain = Annotated[
    bool,
    typer.Option(
        "--explain", help="Print the resolved configuration and Flink's plan. Run nothing."
    ),
]
Restore = Annotated[
    str | None,
    typer.Option(
        metavar="latest|PATH",
        help="Continue from a snapshot: the newest of this output, or the one in PATH.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Delete everything in the output before the job starts."),
]
Append = Annotated[
    bool,
    typer.Option("--append", help="Add to the output, and read the input from the start."),
]


@dataclass(frozen=True)
class Asked:
    """The options of a command."""

    config: Path
    overrides: tuple[str, ...]
    explain: bool
    restore: str | None
    overwrite: bool
    append: bool

    @property
    def start(self) -> runs.Start:
        """How the run is to begin, by the options that were given."""
        if self.restore is not None:
            return "restore"
        return "overwrite" if self.overwrite else "append" if self.append else "fresh"

    def again(self, program: str) -> str:
        """The command that goes on; the place of a snapshot is still to be added."""
        python, here = Path(sys.executable), Path.cwd()
        shown = python.relative_to(here) if python.is_relative_to(here) else python
        sets = [word for override in self.overrides for word in ("--set", override)]
        words = ["-m", f"jobs.{program}", "--config", str(self.config), *sets, "--restore"]
        return shlex.join([str(shown), *words])


def start(program: Program, asked: Asked) -> int:
    """Start the job as asked, and follow it if it is local. Returns the exit code."""
    if (asked.restore is not None) + asked.overwrite + asked.append > 1:
        program.say("choose one of --restore, --overwrite and --append")
        return WRONG
    try:
        with Signals() as signals:
            return _run(program, program.load(asked.config, asked.overrides), asked, signals)
    except (ConfigError, environment.SetupError, places.PlaceError) as error:
        program.say(str(error))
        return WRONG
    except Stopped as stopped:
        program.say(f"stopped by {stopped} before the job ran; nothing was written")
        return stopped.exit_code


def leave(code: int) -> None:
    """End the process of a script. One that `flink run` has started must not exit when all is well,
    or Flink takes that for a failure.
    """
    if os.environ.get("PYFLINK_GATEWAY_PORT") is None or code:
        sys.exit(code)


def _run(program: Program, pipeline: Pipeline, asked: Asked, signals: Signals) -> int:
    log_folder = _log_folder(pipeline, keep=not asked.explain)
    local = not environment.submitted()
    with ExitStack() as held:
        if not asked.explain:
            from jobs.pipeline import preflight

            for note in preflight.check(pipeline, judge_times=program.judges_times):
                program.say(note)
            # `flink run` may ask for a restore in ways that only its JVM tells of
            output = pipeline.output.path
            if local and (is_stored(output) or not places.is_uri(output)):
                held.enter_context(
                    output_guard.locked(
                        output, program.written.by(pipeline), pipeline.object_storage
                    )
                )
            if local and not places.is_uri(output):
                output_guard.check(output, _start(pipeline, asked), program.written.by(pipeline))
        if local:
            environment.prepare_process(
                log_folder,
                metrics=pipeline.runtime.metrics_port is not None,
                log_format=pipeline.runtime.log_format,
                iceberg=pipeline.output.table == "iceberg",
            )
        log = _log(program, log_folder)
        hide = Redaction(secrets_of(pipeline))
        for handler in log.handlers:
            handler.addFilter(hide)
        try:
            return _start_job(program, pipeline, asked, signals, log_folder)
        except (ConfigError, environment.SetupError, places.PlaceError):
            raise
        except Exception as error:
            log.exception("the job failed")
            program.say(hide(explain_failure(error)))
            program.say(f"the whole story is in {log_folder}")
            return FAILED


def _start(pipeline: Pipeline, asked: Asked) -> runs.Start:
    return "restore" if environment.RESTORE_PATH in pipeline.flink else asked.start


def _start_job(
    program: Program, pipeline: Pipeline, asked: Asked, signals: Signals, log_folder: Path
) -> int:
    # pyflink reads the environment when it is imported, so not before
    from jobs.pipeline import explained, file_source, local_run

    output = pipeline.output.path
    with console.status("planning"):
        env, tables = environment.stream_environment(pipeline)
        if asked.explain:
            plan = program.build(pipeline, env, tables).explain()
            explained.print_explained(pipeline, plan)
            return DONE
        start, restored = _begin(program, pipeline, asked, env)
        files = runs.new_name()
        built = program.build(pipeline, env, tables, run=files, lasting=True)
    if start == "overwrite":
        output_guard.clear(output, program.written.by(pipeline))
        if environment.checkpoint_folder(env) == pipeline.default_checkpoints:
            for entry in places.entries(pipeline.default_checkpoints):
                if not fnmatch(entry.name, file_source.PLAN_FILES):  # one of them is the new one
                    places.delete(entry.place)
    warnings = LogWarnings(log_folder)
    job = built.start()
    started = runs.started(str(job.get_job_id()), start, restored, files)
    try:
        runs.note(output, started, program.document(asked.config, asked.overrides))
    except places.PlaceError as error:
        program.say(f"warning: the start of the job could not be written down: {error}")
    if environment.submitted():
        # the cluster has it now; `flink list` tells how it goes
        print(f"submitted as job {job.get_job_id()}")
        return DONE
    followed = local_run.LocalRun(
        program,
        pipeline,
        job,
        console,
        checkpoints=environment.checkpoint_folder(env),
        again=asked.again(program.name),
        restored=restored is not None,
        warnings=warnings,
    )
    return followed.to_the_end(signals)


def _begin(
    program: Program, pipeline: Pipeline, asked: Asked, env: Any
) -> tuple[runs.Start, str | None]:
    """How the job starts, and from which snapshot, with the environment told of it.

    Raises ConfigError.
    """
    from jobs.pipeline import restore

    output = pipeline.output.path
    restored = environment.option(env, environment.RESTORE_PATH)
    recovering = environment.recovering_job(env)
    if recovering is not None and recovering in {run.job for run in runs.known(output)}:
        # Another job manager runs this program again. Flink takes the job's own checkpoint,
        # whatever is asked here, so no row is written twice.
        program.say(f"job {recovering} goes on from its latest checkpoint")
        return "restore", restored
    if restored is not None:
        # `flink run --fromSavepoint`, or the option in [flink]
        place = places.from_uri(restored)
        _refuse_snapshot(program, pipeline, env, place, "flink run --fromSavepoint")
        return "restore", restored
    if asked.restore is not None:
        jobs = {run.job for run in runs.known(output)}
        restored = restore.find(asked.restore, environment.checkpoint_folder(env), jobs)
        _refuse_snapshot(program, pipeline, env, restored, f"--restore {asked.restore}")
        environment.restore_from(env, restored)
        program.say(f"going on from {restored}")
        return "restore", restored
    if places.is_uri(output) or environment.submitted():
        try:
            output_guard.check(output, asked.start, program.written.by(pipeline))
        except places.PlaceError as error:
            if asked.overwrite:
                raise
            program.say(
                "warning: whether the output has rows already could not be found out from here "
                f"({error}); if it has, they are written a second time"
            )
    return asked.start, None


def _refuse_snapshot(
    program: Program, pipeline: Pipeline, env: Any, snapshot: str, asked: str
) -> None:
    """Raises ConfigError when the job cannot go on from a snapshot, or should not."""
    _refuse_newer_rows(program, pipeline, snapshot, asked)
    _refuse_lost_sources(program, pipeline, env, snapshot, asked)


def _refuse_newer_rows(program: Program, pipeline: Pipeline, snapshot: str, asked: str) -> None:
    """Raises ConfigError when rows of the output would be written twice after a restore."""
    from jobs.pipeline import newer_rows, restore

    output = pipeline.output.path
    try:
        newer = newer_rows.newer_file(
            output,
            snapshot,
            runs.known(output),
            restore.checkpoint_number,
            tables=program.written.by(pipeline).tables,
        )
    except places.PlaceError as error:
        program.say(
            "warning: whether the output has rows that are newer than the snapshot could not be "
            f"found out from here ({error}); if it has, they are written a second time"
        )
        return
    if newer is not None:
        raise ConfigError(
            f"{asked}: the output has rows that became visible after this snapshot ({snapshot}), "
            f"and they would be written a second time, such as those of {newer}. Use --restore "
            f"latest if there is a newer snapshot, or set another {program.written.key} to go "
            "back, or --overwrite to read all input again"
        )


def _refuse_lost_sources(
    program: Program, pipeline: Pipeline, env: Any, snapshot: str, asked: str
) -> None:
    """Raises ConfigError when the snapshot has positions in sources that the job does not have."""
    from jobs.pipeline import restore, restored_sources

    try:
        operators = restore.operators(snapshot)
    except places.PlaceError:
        return  # Flink itself refuses to lose them
    option = environment.option(env, restored_sources.IGNORE_UNCLAIMED_STATE) or ""
    may_drop = option.lower() == "true"
    for note in restored_sources.check(operators, pipeline.sources, asked, may_drop=may_drop):
        program.say(note)


def _log_folder(pipeline: Pipeline, *, keep: bool) -> Path:
    """`_logs` in a local output (readers pass over it), else in the working directory.

    What runs nothing (`keep` False) leaves nothing behind in the output.
    """
    if not keep:
        return Path(tempfile.mkdtemp(prefix="sample-stitch-logs-"))
    root = Path() if places.is_uri(pipeline.output.path) else Path(pipeline.output.path)
    return (root / "_logs").resolve()


def _log(program: Program, folder: Path) -> logging.Logger:
    log = logging.getLogger(program.name)
    log.propagate = False
    if not log.handlers:
        folder.mkdir(parents=True, exist_ok=True)
        log.addHandler(logging.FileHandler(folder / f"{program.name}.log"))
    return log
