"""The settings by which the operators decode records. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import msgspec

from schemas.actions import ActionKind
from schemas.events import STREAMS, Stream, stream_of
from schemas.features import FeatureSchema
from schemas.formats.declared import Format
from schemas.mapping.plan import Mappings


@dataclass(frozen=True)
class StreamSettings:
    """How one source is decoded, and how far out of order it may be (ms)."""

    out_of_orderness: int
    max_record_bytes: int
    not_after: int | None = None
    max_future_ms: int | None = None
    #: None: JSON.
    format: Format | None = None

    @cached_property
    def granularity(self) -> int:
        """The steps (ms) in which time is announced: fine compared with the bound, but not every
        ms.
        """
        return max(1, min(self.out_of_orderness, 1000))


@dataclass(frozen=True)
class DecodeSettings:
    """The settings for both streams.

    Where a stream has several sources, `by_source` has the settings of each by its key, as if it
    were the only one of its stream; what differs between them is then asked of `of` or `source`.
    """

    schema: FeatureSchema
    kinds: tuple[ActionKind, ...]
    key: Literal["request_id", "user_id"]
    reject_unknown: bool
    streams: dict[Stream, StreamSettings]
    #: One key for each subtask of the join, by which beacons of the streams' progress reach it.
    beacon_keys: tuple[str, ...]
    #: `limits.items_per_request`; None: any number.
    max_items: int | None = None
    #: `[events]`: how records of another shape are events.
    mappings: Mappings = field(default_factory=Mappings)
    by_source: Mapping[str, DecodeSettings] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[str, ...]:
        """The keys of all sources, in the order of `SourcesSection.each`."""
        return tuple(self.by_source) or STREAMS

    def of(self, source: str) -> DecodeSettings:
        """The settings of a source."""
        return self.by_source[source] if self.by_source else self

    def source(self, source: str) -> StreamSettings:
        """How the records of a source are decoded."""
        return self.of(source).streams[stream_of(source)]


class Chunk(msgspec.Struct, array_like=True, frozen=True):
    """Whole lines of a file: the (uncompressed) bytes from `start` up to `end`, or the rows.

    `source`: the key of its source. `limit` (epoch ms): where the next chunk of another folder of
    the source begins; None if there is none. The records of this chunk move the clock no further,
    or that folder would be late.
    """

    source: str
    path: str
    start: int
    end: int
    limit: int | None = None
