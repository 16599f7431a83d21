"""Requests of one item and clicks on it, told by their second, in two Kafka topics."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

from services.kafka_broker import KafkaBroker
from tests.flink import running

SECOND = 1_000
START = 1_700_000_000_000


#: The features never become idle. When the actions are idle, the features alone move time.
_PIPELINE = """{rules}
[sources.features]
type = "kafka"
topic = "{name}-features"
bootstrap_servers = "{servers}"
out_of_orderness = "1s"
idle_timeout = "1h"
[sources.actions]
type = "kafka"
topic = "{name}-actions"
bootstrap_servers = "{servers}"
out_of_orderness = "1s"
idle_timeout = "5s"
[output]
path = "{folder}/out"
[runtime]
checkpoint_interval = "1s"
checkpoint_path = "{folder}/checkpoints"
"""


class KafkaStory:
    """Topics `<name>-features` and `<name>-actions`, and what a job has written of them.

    `rules` is what its pipeline says beside the sources and the output.
    """

    def __init__(self, broker: KafkaBroker, folder: Path, name: str, rules: str) -> None:
        self._broker = broker
        self._name = name
        self._output = folder / "out"
        self.config = folder / "pipeline.toml"
        servers = broker.bootstrap_servers
        text = _PIPELINE.format(rules=rules, servers=servers, name=name, folder=folder)
        self.config.write_text(text)

    def create_topics(self, *, feature_partitions: int = 1, action_partitions: int = 1) -> None:
        self._feature_partitions = feature_partitions
        self._broker.create_topic(f"{self._name}-features", partitions=feature_partitions)
        self._broker.create_topic(f"{self._name}-actions", partitions=action_partitions)

    def requests(self, seconds: Iterable[int], features: Mapping[str, Any] | None = None) -> None:
        """Request r<i> at second i, with one item; the partitions take turns."""
        items = [{"item_id": "a", "features": dict(features or {})}]
        request = {"user_id": "u", "items": items}
        self._produce(
            "features",
            ((i, request | {"request_id": f"r{i}"}, i % self._feature_partitions) for i in seconds),
        )

    def clicks(self, delays: Mapping[int, int], *, partition: int | None = None) -> None:
        """A click for each request, by how many seconds after it, in the order of their times; over
        all partitions, or in one.
        """
        action = {"user_id": "u", "item_id": "a", "action": "click"}
        records = [
            (i + after, action | {"request_id": f"r{i}"}, partition) for i, after in delays.items()
        ]
        self._produce("actions", sorted(records, key=lambda record: record[0]))

    def rows(self, table: str = "samples") -> dict[int, dict[str, Any]]:
        """The visible rows by the second of their request, which must have one each."""
        rows = running.rows(self._output, table)
        by_request = {int(row["request_id"][1:]): row for row in rows}
        assert len(by_request) == len(rows)
        return by_request

    def _produce(
        self, stream: str, records: Iterable[tuple[int, Mapping[str, Any], int | None]]
    ) -> None:
        producer = KafkaProducer(bootstrap_servers=self._broker.bootstrap_servers)
        for second, record, partition in records:
            time = START + second * SECOND
            value = json.dumps({**record, "event_time": time}).encode()
            topic = f"{self._name}-{stream}"
            producer.send(topic, value, timestamp_ms=time, partition=partition)
        producer.flush()
        producer.close()
