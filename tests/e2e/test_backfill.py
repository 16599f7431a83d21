"""A backfill of days from an archive, killed in the middle: the rows of a run over everything."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from jobs.backfill import work
from schemas import generations
from schemas.events import STREAMS
from services.waiting import wait_until
from tests import archives
from tests.archives import Kept
from tests.e2e import outcomes
from tests.flink import running
from tests.flink.test_archive_source import configuration, rules
from tests.timeline import MANY, Action, Request

TABLES = ("samples", "late_actions", "rejected")
#: 2026-11-01, 00:00 UTC.
START = 1_793_491_200_000
DAY = 86_400_000
DAYS = 4
PERIOD = ("2026-11-02T00", "2026-11-04T00")
STEP = 300_000
#: Rows before the deadline, and requests that take actions from each other.
RULES = replace(
    rules("user_id"), max_actions=MANY, first_emit_after=5_000, emit_positives="on_arrival"
)


def keep(archive: Path) -> None:
    """Days of requests and actions on three and two partitions, out of order, some late by up to
    six minutes, some twice, some broken.
    """
    choose = random.Random(14)
    arrivals: list[tuple[int, str, int, int, bytes]] = []

    def send(stream: str, partitions: int, event: Request | Action) -> None:
        value = outcomes.as_record(event)
        if choose.random() < 0.02:
            value = choose.choice([b"", b"{", b"[]", value[:-1]])
        for _ in range(1 + (choose.random() < 0.05)):
            lag = choose.randrange(360_000) if choose.random() < 0.1 else choose.randrange(2_000)
            at = event.event_time
            arrivals.append((at + lag, stream, choose.randrange(partitions), at, value))

    for i in range(DAYS * DAY // STEP):
        time = START + i * STEP + choose.randrange(STEP)
        items = tuple(choose.sample([f"i{n}" for n in range(9)], 3))
        user = f"u{choose.randrange(40)}"
        send("features", 3, Request(f"r{i}", user, time, items))
        for n in range(choose.randrange(4)):
            at = time + choose.randrange(-1_000, 200_000)
            kind, shown = choose.choice(["click", "buy"]), choose.choice([*items, "i9"])
            send("actions", 2, Action(f"e{i}-{n}", user, shown, f"r{i}", kind, 1.5, at))
    offsets = Counter[tuple[str, int]]()
    records: dict[str, list[Kept]] = {stream: [] for stream in STREAMS}
    for _, stream, partition, at, value in sorted(arrivals):
        records[stream].append(
            Kept(f"t-{stream}", partition, offsets[stream, partition], at, value)
        )
        offsets[stream, partition] += 1
    for stream, kept in records.items():
        archives.write(archive / stream, kept, seed=1)


def rows(output: Path, table: str) -> Counter[bytes]:
    """With the partition that they are in."""
    found: Counter[bytes] = Counter()
    for file in generations.files(output, table):
        at = "/".join(file.parts[-3:-1])
        for row in pq.read_table(file, partitioning=None).to_pylist():
            found[msgspec.json.encode([at, row])] += 1
    return found


def everything(output: Path) -> dict[str, Counter[bytes]]:
    return {table: rows(output, table) for table in TABLES}


def spoil(output: Path) -> None:
    """Some files of the period are gone, and some are there twice, as after a bad join."""
    for table in TABLES:
        inside = [
            file
            for file in sorted((output / table).glob("*/*/*.parquet"))
            if PERIOD[0] <= str(generations.hour_of("/".join(file.parts[-3:-1]))) < PERIOD[1]
        ]
        assert len(inside) > 3
        inside[0].unlink()
        shutil.copy(inside[1], inside[1].with_name("twice.parquet"))


def audited(config: Path, output: Path) -> tuple[int, str]:
    done = running.run_module(
        "tools.audit", "--config", str(config), "--set", f"output.path={output}"
    )
    return done.returncode, done.stdout


def started(config: Path, log: Path) -> subprocess.Popen[bytes]:
    words = ["-m", "jobs.backfill", "--config", str(config), "--slice", "24"]
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, *words, "--from", PERIOD[0], "--to", PERIOD[1]],
            cwd=running.ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
        )


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_killed_in_the_middle_it_gives_the_rows_of_the_live_run(tmp_path: Path) -> None:
    keep(tmp_path / "archive")
    config = tmp_path / "pipeline.toml"
    config.write_text(configuration(RULES))
    running.join(config, tmp_path / "truth")
    truth = everything(tmp_path / "truth")
    assert all(len(found) > 100 for found in truth.values()), {t: len(f) for t, f in truth.items()}
    output = tmp_path / "out"
    shutil.copytree(tmp_path / "truth", output)
    spoil(output)
    spoiled = everything(output)
    assert all(spoiled[table] != truth[table] for table in TABLES)

    def second_slice() -> Path | None:
        left = work.load(output)
        done = left is not None and len(left.joined) == 1
        assert process.poll() is None, (tmp_path / "log").read_text()
        folder = output / left.slices[1].folder if left is not None and done else None
        return folder if folder is not None and folder.exists() else None

    process = started(config, tmp_path / "log")
    try:
        half = wait_until(second_slice, 400, "the second slice")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    assert everything(output) == spoiled
    first = half.with_name("000")
    files = {file: file.stat().st_mtime_ns for file in first.rglob("*.parquet")}
    again = started(config, tmp_path / "again")
    assert again.wait(timeout=400) == os.EX_OK, (tmp_path / "again").read_text()
    found: dict[str, Any] = everything(output)
    for table in TABLES:
        assert (list(truth[table] - found[table]), list(found[table] - truth[table])) == ([], [])
    # every record is accounted for, also in what the audit says of the live run
    audits = [audited(config, folder) for folder in (tmp_path / "truth", output)]
    assert audits[0] == audits[1]
    # what was joined before the kill was not joined again, and a glob sees what it saw
    assert {file: file.stat().st_mtime_ns for file in first.rglob("*.parquet")} == files
    shutil.move(output / generations.POINTER, tmp_path / "pointer")
    assert everything(output) == spoiled
