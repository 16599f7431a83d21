"""Joins a feature stream with an action stream into labelled samples.

    python -m jobs.join_samples --config FILE [--set a.b=value ...]
    flink run -pyfs . -py jobs/join_samples.py --config FILE

Locally it runs on a mini-cluster inside this process and waits for the end of bounded input; with
`flink run` it submits to the cluster. Starting, stopping and going on: docs/operations.md.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

if __package__ in (None, ""):  # as a script, which is how `flink run -py` starts it
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import typer
from rich.console import Console

from configuration.command_line import Overrides, PipelineFile, run
from jobs.pipeline import environment, output_guard, places, runs
from jobs.pipeline.config import ConfigError, Pipeline, document, load, secrets_of
from jobs.pipeline.failures import explain as explain_failure
from jobs.pipeline.log_warnings import LogWarnings
from jobs.pipeline.secrets import Redaction
from jobs.pipeline.stopping import Signals, Stopped

DONE, FAILED, WRONG = 0, 1, 2

console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Asked:
    """The options of the command."""

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

    @property
    def again(self) -> str:
        """The command that goes on; the place of a snapshot is still to be added."""
        python, here = Path(sys.executable), Path.cwd()
        shown = python.relative_to(here) if python.is_relative_to(here) else python
        sets = [word for override in self.overrides for word in ("--set", override)]
        words = ["-m", "jobs.join_samples", "--config", str(self.config), *sets, "--restore"]
        return shlex.join([str(shown), *words])


def join(
    config: PipelineFile,
    overrides: Overrides = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Print the resolved configuration and Flink's plan. Run nothing."
        ),
    ] = False,
    restore: Annotated[
        str | None,
        typer.Option(
            metavar="latest|PATH",
            help="Continue from a snapshot: the newest of this output, or the one in PATH.",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Delete everything in the output before the job starts."),
    ] = False,
    append: Annotated[
        bool,
        typer.Option("--append", help="Add to the output, and read the input from the start."),
    ] = False,
) -> int:
    """Join a feature stream with an action stream into labelled samples.

    Runs on a mini-cluster inside this process, to the end of bounded input or until Ctrl-C or
    SIGTERM stops it with a savepoint. docs/operations.md describes how to start, stop and go on,
    docs/configuration.md the file.

    Exit codes: 0 done, 1 the job failed, 2 the configuration, the set-up or the output is not right
    and nothing was run, 3 the input was joined but too many of its records were rejected,
    130 stopped by Ctrl-C, 143 stopped by SIGTERM.
    """
    if (restore is not None) + overwrite + append > 1:
        _say("choose one of --restore, --overwrite and --append")
        return WRONG
    asked = Asked(config, tuple(overrides or ()), explain, restore, overwrite, append)
    try:
        with Signals() as signals:
            return _run(load(config, asked.overrides), asked, signals)
    except (ConfigError, environment.SetupError, places.PlaceError) as error:
        _say(str(error))
        return WRONG
    except Stopped as stopped:
        _say(f"stopped by {stopped} before the job ran; nothing was written")
        return stopped.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return run(join, argv, "join_samples")


def _run(pipeline: Pipeline, asked: Asked, signals: Signals) -> int:
    log_folder = _log_folder(pipeline, keep=not asked.explain)
    local = not environment.submitted()
    with ExitStack() as held:
        if not asked.explain:
            from jobs.pipeline import preflight

            for note in preflight.check(pipeline):
                _say(note)
            # `flink run` may ask for a restore in ways that only its JVM tells of
            if local and not places.is_uri(pipeline.output.path):
                held.enter_context(output_guard.locked(pipeline.output.path))
                output_guard.check(pipeline.output.path, _start(pipeline, asked))
        if local:
            environment.prepare_process(
                log_folder,
                metrics=pipeline.runtime.metrics_port is not None,
                log_format=pipeline.runtime.log_format,
            )
        log = _log(log_folder)
        hide = Redaction(secrets_of(pipeline))
        for handler in log.handlers:
            handler.addFilter(hide)
        try:
            return _start_job(pipeline, asked, signals, log_folder)
        except (ConfigError, environment.SetupError, places.PlaceError):
            raise
        except Exception as error:
            log.exception("the job failed")
            _say(hide(explain_failure(error)))
            _say(f"the whole story is in {log_folder}")
            return FAILED


def _start(pipeline: Pipeline, asked: Asked) -> runs.Start:
    return "restore" if environment.RESTORE_PATH in pipeline.flink else asked.start


def _start_job(pipeline: Pipeline, asked: Asked, signals: Signals, log_folder: Path) -> int:
    # pyflink reads the environment when it is imported, so not before
    from jobs.pipeline import explained, graph, local_run, sources

    output = pipeline.output.path
    with console.status("planning"):
        env, tables = environment.stream_environment(pipeline)
        if asked.explain:
            plan = graph.build(pipeline, env, tables).explain()
            explained.print_explained(pipeline, plan)
            return DONE
        start, restored = _begin(pipeline, asked, env)
        files = runs.new_name()
        joining = graph.build(pipeline, env, tables, run=files, lasting=True)
    if start == "overwrite":
        output_guard.clear(output)
        if environment.checkpoint_folder(env) == pipeline.default_checkpoints:
            for entry in places.entries(pipeline.default_checkpoints):
                if not fnmatch(entry.name, sources.PLAN_FILES):  # one of them is the new one
                    places.delete(entry.place)
    warnings = LogWarnings(log_folder)
    job = joining.start()
    started = runs.started(str(job.get_job_id()), start, restored, files)
    try:
        runs.note(output, started, document(asked.config, asked.overrides))
    except places.PlaceError as error:
        _say(f"warning: the start of the job could not be written down: {error}")
    if environment.submitted():
        # the cluster has it now; `flink list` tells how it goes
        print(f"submitted as job {job.get_job_id()}")
        return DONE
    followed = local_run.LocalRun(
        pipeline,
        job,
        console,
        checkpoints=environment.checkpoint_folder(env),
        again=asked.again,
        restored=restored is not None,
        warnings=warnings,
    )
    return followed.to_the_end(signals)


def _begin(pipeline: Pipeline, asked: Asked, env: Any) -> tuple[runs.Start, str | None]:
    """How the job starts, and from which snapshot, with the environment told of it.

    Raises ConfigError.
    """
    from jobs.pipeline import restore

    output = pipeline.output.path
    restored = environment.option(env, environment.RESTORE_PATH)
    if restored is not None:
        # `flink run --fromSavepoint`, or the option in [flink]
        _refuse_newer_rows(output, places.from_uri(restored), "flink run --fromSavepoint")
        return "restore", restored
    if asked.restore is not None:
        jobs = {run.job for run in runs.known(output)}
        restored = restore.find(asked.restore, environment.checkpoint_folder(env), jobs)
        _refuse_newer_rows(output, restored, f"--restore {asked.restore}")
        environment.restore_from(env, restored)
        _say(f"going on from {restored}")
        return "restore", restored
    if places.is_uri(output) or environment.submitted():
        try:
            output_guard.check(output, asked.start)
        except places.PlaceError as error:
            if asked.overwrite:
                raise
            _say(
                "warning: whether the output has rows already could not be found out from here "
                f"({error}); if it has, they are written a second time"
            )
    return asked.start, None


def _refuse_newer_rows(output: str, snapshot: str, asked: str) -> None:
    """Raises ConfigError when rows of the output would be written twice after a restore."""
    from jobs.pipeline import newer_rows, restore

    try:
        newer = newer_rows.newer_file(
            output, snapshot, runs.known(output), restore.checkpoint_number
        )
    except places.PlaceError as error:
        _say(
            "warning: whether the output has rows that are newer than the snapshot could not be "
            f"found out from here ({error}); if it has, they are written a second time"
        )
        return
    if newer is not None:
        raise ConfigError(
            f"{asked}: the output has rows that became visible after this snapshot ({snapshot}), "
            f"and they would be written a second time, such as those of {newer}. Use --restore "
            "latest if there is a newer snapshot, or set another output.path to go back, or "
            "--overwrite to read all input again"
        )


def _say(text: str) -> None:
    console.print(f"join_samples: {text}", markup=False, soft_wrap=True)


def _log_folder(pipeline: Pipeline, *, keep: bool) -> Path:
    """`_logs` in a local output (readers pass over it), else in the working directory.

    What runs nothing (`keep` False) leaves nothing behind in the output.
    """
    if not keep:
        return Path(tempfile.mkdtemp(prefix="sample-stitch-logs-"))
    root = Path() if places.is_uri(pipeline.output.path) else Path(pipeline.output.path)
    return (root / "_logs").resolve()


def _log(folder: Path) -> logging.Logger:
    log = logging.getLogger("join_samples")
    log.propagate = False
    if not log.handlers:
        folder.mkdir(parents=True, exist_ok=True)
        log.addHandler(logging.FileHandler(folder / "join_samples.log"))
    return log


if __name__ == "__main__":
    code = main()
    if os.environ.get("PYFLINK_GATEWAY_PORT") is None or code:
        sys.exit(code)
