"""Where the records come from that are looked at before a job runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from jobs.pipeline.config import ConfigError, KafkaSource, Pipeline
from schemas import event_files
from schemas.events import Origin, Stream
from tools.audit.source import Record, records


def read(
    pipeline: Pipeline, stream: Stream, sample: Path | None, topic: str | None, notes: list[str]
) -> Iterator[Record]:
    """Records of a sample file, or of a topic of the configured brokers, or of the source.

    Raises ConfigError and EventFileError for what cannot be read. `notes`: what is to be said.
    """
    if sample is not None:
        for offset, raw in event_files.lines(sample):
            yield Record(raw, Origin(str(sample), None, offset), None)
        return
    source = getattr(pipeline.sources, stream)
    if isinstance(source, KafkaSource):
        # where the job begins is of no interest here, and may be the end
        source = msgspec.structs.replace(source, start="earliest", end="latest")
        if topic is not None:
            source = msgspec.structs.replace(source, topic=topic, topic_pattern=None)
    elif topic is not None:
        raise ConfigError(f"--topic: sources.{stream} is no Kafka source")
    yield from records(stream, source, notes)
