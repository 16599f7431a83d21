"""Run the closed loop on real processes, and show what learning is worth.

    python -m examples.closed_loop.live [--days N] [--minutes N] [--seed N] [--kill] [--folder DIR]

Exit codes: 0 all is as it should be; 1 something is missing, or learning did not pay; 2 a wrong
option.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from configuration.command_line import run as run_command
from examples.closed_loop.live import page, terminal
from examples.closed_loop.live.check import check
from examples.closed_loop.live.clients import Collector, Ranker, ServiceError
from examples.closed_loop.live.drive import Clock, Drive
from examples.closed_loop.live.journal import ARMS, Arm, Journal, Shown, clicks_more
from examples.closed_loop.live.readings import Readings
from examples.closed_loop.live.system import ROOT, System
from examples.closed_loop.world import Settings, World
from jobs.pipeline.config import load
from services.flink_cluster import ClusterError
from services.kafka_programs import BrokerError
from services.waiting import DeadlineError, wait_until
from tools.audit.command import audit

GOOD, BAD, WRONG = 0, 1, 2
_DAY_MS = 86_400_000
#: The frozen arm's model is of this time of the run.
_FREEZE_AT = 0.3
#: So many that half of them show a difference of a tenth.
_USERS, _REQUESTS_A_DAY = 1_000, 6_000
KILLED_RANKER = "the ranking service"
#: Of the world: longer than features wait in a service's buffer.
_BUFFERED_MS = 30 * 60_000
#: In a log, instead of a live table.
_LINE_EVERY_S = 15.0
_CAUGHT_UP_S = 600.0


def loop(
    days: Annotated[float, typer.Option(min=0.5, help="Days of the world.")] = 3.0,
    minutes: Annotated[float, typer.Option(min=1, help="How long they may take, at least.")] = 6.0,
    seed: Annotated[int, typer.Option(help="Of the world.")] = 0,
    epsilon: Annotated[
        float, typer.Option(min=0, max=1, help="Share of requests that are ranked at random.")
    ] = 0.05,
    kill: Annotated[
        bool, typer.Option("--kill", help="Kill processes on the way, one of each kind.")
    ] = False,
    folder: Annotated[
        Path, typer.Option(metavar="DIR", help="For all that is written; emptied first.")
    ] = ROOT / "out" / "loop",
) -> int:
    """Run the closed loop on real processes, and show what learning is worth.

    Simulated users are ranked for over HTTP and react; features and actions go through Kafka and
    the join into samples; the trainer learns them, and the newer model ranks the next request. Half
    of the users keep the model of the beginning.

    Exit codes: 0 all is as it should be; 1 something is missing, or learning did not pay.
    """
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console.print("[bold]closed loop[/] · starting Kafka, Flink, the trainer and the rankers")
    world = World(seed, Settings(days=days, users=_USERS, requests_a_day=_REQUESTS_A_DAY))
    try:
        with System(folder.resolve(), epsilon=epsilon) as system:
            run = _Run(system, world, days * _DAY_MS, minutes, console)
            run.drive.start()
            try:
                run.watch(kill=kill)
                result = run.end()
            finally:
                run.drive.stop()
    except _FAILURES as error:
        console.print(f"loop: {error}", markup=False, soft_wrap=True)
        console.print(f"loop: the logs are in {folder}", markup=False, soft_wrap=True)
        return BAD
    target = folder / "page.html"
    target.write_text(page.render(result), encoding="utf-8")
    for text in page.summary_lines(result):
        console.print(text, markup=False, soft_wrap=True)
    console.print(f"\nthe page with plots: {target}", soft_wrap=True)
    pays = kill or result.difference.low > 0
    return GOOD if result.check.agrees and not result.unaccounted and pays else BAD


class LoopError(Exception):
    """The loop did not show what it is for; the message says why, and what to do."""


#: What a run may end in. RuntimeError: a service has ended, and its log is shown.
_FAILURES = (LoopError, ServiceError, DeadlineError, ClusterError, BrokerError, RuntimeError)


class _Run:
    """One run, from the first request to the page."""

    def __init__(
        self, system: System, world: World, span_ms: float, minutes: float, console: Console
    ) -> None:
        self._system, self._world, self._console = system, world, console
        self._span_ms, self._minutes = span_ms, minutes
        self._pipeline = load(system.pipeline)
        assert self._pipeline.exposure is not None
        self._seen_kind = self._pipeline.exposure.action
        self._journal = Journal()
        stopped = threading.Event()
        self.drive = Drive(
            world,
            Clock(span_ms / 1e3 / (minutes * 60)),
            {arm: Ranker(service.address, stopped) for arm, service in system.rankers.items()},
            Collector(system.collector.address, stopped),
            self._journal,
            system.settled,
            stopped,
        )
        self.drive.hold_until(self._may_go_on)
        self._waits_since: float | None = None
        self._readings = Readings(system, self.drive, self._journal, self._seen_kind)
        self._frozen_at = 0
        self._faults: list[tuple[str, int]] = []
        #: What is still to be killed: at which part of the run, what, and how.
        self._due: list[tuple[float, str, Callable[[], None]]] = []
        self._begun = time.monotonic()

    # -- while the world goes on -------------------------------------------------------------------

    def watch(self, *, kill: bool) -> None:
        """Shows what happens until the end of the world. Freezes, and kills, on the way."""
        said = 0.0
        self._due = self._kills() if kill else []
        with self._screen() as screen:
            while self.drive.runs:
                time.sleep(1.0)
                self._system.trainer.must_run()
                reading = self._readings.take()
                part = self._part(reading.now)
                if not self._frozen_at and part >= _FREEZE_AT and self._system.has_model():
                    self._system.freeze()
                    self._frozen_at = self.drive.now
                while self._due and part >= self._due[0][0]:
                    _, name, fault = self._due.pop(0)
                    self._faults.append((name, reading.now))
                    self._console.print(f"kill -9: {name}")
                    fault()
                phase = f"{part:.0%}"
                if screen is not None:
                    screen.update(terminal.view(reading, phase, self.drive.begin))
                elif time.monotonic() - said > _LINE_EVERY_S:
                    said = time.monotonic()
                    self._console.print(terminal.line(reading, self.drive.begin), soft_wrap=True)
        if self.drive.failed is not None:
            raise self.drive.failed

    def _part(self, now: int) -> float:
        """Of the whole span."""
        return (now - self.drive.begin) / self._span_ms if now else 0.0

    def _may_go_on(self, now: int) -> bool:
        """The world waits for the split, and that for the first model. So it does for what is to be
        killed: on a slow machine it would end before.
        """
        if self._due and self._part(now) >= self._due[0][0]:
            return False
        if self._part(now) < _FREEZE_AT or self._frozen_at:
            return True
        if self._waits_since is None:
            self._waits_since = time.monotonic()
        elif time.monotonic() - self._waits_since > _CAUGHT_UP_S:
            raise LoopError(f"no model came within {_CAUGHT_UP_S:.0f} s; see the trainer's log")
        return False

    def _screen(self) -> contextlib.AbstractContextManager[Live | None]:
        """A place that is drawn again and again, where there is a terminal."""
        if self._console.is_terminal:
            return Live(console=self._console, refresh_per_second=4)
        return contextlib.nullcontext()

    def _kills(self) -> list[tuple[float, str, Callable[[], None]]]:
        """At which part of the run, what, and how; after the freeze, and with time to recover."""
        return [
            (0.45, "a task manager", self._system.kill_task_manager),
            (0.55, "a parameter server", self._system.kill_parameter_server),
            (0.65, KILLED_RANKER, self._system.kill_ranker),
            (0.75, "the broker", self._system.kill_broker),
        ]

    # -- and then ----------------------------------------------------------------------------------

    def end(self) -> page.Result:
        """Lets all windows close and the trainer learn the rest; checks everything."""
        self._console.print("the world has ended; draining the join, and learning the rest")
        wait_until(self._system.settled, _CAUGHT_UP_S, "the broker to have all features")
        self._system.drain()
        shown = self._journal.shown
        found = check(shown, self._system.output, self._pipeline, self._may_be_lost)

        def caught_up() -> bool:
            # more than the rows: what late actions have corrected is learned once more
            self._system.trainer.must_run()
            reading = self._readings.take()
            return found.rows <= reading.learned == reading.samples

        wait_until(caught_up, _CAUGHT_UP_S, "the trainer to learn the rest", every_s=1.0)
        report = audit(self._pipeline)
        unaccounted = len(report.findings) + sum(abs(a.difference) for a in report.accounts)
        arms = {
            arm: [one for one in shown if one.arm == arm and one.time > self._frozen_at]
            for arm in ARMS
        }
        _must_be_frozen(arms)
        return page.Result(
            shown=shown,
            readings=self._readings.taken,
            check=found,
            difference=clicks_more(arms["learning"], arms["frozen"]),
            unaccounted=unaccounted,
            begin=self.drive.begin,
            frozen_at=self._frozen_at,
            new_interest_at=self._world.new_interest_at,
            faults=self._faults,
            scores=self._readings.scores.by_window(),
            seen_kind=self._seen_kind,
            minutes=(time.monotonic() - self._begun) / 60,
        )

    def _may_be_lost(self, shown: Shown) -> bool:
        """Whether its features were in the service's buffer when that was killed."""
        return shown.arm == "learning" and any(
            what == KILLED_RANKER and at - _BUFFERED_MS <= shown.time <= at + _BUFFERED_MS
            for what, at in self._faults
        )


def _must_be_frozen(arms: Mapping[Arm, Sequence[Shown]]) -> None:
    """Raises LoopError if the arms do not differ in their models alone."""
    if any(one.model is None for shown in arms.values() for one in shown):
        raise LoopError("requests were ranked without a model after the split")
    if len({one.model for one in arms["frozen"]}) != 1:
        raise LoopError("the frozen arm was not ranked by one model")


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return run_command(loop, argv, "python -m examples.closed_loop.live")
