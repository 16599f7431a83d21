"""What becomes of single records: the decoders of the job, and what a record has beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import msgspec

from jobs.pipeline.config import Pipeline
from jobs.pipeline.decoding import decode_settings
from schemas import json_record
from schemas.decoding import BadRecord, IgnoredAction
from schemas.events import ActionEvent, RequestBody, RequestEvent, Stream
from schemas.mapping.decoding import Skipped
from schemas.mapping.paths import Path, Step, quoted
from schemas.mapping.plan import ActionMapping, RequestMapping, paths_in
from tools.audit.source import Record
from tools.try_mapping.reading import json_of
from udfs.core.decode_batches import action_decoder, request_decoder


@dataclass(frozen=True)
class Outcome:
    """What one record became. `word`: request, action, ignored, skipped, or the reason why it is
    rejected. `cells`: of the table of its stream. `why`: of a rejected record.
    """

    record: Record
    word: str
    cells: tuple[str, ...] = ()
    why: str = ""


@dataclass
class Tried:
    """What the records of a stream became. `unread`: paths that records have and nobody asks for,
    and in how many records; None without a mapping.
    """

    stream: Stream
    outcomes: list[Outcome] = field(default_factory=list)
    unread: Counter[str] | None = None

    @property
    def rejected(self) -> int:
        """How many records are rejected."""
        return sum(bool(outcome.why) for outcome in self.outcomes)


def tried(pipeline: Pipeline, stream: Stream, records: Iterable[Record]) -> Tried:
    """Decodes records as the job would."""
    settings = decode_settings(pipeline, ())
    decoder: Any = request_decoder(settings) if stream == "features" else action_decoder(settings)
    mapping = getattr(pipeline.mappings, stream)
    found = Tried(stream, unread=None if mapping is None else Counter())
    known = set() if mapping is None else _known(mapping, pipeline)
    as_json = json_of(pipeline, stream)
    for record in records:
        try:
            said = decoder.decode(record.raw, record.origin, record.time)
        except BadRecord as bad:
            found.outcomes.append(Outcome(record, bad.reason, why=bad.message))
        else:
            found.outcomes += _outcomes(record, said)
        if found.unread is not None:
            found.unread.update(_unread(record.raw, as_json, known))
    return found


def _outcomes(record: Record, said: Any) -> Iterator[Outcome]:
    for event in said if isinstance(said, list) else [said]:
        if isinstance(event, Skipped):
            yield Outcome(record, "skipped", ("", "", _time(event.event_time)))
        elif isinstance(event, IgnoredAction):
            yield Outcome(record, "ignored", ("", "", _time(event.event_time)))
        elif isinstance(event, RequestEvent):
            yield Outcome(record, "request", _request(event))
        elif isinstance(event, ActionEvent):
            yield Outcome(record, "action", _action(event))


def _request(event: RequestEvent) -> tuple[str, ...]:
    body = msgspec.msgpack.decode(event.body, type=RequestBody)
    context, columns = map(msgspec.msgpack.decode, (body.context_names, body.column_names))
    values = list(zip(context, body.context, strict=True))
    values += [(name, column[0]) for name, column in zip(columns, body.columns, strict=True)]
    items = ", ".join(body.items[:3]) + (f", and {len(body.items) - 3}" if body.items[3:] else "")
    features = " ".join(f"{name}={_short(value)}" for name, value in values)
    return event.request_id, body.user_id, _time(event.event_time), items, features


def _action(event: ActionEvent) -> tuple[str, ...]:
    value = "" if event.value is None else _short(event.value)
    what = f"{event.action} {value}".rstrip()
    return (
        event.request_id or "",
        event.user_id,
        _time(event.event_time),
        event.item_id,
        what,
        event.event_id or "",
    )


def _time(ms: int | None) -> str:
    if ms is None:
        return ""
    time = datetime.fromtimestamp(ms / 1000, timezone.utc)
    return time.isoformat(" ", "milliseconds").removesuffix("+00:00").removesuffix(".000")


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 24 else f"{text[:21]}..."


# -- what is not asked for -------------------------------------------------------------------------

#: A path without the numbers of elements: names, and None for any element.
_Plain = tuple["str | None", ...]


def _known(mapping: RequestMapping | ActionMapping, pipeline: Pipeline) -> set[_Plain]:
    items = () if mapping.items is None else (*_plain(mapping.items.steps), None)

    def whole(path: Path) -> _Plain:
        return (*(items if path.of_item else ()), *_plain(path.steps))

    paths = [whole(path) for path in paths_in(mapping)]
    if isinstance(mapping, RequestMapping):
        fields = dict(mapping.fields)
        for scope, group in (
            ("item", mapping.item_features),
            ("context", mapping.context_features),
        ):
            paths += [whole(path) for path in (group.values,) if path is not None]
            start = items if scope == "item" else ()
            start = start if group.path is None else whole(group.path)
            names = [f.name for f in pipeline.schema.features if f.scope == scope]
            paths += [(*start, name) for name in names if name not in fields]
            paths += [start] if group.values is not None else []
    return set(paths)


def _plain(steps: Iterable[Step]) -> _Plain:
    return tuple(step if isinstance(step, str) else None for step in steps)


def _unread(raw: bytes, as_json: Callable[[bytes], bytes], known: set[_Plain]) -> set[str]:
    """The paths of a record below which nothing is asked for."""
    try:
        record = json_record.read(as_json(raw))
    except BadRecord:
        return set()
    above = {path[:n] for path in known for n in range(len(path))}
    found: set[str] = set()
    waiting: list[tuple[_Plain, Any]] = [((), record)]
    while waiting:
        place, value = waiting.pop()
        if place not in above:
            if place not in known:
                found.add(_text(place))
        elif isinstance(value, dict):
            waiting += [((*place, name), inner) for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [((*place, None), inner) for inner in value]
    return found


def _text(place: _Plain) -> str:
    text = ""
    for step in place:
        text += "[]" if step is None else ("." if text else "") + quoted(step)
    return text
