"""`[sources]` of a pipeline's file: where the records of both streams are.

A stream has one source (`[sources.features]`), or several with a name each
(`[sources.features.app]`, `[sources.features.web]`). What the types cannot say is checked in
`jobs.pipeline.source_checks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal, NamedTuple, cast

import msgspec

from configuration.reading import ConfigError, Duration, Section
from jobs.pipeline.record_format import FormatSection
from schemas.events import LATEST_TIME, Stream

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Time = Annotated[int, msgspec.Meta(ge=0, lt=LATEST_TIME)]
_HOUR = re.compile(r"\d{4}-\d\d-\d\dT\d\d")


class FilesSource(Section, frozen=True, kw_only=True, tag="files", tag_field="type"):
    """`[sources.*] type = "files"`: a file, a folder, or a glob, relative to the TOML file.

    In a loaded `Pipeline`, `path` is an absolute glob (`configuration.paths.pattern_beside`).
    `not_after` (epoch ms): later events are rejected as coming from a broken clock.
    """

    path: str
    out_of_orderness: Duration = Duration(60_000)
    not_after: _Time | None = None
    max_record_bytes: _Positive = 4 << 20

    @property
    def format(self) -> None:
        """No other than that of the files, which they say themselves."""


class KafkaSource(Section, frozen=True, kw_only=True, tag="kafka", tag_field="type"):
    """`[sources.*] type = "kafka"`.

    `topic`: a name or several; or `topic_pattern`, a regular expression that whole names match, for
    topics that come later, too. `format`: what the records are; JSON when absent. `start`:
    "earliest", "latest", "committed" (offsets of the group) or epoch ms. `end`: "never" (service),
    "latest" (as of the submission) or epoch ms (backfills). `properties` go to the Kafka client;
    `${NAME}` in them stands for a variable of the environment, `${file:PATH}` for the content of a
    file. `partition_discovery`: how often to look for new
    partitions; 0 is never.
    """

    bootstrap_servers: str
    topic: str | list[str] | None = None
    topic_pattern: str | None = None
    format: FormatSection | None = None
    group_id: str | None = None
    start: Literal["earliest", "latest", "committed"] | _Time = "earliest"
    end: Literal["never", "latest"] | _Time = "never"
    partition_discovery: Duration = Duration(10_000)
    out_of_orderness: Duration = Duration(10_000)
    idle_timeout: Duration = Duration(60_000)
    max_drift: Duration | None = None
    max_future: Duration = Duration(600_000)
    max_record_bytes: _Positive = 4 << 20
    properties: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def topics(self) -> list[str]:
        """The names in `topic`; none with a pattern."""
        return [self.topic] if isinstance(self.topic, str) else list(self.topic or ())


class ArchiveSource(Section, frozen=True, kw_only=True, tag="archive", tag_field="type"):
    """`[sources.*] type = "archive"`: what `jobs.archive_events` kept, see docs/archive.md.

    `path`: the folder that `archive.path` named. `from` and `to`: hours of the record timestamps
    (UTC), `to` not included; all that there is when absent. `format`: see `KafkaSource`.
    `max_drift`: how far ahead of the slowest a partition is read; derived from the archive when
    absent.
    """

    path: str
    format: FormatSection | None = None
    from_: str | None = msgspec.field(name="from", default=None)
    to: str | None = None
    incomplete: Literal["refuse", "read"] = "refuse"
    out_of_orderness: Duration = Duration(10_000)
    max_drift: Duration | None = None
    max_future: Duration = Duration(600_000)
    max_record_bytes: _Positive = 4 << 20

    @property
    def range_ms(self) -> tuple[int | None, int | None]:
        """`from` and `to` as epoch ms."""
        return (
            None if self.from_ is None else hour_ms(self.from_),
            None if self.to is None else hour_ms(self.to),
        )


def hour_ms(hour: str) -> int:
    """An hour (UTC) such as `2026-11-01T00` as epoch ms. Raises ValueError for what is none."""
    try:
        if _HOUR.fullmatch(hour):
            return int(datetime.strptime(f"{hour}+0000", "%Y-%m-%dT%H%z").timestamp()) * 1000
    except ValueError:
        pass  # there is no such day, or hour
    raise ValueError(f"expected an hour (UTC) like 2026-11-01T00; got {hour!r}")


Source = FilesSource | KafkaSource | ArchiveSource


class NamedSource(NamedTuple):
    """A source of a stream. `name`: None where the stream has one source, without a name."""

    stream: Stream
    name: str | None
    source: Source

    @property
    def key(self) -> str:
        """What is below `sources` and `events` in the file: `features`, or `features.app`."""
        return self.stream if self.name is None else f"{self.stream}.{self.name}"

    @property
    def id(self) -> str:
        """What operators and folders of it are called: `features`, or `features-app`."""
        return self.stream if self.name is None else f"{self.stream}-{self.name}"


class SourcesSection(Section, frozen=True, kw_only=True):
    """`[sources.features]` and `[sources.actions]`, or those with names below them."""

    one_of_features: Source | None = msgspec.field(name="features", default=None)
    one_of_actions: Source | None = msgspec.field(name="actions", default=None)
    features_by_name: dict[str, Source] = msgspec.field(name="features.*", default_factory=dict)
    actions_by_name: dict[str, Source] = msgspec.field(name="actions.*", default_factory=dict)

    @property
    def features(self) -> Source:
        """The one source of the feature stream. Raises ConfigError where there are several."""
        return self._only("features")

    @property
    def actions(self) -> Source:
        """The one source of the action stream. Raises ConfigError where there are several."""
        return self._only("actions")

    @property
    def each(self) -> tuple[NamedSource, ...]:
        """All sources: of features, then of actions, in the order of the file."""
        return (*self.of("features"), *self.of("actions"))

    @property
    def are_named(self) -> bool:
        """Whether a stream has sources with names."""
        return bool(self.features_by_name or self.actions_by_name)

    def of(self, stream: Stream) -> tuple[NamedSource, ...]:
        """The sources of a stream."""
        one: Source | None = getattr(self, f"one_of_{stream}")
        if one is not None:
            return (NamedSource(stream, None, one),)
        by_name: dict[str, Source] = getattr(self, f"{stream}_by_name")
        return tuple(NamedSource(stream, name, source) for name, source in by_name.items())

    def map(self, change: Callable[[NamedSource], Source]) -> SourcesSection:
        """The section with other sources under the same names."""
        new: dict[str, Source | dict[str, Source]] = {}
        for named in self.each:
            if named.name is None:
                new[f"one_of_{named.stream}"] = change(named)
            else:
                table = new.setdefault(f"{named.stream}_by_name", {})
                cast(dict[str, Source], table)[named.name] = change(named)
        return SourcesSection(**new)  # type: ignore[arg-type]

    def seen_from(self, one: NamedSource) -> SourcesSection:
        """The section with one source a stream: this one, and the first of the other stream."""
        if not self.are_named:
            return self
        other: Stream = "actions" if one.stream == "features" else "features"
        of = {one.stream: one.source, other: self.of(other)[0].source}
        return SourcesSection(one_of_features=of["features"], one_of_actions=of["actions"])

    def called(self, key: str, option: str) -> NamedSource:
        """The source that a person calls `features.app`, or `features` where it is the only one.

        Raises ConfigError, which names the option.
        """
        found = [named for named in self.each if named.key == key]
        found = found or [n for n in self.each if n.stream == key and len(self.of(n.stream)) == 1]
        if found:
            return found[0]
        known = ", ".join(named.key for named in self.each)
        raise ConfigError(f"{option} {key}: there is no such source (there are: {known})")

    def _only(self, stream: Stream) -> Source:
        named = self.of(stream)
        if len(named) == 1:
            return named[0].source
        names = ", ".join(each.key for each in named)
        raise ConfigError(f"sources.{stream}: one source is needed here, and there are: {names}")
