"""What can be known to be wrong before a job is submitted: one line, and not a stack trace."""

from __future__ import annotations

from pathlib import Path

from jobs.pipeline import kafka_preflight, record_format
from jobs.pipeline.config import ConfigError, KafkaSource, Pipeline
from jobs.pipeline.kafka_consumer import UnreadableError


def check(pipeline: Pipeline, *, judge_times: bool = True) -> list[str]:
    """Notes on what could not be checked, one line each.

    `judge_times`: whether record timestamps have to fit the events.

    Raises ConfigError for a broker that does not answer or refuses the login, a topic that is not
    there or that two sources of a stream read, record timestamps that do not fit the events, a
    schema registry without the schemas, or an output that cannot be written.
    """
    notes = []
    topics: dict[str, list[kafka_preflight.Topic]] = {}
    for named in pipeline.sources.each:
        if named.source.format is not None:
            record_format.check(f"sources.{named.key}.format", named.source.format)
        if isinstance(named.source, KafkaSource):
            try:
                topics[named.key] = kafka_preflight.check(
                    named.key, named.source, pipeline.seen_from(named), judge_times=judge_times
                )
            except UnreadableError as error:
                # Flink's own client knows more; it will say itself what is wrong
                notes.append(f"the topic could not be looked at before the start: {error}")
    kafka_preflight.check_apart(topics)
    if "://" not in pipeline.output.path:
        try:
            Path(pipeline.output.path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"output.path: {pipeline.output.path}: {error.strerror or error}"
            ) from None
    return notes
