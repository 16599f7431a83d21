"""What a backfill reads: the records of some hours, and where their rows go."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
from pyarrow import fs

from jobs.backfill import hours
from jobs.backfill.margins import HOUR_MS
from jobs.pipeline import archive, archive_plan, file_plan
from jobs.pipeline.config import (
    ArchiveSource,
    ConfigError,
    FilesSource,
    KafkaSource,
    Pipeline,
    SourcesSection,
    hour_ms,
)
from schemas.events import STREAMS, Stream
from schemas.generations import hour_of

_FOLDER = re.compile(r".*/(dt=[^/]+/hr=[^/]+)/[^/._][^/]*\.parquet")


def cut(pipeline: Pipeline, begin: int, end: int) -> Pipeline:
    """The pipeline with sources that read from `begin` to `end` (whole hours, epoch ms).

    Topics are read from their archive. Event files know no hours, and are read whole. If both
    streams of an archive go on after the end, the input is complete up to there, although nothing
    in it says so (join-semantics 11). Raises ConfigError for topics without an archive.
    """
    if are_whole(pipeline):
        return pipeline
    if isinstance(pipeline.sources.features, KafkaSource):
        pipeline = archive.replayed(pipeline)
    first, last = hours.text(begin), hours.text(end)
    sources = {}
    goes_on = True
    for stream in STREAMS:
        source = getattr(pipeline.sources, stream)
        assert isinstance(source, ArchiveSource)
        goes_on = goes_on and any(hour >= last for hour in _hours(stream, source))
        sources[stream] = msgspec.structs.replace(
            source, from_=max(first, source.from_ or first), to=min(last, source.to or last)
        )
    at_end = pipeline.end_of_input
    if goes_on and at_end.complete_until is None:
        at_end = msgspec.structs.replace(at_end, complete_until=end)
    return msgspec.structs.replace(pipeline, sources=SourcesSection(**sources), end_of_input=at_end)


def are_whole(pipeline: Pipeline) -> bool:
    """Whether the sources know no hours, and so are read from end to end: event files."""
    return isinstance(pipeline.sources.features, FilesSource)


def are_empty(pipeline: Pipeline) -> bool:
    """Whether there is nothing to read for a pipeline that `cut` gave. Raises ConfigError."""
    if are_whole(pipeline):
        return False
    for stream in STREAMS:
        source = getattr(pipeline.sources, stream)
        if any(source.from_ <= hour < source.to for hour in _hours(stream, source)):
            return False
    return True


def notes(pipeline: Pipeline) -> list[str]:
    """What a person should know of a pipeline that `cut` gave: an archive that ends too early."""
    if are_whole(pipeline):
        return []
    found = []
    for stream in STREAMS:
        source = getattr(pipeline.sources, stream)
        last = max(_hours(stream, source), default="none")
        if last == "none" or hours.text(hour_ms(last) + HOUR_MS) < source.to:
            found.append(
                f"the archive of {stream} should be read up to {source.to}, and its last hour is"
                f" {last}. If more is to come, wait for it: rows are made of what is there"
            )
    return found


def described(pipeline: Pipeline) -> str:
    """How much there is to read of a pipeline that `cut` gave. Raises ConfigError."""
    features, actions = pipeline.sources.features, pipeline.sources.actions
    if isinstance(features, FilesSource) and isinstance(actions, FilesSource):
        chunks = file_plan.plan(features, actions).chunks
        size = sum(chunk.end - chunk.start for chunk in chunks)
        return f"{len({chunk.path for chunk in chunks}):,} files, {size / 1e6:,.1f} MB"
    assert isinstance(features, ArchiveSource)
    assert isinstance(actions, ArchiveSource)
    found = [
        archive_plan.of_stream("features", features),
        archive_plan.of_stream("actions", actions),
    ]
    records, size = (sum(getattr(each, of) for each in found) for of in ("records", "bytes"))
    return f"{records:,} records, {size / 1e6:,.1f} MB"


def into(pipeline: Pipeline, folder: str) -> Pipeline:
    """The pipeline that writes into another folder, and shares nothing with the live one.

    Files only: hours that are deleted after the join would stay in an Iceberg table.
    """
    return msgspec.structs.replace(
        pipeline,
        pipeline=msgspec.structs.replace(
            pipeline.pipeline, name=f"{pipeline.pipeline.name}-backfill"
        ),
        output=msgspec.structs.replace(pipeline.output, path=folder, table="files"),
        runtime=msgspec.structs.replace(pipeline.runtime, checkpoint_path=None, metrics_port=None),
    )


def _hours(stream: Stream, source: ArchiveSource) -> Iterator[str]:
    """The hours of which an archive has records."""
    folder = f"{source.path.rstrip('/')}/{stream}"
    try:
        system, root = archive_plan.opened(folder)
        listed = system.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
    except (OSError, ValueError) as error:
        raise ConfigError(f"sources.{stream}.path: {folder}: {error}") from None
    for info in listed:
        named = _FOLDER.fullmatch(info.path)
        hour = hour_of(named[1]) if named else None
        if hour is not None:
            yield hour
