"""What a backfill reads: the records of some hours, and where their rows go."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from jobs.backfill import hours
from jobs.backfill.margins import HOUR_MS
from jobs.pipeline import archive, archive_files, archive_plan, file_plan
from jobs.pipeline.archive_files import Listing, archive_of
from jobs.pipeline.config import (
    ArchiveSource,
    FilesSource,
    KafkaSource,
    NamedSource,
    Pipeline,
    hour_ms,
)

#: What an archive has of each source, by its key; empty for event files.
Listings = Mapping[str, Listing]


def replayed(pipeline: Pipeline) -> Pipeline:
    """The pipeline as a backfill reads it: topics are read from their archive.

    Raises ConfigError for topics without an archive.
    """
    if isinstance(pipeline.sources.each[0].source, KafkaSource):
        return archive.replayed(pipeline)
    return pipeline


def listed(pipeline: Pipeline) -> Listings:
    """What there is to read for a pipeline that `replayed` gave. Raises ConfigError."""
    if are_whole(pipeline):
        return {}
    store = pipeline.object_storage
    return {named.key: archive_files.listed(named, store) for named in pipeline.sources.each}


def go_on(listings: Listings, end: int) -> bool:
    """Whether all sources of an archive have records at `end` (epoch ms) or later.

    Then the input is complete up to there, although nothing in it says so (join-semantics 11).
    """
    of_each = [any(file.hour >= end for file in listing.files) for listing in listings.values()]
    return bool(of_each) and all(of_each)


def cut(pipeline: Pipeline, begin: int, end: int, *, goes_on: bool) -> Pipeline:
    """A pipeline that `replayed` gave, with sources that read from `begin` to `end` (whole hours,
    epoch ms). `goes_on`: what `go_on` says of the end.

    Event files know no hours, and are read whole.
    """
    if are_whole(pipeline):
        return pipeline
    first, last = hours.text(begin), hours.text(end)

    def cut_source(named: NamedSource) -> ArchiveSource:
        source = archive_of(named)
        return msgspec.structs.replace(
            source, from_=max(first, source.from_ or first), to=min(last, source.to or last)
        )

    at_end = pipeline.end_of_input
    if goes_on and at_end.complete_until is None:
        at_end = msgspec.structs.replace(at_end, complete_until=end)
    sources = pipeline.sources.map(cut_source)
    return msgspec.structs.replace(pipeline, sources=sources, end_of_input=at_end)


def are_whole(pipeline: Pipeline) -> bool:
    """Whether the sources know no hours, and so are read from end to end: event files."""
    return isinstance(pipeline.sources.each[0].source, FilesSource)


def are_empty(pipeline: Pipeline, listings: Listings) -> bool:
    """Whether there is nothing to read for a pipeline that `cut` gave."""
    if are_whole(pipeline):
        return False
    for named in pipeline.sources.each:
        begin, end = archive_of(named).range_ms
        assert begin is not None
        assert end is not None
        if any(begin <= file.hour < end for file in listings[named.key].files):
            return False
    return True


def notes(pipeline: Pipeline, listings: Listings) -> list[str]:
    """What a person should know of a pipeline that `cut` gave: an archive that ends too early."""
    found = []
    for named in () if are_whole(pipeline) else pipeline.sources.each:
        to = archive_of(named).to
        assert to is not None
        last = max((file.hour for file in listings[named.key].files), default=None)
        if last is None or last + HOUR_MS < hour_ms(to):
            found.append(
                f"the archive of {named.key} should be read up to {to}, and its last hour is"
                f" {'none' if last is None else hours.text(last)}. If more is to come, wait for it:"
                " rows are made of what is there"
            )
    return found


def described(pipeline: Pipeline, listings: Listings) -> str:
    """How much there is to read of a pipeline that `cut` gave. Raises ConfigError."""
    if are_whole(pipeline):
        chunks = file_plan.of_pipeline(pipeline).chunks
        size = sum(chunk.end - chunk.start for chunk in chunks)
        return f"{len({chunk.path for chunk in chunks}):,} files, {size / 1e6:,.1f} MB"
    each = pipeline.sources.each
    found = [archive_plan.of_source(named, listings[named.key]) for named in each]
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
