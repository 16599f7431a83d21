"""What one Kafka broker, and several of them, need of Kafka's own programs and of its client."""

from __future__ import annotations

import base64
import os
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.jars import jar_paths
from services.java import find_java_home

_LOG4J = """\
rootLogger.level=INFO
rootLogger.appenderRef.console.ref=console
appender.console.name=console
appender.console.type=Console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %-5p %c - %m%n
"""


class BrokerError(Exception):
    """A broker could not be started; the message holds the end of its log."""


def java(folder: Path, options: Sequence[str]) -> list[str | Path]:
    """The command that runs one of Kafka's classes, up to its name. It logs to standard output.

    Args:
        folder: where its logging is configured; it must be there.
        options: of the Java process.

    Raises:
        JarError, JavaError: if the set-up has not been run.
    """
    log4j = folder / "log4j2.properties"
    log4j.write_text(_LOG4J, encoding="utf-8")
    class_path = os.pathsep.join(str(path) for path in jar_paths("kafka"))
    own = (f"-Dlog4j2.configurationFile={log4j.as_uri()}", "-cp", class_path)
    return [find_java_home() / "bin" / "java", *options, *own]


def new_cluster_id() -> str:
    """An id for brokers that belong together."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def format_storage(
    command: Sequence[str | Path], cluster_id: str, properties: Path, *more: str
) -> None:
    """Give the data folder of a broker its cluster id.

    Args:
        command: as `java` returns it.
        cluster_id: as `new_cluster_id` returns it.
        properties: the broker's configuration.
        more: further arguments.

    Raises:
        BrokerError: if Kafka refuses.
    """
    # An id that starts with a dash would be taken for an option.
    arguments = ("format", f"--cluster-id={cluster_id}", "--config", properties, *more)
    done = subprocess.run(
        [str(word) for word in (*command, "kafka.tools.StorageTool", *arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BrokerError(f"the broker's storage could not be formatted:\n{done.stderr[-2000:]}")


def create_topic(
    bootstrap_servers: str,
    name: str,
    *,
    partitions: int,
    replicas: int,
    settings: Mapping[str, str] | None = None,
) -> None:
    """Create a topic that keeps its records whatever their timestamps are.

    Args:
        bootstrap_servers: of the brokers.
        name: of the topic.
        partitions: how many.
        replicas: of each partition.
        settings: topic settings over ``retention.ms=-1``; records with timestamps more than an
            hour ahead need ``message.timestamp.after.max.ms``.

    Raises:
        kafka.errors.KafkaError: what the broker says, e.g. that the topic exists.
    """
    from kafka import KafkaAdminClient
    from kafka.admin import NewTopic

    admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        topic = NewTopic(
            name=name,
            num_partitions=partitions,
            replication_factor=replicas,
            topic_configs={"retention.ms": "-1", **(settings or {})},
        )
        # Otherwise a producer may ask before the broker knows of the topic.
        admin.create_topics([topic], wait_for_metadata=True)
    finally:
        admin.close()
