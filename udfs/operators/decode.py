"""The Flink functions that read and decode: records in, keyed events out, bad records to the side.

Two sources, one output: `ReadFiles` reads chunks of local files itself (so the bytes never pass
through the JVM, and the order of reading is fixed), `DecodeRecords` takes what the Kafka connector
read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from pyflink.common import Row
from pyflink.datastream import OutputTag, ProcessFunction

from schemas import event_files
from schemas.decoding import ActionDecoder, BadRecord, IgnoredAction, RequestDecoder, in_bounds
from schemas.events import STREAMS, Origin, Progress, Stream, unpack_front
from udfs.core.decode_settings import Chunk, DecodeSettings
from udfs.core.file_clock import FileClock
from udfs.operators import side_outputs
from udfs.operators.counts import Counts


class _Decoding:
    """Decoders, counters and the packing of both streams, for one subtask."""

    def __init__(self, settings: DecodeSettings, runtime_context: Any) -> None:
        self._by_user = settings.key == "user_id"
        self._pack = msgspec.msgpack.Encoder().encode
        features, actions = settings.streams["features"], settings.streams["actions"]
        self._requests = RequestDecoder(
            settings.schema,
            max_record_bytes=features.max_record_bytes,
            not_after=features.not_after,
            max_future_ms=features.max_future_ms,
        )
        self._actions = ActionDecoder(
            settings.kinds,
            key_is_request_id=not self._by_user,
            reject_unknown=settings.reject_unknown,
            max_record_bytes=actions.max_record_bytes,
            not_after=actions.not_after,
            max_future_ms=actions.max_future_ms,
        )
        self._rejected = side_outputs.REJECTED.tag()
        self._beacon_keys = settings.beacon_keys
        self._counts = counts = Counts(runtime_context)
        self._read = {s: counts.counter(f"{s}_read") for s in STREAMS}
        self._undeclared = counts.counter("undeclared_feature_values")
        self._ignored = counts.counter("actions_ignored")
        self._counted = (0, 0)

    def decode(
        self, stream: Stream, raw: bytes, origin: Origin, record_time: int | None
    ) -> tuple[str, bytes, int] | Row | IgnoredAction:
        """Key, packed event and event time; or a rejected row; or an action that is ignored."""
        try:
            if stream == "features":
                request = self._requests.decode(raw, origin, record_time)
                key = unpack_front(request.body).user_id if self._by_user else request.request_id
                return key, self._pack(request), request.event_time
            action = self._actions.decode(raw, origin, record_time)
            if isinstance(action, IgnoredAction):
                return action
            key = action.user_id if self._by_user else (action.request_id or "")
            return key, self._pack(action), action.event_time
        except BadRecord as bad:
            self._counts.counter("rejected", stream, bad.reason).inc()
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
                "raw": raw,
            }
            return side_outputs.REJECTED.row(values, time)

    def beacons(self, stream: Stream, time: int) -> list[tuple[str, bytes]]:
        """Key and packed `Progress`, for every subtask of the join. They go where the events go, so
        none can be overtaken by the end of the input.
        """
        packed = self._pack(Progress(stream, time))
        return [(key, packed) for key in self._beacon_keys]

    def side(self, row: Row) -> tuple[OutputTag, Row]:
        return self._rejected, row

    def count(self, stream: Stream, records: int) -> None:
        self._read[stream].inc(records)
        undeclared, ignored = self._requests.undeclared, self._actions.ignored
        if (undeclared, ignored) != self._counted:
            self._undeclared.inc(undeclared - self._counted[0])
            self._ignored.inc(ignored - self._counted[1])
            self._counted = (undeclared, ignored)

    def close(self) -> None:
        self._counts.close()


class ReadFiles(ProcessFunction):
    """The one ordered reader of files: chunks in, (key, event, watermark time) out.

    There is one reader, with a fixed order, so that the outcome is a function of the files alone.
    The third field is `FileClock.now` after the event.

    Raises EventFileError, which ends the job, when a file is gone, damaged, or has become shorter.
    """

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings

    def open(self, runtime_context: Any) -> None:
        self._decoding = _Decoding(self._settings, runtime_context)
        self._chunk = msgspec.json.Decoder(Chunk)
        # Not in Flink's state: after a restart time stands still until both streams have shown
        # something again, which delays a watermark and never makes one too early.
        self._clock = FileClock(self._settings.streams)
        self._latest: dict[Stream, int] = {}
        self._files = event_files.RangeReader()

    def close(self) -> None:
        self._decoding.close()

    def process_element(self, value: Any, ctx: Any) -> Iterator[Any]:
        chunk = self._chunk.decode(value[0])
        data = self._files.read(chunk.path, chunk.start, chunk.end)
        stream, decode, clock = chunk.stream, self._decoding.decode, self._clock
        records = 0
        latest = announced = self._latest.get(stream, -1)
        granularity = self._settings.streams[stream].granularity
        reached = -1
        for at, line in event_files.records(data, chunk.start):
            records += 1
            out = decode(stream, line, Origin(chunk.path, None, at), None)
            if isinstance(out, tuple):
                time = out[2]
            elif isinstance(out, IgnoredAction):
                time = out.event_time
            else:
                yield self._decoding.side(out)
                continue
            before = clock.now
            if time > reached:
                reached = time
                clock.shown(stream, time, chunk.limit)
                latest = max(latest, time)
            moved = clock.now > before
            if isinstance(out, tuple):
                yield Row(out[0], out[1], clock.now)
                moved = False  # the row says so
            # an ignored action has no row of its own that could carry the clock
            if latest - announced >= granularity or moved:
                announced = latest
                for key, event in self._decoding.beacons(stream, latest):
                    yield Row(key, event, clock.now)
        self._decoding.count(stream, records)
        if latest > announced:
            for key, event in self._decoding.beacons(stream, latest):
                yield Row(key, event, clock.now)
        self._latest[stream] = latest


class DecodeRecords(ProcessFunction):
    """Decodes one stream of a Kafka topic.

    In: record (latin-1), topic, partition, offset, record timestamp (ms). Out: (key, event). The
    watermark is the source's, by the record's timestamp, and so are the beacons.
    """

    def __init__(self, settings: DecodeSettings, stream: Stream) -> None:
        self._settings = settings
        self._stream = stream

    def open(self, runtime_context: Any) -> None:
        self._decoding = _Decoding(self._settings, runtime_context)
        self._granularity = self._settings.streams[self._stream].granularity
        self._announced = -1

    def close(self) -> None:
        self._decoding.close()

    def process_element(self, value: Any, ctx: Any) -> Iterator[Any]:
        text, topic, part, offset, record_time = value[0], value[1], value[2], value[3], value[4]
        raw = b"" if text is None else text.encode("latin-1")
        out = self._decoding.decode(self._stream, raw, Origin(topic, part, offset), record_time)
        self._decoding.count(self._stream, 1)
        step = record_time - record_time % self._granularity
        if not isinstance(out, tuple | IgnoredAction):
            yield self._decoding.side(out)
            return
        # an ignored action tells how far its stream has come, as it does from files
        if isinstance(out, tuple):
            yield Row(out[0], out[1])
        if step > self._announced:
            self._announced = step
            for key, event in self._decoding.beacons(self._stream, step):
                yield Row(key, event)
