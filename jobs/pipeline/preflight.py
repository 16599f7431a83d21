"""What can be known to be wrong before a job is submitted: one line, and not a stack trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.pipeline import kafka_preflight, record_format
from jobs.pipeline.config import ConfigError, KafkaSource, Pipeline
from jobs.pipeline.kafka_consumer import UnreadableError
from schemas.events import Stream


def check(pipeline: Pipeline, *, judge_times: bool = True) -> list[str]:
    """Notes on what could not be checked, one line each.

    `judge_times`: whether record timestamps have to fit the events.

    Raises ConfigError for a broker that does not answer or refuses the login, a topic that is not
    there, record timestamps that do not fit the events, a schema registry without the schemas, or
    an output that cannot be written.
    """
    streams: tuple[tuple[Stream, Any], ...] = (
        ("features", pipeline.sources.features),
        ("actions", pipeline.sources.actions),
    )
    notes = []
    for stream, source in streams:
        if source.format is not None:
            record_format.check(f"sources.{stream}.format", source.format)
        if isinstance(source, KafkaSource):
            try:
                kafka_preflight.check(stream, source, pipeline, judge_times=judge_times)
            except UnreadableError as error:
                # Flink's own client knows more; it will say itself what is wrong
                notes.append(f"the topic could not be looked at before the start: {error}")
    if "://" not in pipeline.output.path:
        try:
            Path(pipeline.output.path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"output.path: {pipeline.output.path}: {error.strerror or error}"
            ) from None
    return notes
