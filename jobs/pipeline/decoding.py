"""The settings of a pipeline by which its records are decoded."""

from __future__ import annotations

from jobs.pipeline import record_format
from jobs.pipeline.config import FilesSource, Pipeline, Source
from udfs.core.decode_settings import DecodeSettings, StreamSettings


def decode_settings(pipeline: Pipeline, beacon_keys: tuple[str, ...]) -> DecodeSettings:
    """What the decoders need to know of a pipeline.

    `beacon_keys`: a key for each subtask of the join, by which beacons reach it.
    """

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
