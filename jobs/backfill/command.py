"""Joins hours of an output again, from the archive or from event files, and replaces them at once.

    python -m jobs.backfill --config FILE --from HOUR --to HOUR [--set a.b=value ...] [--dry-run]
    python -m jobs.backfill --config FILE --remove-replaced 7d

Killed at any point, the same command goes on. docs/backfill.md describes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from configuration import output_lock, store_lock, stores
from configuration.command_line import Overrides, PipelineFile, run
from configuration.reading import Duration
from configuration.stores import Folder
from jobs.backfill import hours, iceberg, removal, running, shown, sources, work
from jobs.backfill.joining import JoinError, join_apart
from jobs.backfill.margins import HOUR_MS, Margins, margins
from jobs.backfill.work import Slice, Work
from jobs.pipeline import places
from jobs.pipeline.command import DONE, FAILED, WRONG
from jobs.pipeline.config import ConfigError, Pipeline, document, load
from jobs.pipeline.program import console
from jobs.pipeline.stopping import Signals, Stopped
from schemas.generations import PointerError
from schemas.samples import ICEBERG_TABLE

LOCK = "_backfill.lock"


def backfill(
    config: PipelineFile,
    first: Annotated[
        str | None, typer.Option("--from", metavar="HOUR", help="First hour: 2026-11-01T00, UTC.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="HOUR", help="The hour up to which; not included.")
    ] = None,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be read and replaced. Do nothing.")
    ] = False,
    margin: Annotated[
        str, typer.Option(metavar="DURATION", help="Read so much more on both sides.")
    ] = "0s",
    slice_hours: Annotated[
        int | None,
        typer.Option("--slice", min=1, metavar="HOURS", help="How many hours to join at a time."),
    ] = None,
    discard: Annotated[
        bool, typer.Option("--discard", help="Forget a backfill that is not done yet.")
    ] = False,
    remove_replaced: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Delete what was replaced longer ago than this."),
    ] = None,
) -> int:
    """Join hours of an output again, and replace them at once.

    Readers see the old rows until the whole period is joined, and then the new ones. Killed at any
    point, the same command goes on. Exit codes: 0 done, 1 the join has failed, 2 the configuration
    or the output is not right, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """
    sets = tuple(overrides or ())
    try:
        with Signals():
            pipeline = load(config, sets)
            output = _output(pipeline)
            if remove_replaced is not None:
                _remove(output, _duration(remove_replaced, "--remove-replaced"))
                return DONE
            period = _period(first, end)
            edges = margins(pipeline, _duration(margin, "--margin"))
            made_by = {"margin": margin, "join": document(config, sets)}
            planned = work.plan(*period, edges, made_by, slice_hours)
            if dry_run:
                replayed = sources.replayed(pipeline)
                shown.show(replayed, sources.listed(replayed), output, planned, edges)
                return DONE
            with locked(output):
                left = work.load(output)
                if left is not None and discard:
                    running.discard(output, left)
                elif left is not None:
                    work.check(left, *period, made_by)
                    planned = left
                _run(config, sets, pipeline, output, planned, edges)
    except (ConfigError, PointerError, places.PlaceError, OSError) as error:
        _say(str(error))
        return WRONG
    except JoinError as error:
        _say(str(error))
        return FAILED
    except Stopped as stopped:
        _say(f"stopped by {stopped}; the same command goes on")
        return stopped.exit_code
    return DONE


def _period(first: str | None, end: str | None) -> tuple[int, int]:
    """Epoch ms. Raises ConfigError."""
    if first is None or end is None:
        raise ConfigError("--from and --to are required")
    begin, stop = hours.read(first, "--from"), hours.read(end, "--to")
    if begin >= stop:
        raise ConfigError(f"--to: must be after --from ({first})")
    return begin, stop


def _run(
    config: Path,
    overrides: Sequence[str],
    pipeline: Pipeline,
    output: Folder,
    planned: Work,
    edges: Margins,
) -> None:
    """Join and publish, with a progress bar of hours."""
    iceberg.check(pipeline, output)
    pipeline = sources.replayed(pipeline)
    listings = sources.listed(pipeline)

    def to_read(piece: Slice) -> tuple[tuple[int, int], bool, Pipeline]:
        span = edges.of(hours.read(piece.first, "from"), hours.read(piece.end, "to"))
        goes_on = sources.go_on(listings, span[1])
        return span, goes_on, sources.cut(pipeline, *span, goes_on=goes_on)

    *_, of_the_last = to_read(planned.slices[-1])
    for note in sources.notes(of_the_last, listings):
        _say(f"warning: {note}")
    hours_of = {piece.folder: _hours(piece) for piece in planned.slices}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("hours"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("joining", total=sum(hours_of.values()))

        def join(piece: Slice, folder: Folder) -> None:
            span, goes_on, of_slice = to_read(piece)
            if sources.are_empty(of_slice, listings):
                folder.mkdir()
                return

            def watch() -> None:
                bar.update(task, description=f"joining {piece.first}{_size(folder)}")

            join_apart(config, overrides, span, folder, watch, goes_on=goes_on)

        running.to_the_end(
            output,
            planned,
            join,
            joined=lambda piece: bar.advance(task, hours_of[piece.folder]),
            published=lambda: iceberg.follow(config, overrides, pipeline, output, planned),
        )
    _say(f"done; {planned.first} to {planned.end} are replaced in {output}")


def _hours(piece: Slice) -> int:
    return (hours.read(piece.end, "to") - hours.read(piece.first, "from")) // HOUR_MS


def _size(folder: Folder) -> str:
    """What lies in a folder that is being written; only that of a disk is looked at cheaply."""
    if not isinstance(folder, Path):
        return ""
    return f", {places.bytes_in(folder, 'samples/*/*/*') / 1e6:.1f} MB"


def _remove(output: Folder, age_ms: int) -> None:
    folder = output / ICEBERG_TABLE
    if folder.exists():
        raise ConfigError(
            f"--remove-replaced: {folder} is an Iceberg table of files that would be deleted, "
            "and its readers would fail; switch output.table off and delete the table first"
        )
    with locked(output):
        before = datetime.now(timezone.utc) - timedelta(milliseconds=age_ms)
        removed = removal.remove(output, before)
    _say(f"removed {removed.hours:,} replaced hours of tables, and {removed.folders:,} folders")


def _duration(text: str, option: str) -> int:
    try:
        return Duration.parse(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None


def _output(pipeline: Pipeline) -> Folder:
    path = pipeline.output.path
    try:
        return stores.folder(path, pipeline.object_storage)
    except ValueError:
        raise ConfigError(
            f"output.path: {path} is neither a local folder nor on s3://; mount it"
        ) from None


@contextmanager
def locked(output: Folder) -> Iterator[None]:
    """One backfill at a time changes an output. The join may write to it meanwhile."""
    output.mkdir(parents=True, exist_ok=True)
    try:
        lock = store_lock.take_either(output / LOCK)
    except output_lock.HeldError as holder:
        raise ConfigError(f"another backfill of {output} is at work ({holder})") from None
    with lock:
        yield


def _say(text: str) -> None:
    console.print(f"backfill: {text}", markup=False, soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return run(backfill, argv, "python -m jobs.backfill")
