"""What can be known to be wrong before a job is submitted: one line, and not a stack trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.pipeline.config import ConfigError, KafkaSource, Pipeline
from jobs.pipeline.kafka_consumer import connect, has_java_security
from schemas.events import Stream


def check(pipeline: Pipeline) -> None:
    """Raises ConfigError for a broker that does not answer, a topic that is not there, or an output
    that cannot be written.
    """
    streams: tuple[tuple[Stream, Any], ...] = (
        ("features", pipeline.sources.features),
        ("actions", pipeline.sources.actions),
    )
    for stream, source in streams:
        # with SASL or SSL, Flink's own client will say itself what is wrong
        if isinstance(source, KafkaSource) and not has_java_security(source):
            connect(stream, source).close()
    if "://" not in pipeline.output.path:
        try:
            Path(pipeline.output.path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"output.path: {pipeline.output.path}: {error.strerror or error}"
            ) from None
