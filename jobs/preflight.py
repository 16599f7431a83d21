"""What can be known to be wrong before a job is submitted: one line, and not a stack trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.config import ConfigError, KafkaSource, Pipeline
from schemas.events import Stream

_TIMEOUT_MS = 10_000


def check(pipeline: Pipeline) -> None:
    """Raises ConfigError for a broker that does not answer, a topic that is not there, or an output
    that cannot be written.
    """
    streams: tuple[tuple[Stream, Any], ...] = (
        ("features", pipeline.sources.features),
        ("actions", pipeline.sources.actions),
    )
    for stream, source in streams:
        if isinstance(source, KafkaSource):
            _check_topic(stream, source)
    if "://" not in pipeline.output.path:
        try:
            Path(pipeline.output.path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"output.path: {pipeline.output.path}: {error.strerror or error}"
            ) from None


def _check_topic(stream: Stream, source: KafkaSource) -> None:
    from kafka import KafkaConsumer
    from kafka.errors import KafkaError

    if any(key.startswith(("sasl.", "ssl.")) for key in source.properties):
        # the Java client's own forms (JAAS, key stores); it will say itself what is wrong
        return
    where = f"sources.{stream}"
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=source.bootstrap_servers,
            bootstrap_timeout_ms=_TIMEOUT_MS,
            request_timeout_ms=_TIMEOUT_MS,
            allow_auto_create_topics=False,
            security_protocol=source.properties.get("security.protocol", "PLAINTEXT"),
        )
    except (KafkaError, OSError, ValueError) as error:
        raise ConfigError(
            f"{where}.bootstrap_servers: no Kafka broker answers at {source.bootstrap_servers} "
            f"({type(error).__name__}); is it up, and is the address right?"
        ) from None
    try:
        topics = consumer.topics()
    except KafkaError as error:
        raise ConfigError(f"{where}: the broker refuses: {error}") from None
    finally:
        consumer.close()
    if source.topic not in topics:
        known = ", ".join(sorted(t for t in topics if not t.startswith("__"))) or "none"
        raise ConfigError(
            f"{where}.topic: there is no topic {source.topic!r} at {source.bootstrap_servers} "
            f"(there are: {known}); create it, or correct the name"
        )
