"""The trainer's alerts, on a real trainer that a real Prometheus scrapes: each fires by its cause.

`TrainerRefusesSamples` is not among them: what would be its cause, parameters without a finite
gradient, is kept from happening (docs/trainer.md, "Numbers that stay finite").
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.trainer import data
from services import prometheus
from services.process import command_of
from services.prometheus import Prometheus
from services.waiting import DeadlineError, wait_until
from tests.trainer.processes import Trainer
from tests.trainer.test_instruments import RULES, port_of

#: For what takes seconds on a machine that does nothing else.
DEADLINE_S = 180.0
SAVED_EVERY = "20s"
#: What a rule says, and what the test says instead, for intervals of seconds.
SHORTER = {
    "TrainerDown": ("", ""),
    "TrainerStuck": ("> 300", "> 8"),
    "TrainerBehind": ("> 900", "> 8"),
    "TrainerNoNewSamples": ("> 7200", "> 3600"),
    "TrainerNotSaved": ("> 1200", "> 8"),
    "TrainerNotExported": ("> 600", "> 8"),
    "TrainerProcessesEnd": ("[30m])) > 2.5", "[2m])) > 0"),
    "TrainerRolledBack": ("[30m]", "[2m]"),
    "TrainerWithoutBackup": ("", ""),
    "TrainerMiscalibrated": ("[1h]", "[20s]"),
    "TrainerRefusesSamples": ("[15m]", "[20s]"),
}


def write_shorter_rules(to: Path) -> None:
    """Without `for`, but for the one that fires when a scrape does not answer in time."""
    rules = re.split(r"(?m)^(?=      - alert: )", RULES.read_text())
    for i, rule in enumerate(rules[1:], start=1):
        name = rule.split()[2]
        says, instead = SHORTER[name]
        assert says in rule, f"{name} does not say {says!r} any more"
        after = "12s" if name == "TrainerDown" else "0s"
        rule = re.sub(r"(?m)^        for: .*$", f"        for: {after}", rule)
        rules[i] = rule.replace(says, instead) if says else rule
    to.write_text("".join(rules))


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    not prometheus.is_installed(),
    reason="needs Prometheus and promtool on PATH (apt-get install prometheus)",
)
def test_every_alert_fires_for_its_cause(tmp_path: Path, trainers: list[Trainer]) -> None:
    samples = tmp_path / "samples"
    data.write(data.Traffic(rows=8_192, files=2, hours=2, users=200, catalogue=100), samples)
    more = Files(samples)
    rules = tmp_path / "rules.yml"
    write_shorter_rules(rules)
    saved = (f"output.{what}_every={SAVED_EVERY}" for what in ("checkpoint", "export"))
    settings = ("metrics.port=0", "train.workers=1", "evaluation.every=1s", *saved)
    trainer = Trainer(samples, tmp_path / "model", {}, *settings)
    trainers.append(trainer)
    fired: set[str] = set()
    target = f"127.0.0.1:{port_of(trainer)}"
    with Prometheus(
        tmp_path / "prometheus", [target], job="sample-stitch-trainer", rules=[rules]
    ) as prom:

        def fire(*names: str, meanwhile: Callable[[], object] = lambda: None) -> None:
            """Each of them fires, though not all at one time. `meanwhile` keeps up the cause."""
            seen: set[str] = set()

            def all_were_seen() -> bool:
                meanwhile()
                seen.update(prom.firing())
                return seen >= {*names}

            try:
                wait_until(all_were_seen, DEADLINE_S, "alerts to fire")
            except DeadlineError as error:
                raise AssertionError(f"of {names} only {seen} fired") from error
            fired.update(names)

        def only(*names: str) -> None:
            try:
                wait_until(lambda: prom.firing() == {*names}, DEADLINE_S, "others to be silent")
            except DeadlineError as error:
                raise AssertionError(f"not only {names} but {prom.firing()} fire") from error

        def actors(of: str) -> list[psutil.Process]:
            return [process for process in trainer.family() if of in command_of(process)]

        # It has learned what there is, and no newer samples come: these are years old.
        fire("TrainerNoNewSamples")

        # More comes all the time, and it saves less often than the rules want it to.
        rare = {"TrainerNotSaved", "TrainerNotExported"}

        def saves_rarely() -> bool:
            more.add(clicks=True)
            return prom.firing() >= rare

        wait_until(saves_rarely, DEADLINE_S, f"{rare} to fire", every_s=3)
        fired.update(rare)
        only("TrainerNoNewSamples")

        # Nobody clicks any more on what was clicked on. (No label at all: the ratio is infinite.)
        more.add(clicks=False)
        fire("TrainerMiscalibrated")

        # Its worker hangs, and a file waits.
        workers = actors("_WorkerActor")
        assert workers
        for worker in workers:
            worker.suspend()
        more.add(clicks=True)
        fire("TrainerStuck", "TrainerBehind")
        for worker in workers:
            worker.resume()
        only("TrainerNoNewSamples")

        # A server is lost, and whatever replaces it, until it was seen: a backup that is there
        # again within a second is between two scrapes.
        lost, survivor = actors("_ServerActor")
        lost.kill()

        def kill_the_others() -> None:
            for server in actors("_ServerActor"):
                if server != survivor:
                    with suppress(psutil.Error):
                        server.kill()

        fire("TrainerWithoutBackup", "TrainerProcessesEnd", meanwhile=kill_the_others)
        wait_until(lambda: "TrainerWithoutBackup" not in prom.firing(), DEADLINE_S, "a backup")
        assert "TrainerRolledBack" not in prom.firing()
        # Then both at once.
        for server in actors("_ServerActor"):
            server.kill()
        fire("TrainerRolledBack")

        assert "TrainerDown" not in prom.firing()
        trainer.end()
        fire("TrainerDown")
    assert fired == SHORTER.keys() - {"TrainerRefusesSamples"}


class Files:
    """More files of samples, each later than all before, made from the last one."""

    def __init__(self, folder: Path) -> None:
        self._last = data.files(folder)[-1]

    def add(self, *, clicks: bool) -> None:
        """One more, with the labels of the last one or without any click."""
        table = pq.ParquetFile(self._last).read()
        for name, by in (("sample_id", len(table)), ("event_time", data.HOUR_MS)):
            at = table.schema.get_field_index(name)
            moved = pa.array(table[name].to_numpy() + by, table.schema.field(name).type)
            table = table.set_column(at, table.schema.field(name), moved)
        if not clicks:
            for name, value in (("label_click", 0), ("delay_click_ms", None)):
                at = table.schema.get_field_index(name)
                none = pa.array([value] * len(table), table.schema.field(name).type)
                table = table.set_column(at, table.schema.field(name), none)
        number = int(self._last.stem.removeprefix("part-")) + 1
        self._last = self._last.with_name(f"part-{number:03}.parquet")
        hidden = self._last.with_name(f".{self._last.name}")
        pq.write_table(table, hidden, compression="zstd")
        hidden.replace(self._last)
