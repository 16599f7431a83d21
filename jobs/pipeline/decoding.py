"""The settings of a pipeline by which its records are decoded."""

from __future__ import annotations

import dataclasses

from jobs.pipeline import record_format
from jobs.pipeline.config import FilesSource, Pipeline, Source
from udfs.core.decode_settings import DecodeSettings, StreamSettings


def decode_settings(pipeline: Pipeline, beacon_keys: tuple[str, ...]) -> DecodeSettings:
    """What the decoders need to know of a pipeline.

    `beacon_keys`: a key for each subtask of the join, by which beacons reach it.
    """
    sources = pipeline.sources
    if not sources.are_named:
        return _of_one_each(pipeline, beacon_keys)
    by_source = {n.key: _of_one_each(pipeline.seen_from(n), beacon_keys) for n in sources.each}
    first = next(iter(by_source.values()))
    return dataclasses.replace(first, by_source=by_source)


def _of_one_each(pipeline: Pipeline, beacon_keys: tuple[str, ...]) -> DecodeSettings:
    """The same of a pipeline that has one source a stream."""

    def of(source: Source) -> StreamSettings:
        return StreamSettings(
            int(source.out_of_orderness),
            source.max_record_bytes,
            not_after=source.not_after if isinstance(source, FilesSource) else None,
            max_future_ms=None if isinstance(source, FilesSource) else int(source.max_future),
            format=None if source.format is None else record_format.of(source.format),
        )

    return DecodeSettings(
        pipeline.schema,
        pipeline.kinds,
        pipeline.join.key,
        pipeline.join.unknown_actions == "reject",
        {"features": of(pipeline.sources.features), "actions": of(pipeline.sources.actions)},
        beacon_keys,
        pipeline.limits.items_per_request,
        pipeline.mappings,
    )
