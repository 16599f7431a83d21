"""Runs that are killed at many moments and gone on with: every row once, at any time.

A moment is told by what lies in the output and among the checkpoints, so that it is as likely in
the middle of making files visible as between them: the process and its JVM get SIGKILL when so many
names have been seen there, or when the first row is visible, which is after the end of the input in
short runs. Then `--restore latest` goes on, or a fresh start where no checkpoint was complete.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests import oracle
from tests.e2e import iceberg_rows
from tests.e2e.local_job import started
from tests.e2e.outcomes import as_record, written
from tests.e2e.test_time import HOUR, RULES, START, TABLES, Event, complete, hours
from tests.timeline import Action, Outcome, Request, Rules, Timeline

#: Past every deadline, so that all requests but these are settled by time alone.
FAR = START + 100 * HOUR
CONFIG = """
[join]
key = "{key}"
[actions.click]
window = "10s"
label = "count"
[actions.buy]
window = "10s"
label = "sum"
[features.price]
type = "float64"
[sources.features]
type = "files"
path = "{folder}/features.jsonl"
[sources.actions]
type = "files"
path = "{folder}/actions.jsonl"
[output]
path = "{folder}/out"
compact = {compact}
[runtime]
checkpoint_interval = "{interval}"
parallelism = {parallelism}
"""
#: A run in which nothing new is seen for so long (s) is not waited for.
DEADLINE_S = 240


def story(
    folder: Path,
    events: list[Event],
    *,
    compact: bool,
    parallelism: int,
    interval: str,
    rules: Rules = RULES,
) -> Outcome:
    """Writes events and the configuration; what is due. `rules`: RULES, with either key."""
    far: list[Request | Action] = [
        Request("far", "u0", FAR, ("a",)),
        Action(None, "u0", "a", "far", "click", None, FAR),
    ]
    for name, kind in (("features", Request), ("actions", Action)):
        lines = [as_record(e) for e in (*events, *far) if isinstance(e, kind)]
        (folder / f"{name}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    text = CONFIG.format(
        folder=folder,
        key=rules.key,
        compact=str(compact).lower(),
        parallelism=parallelism,
        interval=interval,
    )
    (folder / "pipeline.toml").write_text(text)
    return without_far(oracle.expected(Timeline((*events, *far), FAR), rules))


def without_far(outcome: Outcome) -> Outcome:
    rows = tuple(row for row in outcome.rows if row.request_id != "far")
    return replace(outcome, rows=rows, counters={}).without_made_at()


def names(folder: Path) -> set[str]:
    """All files that the tables and the checkpoints have now."""
    found: set[str] = set()
    for root in (*(folder / "out" / table for table in TABLES), folder / "out" / "_checkpoints"):
        for path, _, files in os.walk(root):
            found.update(f"{path}/{name}" for name in files)
    return found


def visible_files(output: Path) -> set[Path]:
    return {path for table in TABLES for path in (output / table).glob("dt=*/hr=*/[!._]*")}


def visible(folder: Path) -> bool:
    return bool(visible_files(folder / "out"))


def killed(folder: Path, log: Path, when: Callable[[set[str]], bool], *how: str) -> int | None:
    """Runs the job; the exit code, or None when it was killed because of what `when` saw."""
    arguments = ["--config", str(folder / "pipeline.toml"), *how]
    seen: set[str] = set()
    end = time.monotonic() + DEADLINE_S
    with started(arguments, log) as job:
        while job.poll() is None:
            assert time.monotonic() < end, log.read_text()
            seen |= names(folder)
            if when(seen):
                return None  # leaving `started` is the SIGKILL, of the JVM too
            time.sleep(0.001)
        return job.returncode


def check(folder: Path, due: Outcome, *, whole: bool, rules: Rules = RULES) -> None:
    """Nothing that is visible is wrong or there twice; partitions that are called complete are so,
    and if the run is over, all is there.
    """
    found = without_far(written(folder / "out", rules))
    lines, true_lines = Counter(found.lines()), Counter(due.lines())
    assert list((lines - true_lines).elements()) == [], "wrong, or there twice"
    if whole:
        assert list((true_lines - lines).elements()) == [], "missing"
    counts = Counter(hour_of(row.event_time) for row in due.rows)
    there = Counter(hour_of(row.event_time) for row in found.rows)
    for partition, is_complete in complete(folder / "out", "samples").items():
        if is_complete and not partition.startswith("dt=" + day(FAR)):
            assert there[partition] == counts[partition], partition
        assert is_complete or not whole, partition


def day(at: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at / 1000))


def hour_of(at: int) -> str:
    return time.strftime("dt=%Y-%m-%d/hr=%H", time.gmtime(at / 1000))


def go_on(folder: Path) -> list[str]:
    """How the run is continued: from its latest checkpoint, or anew where none was complete.

    A fresh start is refused when there are rows, so rows without a checkpoint fail the test.
    """
    done = [
        path
        for path in (folder / "out" / "_checkpoints").glob("*/chk-*/_metadata")
        if path.stat().st_size
    ]
    return ["--restore", "latest"] if done else []


@pytest.mark.thorough
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("compact", "parallelism", "seed"),
    [(False, 1, 1), (True, 2, 2)],
)
def test_killed_at_many_moments(tmp_path: Path, compact: bool, parallelism: int, seed: int) -> None:
    rng = random.Random(seed)
    due = story(tmp_path, hours(seed), compact=compact, parallelism=parallelism, interval="300ms")
    how: list[str] = []
    kills = 0
    for attempt in range(12):
        before = len(names(tmp_path))
        number = before + rng.randrange(1, 40)

        def moment(seen: set[str], number: int = number) -> bool:
            return len(seen) >= number

        log = tmp_path / f"{attempt}.log"
        code = killed(tmp_path, log, moment if attempt < 5 else lambda seen: False, *how)
        if code is not None:
            assert code == 0, log.read_text()
            break
        kills += 1
        check(tmp_path, due, whole=False)
        how = go_on(tmp_path)
    assert kills > 0
    check(tmp_path, due, whole=True)


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("compact", "parallelism", "table"), [(False, 1, "files"), (True, 2, "iceberg")]
)
def test_killed_when_the_first_row_is_visible(
    tmp_path: Path, compact: bool, parallelism: int, table: str
) -> None:
    """The checkpoints are so rare that the first with rows comes after the end of the input.

    The first snapshot of an Iceberg table comes behind the first row.
    """
    due = story(tmp_path, hours(5), compact=compact, parallelism=parallelism, interval="3s")
    log, how = tmp_path / "first.log", f"--set=output.table={table}"
    assert killed(tmp_path, log, lambda seen: visible(tmp_path), how) is None, log.read_text()
    check(tmp_path, due, whole=False)
    log = tmp_path / "second.log"
    code = killed(tmp_path, log, lambda seen: False, how, *go_on(tmp_path))
    assert code == 0, log.read_text()
    check(tmp_path, due, whole=True)
    if table == "iceberg":
        if not iceberg_rows.PYTHON.exists():
            pytest.skip("the table was not read: run `make setup-readers` first")
        iceberg_rows.check(tmp_path)
