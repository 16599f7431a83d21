"""Joins the records of one slice, with their margins, into a folder of its own.

    python -m jobs.backfill.joining --config FILE --into DIR --from HOUR --to HOUR

The backfill starts it for each slice, as a process that ends with the backfill, however that ends.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from os import environ
from pathlib import Path
from typing import Annotated

import psutil
import typer

from configuration.command_line import Overrides, PipelineFile, run
from configuration.stores import Folder
from jobs import join_samples
from jobs.backfill import hours, sources
from jobs.pipeline import command
from jobs.pipeline.command import Asked
from jobs.pipeline.config import Pipeline, load

_ROOT = Path(__file__).resolve().parents[2]
_LOOK_S = 0.2
#: Of the end of a log, in an error.
_SHOWN_LINES = 8


class JoinError(Exception):
    """A process of the backfill has failed; the message says why, and where its log is."""


def join(
    config: PipelineFile,
    into: Annotated[str, typer.Option(metavar="DIR", help="Where the rows go.")],
    first: Annotated[str, typer.Option("--from", metavar="HOUR", help="First hour to read.")],
    end: Annotated[str, typer.Option("--to", metavar="HOUR", help="The hour to read up to.")],
    goes_on: Annotated[
        bool, typer.Option("--goes-on", help="Both streams have records after that.")
    ] = False,
    overrides: Overrides = None,
) -> int:
    """Join the records of these hours into a folder. Exit codes: those of `jobs.join_samples`."""

    def of_slice(path: Path, overrides: Sequence[str]) -> Pipeline:
        begin, stop = hours.read(first, "--from"), hours.read(end, "--to")
        replayed = sources.replayed(load(path, overrides))
        return sources.into(sources.cut(replayed, begin, stop, goes_on=goes_on), into)

    program = replace(join_samples.PROGRAM, name="backfill", load=of_slice)
    asked = Asked(config, tuple(overrides or ()), False, None, overwrite=False, append=False)
    return command.start(program, asked)


def join_apart(
    config: Path,
    overrides: Sequence[str],
    span: tuple[int, int],
    into: Folder,
    watch: Callable[[], None],
    *,
    goes_on: bool = False,
) -> None:
    """The same in a process of its own, until that has ended.

    `span`: what to read, epoch ms. `goes_on`: see `sources.go_on`. `watch` is called every now and
    then. Raises JoinError.
    """
    words = ["--into", str(into.absolute() if isinstance(into, Path) else into)]
    words += ["--from", hours.text(span[0]), "--to", hours.text(span[1])]
    words += ["--goes-on"] if goes_on else []
    apart("jobs.backfill.joining", config, overrides, words, _log_of(into), watch)


def apart(
    module: str,
    config: Path,
    overrides: Sequence[str],
    words: Sequence[str],
    log: Path,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """`python -m module --config …` in a process that ends with this one, until it has ended.

    `watch` is called every now and then. Raises JoinError with the end of the log.
    """
    from services import process

    sets = [word for override in overrides for word in ("--set", override)]
    command_line = [sys.executable, "-m", module, "--config", str(config.absolute())]
    path = [str(_ROOT), *filter(None, [environ.get("PYTHONPATH")])]
    started = process.start(
        [*command_line, *words, *sets],
        log=log,
        environment={**environ, "PYTHONPATH": ":".join(path)},
        tied=True,
    )
    code = None
    try:
        child = psutil.Process(started.pid)
        while code is None:
            watch()
            try:
                code = child.wait(_LOOK_S)
            except psutil.TimeoutExpired:
                continue
    finally:
        process.kill(started)
    if code != command.DONE:
        raise JoinError(f"{module} has failed (exit code {code}); {log} ends with\n{_end(log)}")


def _log_of(into: Folder) -> Path:
    """Beside the folder; of one in an object store, where its join has its own logs."""
    if isinstance(into, Path):
        return into.with_name(f"{into.name}.log")
    return Path("_logs", f"backfill-{into.parent.name}-{into.name}.log").absolute()


def _end(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-_SHOWN_LINES:])


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return run(join, argv, "python -m jobs.backfill.joining")


if __name__ == "__main__":
    command.leave(main())
