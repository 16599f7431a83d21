"""What the runs of other systems have in common: their input's end, and the CPU that they use.

Neither Spark nor Quix Streams has an end of input that makes everything come out: rows without an
action come when a later record has moved time on. So each run adds a last record to a topic or
folder of its own, far ahead of the input. It moves time, and is no row itself.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.join.spec import Spec

#: How far the last record is ahead of the input. Longer than any window.
_AHEAD_MS = 86_400_000
_ANSWER_S = 30.0


def end_time(spec: Spec, start_ms: int) -> int:
    """The time of the last record, epoch milliseconds."""
    return start_ms + spec.span_ms + spec.window_ms + _AHEAD_MS


def end_record(time_ms: int) -> bytes:
    """A request and an action in one, as JSON, so that it can end either stream.

    The action is on another item than the request's, so the two do not match.
    """
    record = {
        "request_id": "end",
        "event_time": time_ms,
        "items": [{"item_id": "end", "features": {}}],
        "item_id": "none",
        "action": "click",
    }
    return json.dumps(record).encode()


class Kafka:
    """The broker of a run, as its client sees it."""

    def __init__(self, servers: str) -> None:
        """Nothing is connected yet. `servers`: ``host:port``."""
        self._options = {"bootstrap.servers": servers}

    @contextlib.contextmanager
    def topic(self, name: str, partitions: int) -> Iterator[str]:
        """A topic that is there within the block.

        Raises:
            confluent_kafka.KafkaException: what the broker says.
        """
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient(self._options)
        topic = NewTopic(name, partitions, 1, config={"retention.ms": "-1"})
        admin.create_topics([topic])[name].result(_ANSWER_S)
        try:
            yield name
        finally:
            admin.delete_topics([name])[name].result(_ANSWER_S)

    def put(self, topic: str, partition: int, value: bytes, time_ms: int) -> None:
        """Write one record, and wait until the broker has it.

        Raises:
            confluent_kafka.KafkaException: what the broker says.
            RuntimeError: if it does not answer in time.
        """
        from confluent_kafka import KafkaException, Producer

        failed = []

        def answered(error: object, _record: object) -> None:
            if error is not None:
                failed.append(error)

        producer = Producer(self._options)
        producer.produce(topic, value, partition=partition, timestamp=time_ms, on_delivery=answered)
        if producer.flush(_ANSWER_S):
            raise RuntimeError(f"the broker did not take the record of {topic} in time")
        if failed:
            raise KafkaException(failed[0])

    def size(self, topic: str, partitions: int) -> int:
        """How many records a topic has that nothing was deleted from."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer(self._options | {"group.id": "sizes"})
        try:
            ends = [
                consumer.get_watermark_offsets(TopicPartition(topic, p), _ANSWER_S)[1]
                for p in range(partitions)
            ]
        finally:
            consumer.close()
        return int(sum(ends))


class Stopwatch:
    """Wall time and CPU of one process, from now on."""

    def __init__(self, process: psutil.Process) -> None:
        """Start. `process`: the one that does the work."""
        self._process = process
        self._cpu, self._clock = self._used(), time.monotonic()

    def result(self) -> dict[str, float]:
        """Seconds until now, for the last line of a run: ``seconds`` and ``cpu_seconds``, the
        latter of all threads of the process.
        """
        return {
            "seconds": time.monotonic() - self._clock,
            "cpu_seconds": self._used() - self._cpu,
        }

    def _used(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def java_child() -> psutil.Process:
    """The JVM that this process has started.

    Raises:
        RuntimeError: if there is none.
    """
    for child in psutil.Process().children(recursive=True):
        if child.name() == "java":
            return child
    raise RuntimeError("this process has started no JVM")


def scratch_name(spec: Spec) -> str:
    """A name that no other run has."""
    return Path(spec.scratch).name
