"""What is in a topic, read by the decoders of the job."""

from __future__ import annotations

from typing import Any

import msgspec
from kafka import KafkaConsumer, TopicPartition

from jobs.pipeline import config
from schemas.decoding import ActionDecoder, RequestDecoder
from schemas.events import Origin

_NOWHERE = Origin("", None, 0)


def records(servers: str, topic: str) -> list[Any]:
    """All records of a topic, as the Kafka client has them."""
    consumer = KafkaConsumer(bootstrap_servers=servers)
    try:
        partitions = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(partitions)
        found: list[Any] = []
        while any(consumer.position(one) < ends[one] for one in partitions):
            for polled in consumer.poll(timeout_ms=1_000).values():
                found += polled
        return found
    finally:
        consumer.close()


def requests(pipeline: config.Pipeline, values: list[tuple[bytes, int]]) -> dict[str, Any]:
    """The requests in records (value, timestamp), which the join must accept, by their ids."""
    decoder = RequestDecoder(
        pipeline.schema,
        max_record_bytes=1 << 20,
        max_items=pipeline.limits.items_per_request,
        max_future_ms=60_000,
    )
    found = {}
    for value, time in values:
        decoder.decode(value, _NOWHERE, time)
        event = msgspec.json.decode(value)
        assert event["event_time"] == time
        found[event["request_id"]] = event
    assert decoder.undeclared == 0
    return found


def actions(pipeline: config.Pipeline, values: list[tuple[bytes, int]]) -> dict[str, Any]:
    """The actions in records (value, timestamp), which the join must accept, by their ids."""
    decoder = ActionDecoder(
        pipeline.kinds, key_is_request_id=True, max_record_bytes=1 << 20, max_future_ms=60_000
    )
    found = {}
    for value, time in values:
        decoder.decode(value, _NOWHERE, time)
        event = msgspec.json.decode(value)
        assert event["event_time"] == time
        found[event["event_id"]] = event
    return found
