"""The archive of topics on a real broker: every record once and byte for byte, whatever it is, and
through the SIGKILL of a task manager in the middle.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.dataset as ds
import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.producer import producer_batch

from schemas.archive import ARCHIVE
from services.flink_cluster import FlinkCluster
from services.waiting import wait_until
from tests.e2e.cluster_job import Job
from tests.e2e.secured import SecuredBroker
from tests.flink import running

START = 1_700_000_000_000
HOUR = 3_600_000
CONFIG = """
[actions.click]
window = "1s"
[sources.features]
type = "kafka"
topic = "{prefix}-features"
bootstrap_servers = "{servers}"
end = "{end}"
max_record_bytes = 100_000
[sources.features.properties]
# small fetches, so that a run has a middle
"max.partition.fetch.bytes" = "{fetch}"
[sources.actions]
type = "kafka"
topic = "{prefix}-actions"
bootstrap_servers = "{servers}"
end = "{end}"
[sources.actions.properties]
"max.partition.fetch.bytes" = "{fetch}"
[output]
path = "joined"
[archive]
path = "archive"
compact = {compact}
[runtime]
checkpoint_interval = "{interval}"
parallelism = 2
"""
RECORDS = 6_000


Headers = tuple[tuple[str, "bytes | None"], ...]


class Sent(NamedTuple):
    """A record as it was produced, and as the archive is to have it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def request(i: int) -> dict[str, Any]:
    items = [{"item_id": f"i{n}", "features": {}} for n in range(i % 3 + 1)]
    time = START + i * 1000
    return {"request_id": f"r{i}", "user_id": f"u{i % 7}", "event_time": time, "items": items}


def click(i: int) -> dict[str, Any]:
    ids = {"request_id": f"r{i}", "user_id": f"u{i % 7}", "item_id": "i0"}
    return {**ids, "action": "click", "event_time": START + i * 1000 + 1}


def as_bytes(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode()


def produce(producer: KafkaProducer, record: Sent) -> Any:
    """As `KafkaProducer.send` does it, and takes what that refuses: key and value that are both
    null, headers that are null, and no timestamp (-1). The future is returned.
    """
    producer.partitions_for(record.topic)
    with pytest.MonkeyPatch.context() as patch:
        # the size of the headers, for its metrics; a null has none
        patch.setattr(producer_batch, "sum", lambda sizes: -1, raising=False)
        future, full, new, _ = producer._accumulator.append(
            TopicPartition(record.topic, record.partition),
            record.timestamp,
            record.key,
            record.value,
            list(record.headers),
        )
    if full or new:
        producer._sender.wakeup()
    return future


def archived(folder: Path, stream: str) -> list[dict[str, Any]]:
    if not (folder / "archive" / stream).is_dir():
        return []
    dataset = ds.dataset(folder / "archive" / stream, schema=ARCHIVE, format="parquet")
    rows: list[dict[str, Any]] = dataset.to_table(
        columns=[*ARCHIVE.names, "__filename"]
    ).to_pylist()
    return rows


def as_sent(row: dict[str, Any]) -> Sent:
    headers = tuple(zip(row["header_keys"], row["header_values"], strict=True))
    return Sent(headers=headers, **{name: row[name] for name in Sent._fields[:-1]})


def hour_of(at: int) -> str:
    return time.strftime("dt=%Y-%m-%d/hr=%H", time.gmtime(max(at, 0) / 1000))


def configure(folder: Path, broker: SecuredBroker, prefix: str, **settings: Any) -> Path:
    config = folder / "pipeline.toml"
    config.write_text(
        CONFIG.format(
            servers=broker.bootstrap_servers,
            prefix=prefix,
            **{"fetch": 1 << 20, "interval": "1s", **settings},
        )
    )
    return config


def check(folder: Path, stream: str, sent: list[Sent], *, whole: bool) -> None:
    """Each record that is there was sent, is there once, and lies in its hour; `whole`: all are."""
    rows = archived(folder, stream)
    found, due = Counter(map(as_sent, rows)), Counter(sent)
    assert list((found - due).elements()) == [], "changed, or there twice"
    if whole:
        assert list((due - found).elements()) == [], "missing"
    for row in rows:
        assert hour_of(row["timestamp"]) in row["__filename"]


#: What is in a topic, by what the decoders say of it.
STRANGE: tuple[tuple[str | None, bytes | None, bytes | None, Headers, int], ...] = (
    (None, as_bytes(request(1)), b"k", (), START),
    ("empty_record", None, b"tombstone", (), START + 1),
    ("empty_record", None, None, (("only", b"headers"),), START + 2),
    ("empty_record", b"", b"", (("", b""),), START + HOUR),
    ("invalid_utf8", b'{"a": "\xff\xfe"}', bytes(range(256)), (), START + HOUR + 1),
    ("broken_json", b"\x00", None, (("twice", b"1"), ("twice", None), ("twice", b"")), START),
    (
        "too_large",
        random.Random(1).randbytes(900_000),
        b"\x00" * 70_000,
        (("h", b"x" * 999),),
        START,
    ),
    ("future_clock", as_bytes(request(2)), None, (("naïve", bytes(range(256))),), -1),
    (
        "wrong_type",
        b"null",
        b"",
        tuple((f"k{i}", bytes([i])) for i in range(200)),
        START + 5 * HOUR,
    ),
    (None, as_bytes(request(3)), None, (), START + 3000),
)


@pytest.fixture(scope="module")
def producer(kafka_broker: SecuredBroker) -> Iterator[KafkaProducer]:
    made = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap_servers, max_request_size=2 << 20)
    yield made
    made.close()


@pytest.mark.thorough
def test_whatever_is_in_a_record_survives(
    kafka_broker: SecuredBroker, producer: KafkaProducer, tmp_path: Path
) -> None:
    prefix = "strange"
    sent: list[Sent] = []
    kafka_broker.create_topic(f"{prefix}-features", partitions=2)
    kafka_broker.create_topic(f"{prefix}-actions")
    reasons: dict[tuple[int, int], str | None] = {}
    for i, (reason, value, key, headers, at) in enumerate(STRANGE):
        record = Sent(f"{prefix}-features", i % 2, i // 2, at, key, value, headers)
        reasons[record.partition, record.offset] = reason
        future = produce(producer, record)
        producer.flush()
        assert future.get(timeout=60).offset == record.offset
        sent.append(record)
    produce(producer, Sent(f"{prefix}-actions", 0, 0, START, None, as_bytes(click(1)), ()))
    producer.flush()
    config = configure(tmp_path, kafka_broker, prefix, end="latest", compact="true")
    done = running.run_module("jobs.archive_events", "--config", str(config))
    assert done.returncode == 0, done.stderr

    check(tmp_path, "features", sent, whole=True)
    rows = sorted(archived(tmp_path, "features"), key=lambda row: (row["offset"], row["partition"]))
    assert {(row["partition"], row["offset"]): row["reason"] for row in rows} == reasons
    assert {row["timestamp_type"] for row in rows} == {"CreateTime"}
    read = ("event_time", "request_id", "user_id", "item_ids")
    for row in rows:
        assert (row["message"] is None) == (row["reason"] is None)
        if row["reason"] is not None:
            assert [row[name] for name in read] == [None] * 4
    # of both partitions, so their rows were written a second time
    (file,) = (tmp_path / "archive" / "features" / hour_of(START)).glob("*.parquet")
    assert file.name.startswith("compacted-")
    first = [rows[0][name] for name in read]
    assert first == [START + 1000, "r1", "u1", ["i0", "i1"]]
    (action,) = archived(tmp_path, "actions")
    assert [action[name] for name in read] == [START + 1001, "r1", "u1", ["i0"]]
    hours = {hour_of(record.timestamp) for record in sent}
    marks = {
        str(mark.parent.relative_to(tmp_path / "archive" / "features"))
        for mark in (tmp_path / "archive" / "features").glob("*/*/_SUCCESS")
    }
    assert marks == hours


def story(broker: SecuredBroker, producer: KafkaProducer, prefix: str) -> dict[str, list[Sent]]:
    """Two topics of two partitions with records of six hours, some out of order and some bad."""
    choose = random.Random(prefix)
    sent: dict[str, list[Sent]] = {}
    for stream, event in (("features", request), ("actions", click)):
        topic = f"{prefix}-{stream}"
        broker.create_topic(topic, partitions=2)
        offsets = [0, 0]
        for i in range(RECORDS):
            partition = choose.randrange(2)
            value: bytes | None = as_bytes(event(i))
            if choose.random() < 0.02:
                value = choose.choice([None, b"", b"{", choose.randbytes(50)])
            at = START + i * 6 * HOUR // RECORDS - choose.randrange(2 * HOUR) * (i % 50 == 0)
            headers: Headers = (("trace", b"%d" % i), ("trace", None)) if i % 10 == 0 else ()
            key = choose.choice([None, b"", b"u%d" % (i % 7)])
            record = Sent(topic, partition, offsets[partition], at, key, value, headers)
            produce(producer, record)
            offsets[partition] += 1
            sent.setdefault(stream, []).append(record)
    producer.flush()
    return sent


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_a_task_manager_of_a_cluster_is_killed_in_the_middle(
    kafka_broker: SecuredBroker,
    producer: KafkaProducer,
    flink_cluster: FlinkCluster,
    tmp_path: Path,
) -> None:
    sent = story(kafka_broker, producer, "lost")
    config = configure(
        tmp_path, kafka_broker, "lost", end="never", compact="true", fetch=4096, interval="300ms"
    )

    def rows() -> int:
        return sum(len(archived(tmp_path, stream)) for stream in sent)

    script = running.ROOT / "jobs" / "archive_events.py"
    submission = flink_cluster.run(script, ["--config", str(config)], parallelism=2)
    job = Job(flink_cluster, submission.job_id)
    try:
        wait_until(lambda: job.goes_on() and rows() > 0, 120, "the first rows", every_s=0.05)
        (victim, *_) = job.task_managers("features source")
        flink_cluster.kill_task_manager(victim)
        there = rows()
        flink_cluster.add_task_manager()
        assert there < 2 * RECORDS, "not killed in the middle"
        wait_until(lambda: job.goes_on() and rows() >= 2 * RECORDS, 180, "all rows", every_s=0.25)
        assert job.restored() > 0
        job.wait_for_checkpoints(2)
        for stream, records in sent.items():
            check(tmp_path, stream, records, whole=True)
        # the watermark passes the first hour, and with it the late records of that
        complete = tmp_path / "archive" / "features" / hour_of(START) / "_SUCCESS"
        wait_until(complete.exists, 120, "the first hour to be complete", every_s=0.25)
    finally:
        job.end()
