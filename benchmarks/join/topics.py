"""The input of the whole job in Kafka: the files of `data`, once for each number of partitions.

Request n and its clicks are in partition n modulo the number of partitions. The timestamps of the
records are the times of the events.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.join.data import input_name
from benchmarks.join.spec import Spec
from services.kafka_broker import KafkaBroker


class _Event(msgspec.Struct):
    request_id: str
    event_time: int


class Topics:
    """A broker with the inputs that were asked for, kept in a folder between runs."""

    def __init__(self, folder: Path) -> None:
        self._broker = KafkaBroker(folder)
        self._folder = folder

    @contextlib.contextmanager
    def running(self) -> Iterator[Topics]:
        """The broker is started on the first use, and stopped at the exit."""
        try:
            yield self
        finally:
            self._broker.stop()

    @property
    def servers(self) -> str:
        """The address of the broker, which runs from now on."""
        return self._running().bootstrap_servers

    def _running(self) -> KafkaBroker:
        if not self._broker.is_running():
            self._broker.start()
        return self._broker

    def filled(self, spec: Spec, files: Path) -> str:
        """The prefix of the two topics that hold the input in `files`, which are filled if they are
        not there yet.
        """
        note = self._folder / f"{input_name(spec)}-p{spec.partitions}.topics"
        broker = self._running()
        if not note.exists():
            # another name each time: a topic that was filled in part stays as it is, unread
            name = f"{note.stem}-{time.time_ns()}"
            for stream in ("features", "actions"):
                topic = f"{name}-{stream}"
                broker.create_topic(topic, partitions=spec.partitions)
                _fill(
                    broker.bootstrap_servers, topic, files / stream / "part.jsonl", spec.partitions
                )
            note.write_text(name)
        return note.read_text()

    def empty(self, name: str, partitions: int) -> None:
        """A topic without records."""
        self._running().create_topic(name, partitions=partitions)


def _fill(servers: str, topic: str, file: Path, partitions: int) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=servers, linger_ms=20, batch_size=1 << 20)
    decode = msgspec.json.Decoder(_Event).decode
    sent = []
    try:
        with file.open("rb") as lines:
            for line in lines:
                event = decode(line)
                sent.append(
                    producer.send(
                        topic,
                        line[:-1],
                        partition=int(event.request_id[1:]) % partitions,
                        timestamp_ms=event.event_time,
                    )
                )
        for record in sent:
            record.get(timeout=60)
    finally:
        producer.close()
