"""Decoding in batches: records in, keyed events out, bad records to the side. Pure.

This is what `udfs/jvm/RecordBatches.java` calls, with bytes in and out. There are four hosts:
`ReadFiles` and `ReadChunks` take chunks and read the local files themselves, `DecodeRecords` takes
what the Kafka connector read, and `DecodeArchive` what `udfs/jvm/ArchiveSource.java` did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

import msgspec

from schemas import event_files
from schemas.decoding import (
    ActionDecoder,
    BadRecord,
    Decoder,
    IgnoredAction,
    RequestDecoder,
    in_bounds,
)
from schemas.events import (
    STREAMS,
    ActionEvent,
    Origin,
    Progress,
    RequestEvent,
    Stream,
    stream_of,
    unpack_front,
)
from schemas.formats.framing import Framed
from schemas.mapping.decoding import MappedActionDecoder, MappedRequestDecoder, Skipped
from udfs.core.batch_reply import PackedReports, Reports
from udfs.core.decode_settings import Chunk, DecodeSettings, StreamSettings
from udfs.core.file_clock import FileClock
from udfs.core.side_rows import REJECTED

if TYPE_CHECKING:
    from schemas.formats.transcode import Transcoding

_Event = TypeVar("_Event")
#: What a decoder of actions makes of a record.
Actions = list[ActionEvent | IgnoredAction] | ActionEvent | IgnoredAction | Skipped

#: The side outputs, by the index that a reply names them with.
SIDE_OUTPUTS = (REJECTED,)
#: The reasons for rejecting a record, in the order of docs/events.md.
_REASONS = (
    *("empty_record", "too_large", "no_schema_id", "unknown_schema", "wrong_schema"),
    *("broken_record", "invalid_utf8", "too_deep", "broken_json", "not_finite"),
    *("duplicate_key", "wrong_type", "missing_field", "out_of_range", "wrong_time_unit", "bad_id"),
    "future_clock",
)
REASONS: Mapping[Stream, tuple[str, ...]] = {
    "features": (*_REASONS, "empty_items", "too_many_items"),
    "actions": (*_REASONS, "unknown_action", "missing_value"),
}


def counters(streams: Collection[Stream] = STREAMS) -> tuple[str, ...]:
    """All counters of a decoder of these streams, in the form of `batch_reply.Reports.counts`."""
    return (
        *(f"{stream}_read" for stream in streams),
        *(f"{stream}_skipped" for stream in streams),
        *(("undeclared_feature_values",) if "features" in streams else ()),
        *(("actions_ignored",) if "actions" in streams else ()),
        *(f"rejected/{stream}/{reason}" for stream in streams for reason in REASONS[stream]),
    )


#: So many events of a chunk come out at once: enough that a call costs little, and few enough that
#: they stay in the caches.
AT_ONCE = 64


class Keyed(msgspec.Struct, array_like=True, gc=False):
    """An event under its key. `clock`: the time (epoch ms) that a watermark may follow when the
    event is out; 0 where the source makes the watermark.
    """

    key: str
    event: RequestEvent | ActionEvent | Progress
    clock: int


class Reply(msgspec.Struct, array_like=True, gc=False):
    """`more`: the host has more of this batch, and is to be asked with `more`."""

    more: bool
    events: list[Keyed]
    reports: PackedReports


_pack = msgspec.msgpack.Encoder().encode


#: The JSON that says what a record of another format says may be longer than the record.
_ANY_LENGTH = 1 << 62


def request_decoder(
    settings: DecodeSettings,
) -> RequestDecoder | MappedRequestDecoder | Transcoding[RequestEvent | Skipped]:
    """A decoder of feature records by these settings."""
    features, mapping = settings.streams["features"], settings.mappings.features
    make = RequestDecoder if mapping is None else partial(MappedRequestDecoder, mapping)
    of_json = make(
        settings.schema,
        max_record_bytes=_length_of_json(features),
        max_items=settings.max_items,
        not_after=features.not_after,
        max_future_ms=features.max_future_ms,
    )
    return of_json if features.format is None else _transcoding(features, of_json)


def action_decoder(
    settings: DecodeSettings,
) -> ActionDecoder | MappedActionDecoder | Transcoding[Actions]:
    """A decoder of action records by these settings."""
    actions, mapping = settings.streams["actions"], settings.mappings.actions
    make = ActionDecoder if mapping is None else partial(MappedActionDecoder, mapping)
    of_json = make(
        settings.kinds,
        key_is_request_id=settings.key != "user_id",
        reject_unknown=settings.reject_unknown,
        max_record_bytes=_length_of_json(actions),
        not_after=actions.not_after,
        max_future_ms=actions.max_future_ms,
    )
    return of_json if actions.format is None else _transcoding(actions, of_json)


def _length_of_json(stream: StreamSettings) -> int:
    return stream.max_record_bytes if stream.format is None else _ANY_LENGTH


def _transcoding(stream: StreamSettings, of_json: Decoder[_Event]) -> Transcoding[_Event]:
    # few pipelines need what reads the other formats, and it takes a while to import
    from schemas.formats.transcode import Transcoding, transcoder

    assert stream.format is not None
    return Transcoding(transcoder(stream.format), of_json, stream.max_record_bytes)


class Told(msgspec.Struct, gc=False):
    """What a mapped record tells: how far its stream has come (epoch ms), and its events by key.

    The time is the least of its events: one that the record foretells must not move time.
    """

    event_time: int
    events: list[tuple[str, RequestEvent | ActionEvent]]


Decode = Callable[
    [Stream, bytes, Origin, "int | None"],
    "tuple[str, RequestEvent | ActionEvent] | IgnoredAction | Told | None",
]


class _Decoding:
    """Decoders, counts and rejects of one source of each stream, for one subtask."""

    def __init__(self, settings: DecodeSettings, reports: Reports) -> None:
        self._by_user = settings.key == "user_id"
        requests, actions = request_decoder(settings), action_decoder(settings)
        self._mapped = {"features": requests, "actions": actions}
        # `decode_of` keeps the records of mapped streams from these
        self._requests = cast(RequestDecoder, requests)
        self._actions = cast(ActionDecoder, actions)
        self._mappings = settings.mappings
        self._reports = reports
        self._counted = (0, 0)

    def decode_of(self, stream: Stream) -> Decode:
        """How the records of a stream are decoded."""
        mapped = getattr(self._mappings, stream) is not None
        return self.decode_mapped if mapped else self.decode

    def decode(
        self, stream: Stream, raw: bytes, origin: Origin, record_time: int | None
    ) -> tuple[str, RequestEvent | ActionEvent] | IgnoredAction | None:
        """Key and event; or an action that is ignored; or None for a rejected record."""
        try:
            if stream == "features":
                request = self._requests.decode(raw, origin, record_time)
                key = unpack_front(request.body).user_id if self._by_user else request.request_id
                return key, request
            action = self._actions.decode(raw, origin, record_time)
        except BadRecord as bad:
            self._reject(stream, raw, origin, record_time, bad)
            return None
        if isinstance(action, IgnoredAction):
            return action
        return action.user_id if self._by_user else (action.request_id or ""), action

    def decode_mapped(
        self, stream: Stream, raw: bytes, origin: Origin, record_time: int | None
    ) -> Told | None:
        """The same of a record that is mapped. None also for one that is skipped and has no time.

        A record of several events counts as so many that were read.
        """
        try:
            said = self._mapped[stream].decode(raw, origin, record_time)
        except BadRecord as bad:
            self._reject(stream, raw, origin, record_time, bad)
            return None
        if isinstance(said, Skipped):
            self._reports.counts[f"{stream}_skipped"] += 1
            return None if said.event_time is None else Told(said.event_time, [])
        events = said if isinstance(said, list) else [said]
        self.read(stream, len(events) - 1)
        return Told(
            min(event.event_time for event in events),
            [(self._key(event), event) for event in events if not isinstance(event, IgnoredAction)],
        )

    def _key(self, event: RequestEvent | ActionEvent) -> str:
        if isinstance(event, ActionEvent):
            return event.user_id if self._by_user else (event.request_id or "")
        return unpack_front(event.body).user_id if self._by_user else event.request_id

    def _reject(
        self, stream: Stream, raw: bytes, origin: Origin, record_time: int | None, bad: BadRecord
    ) -> None:
        self._reports.counts[f"rejected/{stream}/{bad.reason}"] += 1
        time = record_time if record_time is not None else bad.event_time
        if bad.reason == "future_clock" and record_time is None:
            time = None  # its clock is what is wrong
        if not in_bounds(time):
            time = None  # no partition could be named after a timestamp that is no time
        values = {
            "stream": stream,
            "reason": bad.reason,
            "message": bad.message,
            "origin": origin.name,
            "partition": origin.partition,
            "offset": origin.offset,
            "record_time": time,
            "raw": bytes(raw),
        }
        self._reports.side.append((0, REJECTED.row(values, time)))

    def read(self, stream: Stream, records: int) -> None:
        """So many records were read."""
        self._reports.counts[f"{stream}_read"] += records

    def count(self) -> None:
        """Counts what the decoders have counted since the last time."""
        undeclared, ignored = self._requests.undeclared, self._actions.ignored
        counts = self._reports.counts
        counts["undeclared_feature_values"] += undeclared - self._counted[0]
        counts["actions_ignored"] += ignored - self._counted[1]
        self._counted = (undeclared, ignored)


class _Decodings:
    """Those of all sources, or of some of them, by their keys."""

    def __init__(self, settings: DecodeSettings, sources: Collection[str]) -> None:
        self._beacon_keys = settings.beacon_keys
        self._reports = Reports()
        if settings.by_source:
            self._by_source = {s: _Decoding(settings.of(s), self._reports) for s in sources}
        else:
            self._by_source = dict.fromkeys(sources, _Decoding(settings, self._reports))
        self._all = list(dict.fromkeys(self._by_source.values()))

    def of(self, source: str) -> _Decoding:
        """That of a source."""
        return self._by_source[source]

    def decode_of(self, source: str) -> Decode:
        """How the records of a source are decoded."""
        return self._by_source[source].decode_of(stream_of(source))

    def beacons(self, source: str, time: int, clock: int) -> Iterable[Keyed]:
        """`Progress` for every subtask of the join. They go where the events go, so none can be
        overtaken by the end of the input.
        """
        progress = Progress(source, time)
        return (Keyed(key, progress, clock) for key in self._beacon_keys)

    def placed_beacons(self, source: str, time: int, clock: int, place: int) -> Iterable[Placed]:
        """The same, from a place."""
        progress = Progress(source, time)
        return (Placed(key, progress, clock, place) for key in self._beacon_keys)

    def reply(self, events: list[Keyed], *, more: bool) -> bytes:
        """Events, and what was counted and rejected since the last reply."""
        for decoding in self._all:
            decoding.count()
        return _pack(Reply(more, events, self._reports.taken()))


class Placed(Keyed):
    """An event that came from a place: a partition by its number in the order of all, or a chunk of
    a file (`ReadChunks`).
    """

    place: int


class _ChunkReader:
    """Reads local files, so that their bytes come to the JVM decoded. A batch is one chunk, with
    its number in the plan.
    """

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings

    def open(self) -> None:
        """Begins with no file."""
        self._sources = self._settings.sources
        self._decodings = _Decodings(self._settings, self._sources)
        self._batch = msgspec.msgpack.Decoder(list[tuple[str, int]]).decode
        self._chunk = msgspec.json.Decoder(Chunk)
        self._files = event_files.RangeReader()
        self._parts: Iterator[bytes] = iter(())

    def run(self, batch: bytes) -> bytes:
        """The first part of what is in the chunks. Raises EventFileError, which ends the job, when
        a file is gone, damaged, or has become shorter.
        """
        chunks = [(self._chunk.decode(text), number) for text, number in self._batch(batch)]
        self._parts = self._read(chunks)
        return next(self._parts)

    def more(self) -> bytes:
        """The next part."""
        return next(self._parts)

    def _read(self, chunks: list[tuple[Chunk, int]]) -> Iterator[bytes]:
        decodings, events = self._decodings, list[Keyed]()
        for chunk, number in chunks:
            for keyed in self._events(chunk, number):
                events.append(keyed)
                if len(events) >= AT_ONCE:
                    yield decodings.reply(events, more=True)
                    events = []
        yield decodings.reply(events, more=False)

    def _records(self, chunk: Chunk) -> Iterator[tuple[int, bytes]]:
        return self._files.records(chunk.path, chunk.start, chunk.end)

    def _events(self, chunk: Chunk, number: int) -> Iterator[Keyed]:
        raise NotImplementedError


class ReadFiles(_ChunkReader):
    """The one ordered reader of files: it reads alone, in the order of the plan, so that the
    outcome is a function of the files alone.
    """

    def open(self) -> None:
        """Begins with no file and no time."""
        super().open()
        # Not in Flink's state: after a restart time stands still until each source has shown
        # something again, which delays a watermark and never makes one too early.
        self._clock = FileClock({s: self._settings.source(s) for s in self._sources})
        self._latest: dict[str, int] = {}

    def _events(self, chunk: Chunk, number: int) -> Iterator[Keyed]:
        decodings, clock, source = self._decodings, self._clock, chunk.source
        decode, stream = decodings.decode_of(source), stream_of(source)
        records = 0
        latest = announced = self._latest.get(source, -1)
        granularity = self._settings.source(source).granularity
        reached = -1
        for at, line in self._records(chunk):
            records += 1
            out = decode(stream, line, Origin(chunk.path, None, at), None)
            if out is None:
                continue
            time = out[1].event_time if isinstance(out, tuple) else out.event_time
            before = clock.now
            if time > reached:
                reached = time
                clock.shown(source, time, chunk.limit)
                latest = max(latest, time)
            moved = clock.now > before
            if isinstance(out, tuple):
                yield Keyed(out[0], out[1], clock.now)
                moved = False  # the event says so
            elif isinstance(out, Told):
                for key, event in out.events:
                    yield Keyed(key, event, clock.now)
                    moved = False
            if latest // granularity > announced // granularity:
                announced = latest
                yield from decodings.beacons(source, latest, clock.now)
            elif moved:
                # an ignored action has no event of its own that could carry the clock
                yield from decodings.beacons(source, announced, clock.now)
        decodings.of(source).read(stream, records)
        if latest > announced:
            yield from decodings.beacons(source, latest, clock.now)
        self._latest[source] = latest


class ReadChunks(_ChunkReader):
    """One of several readers of files. It knows only the chunk at hand, and says of each event how
    far the chunk had come before it. `udfs/jvm/InChunkOrder.java` makes of this what `ReadFiles`
    would have given: the same order, clock and beacons.
    """

    def _events(self, chunk: Chunk, number: int) -> Iterator[Placed]:
        """The clock of each is how far its source counts, from this chunk alone (epoch ms, -1: not
        at all). Its place: the number of the chunk times the number of sources, plus the source.
        At the end there is a beacon for all subtasks at -1 - place.
        """
        decodings, source, limit = self._decodings, chunk.source, chunk.limit
        decode, stream = decodings.decode_of(source), stream_of(source)
        place = number * len(self._sources) + self._sources.index(source)
        granularity = self._settings.source(source).granularity
        records = 0
        latest = announced = reached = -1
        for at, line in self._records(chunk):
            records += 1
            out = decode(stream, line, Origin(chunk.path, None, at), None)
            if out is None:
                continue
            time = out[1].event_time if isinstance(out, tuple) else out.event_time
            before = reached
            if time > latest:
                latest = time
                reached = time if limit is None else min(time, limit)
            if isinstance(out, tuple):
                yield Placed(out[0], out[1], before, place)
            elif isinstance(out, Told):
                for key, event in out.events:
                    yield Placed(key, event, before, place)
                    before = reached
            if latest // granularity > announced // granularity:
                announced = latest
                yield from decodings.placed_beacons(source, latest, reached, place)
        decodings.of(source).read(stream, records)
        yield from decodings.placed_beacons(source, latest, reached, -1 - place)


class _Record(msgspec.Struct, array_like=True, gc=False):
    """A record of a topic. `time`: its timestamp (epoch ms)."""

    raw: bytes | None
    topic: str
    partition: int
    offset: int
    time: int


class _Consumed(_Record):
    """A record of a topic as it is consumed. `schema_id`: the value of its header of that name."""

    schema_id: bytes | None = None


class _Archived(_Record):
    """A record of an archive. `source`: an index of `DecodeSettings.sources`; `clock`: the greatest
    time that its partition has shown up to it.
    """

    source: int
    place: int
    clock: int
    schema_id: bytes | None = None


def _value(record: _Consumed | _Archived) -> bytes:
    return Framed.of(record.raw or b"", record.schema_id)


class DecodeArchive:
    """Decodes what the topics of all sources have left in an archive, as `DecodeRecords` does."""

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings

    def open(self) -> None:
        """Begins with no beacon announced."""
        settings, self._sources = self._settings, self._settings.sources
        self._decodings = _Decodings(settings, self._sources)
        self._batch = msgspec.msgpack.Decoder(list[_Archived]).decode
        self._announced = dict.fromkeys(self._sources, -1)
        self._clock = -1
        self._steps = {source: settings.source(source).granularity for source in self._sources}
        self._granularity = min(self._steps.values())

    def run(self, batch: bytes) -> bytes:
        """All that is in the records."""
        decodings, events = self._decodings, list[Keyed]()
        decode = {s: (stream_of(s), decodings.decode_of(s)) for s in self._sources}
        read = Counter[str]()
        for record in self._batch(batch):
            source = self._sources[record.source]
            read[source] += 1
            origin = Origin(record.topic, record.partition, record.offset)
            stream, decode_it = decode[source]
            out = decode_it(stream, _value(record), origin, record.time)
            if isinstance(out, tuple):
                events.append(Placed(out[0], out[1], record.clock, record.place))
            elif isinstance(out, Told):
                for key, event in out.events:
                    events.append(Placed(key, event, record.clock, record.place))
            step = record.time - record.time % self._steps[source]
            further = out is not None and step > self._announced[source]
            if further:
                self._announced[source] = step
            # All subtasks hear of the clock, whatever the record is: else how far time has come at
            # the end of the input would depend on who had the last event.
            clock = record.clock - record.clock % self._granularity
            if further or (clock > self._clock and self._announced[source] >= 0):
                self._clock = max(self._clock, clock)
                events += decodings.placed_beacons(
                    source, self._announced[source], record.clock, record.place
                )
        for source, records in read.items():
            decodings.of(source).read(stream_of(source), records)
        return decodings.reply(events, more=False)


class DecodeRecords:
    """Decodes the topics of one source, which is named by its key. The watermark is the source's,
    by the timestamps of the records, and so are the beacons.
    """

    def __init__(self, settings: DecodeSettings, source: str) -> None:
        self._settings = settings
        self._source = source

    def open(self) -> None:
        """Begins with no beacon announced."""
        self._decodings = _Decodings(self._settings, (self._source,))
        self._batch = msgspec.msgpack.Decoder(list[_Consumed]).decode
        self._granularity = self._settings.source(self._source).granularity
        self._announced = -1

    def run(self, batch: bytes) -> bytes:
        """All that is in the records."""
        source, granularity = self._source, self._granularity
        decode, stream = self._decodings.decode_of(source), stream_of(source)
        records, events = self._batch(batch), list[Keyed]()
        for record in records:
            origin = Origin(record.topic, record.partition, record.offset)
            out = decode(stream, _value(record), origin, record.time)
            if out is None:
                continue
            # an ignored action tells how far its stream has come, as it does from files
            if isinstance(out, tuple):
                events.append(Keyed(out[0], out[1], 0))
            elif isinstance(out, Told):
                events += [Keyed(key, event, 0) for key, event in out.events]
            step = record.time - record.time % granularity
            if step > self._announced:
                self._announced = step
                events += self._decodings.beacons(source, step, 0)
        self._decodings.of(source).read(stream, len(records))
        return self._decodings.reply(events, more=False)
