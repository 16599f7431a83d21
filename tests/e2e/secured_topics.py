"""A request a second in one topic, and a click on each in the other."""

from __future__ import annotations

import json

from kafka import KafkaProducer

from services.kafka_broker import KafkaBroker

START = 1_700_000_000_000
REQUESTS = 20
TOPICS = "secured"


def fill(broker: KafkaBroker) -> None:
    """Create the topics `secured-features` and `secured-actions`, and produce to them."""
    for stream in ("features", "actions"):
        broker.create_topic(f"{TOPICS}-{stream}")
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    for i in range(REQUESTS):
        time = START + i * 1000
        event = {"request_id": f"r{i}", "user_id": "u"}
        request = {**event, "event_time": time, "items": [{"item_id": "i", "features": {}}]}
        click = {**event, "event_time": time + 1, "item_id": "i", "action": "click"}
        for stream, record in (("features", request), ("actions", click)):
            value = json.dumps(record).encode()
            producer.send(
                f"{TOPICS}-{stream}",
                value,
                timestamp_ms=record["event_time"],
                headers=[("trace", b"\x00\xff")],
            )
    producer.flush()
    producer.close()
