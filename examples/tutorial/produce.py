"""Sends event files to two Kafka topics, as an application and its collector would.

    python examples/tutorial/produce.py FOLDER [--bootstrap localhost:9092]

FOLDER has `features/*.jsonl` and `actions/*.jsonl`. They go to the topics `tutorial-features` and
`tutorial-actions` of two partitions each, which are made first. Each record has the request id as
its key and the event time as its timestamp: the job's watermark follows record timestamps.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

PARTITIONS = 2


def main() -> int:
    """Exit codes: 0 sent, 1 the broker refuses or does not answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bootstrap", default="localhost:9092")
    arguments = parser.parse_args()
    try:
        for stream in ("features", "actions"):
            topic = f"tutorial-{stream}"
            _create(arguments.bootstrap, topic)
            sent = _send(arguments.bootstrap, topic, arguments.folder / stream)
            print(f"{topic}: {sent:,} records")
    except KafkaError as error:
        print(f"produce: {arguments.bootstrap}: {error}", file=sys.stderr)
        return 1
    return 0


def _create(bootstrap: str, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        # Events keep the time at which they happened, so retention by age would delete them.
        config = {"retention.ms": "-1"}
        admin.create_topics([NewTopic(topic, PARTITIONS, 1, topic_configs=config)])
    except TopicAlreadyExistsError:
        raise SystemExit(f"produce: the topic {topic} is there already; delete it first") from None
    finally:
        admin.close()


def _send(bootstrap: str, topic: str, folder: Path) -> int:
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=20)
    sent = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            event = json.loads(line)
            key = event["request_id"].encode()
            sent.append(producer.send(topic, line, key=key, timestamp_ms=event["event_time"]))
    producer.flush()
    for future in sent:
        future.get()  # raises what the broker said
    producer.close()
    return len(sent)


if __name__ == "__main__":
    sys.exit(main())
