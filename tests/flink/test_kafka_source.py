"""The source of whole records takes every start and end that a pipeline may have."""

from __future__ import annotations

from typing import Any

import pytest
from pyflink.java_gateway import get_gateway
from pyflink.util.java_utils import add_jars_to_context_class_loader

from jobs.pipeline import environment, kafka_source
from jobs.pipeline.config import KafkaSource
from jobs.pipeline.kafka_properties import SHADED_PACKAGE


def made(**keys: Any) -> Any:
    """The Java source of a `KafkaSource` with these keys."""
    # a job has the connector from its jars, and the gateway has none
    add_jars_to_context_class_loader([jar.as_uri() for jar in environment.jars()])
    jvm = get_gateway().jvm
    reader = jvm.org.apache.flink.connector.kafka.source.reader.deserializer
    strings = jvm.java.lang.Class.forName(
        f"{SHADED_PACKAGE}common.serialization.StringDeserializer",
        True,
        jvm.java.lang.Thread.currentThread().getContextClassLoader(),
    )
    deserializer = reader.KafkaRecordDeserializationSchema.valueOnly(strings)
    source = KafkaSource(bootstrap_servers="b:1", **({"topic": "t"} | keys))
    return kafka_source._source(source, SHADED_PACKAGE, deserializer)


@pytest.mark.parametrize(
    ("keys", "bounded"),
    [
        ({"start": "earliest"}, False),
        ({"start": "latest", "group_id": "g"}, False),
        ({"start": 1_700_000_000_000, "end": "latest"}, True),
        ({"start": "committed", "group_id": "g", "end": 1_700_000_000_000}, True),
        (
            {
                "start": "committed",
                "group_id": "g",
                "properties": {"auto.offset.reset": "earliest"},
            },
            False,
        ),
        ({"topic": None, "topic_pattern": "a|b", "end": "latest"}, True),
        ({"topic": ["a", "b"], "properties": {"client.id.prefix": "p"}}, False),
    ],
)
def test_every_start_and_end(keys: dict[str, Any], bounded: bool) -> None:
    assert str(made(**keys).getBoundedness()) == ("BOUNDED" if bounded else "CONTINUOUS_UNBOUNDED")
