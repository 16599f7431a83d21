"""Trains a model on joined samples: `python -m trainer.train --config FILE [--set a.b=value]`.

Goes on from the last checkpoint in `output.path`. Ctrl-C stops between two batches, and saves; a
second one stops at once. Exit codes: 0 done, 1 it failed, 2 the configuration or the samples are
unusable, 130 interrupted (saved).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

# one process of several on a machine: no pool of threads for small matrices in each
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from configuration.command_line import Overrides, TrainerFile, run
from configuration.reading import ConfigError
from configuration.stores import Folder, StorePath
from schemas import generations
from trainer import checkpoint
from trainer.checkpoint import CheckpointError
from trainer.config import TrainerConfig, load
from trainer.disk import LockedError, WriteError, locked, replace
from trainer.evaluation.tally import Limited
from trainer.logs import logged
from trainer.reading.files import ReadError
from trainer.reading.ledger import has_samples
from trainer.run.instruments import Instruments, endpoint
from trainer.run.session import Session
from trainer.run.status import Status, moment
from trainer.serving import format as serving
from trainer.serving.write import discard
from trainer.table.finite import NotFiniteError

_EVERY_S = 0.2
PAGE = "evaluation/report.html"
#: How many values were clipped, by slot, and how many rows were refused.
LIMITED = "evaluation/limited.json"

console = Console(stderr=True, highlight=False)
# by its name, for this module is __main__ when it is the command
_log = logging.getLogger("trainer.train")


def command(config: TrainerFile, overrides: Overrides = None) -> int:
    """Train a model on joined samples, starting from the last checkpoint.

    Ctrl-C stops between two batches and saves; a second one stops at once. The configuration is
    described in docs/trainer.md. Exit codes: 0 done, 1 it failed, 2 the configuration or the
    samples are unusable, 130 interrupted (saved).
    """
    try:
        settings = load(config, overrides or ())
    except ConfigError as error:
        console.print(f"train: {error}", style="red", markup=False, soft_wrap=True)
        return 2
    with logged(settings.log, console):
        return _locked(settings)


def _locked(settings: TrainerConfig) -> int:
    try:
        _check_samples(settings)
        with locked(settings.output_folder):
            return train(settings)
    except (LockedError, WriteError) as error:
        _log.error(f"train: {error}")
        return 1
    except (ConfigError, ReadError, CheckpointError) as error:
        _log.error(f"train: {error}")
        return 2
    except KeyboardInterrupt:
        _log.error("train: stopped at once; the last checkpoint stands")
        return 130


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return run(command, argv, "python -m trainer.train")


def _check_samples(config: TrainerConfig) -> None:
    written = ("samples", generations.POINTER)
    if not config.samples.follow and not any((config.folder / name).exists() for name in written):
        raise ReadError(
            f"{config.folder} has no samples/; run the joining job first, or set samples.path"
        )


def train(config: TrainerConfig) -> int:
    """Trains as configured, and shows what came of it. Raises as `Session.run`."""
    from trainer.run.build import runner_of
    from trainer.run.job import job_of
    from trainer.run.runner import LostShardError, RunError, ServerGoneError

    with ExitStack() as stack:
        interrupted = stack.enter_context(_interrupts())
        watch = stack.enter_context(_shown(config))
        instruments = Instruments(tuple(kind.name for kind in config.actions))
        _serve(config, instruments, stack)
        if not _there_are_samples(config, interrupted):
            _log.warning("interrupted, before there were samples")
            return 130
        job = job_of(config)
        if config.train.servers:
            _log.info(
                f"starting {config.train.workers} workers and {config.train.servers} servers on"
                " Ray; that takes some seconds"
            )
        session, failed, stats = None, "", None
        try:
            session = Session(
                config,
                lambda names: runner_of(config, job, names),
                watch=watch,
                stopping=interrupted,
                report=Status().report,
                evaluate=_evaluate,
                instruments=instruments,
            )
            session.run()
            stats = session.runner.stats()
        except (LostShardError, ServerGoneError) as error:
            # a session goes back by itself from its start to its end; before and after it cannot
            failed = (
                f"train: a server ended before or after training ({error}); its log says why."
                " Start the same command again"
            )
        except (RunError, NotFiniteError, OSError) as error:
            failed = f"train: {error}"
        finally:
            if session is not None:
                session.runner.stop()
    if session is None:
        _log.error(failed)
        return 1
    if failed:
        _log.error(failed)
        _clear(session)
        _log.info(_kept(session))
        return 1
    try:
        _report(session, stats)
    except WriteError as error:
        _log.error(f"train: {error}")
        _log.info(_kept(session))
        return 1
    if interrupted():
        _log.warning("interrupted, and saved: the same command goes on from here")
        return 130
    return 0


def _serve(config: TrainerConfig, instruments: Instruments, stack: ExitStack) -> None:
    """Serves the metrics if that is configured. Raises ConfigError."""
    address, port = config.metrics.address, config.metrics.port
    if port is None:
        return
    try:
        port = stack.enter_context(endpoint(instruments, address, port))
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(
            f"metrics.port: nothing can listen on {address}:{port}: {why}. Set another port"
        ) from None
    host = f"[{address}]" if ":" in address else address
    _log.info(f"metrics are on http://{host}:{port}/metrics")


def _there_are_samples(config: TrainerConfig, interrupted: Callable[[], bool]) -> bool:
    """Following, waits for the first file, whose rates a new model begins with.

    False: interrupted meanwhile.
    """
    while config.samples.follow and not has_samples(config.folder, config.wanted):
        if interrupted():
            return False
        time.sleep(min(0.2, config.samples.poll / 1e3))
    return True


def _clear(session: Session) -> None:
    """Removes what was being written: it is of no use, and the disk may be full."""
    try:
        checkpoint.clear(session.output / "checkpoints")
        discard(session.output / "serving", session.run_id)
    except OSError:
        # the next checkpoint does it; what went wrong first has been said
        pass


def _kept(session: Session) -> str:
    """What of a run that failed is there."""
    kept = [f"checkpoint {p.name}" for p in checkpoint.find(session.output / "checkpoints")[-1:]]
    try:
        current = serving.read_current(session.output / "serving")
    except (serving.ServingError, OSError):
        current = None
    if current is not None:
        kept.append(f"export {current.number} of {current.run_id}")
    if not kept:
        return "train: nothing was saved before"
    return f"train: saved before, and whole: {', '.join(kept)}; the same command goes on from there"


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C (or SIGTERM) was there; a second one is a KeyboardInterrupt."""
    seen = False

    def note(number: int, frame: object) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True

    before = [(n, signal.signal(n, note)) for n in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield lambda: seen
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def _shown(config: TrainerConfig) -> Iterator[Callable[[Session], None]]:
    """A progress bar: samples, samples/s, and how far behind the newest sample that is."""
    columns = (
        TextColumn("training"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[lag]}"),
        TimeRemainingColumn(),
    )
    last = 0.0
    disable = config.log.format == "json"
    with Progress(*columns, console=console, transient=True, expand=True, disable=disable) as bar:
        task: TaskID = bar.add_task("", total=None, rate="", lag="")

        def watch(session: Session) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < _EVERY_S:
                return
            last = now
            left = session.planner.rows_left
            p = session.progress
            lag = f"{left:,} behind" if config.samples.follow else ""
            if config.samples.follow and session.newest:
                lag += f", newest {moment(session.newest)}"
            bar.update(
                task,
                completed=p.rows,
                total=p.rows + left,
                rate=f"{p.rate:,.0f} samples/s",
                lag=lag,
            )

        yield watch


def write_evaluation(session: Session, facts: Sequence[tuple[str, str]]) -> tuple[Folder, Folder]:
    """Write the metrics as Parquet and as a page, under `evaluation/`; returns their paths.

    `facts`: what the page says of the run. Raises WriteError.
    """
    from trainer.evaluation.page import render
    from trainer.evaluation.write import write_metrics

    labels = session.names.names
    limited = session.tally.limited
    limited_values = {
        "refused_rows": limited.refused,
        "clipped": {s: {"values": v, "largest": x} for s, (v, x) in limited.clipped.items()},
    }
    path = write_metrics(session.tally, session.output, labels)
    page = session.output / PAGE
    replace(session.output / LIMITED, msgspec.json.format(msgspec.json.encode(limited_values)))
    replace(page, render(session.tally, list(facts), "Training", labels).encode())
    return path, page


def _evaluate(session: Session) -> None:
    write_evaluation(session, about(session, None))


def _report(session: Session, stats: object) -> None:
    """Write the evaluation, and its headline here."""
    from trainer.evaluation.terminal import print_headline

    facts = about(session, stats)
    path, page = write_evaluation(session, facts)
    out = Console(highlight=False)
    print_headline(session.tally, out)
    out.print()
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        out.print(f"  {name:{width}}  {value}", markup=False, soft_wrap=True)
    out.print(
        f"\n  metrics  {_shortest(path)}\n  page     {_shortest(page)}",
        markup=False,
        soft_wrap=True,
    )


def _shortest(path: Folder) -> str:
    here = Path.cwd()
    if isinstance(path, StorePath):
        return str(path)
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def about(session: Session, stats: object) -> list[tuple[str, str]]:
    """What is to be known of a run: names and values."""
    p, config = session.progress, session.config
    told = stats if isinstance(stats, dict) else {}
    rows, size = int(told.get("rows", 0)), int(told.get("bytes", 0))
    spec, train = session.runner.job.spec, config.train
    where = "this process"
    if train.servers:
        where = (
            f"{train.workers} workers, {train.servers} servers, {train.consistency}"
            f"{f' (staleness {train.staleness})' if train.consistency == 'ssp' else ''}"
        )
    pairs = [
        ("model", f"{spec.kind}, {len(spec.slots)} slots, heads {', '.join(spec.heads)}"),
        ("loss", f"{config.loss_type}, sampling by {config.loss.sampling}"),
        ("where", where),
        ("samples", f"{session.rows:,}" + (f" ({p.rows:,} now)" if p.rows != session.rows else "")),
        ("samples/s", f"{p.rate:,.0f}"),
        ("keys", f"{rows:,}" + (f", {size / rows:.1f} bytes each" if rows else "")),
        ("keys a batch", f"{p.keys / p.steps:,.0f}" if p.steps else "-"),
        ("newest sample", moment(session.newest) if session.newest else "-"),
        ("checkpoints, exports", f"{p.checkpoints}, {p.exports}"),
    ]
    pairs += session.runner.facts()
    if p.expired:
        pairs.append(("expired keys", f"{p.expired:,}"))
    absent = sorted({column for entry in session.ledger.entries for column in entry.absent})
    if absent:
        files = sum(bool(entry.absent) for entry in session.ledger.entries)
        pairs.append(("columns read as null", f"{', '.join(absent)}: {files:,} files lack some"))
    for name, at in session.since.items():
        pairs.append((f"{name} known since", f"batch {at.step:,}, {moment(at.event_time)}"))
    return [*pairs, *_limited(session.tally.limited)]


def _limited(limited: Limited) -> list[tuple[str, str]]:
    """What was not learned as the samples have it, and what to set."""
    pairs = [
        (
            f"clipped in {slot}",
            f"{values:,} values beyond the bound, the furthest {largest:g}: set"
            f" slots.{slot}.clip, .scale or .log1p",
        )
        for slot, (values, largest) in sorted(limited.clipped.items())
    ]
    if limited.refused:
        pairs.append(
            (
                "refused rows",
                f"{limited.refused:,} without a finite prediction or gradient: lower the learning"
                " rate, or bound the slots that are values",
            )
        )
    return pairs


if __name__ == "__main__":
    sys.exit(main())
