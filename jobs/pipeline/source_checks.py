"""What the types of `[sources]` cannot say, checked; paths and references are resolved."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from configuration import paths
from configuration.reading import Wrong
from jobs.pipeline import kafka_properties, record_format, references
from jobs.pipeline.record_format import FormatSection
from jobs.pipeline.source_sections import (
    ArchiveSource,
    FilesSource,
    KafkaSource,
    NamedSource,
    Source,
    SourcesSection,
    hour_ms,
)
from schemas.events import STREAMS

#: What Kafka takes as a topic's name.
_TOPIC = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")
#: What SQL's intervals hold; watermarks are declared with one.
_LONGEST_INTERVAL_MS = 99 * 86_400_000


def resolved(
    sources: SourcesSection, path: Path, environment: Mapping[str, str], wrong: Wrong
) -> SourcesSection:
    """The sources with absolute paths, and references to the environment replaced.

    Raises ConfigError for what cannot work, or not together.
    """
    for stream in STREAMS:
        if not sources.of(stream):
            raise wrong(f"sources.{stream}", "this key is required")

    def one(named: NamedSource) -> Source:
        return _resolved(f"sources.{named.key}", named.source, path, environment, wrong)

    found = sources.map(one)
    first, *others = found.each
    for named in others:
        if type(named.source) is not type(first.source):
            raise wrong("sources", "both streams have the same type: files, kafka or archive")
    _check_drifts(found, wrong)
    for stream in STREAMS:
        _check_apart(found.of(stream), wrong)
    return found


def _check_drifts(sources: SourcesSection, wrong: Wrong) -> None:
    drifts = {
        n.key: n.source.max_drift for n in sources.each if not isinstance(n.source, FilesSource)
    }
    for key, drift in drifts.items():
        if drift == 0:
            raise wrong(
                f"sources.{key}.max_drift", "must be longer than 0; leave it out for the default"
            )
    first = next(iter(drifts), "")
    for key, drift in drifts.items():
        if drift != drifts[first]:
            raise wrong(f"sources.{key}.max_drift", f"must be that of sources.{first}")


def _check_apart(named: tuple[NamedSource, ...], wrong: Wrong) -> None:
    """The origin of a record says which source of its stream it is from, so no two share one.

    What patterns have in common only the broker can tell: see `kafka_preflight.check_apart`.
    """
    taken: dict[tuple[str, str], str] = {}
    for each in named:
        source = each.source
        if isinstance(source, ArchiveSource):
            continue  # each has a folder of its own below the path
        if isinstance(source, FilesSource):
            places, key = [("", source.path)], "path"
        else:
            places, key = [(source.bootstrap_servers, topic) for topic in source.topics], "topic"
        for place in places:
            if place in taken:
                raise wrong(f"sources.{each.key}.{key}", read_twice(place[1], taken[place]))
            taken[place] = each.key
    for each in named:
        source = each.source
        if not isinstance(source, KafkaSource) or source.topic_pattern is None:
            continue
        for (servers, topic), other in taken.items():
            if servers == source.bootstrap_servers and re.fullmatch(source.topic_pattern, topic):
                raise wrong(f"sources.{each.key}.topic_pattern", read_twice(topic, other))


def read_twice(place: str, other: str) -> str:
    """What is wrong when a topic, or a path, is that of another source (its key), too."""
    return (
        f"{place!r} is read by sources.{other} already, so its records would be there twice; take"
        " it out of one of the two (records of different kinds in one place are one source, whose"
        " mapping tells them apart)"
    )


def _resolved(
    key: str, source: Source, path: Path, environment: Mapping[str, str], wrong: Wrong
) -> Source:
    def form(section: FormatSection | None) -> FormatSection | None:
        def of_table(name: str, table: Mapping[str, str]) -> dict[str, str]:
            return references.resolved_in(name, table, path, environment, wrong)

        if section is None:
            return None
        return record_format.resolved(f"{key}.format", section, path, of_table, wrong)

    if isinstance(source, FilesSource):
        if "://" in source.path:
            raise wrong(f"{key}.path", "files are read from a local or mounted folder")
        pattern = resolved_path(f"{key}.path", source.path, path, wrong, paths.pattern_beside)
        return msgspec.structs.replace(source, path=pattern)
    if isinstance(source, ArchiveSource):
        check_range(key, source, wrong)
        place = path_for_flink(f"{key}.path", source.path, path, wrong)
        return msgspec.structs.replace(source, path=place, format=form(source.format))
    source = _resolved_kafka(key, source, path, environment, wrong)
    return msgspec.structs.replace(source, format=form(source.format))


def resolved_path(
    key: str,
    text: str,
    path: Path,
    wrong: Wrong,
    place: Callable[[Path, str], str] = paths.beside,
) -> str:
    """A path that is relative to the file. Raises ConfigError."""
    try:
        return place(path, text)
    except ValueError as error:
        raise wrong(key, str(error)) from None


def path_for_flink(key: str, text: str, path: Path, wrong: Wrong) -> str:
    """The same of a path that Flink takes. Raises ConfigError."""
    place = resolved_path(key, text, path, wrong)
    if "\\" in place:
        raise wrong(key, f"{place!r}: Flink takes a backslash for a slash; use another path")
    return place


def document(source: dict[str, Any], path: Path) -> None:
    """Changes the table of a source so that it can lie beside an output (`config.document`)."""
    if source["type"] == "archive":
        source["path"] = paths.beside(path, source["path"])
    elif "path" in source:
        source["path"] = paths.pattern_beside(path, source["path"])
    if "properties" in source:
        source["properties"] = references.without_secrets(source["properties"], path)
    if "format" in source:
        source["format"] = record_format.document(source["format"], path)
        registry = source["format"].get("registry", {})
        if "properties" in registry:
            registry["properties"] = references.without_secrets(registry["properties"], path)


def check_range(key: str, source: ArchiveSource, wrong: Wrong) -> None:
    """Raises the ConfigError that `wrong` makes when `from` and `to` are no hours in this order."""
    for name, hour in (("from", source.from_), ("to", source.to)):
        try:
            if hour is not None:
                hour_ms(hour)
        except ValueError as error:
            raise wrong(f"{key}.{name}", str(error)) from None
    begin, end = source.range_ms
    if begin is not None and end is not None and not begin < end:
        raise wrong(f"{key}.to", f"must be after from ({source.from_})")


def _check_topics(key: str, source: KafkaSource, wrong: Wrong) -> None:
    if (source.topic is None) == (source.topic_pattern is None):
        raise wrong(
            f"{key}.topic", "one of topic (a name or a list of names) and topic_pattern is required"
        )
    if source.topic_pattern is not None:
        try:
            re.compile(source.topic_pattern)
        except re.error as error:
            raise wrong(
                f"{key}.topic_pattern",
                f"expected a regular expression of Java's that Python reads, too: {error}",
            ) from None
        return
    if not source.topics or len(set(source.topics)) < len(source.topics):
        raise wrong(f"{key}.topic", f"expected names, each once; got {source.topic!r}")
    for topic in source.topics:
        if not _TOPIC.fullmatch(topic):
            raise wrong(
                f"{key}.topic",
                "expected the name of a topic (letters, digits, '.', '_', '-'), or a list of such;"
                f" got {topic!r}",
            )


def _resolved_kafka(
    key: str, source: KafkaSource, path: Path, environment: Mapping[str, str], wrong: Wrong
) -> KafkaSource:
    """The source with its references replaced. Raises ConfigError for what cannot work together."""
    _check_topics(key, source, wrong)
    if source.start == "committed" and not source.group_id:
        raise wrong(
            f"{key}.group_id",
            'this key is required with start = "committed": offsets are committed'
            " by a consumer group",
        )
    if source.start == "latest" and source.end == "latest":
        raise wrong(f"{key}.start", 'with start and end both "latest" there is nothing to read')
    if (
        isinstance(source.start, int)
        and isinstance(source.end, int)
        and not source.start < source.end
    ):
        raise wrong(f"{key}.end", f"must be after start ({source.start})")
    if source.out_of_orderness >= _LONGEST_INTERVAL_MS:
        raise wrong(f"{key}.out_of_orderness", "must be shorter than 99 days")
    properties = references.resolved_in(
        f"{key}.properties", source.properties, path, environment, wrong
    )
    kafka_properties.check(
        properties,
        committed=source.start == "committed",
        wrong=lambda name, text: wrong(f"{key}.properties.{name}", text),
    )
    return msgspec.structs.replace(source, properties=properties)
