"""Other systems' runs of the benchmark write the samples that a plain computation says."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import pyarrow.dataset as ds
import pytest

from benchmarks.join.data import feature_names
from benchmarks.join.spec import START_MS, Spec
from services.kafka_broker import KafkaBroker

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-join-bench" / "bin" / "python"
SPEC = Spec("whole", "ours", "hashmap", 200, 3, 1_000, 60_000, items=4)

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not PYTHON.exists(), reason="run `make setup-bench-join` first"),
]


class Input(NamedTuple):
    """The records of both streams, in the order of time, and the rows that they must give."""

    features: list[dict[str, Any]]
    actions: list[dict[str, Any]]
    rows: list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def made() -> Input:
    """At most one action on an impression, often at an edge of its window."""
    rng = random.Random(1)
    doubles, strings = feature_names(SPEC.features)
    window = SPEC.window_ms
    features, actions, rows = [], [], []
    for n in range(SPEC.requests):
        time, items = START_MS + n * SPEC.step_ms, []
        for p in range(SPEC.items):
            values = {d: rng.random() for d in doubles} | {s: f"é{rng.random()}" for s in strings}
            items.append({"item_id": f"i{p}", "features": values})
            after = rng.choice([None, None, None, -1, 0, 1, 8_000, window - 1, window, window + 1])
            if after is not None:
                action = {"action": "click", "item_id": f"i{p}", "event_time": time + after}
                actions.append(action | {"request_id": f"r{n}"})
            delay = after if after is not None and 0 <= after <= window else None
            row = (f"r{n}", f"i{p}", p, time, *values.values(), int(delay is not None), delay)
            rows.append(row)
        features.append({"request_id": f"r{n}", "event_time": time, "items": items})
    actions.append({"action": "like", "item_id": "i0", "event_time": START_MS, "request_id": "r0"})
    return Input(features, sorted(actions, key=lambda a: a["event_time"]), rows)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    with KafkaBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


def _to_files(made: Input, folder: Path) -> Path:
    for stream, records in (("features", made.features), ("actions", made.actions)):
        (folder / stream).mkdir(parents=True)
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / stream / "part.jsonl").write_text(lines)
    return folder


def _to_kafka(made: Input, broker: KafkaBroker, name: str, partitions: int) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    for stream, records in (("features", made.features), ("actions", made.actions)):
        topic = f"{name}-{stream}"
        broker.create_topic(topic, partitions=partitions)
        sent = [
            producer.send(
                topic,
                json.dumps(record).encode(),
                # as a hash does it: the partitions differ in size, and a batch ends apart in them
                partition=crc32(record["request_id"].encode()) % partitions,
                timestamp_ms=record["event_time"],
            )
            for record in records
        ]
        for one in sent:
            one.get(timeout=60)
    producer.close()


def _written(spec: Spec, module: str, *arguments: str) -> list[tuple[Any, ...]]:
    """Run, and return the rows in the order of the input."""
    command = [str(PYTHON), "-m", f"benchmarks.join.{module}", spec.to_json(), *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["seconds"] > 0 < answer["cpu_seconds"]
    table = ds.dataset(f"{spec.scratch}/out/samples", partitioning="hive").to_table()
    columns = table.to_pydict()
    assert {(d, int(h)) for d, h in zip(columns.pop("dt"), columns.pop("hr"), strict=True)} == {
        ("2023-11-14", 23)
    }
    return sorted(zip(*columns.values(), strict=True), key=lambda row: (row[3], row[2]))


def test_spark_from_files(made: Input, tmp_path: Path) -> None:
    data = _to_files(made, tmp_path / "data")
    spec = replace(SPEC, data=str(data), scratch=str(tmp_path))
    assert _written(spec, "run_spark") == made.rows


def test_spark_from_four_partitions_with_state_on_disk(
    made: Input, broker: KafkaBroker, tmp_path: Path
) -> None:
    _to_kafka(made, broker, "spark", 4)
    spec = replace(
        SPEC,
        source="kafka",
        brokers=broker.bootstrap_servers,
        topics="spark",
        scratch=str(tmp_path),
        partitions=4,
        parallelism=2,
        backend="rocksdb",
    )
    assert _written(spec, "run_spark") == made.rows


@pytest.mark.parametrize("plan", ["state", "join"])
def test_quix_streams(made: Input, broker: KafkaBroker, tmp_path: Path, plan: str) -> None:
    _to_kafka(made, broker, f"quix-{plan}", 1)
    spec = replace(
        SPEC,
        source="kafka",
        brokers=broker.bootstrap_servers,
        topics=f"quix-{plan}",
        scratch=str(tmp_path),
    )
    assert _written(spec, "run_quix", plan) == made.rows
