"""Where the records come from that are looked at before a job runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from jobs.pipeline import record_format
from jobs.pipeline.config import (
    ConfigError,
    FilesSource,
    KafkaSource,
    NamedSource,
    Pipeline,
    Source,
)
from schemas import event_files
from schemas.bad_record import BadRecord
from schemas.events import Origin, Stream
from schemas.formats.declared import RegistryError
from schemas.mapping.decoding import texts_of
from tools.audit.source import Record, records


def read(
    pipeline: Pipeline, named: NamedSource, sample: Path | None, topic: str | None, notes: list[str]
) -> Iterator[Record]:
    """Records of a sample file, or of a topic of the source's brokers, or of the source.

    Raises ConfigError and EventFileError for what cannot be read. `notes`: what is to be said.
    """
    if sample is not None:
        for offset, raw in event_files.lines(sample):
            yield Record(raw, Origin(str(sample), None, offset), None)
        return
    source = named.source
    if isinstance(source, KafkaSource):
        # where the job begins is of no interest here, and may be the end
        source = msgspec.structs.replace(source, start="earliest", end="latest")
        if topic is not None:
            source = msgspec.structs.replace(source, topic=topic, topic_pattern=None)
    elif topic is not None:
        raise ConfigError(f"--topic: sources.{named.key} is no Kafka source")
    yield from records(named._replace(source=source), notes, pipeline.object_storage)


def of_json(pipeline: Pipeline) -> Pipeline:
    """The pipeline for a sample file, which has a JSON record a line whatever a topic has."""

    def plain(named: NamedSource) -> Source:
        if isinstance(named.source, FilesSource):
            return named.source
        return msgspec.structs.replace(named.source, format=None)

    return msgspec.structs.replace(pipeline, sources=pipeline.sources.map(plain))


def json_of(pipeline: Pipeline, stream: Stream) -> Callable[[bytes], bytes]:
    """What makes JSON of a record of a stream, whatever its format.

    It raises BadRecord, and RegistryError when a schema registry cannot be asked.
    """
    source = getattr(pipeline.sources, stream)
    if source.format is None:
        return bytes
    transcode = record_format.transcoder(source.format)
    return lambda raw: transcode(raw)[0]


def events_of(pipeline: Pipeline, stream: Stream) -> Callable[[bytes], list[bytes]] | None:
    """What gives the events that a record says, as docs/events.md has them, not validated.

    None where each record of the stream is an event as it is. Records that are bad give none, and
    neither do those whose schema cannot be asked for.
    """
    texts = texts_of(pipeline.mappings, stream)
    source = getattr(pipeline.sources, stream)
    if texts is None and source.format is None:
        return None
    as_json = json_of(pipeline, stream)

    def events(raw: bytes) -> list[bytes]:
        try:
            text = as_json(raw)
        except (BadRecord, RegistryError):
            return []
        if texts is None:
            return [text]
        said = texts.of_or_reason(text, None)
        return said if isinstance(said, list) else []

    return events
