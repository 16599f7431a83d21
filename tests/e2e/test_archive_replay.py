"""Join live and archive, from one broker; then join the archive: the same rows, all columns of all
tables, also when the process is killed in the middle.

The traffic is that of `tools.generate`: a day with disorder, duplicates, late and bad records. It
is produced in the order of receipt. Before each record that is late, the live job is waited for, as
a job that keeps up would have read what came before.
"""

from __future__ import annotations

import os
import signal
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from kafka import KafkaProducer

from schemas.events import STREAMS
from services.process import free_port
from services.waiting import wait_until
from tests.e2e import local_job
from tests.e2e.secured import SecuredBroker
from tests.e2e.test_metrics import metric, scraped
from tests.flink import running
from tools.generate.model import Traffic
from tools.generate.traffic import generate

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900)]

PARTITIONS = {"features": 3, "actions": 2}
BOUND_MS = 2_000
#: Of this seed no deadline lies between the watermark of the live run at a late record, that of the
#: slowest partition (minutes behind, for the topics have 4 records a minute), and the replay's.
TRAFFIC = Traffic(
    requests=3_000, items=4, features=3, seed=1, hours=24.0, late_share=0.015, bad_share=0.003
)
TABLES = ("samples", "late_actions", "rejected")
LIVE = """
[sources.{stream}]
type = "kafka"
topic = "replayed-{stream}"
bootstrap_servers = "{servers}"
out_of_orderness = "2s"
idle_timeout = "1h"
max_record_bytes = 65536
"""
AGAIN = """
[sources.{stream}]
type = "archive"
path = "archive"
out_of_orderness = "2s"
max_record_bytes = 65536
"""
DEADLINE_S = 240.0


class Sent(NamedTuple):
    """A record in the order of receipt; `timestamp` is its event time."""

    stream: str
    partition: int
    timestamp: int
    value: bytes


def received(folder: Path) -> list[Sent]:
    """The lines of both logs. Which of two streams was first: who had shown the lesser time."""
    listed = pq.read_table(folder / "truth" / "records.parquet").to_pylist()
    logs = {name: (folder / name).read_bytes() for name in {row["file"] for row in listed}}
    shown: dict[str, int] = {}
    found: list[tuple[int, int, Sent]] = []
    for row in sorted(listed, key=lambda row: (row["file"], row["offset"])):
        stream, at = row["stream"], row["offset"]
        # a bad record may have no time
        time = row["event_time"] or shown[stream]
        shown[stream] = max(shown.get(stream, 0), time)
        line = logs[row["file"]][at:].partition(b"\n")[0]
        # copies in one partition, as producers that send by key do it
        partition = zlib.crc32(row["name"].encode()) % PARTITIONS[stream]
        found.append((shown[stream], len(found), Sent(stream, partition, time, line)))
    return [sent for *_, sent in sorted(found)]


def last_ones(end: int) -> Iterator[Sent]:
    """So far ahead that everything before is decided."""
    ids = f'"request_id": "far", "user_id": "far", "event_time": {end}'
    for stream, partitions in PARTITIONS.items():
        rest = '"items": []' if stream == "features" else '"item_id": "i", "action": "far"'
        for partition in range(partitions):
            yield Sent(stream, partition, end, f"{{{ids}, {rest}}}".encode())


class Live:
    """A live job that reads what is produced."""

    def __init__(self, broker: SecuredBroker, port: int) -> None:
        self._producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
        self._port = port
        self._shown: dict[tuple[str, int], int] = {}

    def send(self, records: Iterable[Sent]) -> int:
        """Produces them, and waits before each that is late; returns how many were."""
        late = 0
        for record in records:
            place = record.stream, record.partition
            shown = self._shown.get(place, 0)
            if record.timestamp < shown - BOUND_MS:
                late += 1
                self.wait()
            self._shown[place] = max(shown, record.timestamp)
            self._producer.send(
                f"replayed-{record.stream}",
                record.value,
                partition=record.partition,
                timestamp_ms=record.timestamp,
            )
        return late

    def wait(self) -> None:
        """Until the job's watermark follows from all that was produced."""
        self._producer.flush()
        if len(self._shown) < sum(PARTITIONS.values()):
            return  # it has no watermark yet
        due = min(self._shown.values()) - BOUND_MS - 1

        def there() -> bool:
            try:
                return metric(scraped(self._port), "watermark_ms") >= due
            except OSError:
                return False

        wait_until(there, DEADLINE_S, f"the watermark {due}", every_s=0.05)

    def close(self) -> None:
        self._producer.close()


def rows(output: Path, table: str) -> Counter[str]:
    """All rows with all columns; without those that only the last records made."""
    if not (output / table).is_dir():
        return Counter()
    found = ds.dataset(output / table, format="parquet", partitioning="hive").to_table()
    return Counter(repr(sorted(row.items())) for row in found.to_pylist() if not far(row))


def far(row: dict[str, Any]) -> bool:
    return b'"far"' in (row.get("raw") or b"")


def differences(one: Path, other: Path) -> dict[str, tuple[list[str], list[str]]]:
    found = {}
    for table in TABLES:
        here, there = rows(one, table), rows(other, table)
        found[table] = [*(here - there).elements()][:3], [*(there - here).elements()][:3]
    return {table: both for table, both in found.items() if both != ([], [])}


def test_the_archive_gives_the_rows_of_the_live_run(
    kafka_broker: SecuredBroker, tmp_path: Path
) -> None:
    generate(TRAFFIC, tmp_path / "day")
    sent = received(tmp_path / "day")
    rules = (tmp_path / "day" / "pipeline.toml").read_text().partition("[sources.features]")[0]
    rules = rules.replace('window = "3h"', 'window = "1h"')
    servers = kafka_broker.bootstrap_servers
    live, again = tmp_path / "live.toml", tmp_path / "again.toml"
    sources = "".join(LIVE.format(stream=stream, servers=servers) for stream in STREAMS)
    live.write_text(
        f'{rules}{sources}[output]\npath = "live"\n[archive]\npath = "archive"\n'
        '[runtime]\ncheckpoint_interval = "1s"\n'
    )
    sources = "".join(AGAIN.format(stream=stream) for stream in STREAMS)
    again.write_text(f'{rules}{sources}[output]\npath = "again"\n')
    for stream, partitions in PARTITIONS.items():
        kafka_broker.create_topic(f"replayed-{stream}", partitions=partitions)

    port = free_port()
    log = tmp_path / "live.log"
    arguments = ["--config", str(live), "--set", f"runtime.metrics_port={port}"]
    with local_job.started(arguments, log) as job:
        to = Live(kafka_broker, port)
        late = to.send(sent)
        to.send(last_ones(TRAFFIC.end + 1_000 * 3_600_000))
        to.wait()
        to.close()
        os.kill(job.pid, signal.SIGTERM)
        assert job.wait(DEADLINE_S) == 128 + signal.SIGTERM, log.read_text()
    ends = [part for stream in STREAMS for part in ("--set", f"sources.{stream}.end=latest")]
    kept = running.run_module("jobs.archive_events", "--config", str(live), *ends)
    assert kept.returncode == 0, kept.stderr

    there = {table: sum(rows(tmp_path / "live", table).values()) for table in TABLES}
    assert late > 50
    assert there["samples"] > 10_000
    assert there["late_actions"] > 3
    reasons = pq.read_table(tmp_path / "live" / "rejected", columns=["reason"])["reason"]
    assert {"late_request", "duplicate_request", "duplicate_action", "orphan_action"} <= set(
        reasons.to_pylist()
    )

    # the readers are held back, so that there is a middle
    settings = ["runtime.parallelism=4", "runtime.checkpoint_interval=300ms"]
    settings += [f"sources.{stream}.max_drift=5min" for stream in STREAMS]
    arguments = ["--config", str(again), *(p for s in settings for p in ("--set", s))]
    with local_job.started(arguments, tmp_path / "killed.log") as job:
        wait_until(
            lambda: rows(tmp_path / "again", "samples") or job.poll() is not None,
            DEADLINE_S,
            "the first rows",
        )
        os.killpg(job.pid, signal.SIGKILL)
        job.wait(DEADLINE_S)
    assert sum(rows(tmp_path / "again", "samples").values()) < there["samples"], "no middle"
    restored = running.run_module("jobs.join_samples", *arguments, "--restore", "latest")
    assert restored.returncode == 0, restored.stderr
    assert differences(tmp_path / "live", tmp_path / "again") == {}

    audited = running.run_module("tools.audit", "--config", str(again))
    assert audited.returncode == 0, audited.stdout
