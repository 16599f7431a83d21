"""Streams with several sources: which tables below `[sources]` and `[events]` are names of sources.

`[sources.features]` has the keys of a source, or one table for each of several sources. What is
below `[events.features]` then belongs to the source with that name, or, without a name, to all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from configuration.event_mapping import ActionEventsSection, EventsSection, FeatureEventsSection
from configuration.reading import Wrong, key_of
from jobs.pipeline.source_sections import ArchiveSource, FilesSource, KafkaSource, SourcesSection
from schemas.events import STREAMS, Stream

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_SOURCES = (FilesSource, KafkaSource, ArchiveSource)
_KEYS_OF_SOURCE = {"type", *(key for one in _SOURCES for key in one.__struct_encode_fields__)}
_KEYS_OF_EVENTS = {
    key
    for one in (FeatureEventsSection, ActionEventsSection)
    for key in one.__struct_encode_fields__
}


def shaped(document: dict[str, Any], wrong: Wrong) -> dict[str, Any]:
    """The document with what has the names of sources at `features.*` and `actions.*`.

    Raises the ConfigError of `wrong` where it cannot be told what is meant.
    """
    sources = document.get("sources")
    if not isinstance(sources, dict):
        return document
    sources, events = dict(sources), document.get("events")
    mapped: dict[str, Any] = dict(events) if isinstance(events, dict) else {}
    for stream in STREAMS:
        table = sources.get(stream)
        if not isinstance(table, dict) or not _has_names(f"sources.{stream}", table, wrong):
            continue
        _check_names(f"sources.{stream}", table, wrong)
        sources[f"{stream}.*"] = sources.pop(stream)
        of_events = mapped.get(stream)
        if isinstance(of_events, dict) and _is_by_name(stream, of_events, table, wrong):
            mapped[f"{stream}.*"] = mapped.pop(stream)
    rest = {"events": mapped} if isinstance(events, dict) else {}
    return document | {"sources": sources} | rest


def unshaped(document: dict[str, Any]) -> None:
    """Changes a document of the types into that of a file."""
    for section in (document["sources"], document["events"]):
        for stream in STREAMS:
            by_name = section.pop(f"{stream}.*")
            if by_name:
                section[stream] = by_name


def wrong_of(events: EventsSection, stream: Stream, name: str | None, wrong: Wrong) -> Wrong:
    """`wrong` for a pipeline that is seen from one source: it calls the tables as the file does."""
    by_name = {s: getattr(events, f"{s}_by_name") for s in STREAMS}

    def called(text: str) -> str:
        if name is None or not by_name[stream]:
            return text
        return re.sub(rf"\bevents\.{stream}\b", key_of("events", stream, name), text)

    return lambda key, text: wrong(called(key), called(text))


def check_alike(events: EventsSection, sources: SourcesSection, wrong: Wrong) -> None:
    """Raises ConfigError where an action could not know how its request is called: by the id of a
    request in one source, and that of an impression in another.
    """
    records = {
        named.key: "request" if section is None else section.record
        for named in sources.of("features")
        for section in [events.seen_from("features", named.name).features]
    }
    if len(set(records.values())) > 1:
        key = next(key for key, record in records.items() if record == "impression")
        raise wrong(
            f"events.{key}.record",
            'with join.key = "request_id" the sources of features have the same kind of record:'
            " an action names a request, or an impression",
        )


def _has_names(key: str, table: dict[str, Any], wrong: Wrong) -> bool:
    tables = {name for name, value in table.items() if isinstance(value, dict)}
    if table and len(tables) == len(table):
        # a source that has nothing but its format, or its properties, only lacks its type
        return not tables <= _KEYS_OF_SOURCE
    named = sorted(name for name in tables if isinstance(table[name].get("type"), str))
    named = [name for name in named if name not in _KEYS_OF_SOURCE]
    if named:
        beside = next(name for name in table if name not in tables)
        raise wrong(
            key,
            f"has {beside!r}, a key of one source, beside the source {named[0]!r}: write"
            f" [{key_of(*key.split('.'), 'NAME')}] over the keys of the first, too",
        )
    return False


def _check_names(key: str, table: dict[str, Any], wrong: Wrong) -> None:
    lower: dict[str, str] = {}
    for name in table:
        here = key_of(*key.split("."), name)
        if name in _KEYS_OF_SOURCE | _KEYS_OF_EVENTS:
            raise wrong(here, "a source cannot have this name, which is a key; choose another one")
        if not _NAME.fullmatch(name):
            raise wrong(
                here,
                "the name of a source has letters, digits, _ and -, begins with a letter, and has"
                " at most 64 characters",
            )
        other = lower.setdefault(name.lower(), name)
        if other != name:
            raise wrong(here, f"differs from {other!r} in upper and lower case only")


def _is_by_name(
    stream: Stream, events: dict[str, Any], sources: dict[str, Any], wrong: Wrong
) -> bool:
    """Whether the tables of the mapping have the names of sources."""
    unknown = [name for name in events if name not in sources]
    if not unknown:
        return bool(events)
    key = key_of("events", stream, unknown[0])
    if unknown[0] not in _KEYS_OF_EVENTS and isinstance(events[unknown[0]], dict):
        names = ", ".join(sources)
        raise wrong(
            key, f"there is no [{key_of('sources', stream, unknown[0])}] (there are: {names})"
        )
    if len(unknown) < len(events):
        name = next(_named(events, sources))
        raise wrong(
            key,
            f"a mapping of all sources beside that of {name!r}: write each below the name of its"
            " source",
        )
    return False


def _named(events: dict[str, Any], sources: dict[str, Any]) -> Iterator[str]:
    return (name for name in events if name in sources)
