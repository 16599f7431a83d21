"""A plain Kafka consumer of a configured source, for what looks at it beside Flink."""

from __future__ import annotations

from typing import Any

from jobs.pipeline.config import ConfigError, KafkaSource
from schemas.events import Stream

_TIMEOUT_MS = 10_000


def has_java_security(source: KafkaSource) -> bool:
    """Whether it takes SASL or SSL in the Java client's own forms (JAAS, key stores)."""
    return any(key.startswith(("sasl.", "ssl.")) for key in source.properties)


def connect(stream: Stream, source: KafkaSource, **options: Any) -> Any:
    """A `kafka.KafkaConsumer` that has found the topic, and is not subscribed yet.

    `options` are further ones of the consumer. Raises ConfigError for a broker that does not
    answer or refuses, and for a topic that is not there.
    """
    from kafka import KafkaConsumer
    from kafka.errors import KafkaError

    where = f"sources.{stream}"
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=source.bootstrap_servers,
            bootstrap_timeout_ms=_TIMEOUT_MS,
            request_timeout_ms=_TIMEOUT_MS,
            allow_auto_create_topics=False,
            security_protocol=source.properties.get("security.protocol", "PLAINTEXT"),
            **options,
        )
    except (KafkaError, OSError, ValueError) as error:
        raise ConfigError(
            f"{where}.bootstrap_servers: no Kafka broker answers at {source.bootstrap_servers} "
            f"({type(error).__name__}); is it up, and is the address right?"
        ) from None
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
            f"(there are: {known}); create it, or correct the name"
        )
    return consumer
