"""A plain Kafka consumer of a configured source, for what looks at it beside Flink.

It connects by the same properties as the job, as far as the Python client can take them.
"""

from __future__ import annotations

import socket
from typing import Any

from jobs.pipeline.config import ConfigError, KafkaSource
from jobs.pipeline.kafka_properties import UnusableError, for_python, login_module
from schemas.events import Stream

_TIMEOUT_MS = 10_000


class UnreadableError(ConfigError):
    """The Python client cannot take the source's properties, though Flink's client may."""


def connect(stream: Stream, source: KafkaSource, **options: Any) -> Any:
    """A `kafka.KafkaConsumer` that has found the topic, and is not subscribed yet.

    `options` are further ones of the consumer. Raises UnreadableError for properties that it does
    not know, and ConfigError for a broker that does not answer or refuses, and for a topic that is
    not there.
    """
    from kafka import KafkaConsumer
    from kafka.errors import KafkaError

    where = f"sources.{stream}"
    try:
        by_properties = for_python(source.properties)
    except UnusableError as error:
        raise UnreadableError(f"{where}.properties: {error}") from None
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=source.bootstrap_servers,
            bootstrap_timeout_ms=_TIMEOUT_MS,
            request_timeout_ms=_TIMEOUT_MS,
            allow_auto_create_topics=False,
            **{**by_properties, **options},
        )
    except (KafkaError, OSError, ValueError) as error:
        raise ConfigError(f"{where}.{_no_connection(source, error)}") from None
    try:
        topics = consumer.topics()
    except KafkaError as error:
        consumer.close()
        raise ConfigError(f"{where}: the broker refuses: {error}") from None
    if source.topic not in topics:
        consumer.close()
        known = ", ".join(sorted(t for t in topics if not t.startswith("__"))) or "none"
        raise ConfigError(
            f"{where}.topic: there is no topic {source.topic!r} at {source.bootstrap_servers} "
            f"(there are: {known}); create it, correct the name, or ask for the right to see it"
        )
    return consumer


def _no_connection(source: KafkaSource, error: Exception) -> str:
    """The key to look at, and what is wrong with it.

    The client says "timeout" for all of it, so whether anything listens there is tried apart.
    """
    servers = source.bootstrap_servers
    if not _listens(servers):
        return (
            f"bootstrap_servers: no Kafka broker answers at {servers} ({type(error).__name__}); "
            "is it up, and is the address right?"
        )
    protocol = source.properties.get("security.protocol", "PLAINTEXT")
    if not protocol.startswith("SASL_"):
        return (
            f"properties.security.protocol: {servers} takes connections, but does not talk "
            f"{protocol}; set it as the brokers' listener has it"
        )
    module = login_module(source.properties.get("sasl.jaas.config", ""))
    user = "" if module is None else f" as {module.options.get('username', '')!r}"
    return (
        f"properties.sasl.jaas.config: {servers} closes the connection at the login{user}: user "
        f"name or password is wrong, or the listener does not take {protocol} with "
        f"{source.properties.get('sasl.mechanism')}"
    )


def _listens(servers: str) -> bool:
    """Whether one of the servers (`host:port,host:port`) takes a TCP connection."""
    for server in servers.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=3):
                return True
        except (OSError, ValueError, OverflowError):
            continue
    return False
