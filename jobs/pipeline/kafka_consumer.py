"""A plain Kafka consumer of a configured source, for what looks at it beside Flink.

It connects by the same properties as the job, as far as the Python client can take them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from jobs.pipeline.config import ConfigError, KafkaSource
from jobs.pipeline.jaas import user_of
from jobs.pipeline.kafka_diagnosis import no_connection
from jobs.pipeline.kafka_python import UnusableError, WrongPropertyError, for_python

_TIMEOUT_MS = 10_000


class UnreadableError(ConfigError):
    """The Python client cannot take the source's properties, though Flink's client may."""


def client_options(key: str, source: KafkaSource) -> dict[str, Any]:
    """The options of a Python client of this source, by its properties.

    Raises UnreadableError for properties that the client does not know, and ConfigError for those
    that no client could use.
    """
    try:
        return for_python(source.properties)
    except UnusableError as error:
        raise UnreadableError(f"sources.{key}.properties: {error}") from None
    except WrongPropertyError as error:
        raise ConfigError(f"sources.{key}.properties.{error}") from None


def connect(key: str, source: KafkaSource, **options: Any) -> Any:
    """A `kafka.KafkaConsumer` that has found the topic, and is not subscribed yet.

    `options` are further ones of the consumer. Raises UnreadableError for properties that it does
    not know, and ConfigError for a broker that does not answer or refuses, and for a topic that is
    not there.
    """
    from kafka import KafkaConsumer
    from kafka.errors import KafkaError

    where = f"sources.{key}"
    by_properties = client_options(key, source)
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=source.bootstrap_servers,
            bootstrap_timeout_ms=_TIMEOUT_MS,
            request_timeout_ms=_TIMEOUT_MS,
            allow_auto_create_topics=False,
            **{**by_properties, **options},
        )
    except (KafkaError, OSError, ValueError) as error:
        context = by_properties.get("ssl_context")
        raise ConfigError(f"{where}.{no_connection(source, context, error)}") from None
    try:
        topics = consumer.topics()
    except KafkaError as error:
        consumer.close()
        raise refused(key, source, error) from None
    missing = [topic for topic in source.topics if topic not in topics]
    if missing or not topics_of(source, topics):
        consumer.close()
        known = ", ".join(sorted(t for t in topics if not t.startswith("__"))) or "none"
        key = "topic" if missing else "topic_pattern"
        which = f"topic {missing[0]!r}" if missing else f"topic like {source.topic_pattern!r}"
        raise ConfigError(
            f"{where}.{key}: there is no {which} at {source.bootstrap_servers} (there are: {known})"
            "; create it, correct the name, or let the user see it: "
            f"{_allowing_topics(source, missing)}"
        )
    return consumer


def topics_of(source: KafkaSource, known: Iterable[str]) -> list[str]:
    """The topics of a source among those that are known, by name."""
    if source.topic_pattern is not None:
        return sorted(topic for topic in known if re.fullmatch(source.topic_pattern, topic))
    return sorted(set(source.topics) & set(known))


def partitions(source: KafkaSource, consumer: Any) -> list[Any]:
    """The partitions (`kafka.TopicPartition`) of all topics of a source, in order."""
    from kafka import TopicPartition

    return [
        TopicPartition(topic, number)
        # `connect` has seen those that are named; asking for all costs another request
        for topic in sorted(source.topics) or topics_of(source, consumer.topics())
        for number in sorted(consumer.partitions_for_topic(topic) or ())
    ]


def cluster_of(source: KafkaSource, consumer: Any) -> str:
    """The id of the cluster that a consumer has found; its addresses if the brokers tell none."""
    return str(consumer._cluster.cluster_id or source.bootstrap_servers)


def refused(key: str, source: KafkaSource, error: Exception) -> ConfigError:
    """What to do about an error that the broker answers with."""
    from kafka import errors

    where, user = f"sources.{key}", user_of(source.properties)
    who = "the user" if user is None else f"the user {user!r}"
    if isinstance(error, errors.TopicAuthorizationFailedError):
        topics = sorted(error.args[0]) if error.args else source.topics
        return ConfigError(
            f"{where}.{'topic' if source.topics else 'topic_pattern'}: {who} may not read "
            f"{', '.join(map(repr, topics))}; {_allowing_topics(source, topics)}"
        )
    if isinstance(error, errors.GroupAuthorizationFailedError):
        allowing = _allowing(source, "Read", "--group", str(source.group_id))
        return ConfigError(
            f"{where}.group_id: {who} may not use the group {source.group_id!r}; {allowing}"
        )
    return ConfigError(f"{where}: the broker refuses: {error}")


def _allowing_topics(source: KafkaSource, topics: Sequence[str]) -> str:
    return _allowing(source, "Read", "Describe", "--topic", topics[0] if topics else "TOPIC")


def _allowing(source: KafkaSource, *words: str) -> str:
    """A command for whoever looks after the brokers. `words`: operations, then what they are on."""
    *operations, option, name = words
    listed = " ".join(f"--operation {operation}" for operation in operations)
    principal = f"User:{user_of(source.properties) or 'NAME'}"
    return f"kafka-acls --add --allow-principal {principal} {listed} {option} {name}"
