"""A backfill of days from an archive, killed in the middle: the rows of a run over everything.

Once on a disk, and once with output and archive in an object store whose requests fail.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow.parquet as pq
import pytest

from configuration.store_requests import ObjectStorageSection
from configuration.stores import Folder, StorePath
from jobs.backfill import command, removal, tree, work
from schemas import generations
from schemas.events import STREAMS
from services.waiting import wait_until
from tests import archives
from tests.archives import Kept
from tests.e2e import outcomes
from tests.faulty_proxy import FaultyProxy
from tests.flink import running
from tests.flink.test_archive_source import configuration, rules
from tests.objects import serving, upload
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


def rows(output: Folder, table: str) -> Counter[bytes]:
    """With the partition that they are in."""
    found: Counter[bytes] = Counter()
    for name in generations.names(output, table):
        with (output / name).open("rb") as file:
            listed = pq.read_table(file).to_pylist()
        for row in listed:
            found[msgspec.json.encode([generations.partition_in(name), row])] += 1
    return found


def everything(output: Folder) -> dict[str, Counter[bytes]]:
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


class Where(NamedTuple):
    """The output that is joined again, and the settings with which commands find it."""

    output: Folder
    settings: tuple[str, ...]

    def audited(self, config: Path) -> tuple[int, str]:
        done = running.run_module("tools.audit", "--config", str(config), *sets(self.settings))
        return done.returncode, done.stdout

    def started(self, config: Path, log: Path) -> subprocess.Popen[bytes]:
        words = ["-m", "jobs.backfill", "--config", str(config), "--slice", "24"]
        with log.open("wb") as out:
            return subprocess.Popen(
                [
                    *(sys.executable, *words, *sets(self.settings)),
                    *("--from", PERIOD[0], "--to", PERIOD[1]),
                ],
                cwd=log.parent,
                env={**os.environ, "PYTHONPATH": str(running.ROOT)},
                stdout=out,
                stderr=subprocess.STDOUT,
            )


def sets(settings: Iterable[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@contextmanager
def on_disk(folder: Path) -> Iterator[Where]:
    yield Where(folder / "out", ())


@contextmanager
def on_s3(folder: Path) -> Iterator[Where]:
    """With what lies on the disk so far."""
    with serving(folder / "store") as server:
        section = ObjectStorageSection(endpoint=server.endpoint)
        for name in ("out", "archive"):
            upload(folder / name, StorePath(f"s3://stitch/{name}", section))
            shutil.rmtree(folder / name)
        with FaultyProxy(server.endpoint, seed=14, share=0.03) as proxy:
            archive = [f"sources.{stream}.path=s3://stitch/archive" for stream in STREAMS]
            service = f"object_storage.endpoint={proxy.endpoint}"
            yield Where(
                StorePath("s3://stitch/out", section),
                ("output.path=s3://stitch/out", service, *archive),
            )
            assert len(proxy.injected) > 3, proxy.injected


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize("place", [on_disk, on_s3])
def test_killed_in_the_middle_it_gives_the_rows_of_the_live_run(
    tmp_path: Path, place: Callable[[Path], AbstractContextManager[Where]]
) -> None:
    keep(tmp_path / "archive")
    config = tmp_path / "pipeline.toml"
    config.write_text(configuration(RULES))
    running.join(config, tmp_path / "truth")
    truth = everything(tmp_path / "truth")
    assert all(len(found) > 100 for found in truth.values()), {t: len(f) for t, f in truth.items()}
    shutil.copytree(tmp_path / "truth", tmp_path / "out")
    spoil(tmp_path / "out")
    # of the rows of the run over everything, from the archive as it lies on the disk
    right = Where(tmp_path / "truth", (f"output.path={tmp_path}/truth",)).audited(config)
    with place(tmp_path) as where:
        killed_and_gone_on_with(where, config, truth, right)


def killed_and_gone_on_with(
    where: Where, config: Path, truth: dict[str, Counter[bytes]], right: tuple[int, str]
) -> None:
    output, log = where.output, config.with_name("log")
    spoiled = everything(output)
    assert all(spoiled[table] != truth[table] for table in TABLES)

    def second_slice() -> Folder | None:
        left = work.load(output)
        done = left is not None and len(left.joined) == 1
        assert process.poll() is None, log.read_text()
        folder = output / left.slices[1].folder if left is not None and done else None
        return folder if folder is not None and folder.exists() else None

    process = where.started(config, log)
    try:
        wait_until(second_slice, 400, "the second slice")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    left = work.load(output)
    assert left is not None
    first = output / left.slices[0].folder
    assert everything(output) == spoiled
    if isinstance(output, StorePath):
        # its lock is of a process that is known to be dead
        (output / command.LOCK).unlink()
    files = written(first)
    log = config.with_name("again")
    again = where.started(config, log)
    assert again.wait(timeout=400) == os.EX_OK, log.read_text()
    found: dict[str, Any] = everything(output)
    for table in TABLES:
        assert (list(truth[table] - found[table]), list(found[table] - truth[table])) == ([], [])
    # every record is accounted for, also in what the audit says of the live run
    assert where.audited(config) == right
    # what was joined before the kill was not joined again, and a glob sees what it saw
    assert written(first) == files
    pointer = output / generations.POINTER
    text = pointer.read_bytes()
    pointer.unlink()
    assert everything(output) == spoiled
    pointer.write_bytes(text)
    removed = removal.remove(output, datetime.now(timezone.utc) + timedelta(hours=1))
    assert removed.hours > 0
    assert everything(output) == found


def written(folder: Folder) -> dict[str, int]:
    """The data files of a slice, and when each was written."""
    return {
        f"{table}/{partition}/{name}": (folder / table / partition / name).stat().st_mtime_ns
        for table in TABLES
        for partition, names in tree.partitions(folder / table).items()
        for name in names
    }
