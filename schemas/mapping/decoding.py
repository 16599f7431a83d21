"""Decoders of mapped records: their bytes, a record, records of ours, events.

What the bytes are (JSON) is asked first; a decoder of another format stands in the place of `read`.
Then the mapping makes records of ours, which the decoders of `schemas.decoding` validate like any
other. An event keeps the bytes of the record that it is of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from schemas import json_record
from schemas.actions import ActionKind
from schemas.decoding import (
    ActionDecoder,
    BadRecord,
    Bounds,
    IgnoredAction,
    RequestDecoder,
    in_bounds,
)
from schemas.events import ActionEvent, Origin, RequestEvent, Stream
from schemas.features import FeatureSchema
from schemas.mapping import explain, shape
from schemas.mapping.plan import ActionMapping, Mappings, RequestMapping

#: A record of ours may be longer than theirs, whose length was looked at.
_ANY_LENGTH = 1 << 62
_encode = msgspec.json.Encoder().encode

_NONE = FeatureSchema(())

#: Makes a record of bytes. Raises BadRecord.
Read = Callable[[bytes], dict[str, Any]]


class Skipped(msgspec.Struct, frozen=True):
    """A record that says nothing, or that the mapping skips. It is dropped and counted.

    `event_time` (epoch ms): how far it tells that its stream has come; None if it has no time.
    """

    event_time: int | None


class Texts:
    """From the bytes of a record to the JSON texts of the events that it is, not validated.

    `read`: what makes a record of the bytes. It gives what JSON has, without numbers that are not
    finite.
    """

    def __init__(self, shaper: shape.Shaper, read: Read = json_record.read) -> None:
        self._shaper = shaper
        self._read = read

    def of(self, raw: bytes, record_time: int | None) -> list[bytes] | Skipped:
        """For bytes that are UTF-8. `record_time`: the record's timestamp (epoch ms).

        Raises BadRecord for bytes that are no record, and for times that are none.
        """
        record = self._read(raw)
        shaped = self._shaper.shape(record, record_time)
        if shaped is None:
            return Skipped(self._latest(record, record_time))
        if not shaped:
            # it says nothing, but it must be a record of this kind
            times = self._shaper.times(record, record_time)
            good = [time for time in times if time is not None]
            if len(good) < len(times):
                raise BadRecord("missing_field", f"{self._shaper.time_is_at}: missing, or null")
            return Skipped(max(good, default=None))
        return list(map(_encode, shaped))

    def of_or_reason(self, raw: bytes, record_time: int | None) -> list[bytes] | Skipped | str:
        """The same, with the reason of BadRecord for a record that is bad."""
        try:
            return self.of(raw, record_time)
        except BadRecord as bad:
            return bad.reason

    def time(self, raw: bytes, record_time: int | None) -> int | None:
        """The time (epoch ms) that a record states, whatever else it is; None if it has none."""
        try:
            return self._latest(self._read(raw), record_time)
        except (BadRecord, UnicodeDecodeError):
            return None

    def _latest(self, record: dict[str, Any], record_time: int | None) -> int | None:
        try:
            times = self._shaper.times(record, record_time)
        except BadRecord:
            return None
        return max((t for t in times if t is not None and in_bounds(t)), default=None)


def texts_of(mappings: Mappings, stream: Stream, schema: FeatureSchema = _NONE) -> Texts | None:
    """For readers of a stream that do not decode it like the job; None if it is not mapped.

    `schema`: the features that a record of ours is to have.
    """
    if stream == "features" and mappings.features is not None:
        return Texts(shape.of_requests(mappings.features, schema))
    if stream == "actions" and mappings.actions is not None:
        return Texts(shape.of_actions(mappings.actions))
    return None


class MappedRequestDecoder:
    """Decodes records that a mapping makes into feature events. Arguments: see `RequestDecoder`."""

    def __init__(
        self,
        mapping: RequestMapping,
        schema: FeatureSchema,
        *,
        max_record_bytes: int,
        max_items: int | None = None,
        not_after: int | None = None,
        max_future_ms: int | None = None,
    ) -> None:
        self._bounds = Bounds(max_record_bytes, not_after, max_future_ms)
        self._texts = Texts(shape.of_requests(mapping, schema))
        self._names = explain.of_requests(mapping, schema)
        self._decoder = RequestDecoder(
            schema,
            max_record_bytes=_ANY_LENGTH,
            max_items=max_items,
            not_after=not_after,
            max_future_ms=max_future_ms,
        )

    @property
    def undeclared(self) -> int:
        """How many values of undeclared features were dropped so far."""
        return self._decoder.undeclared

    def decode(
        self, raw: bytes, origin: Origin, record_time: int | None = None
    ) -> RequestEvent | Skipped:
        """The event, with the record's own bytes. Raises BadRecord, and nothing else."""
        self._bounds.check_bytes(raw)
        texts = self._texts.of(raw, record_time)
        if isinstance(texts, Skipped):
            return _timed(texts, self._bounds, record_time)
        (text,) = texts
        try:
            event = self._decoder.decode(text, origin, record_time)
        except BadRecord as bad:
            raise self._names.theirs(bad, text) from None
        return RequestEvent(event.request_id, event.event_time, event.body, origin, raw)


class MappedActionDecoder:
    """Decodes records that a mapping makes into action events. Arguments: see `ActionDecoder`.

    `ignored`: how many actions were ignored so far.
    """

    def __init__(
        self,
        mapping: ActionMapping,
        kinds: Sequence[ActionKind],
        *,
        key_is_request_id: bool,
        reject_unknown: bool = True,
        max_record_bytes: int,
        not_after: int | None = None,
        max_future_ms: int | None = None,
    ) -> None:
        self._bounds = Bounds(max_record_bytes, not_after, max_future_ms)
        self._texts = Texts(shape.of_actions(mapping))
        self._names = explain.of_actions(mapping)
        self._decoder = ActionDecoder(
            kinds,
            key_is_request_id=key_is_request_id,
            reject_unknown=reject_unknown,
            max_record_bytes=_ANY_LENGTH,
            not_after=not_after,
            max_future_ms=max_future_ms,
        )
        self.ignored = 0

    def decode(
        self, raw: bytes, origin: Origin, record_time: int | None = None
    ) -> list[ActionEvent | IgnoredAction] | Skipped:
        """The events, with the record's own bytes: all of them are good, or the record is bad.

        Raises BadRecord, and nothing else.
        """
        self._bounds.check_bytes(raw)
        texts = self._texts.of(raw, record_time)
        if isinstance(texts, Skipped):
            return _timed(texts, self._bounds, record_time)
        events: list[ActionEvent | IgnoredAction] = []
        for text in texts:
            try:
                event = self._decoder.decode(text, origin, record_time)
            except BadRecord as bad:
                raise self._names.theirs(bad, text) from None
            events.append(
                event
                if isinstance(event, IgnoredAction)
                else msgspec.structs.replace(event, raw=raw)
            )
        self.ignored += sum(isinstance(event, IgnoredAction) for event in events)
        return events


def _timed(skipped: Skipped, bounds: Bounds, record_time: int | None) -> Skipped:
    """Without a time that no record may have: such a record is no reason to move time."""
    if skipped.event_time is not None:
        try:
            bounds.check_time(skipped.event_time, record_time)
        except BadRecord:
            return Skipped(None)
    return skipped
