"""Make faults on real processes under load, and compare the rows with the truth after each.

    python -m chaos [--short] [--faults N] [--minutes M] [--seed N] [--kind TEXT]

Exit codes: 0 nothing differs; 1 something does, the job did not recover, or the run was stopped;
2 a wrong option.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from chaos import table, trainer_run
from chaos.cluster import Cluster
from chaos.faults import FAULTS, SHORT, Fault
from chaos.result import Result
from chaos.run import draw, run
from chaos.trainer_faults import TRAINER_FAULTS, TrainerFault
from configuration.command_line import run as run_command
from services.flink_cluster import ClusterError
from services.kafka_programs import BrokerError
from services.zookeeper import ZooKeeperError

#: Those of the join are made first, and then those of the trainer.
_Kind = type[Fault] | type[TrainerFault]
_ALL: tuple[_Kind, ...] = (*FAULTS, *TRAINER_FAULTS)

SAME, DIFFERS, WRONG = 0, 1, 2
_SHOWN = 20

#: What a fault or a comparison may end in.
_FAILURES = (
    AssertionError,
    BrokerError,
    ClusterError,
    LookupError,
    OSError,
    RuntimeError,
    subprocess.SubprocessError,
    ZooKeeperError,
)

_console = Console(stderr=True, highlight=False)


def chaos(
    short: Annotated[bool, typer.Option("--short", help="Five kinds, once each.")] = False,
    faults: Annotated[int, typer.Option(min=1, help="How many to make.")] = 100,
    seed: Annotated[int, typer.Option(help="The same seed makes the same faults.")] = 0,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only kinds whose name has this; repeatable.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 20.0,
    faults_an_era: Annotated[
        int, typer.Option(min=1, help="After so many, a drain and a new output.")
    ] = 10,
    minutes: Annotated[
        float, typer.Option(min=0, help="Begin no other fault after so many minutes.")
    ] = 600.0,
    network: Annotated[
        bool, typer.Option(help="Give each process a network namespace, if the machine lets us.")
    ] = True,
    markdown: Annotated[
        Path | None, typer.Option(help="Write the table by kinds to this file.")
    ] = None,
) -> int:
    """Make faults on real processes under load, and compare the rows with the truth after each.

    Kafka has three brokers, Flink two job managers with ZooKeeper and two task managers; the
    trainer has two workers and three servers. Whoever may not make network namespaces or small
    disks does without the faults that need them.

    Exit codes: 0 nothing differs; 1 something does, the job did not recover, or the run was
    stopped; 2 a wrong option.
    """
    wanted: Sequence[_Kind] = SHORT if short else _ALL
    if kind:
        wanted = [fault for fault in _ALL if any(text in fault.name for text in kind)]
    if not wanted:
        _say(f"no kind has {' or '.join(kind or ())} in its name: {', '.join(_names(_ALL))}")
        return WRONG
    folder = Path(tempfile.mkdtemp(prefix="sample-stitch-chaos-"))
    drawn: list[_Kind] = []
    results: list[Result] = []
    failed = stopped = False
    # whoever ends it gets the table, and no namespace or disk stays behind
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.closing(Cluster(folder, network=network)) as cluster:
            for lacking, why in cluster.lacks.items():
                left_out = _names([fault for fault in wanted if fault.needs == lacking])
                if left_out:
                    _say(f"left out, for want of {lacking} ({why}): {', '.join(left_out)}")
            kinds = [fault for fault in wanted if fault.needs not in cluster.lacks]
            drawn += kinds if short else draw(kinds, faults, seed)
            _say(f"seed {seed}, {len(drawn)} faults of {len(set(drawn))} kinds, in {folder}")
            ends_at = time.monotonic() + minutes * 60
            for result in _made(cluster, drawn, seed, rate, faults_an_era, ends_at):
                results.append(result)
                _say("   ".join(table.cells(result)))
                _show_difference(result)
    except _FAILURES as error:
        failed = True
        _say(f"gave up: {error!r}")
        (folder / "gave-up.log").write_text(traceback.format_exc(), encoding="utf-8")
    except KeyboardInterrupt:
        stopped = True
        _say("stopped; the latest output was not drained and not audited")
    finally:
        # also of an error that nobody thought of
        _say_what_was_not_made(drawn, results)
        Console(highlight=False, width=160).print(table.terminal(results))
        if markdown is not None:
            markdown.write_text(table.markdown(results), encoding="utf-8")
    if not failed and not stopped and not any(_differs(result) for result in results):
        shutil.rmtree(folder, ignore_errors=True)
        return SAME
    _say(f"the logs are in {folder}")
    return DIFFERS


def _made(
    cluster: Cluster,
    drawn: Sequence[_Kind],
    seed: int,
    rate: float,
    faults_an_era: int,
    ends_at: float,
) -> Iterator[Result]:
    """Those of the join in their order, and then those of the trainer in theirs."""
    of_join = [fault for fault in drawn if issubclass(fault, Fault)]
    of_trainer = [fault for fault in drawn if issubclass(fault, TrainerFault)]
    number = 0
    if of_join:
        cluster.start()
        for result in run(
            cluster,
            of_join,
            seed=seed,
            rate=rate,
            faults_an_era=faults_an_era,
            ends_at=ends_at,
            told=_say,
        ):
            number = result.number
            yield result
        cluster.stop()
    if of_trainer:
        yield from trainer_run.run(
            cluster.folder / "trainer",
            cluster.network,
            of_trainer,
            first=number + 1,
            seed=seed,
            faults_an_era=faults_an_era,
            ends_at=ends_at,
            told=_say,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return run_command(chaos, argv, "python -m chaos")


def _differs(result: Result) -> bool:
    return result.difference.count + (result.unaccounted or 0) > 0


def _show_difference(result: Result) -> None:
    found = result.difference
    for what, lines in (
        ("missing", found.missing),
        ("wrong or twice", found.wrong_or_twice),
        ("stray", found.stray),
    ):
        for line in lines[:_SHOWN]:
            _say(f"  {what}: {line}")
        if len(lines) > _SHOWN:
            _say(f"  {what}: and {len(lines) - _SHOWN} more")
    if result.unaccounted:
        _say(f"  the audit cannot account for {result.unaccounted}")


def _say_what_was_not_made(drawn: Sequence[_Kind], results: Sequence[Result]) -> None:
    made = Counter(result.fault for result in results)
    for kinds, of in ((FAULTS, "the join"), (TRAINER_FAULTS, "the trainer")):
        names = _names([fault for fault in drawn if fault in kinds])
        lacking = sum((Counter(names) - made).values())
        if lacking:
            _say(f"not made, or not to the end: {lacking} of {len(names)} faults of {of}")


def _names(faults: Sequence[_Kind]) -> list[str]:
    return [fault.name for fault in faults]


def _say(text: str) -> None:
    _console.print(f"chaos: {text}", markup=False, soft_wrap=True)
