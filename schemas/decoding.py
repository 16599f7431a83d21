"""From the bytes of a record to a verdict: an event, an ignored action, or the reason why neither.

The verdict is a function of the record and the configuration alone. Decoders count what they drop,
and learn nothing: what they decoded before never changes what they say of the next record. What the
fields of a record are, their bounds and all reasons stand in docs/events.md.

Here are the decoders of JSON. One for another format is a `Decoder` too. It finds the fields, with
the bounds of `Id` and `EventTime`, and asks the same questions after that: `Bounds.check_bytes`,
`Bounds.check_time`, `check_ids`, and `ActionRules.verdict` for an action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from operator import attrgetter
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from schemas.actions import NEEDS_VALUE, ActionKind
from schemas.bad_record import BadRecord as BadRecord
from schemas.events import EARLIEST_TIME, LATEST_TIME, ActionEvent, Origin, RequestEvent
from schemas.features import Feature, FeatureSchema
from schemas.json_text import (
    MAX_DEPTH,
    NotJSON,
    blank_before_colon,
    key_count,
    parse,
    too_deep,
    with_stack,
)

#: Characters (code points) of an id. Ids are keys of state and of sets: they stay short.
MAX_ID_LENGTH = 1024

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
EventTime = Annotated[int, msgspec.Meta(ge=EARLIEST_TIME, lt=LATEST_TIME)]

Event_co = TypeVar("Event_co", covariant=True)


class IgnoredAction(msgspec.Struct, frozen=True):
    """A good action of a kind that is not configured, with `unknown_actions = "ignore"`.

    It is dropped, but it tells how far the stream has come: its time counts (epoch ms).
    """

    event_time: int


class Decoder(Protocol[Event_co]):
    """Decodes the records of one stream, whatever their format is."""

    def decode(self, raw: bytes, origin: Origin, record_time: int | None = None) -> Event_co:
        """The event that the bytes of one record say.

        `record_time` is the record's own timestamp (epoch ms; Kafka), None for files. The same
        arguments always have the same outcome, whatever was decoded before and however deep the
        caller's stack is. Raises BadRecord, and nothing else.
        """
        ...


@dataclass(frozen=True)
class Bounds:
    """What the configuration of a source asks of every record.

    `not_after` (epoch ms) is for all records. `max_future_ms` is for those that have a timestamp of
    their own: how far the event may be ahead of it.
    """

    max_record_bytes: int
    not_after: int | None = None
    max_future_ms: int | None = None

    def check_bytes(self, raw: bytes) -> None:
        """Raises BadRecord: `empty_record`, `too_large` or `invalid_utf8`."""
        if not raw:
            raise BadRecord("empty_record", "the record is empty")
        if len(raw) > self.max_record_bytes:
            raise BadRecord(
                "too_large", f"{len(raw)} bytes; max_record_bytes is {self.max_record_bytes}"
            )
        if raw.isascii():
            return
        try:
            # msgspec does not look at strings that it skips
            raw.decode()
        except UnicodeDecodeError as error:
            raise BadRecord("invalid_utf8", str(error)) from None

    def check_time(self, event_time: int, record_time: int | None) -> None:
        """Raises BadRecord: `future_clock`."""
        if self.not_after is not None and event_time > self.not_after:
            raise BadRecord(
                "future_clock",
                f"event_time {event_time} is after not_after {self.not_after}",
                event_time,
            )
        if (
            record_time is not None
            and self.max_future_ms is not None
            and event_time > record_time + self.max_future_ms
        ):
            raise BadRecord(
                "future_clock",
                f"event_time {event_time} is {event_time - record_time} ms ahead of the record's "
                f"timestamp {record_time}; max_future is {self.max_future_ms} ms",
                event_time,
            )


class RequestDecoder:
    """Decodes and validates feature events of one schema, written as JSON.

    `undeclared` counts the values of undeclared features that were dropped from good records so
    far. `max_items`: how many items a request may have (None: any number). For the other arguments
    see `Bounds`.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        *,
        max_record_bytes: int,
        max_items: int | None = None,
        not_after: int | None = None,
        max_future_ms: int | None = None,
    ) -> None:
        self._bounds = Bounds(max_record_bytes, not_after, max_future_ms)
        self._max_items = max_items
        context, columns = schema.scoped("context"), schema.scoped("item")
        self._width = len(columns)
        self._pack = msgspec.msgpack.Encoder().encode
        self._context_names = msgspec.Raw(self._pack([f.name for f in context]))
        self._names = msgspec.Raw(self._pack([f.name for f in columns]))
        context_struct = _features_struct("Context", context)
        features_struct = _features_struct("Features", columns)
        self._no_context = (UNSET,) * len(context)
        self._no_features = None if any(f.required for f in columns) else features_struct()
        self._decode = _request_decoder(context_struct, features_struct, context, columns)
        self.undeclared = 0

    def decode(self, raw: bytes, origin: Origin, record_time: int | None = None) -> RequestEvent:
        """The event; its body has the declared features only.

        Raises BadRecord, and nothing else.
        """
        self._bounds.check_bytes(raw)
        try:
            record = self._decode(raw)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            record = _decoded(self._decode, raw)
        items = record.items
        ids = list(map(_item_id, items))
        features = list(map(_features, items))
        features_keys = len(items)
        if not all(features):
            # an item may do without features when none of them is required
            features_keys -= features.count(UNSET)
            features = [f or self._no_features for f in features]
        columns = list(zip(*map(_values, features), strict=True))
        context = _values(record.context) if record.context else self._no_context
        declared = self._width * len(items) + len(context)
        user_id = record.user_id
        try:
            body = self._pack((user_id, ids, self._context_names, context, self._names, columns))
        except TypeError:
            # UNSET is what msgspec refuses to pack, so most records need not be searched for it
            declared -= sum(values.count(UNSET) for values in (context, *columns))
            context, *columns = map(_filled, (context, *columns))
            body = self._pack((user_id, ids, self._context_names, context, self._names, columns))
        keys = 4 + len(items) + features_keys + (record.context is not UNSET) + declared
        if raw.count(b":") != keys:
            # something is there that the schema does not name, or a key is named twice
            self.undeclared += _dropped(raw, _REQUEST_KEYS, keys, declared)
        request_id = record.request_id
        if (
            b"\\" in raw  # JSON escapes control characters
            or True in map(str.isspace, ids)
            or request_id.isspace()
            or user_id.isspace()
        ):
            check_ids([request_id, user_id, *ids], record.event_time)
        self._bounds.check_time(record.event_time, record_time)
        if self._max_items is not None and len(ids) > self._max_items:
            raise BadRecord(
                "too_many_items",
                f"{len(ids)} items; limits.items_per_request is {self._max_items}",
                record.event_time,
            )
        return RequestEvent(request_id, record.event_time, body, origin, raw)


class ActionDecoder:
    """Decodes and validates action events of the configured kinds, written as JSON.

    `key_is_request_id`: an action must then carry a request id. With `reject_unknown` an action of
    another kind is rejected, else ignored; `ignored` counts those. For the other arguments see
    `Bounds`.
    """

    def __init__(
        self,
        kinds: Sequence[ActionKind],
        *,
        key_is_request_id: bool,
        reject_unknown: bool = True,
        max_record_bytes: int,
        not_after: int | None = None,
        max_future_ms: int | None = None,
    ) -> None:
        self._bounds = Bounds(max_record_bytes, not_after, max_future_ms)
        self._rules = ActionRules(
            {kind.name: kind.label in NEEDS_VALUE for kind in kinds},
            key_is_request_id=key_is_request_id,
            reject_unknown=reject_unknown,
        )
        self._decode = msgspec.json.Decoder(_ActionRecord).decode
        self.ignored = 0

    def decode(
        self, raw: bytes, origin: Origin, record_time: int | None = None
    ) -> ActionEvent | IgnoredAction:
        """The event. Raises BadRecord, and nothing else."""
        self._bounds.check_bytes(raw)
        try:
            record = self._decode(raw)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            record = _decoded(self._decode, raw)
        event_id, request_id, value = record.event_id, record.request_id, record.value
        keys = 7
        if event_id is UNSET:
            event_id, keys = None, keys - 1
        if request_id is UNSET:
            request_id, keys = None, keys - 1
        if value is UNSET:
            value, keys = None, keys - 1
        if raw.count(b":") != keys:
            _dropped(raw, _ACTION_KEYS, keys, None)
        user_id, item_id, action = record.user_id, record.item_id, record.action
        time = record.event_time
        if (
            b"\\" in raw  # JSON escapes control characters
            or user_id.isspace()
            or item_id.isspace()
            or action.isspace()
            or (event_id is not None and event_id.isspace())
            or (request_id is not None and request_id.isspace())
        ):
            check_ids([user_id, item_id, action, event_id or "-", request_id or "-"], time)
        self._bounds.check_time(time, record_time)
        event = ActionEvent(
            event_id, user_id, item_id, request_id, action, value, time, origin, raw
        )
        verdict = self._rules.verdict(event)
        if verdict.__class__ is IgnoredAction:
            self.ignored += 1
        return verdict


@dataclass(frozen=True)
class ActionRules:
    """What the configuration asks of an action. `needs_value`: by kind, whether its label does."""

    needs_value: Mapping[str, bool]
    key_is_request_id: bool
    reject_unknown: bool

    def verdict(self, action: ActionEvent) -> ActionEvent | IgnoredAction:
        """The action itself when it is good.

        Raises BadRecord: `unknown_action`, `missing_field` or `missing_value`.
        """
        needs_value = self.needs_value.get(action.action)
        if needs_value is None:
            if not self.reject_unknown:
                return IgnoredAction(action.event_time)
            raise BadRecord(
                "unknown_action",
                f"action {action.action!r} is not configured; configured are "
                + ", ".join(self.needs_value),
                action.event_time,
            )
        if self.key_is_request_id and action.request_id is None:
            raise BadRecord(
                "missing_field",
                "an action needs a request_id with key = 'request_id'",
                action.event_time,
            )
        if needs_value and action.value is None:
            raise BadRecord("missing_value", f"{action.action!r} needs a value", action.event_time)
        return action


def check_ids(ids: Iterable[str], event_time: int | None) -> None:
    """Raises BadRecord (`bad_id`) for ids that are blank or have control characters.

    A control character is one below U+0020. The job's own keys begin with U+0000, so that no id can
    be one of them.
    """
    for text in ids:
        if text.isspace():
            raise BadRecord("bad_id", f"the id {text!r} is blank", event_time)
        if min(text) < " ":
            raise BadRecord("bad_id", f"the id {text!r} has control characters", event_time)


class _ActionRecord(msgspec.Struct, frozen=True, gc=False):
    user_id: Id
    item_id: Id
    action: Id
    event_time: EventTime
    event_id: Id | UnsetType | None = UNSET
    request_id: Id | UnsetType | None = UNSET
    value: float | UnsetType | None = UNSET


def _features_struct(name: str, features: Sequence[Feature]) -> type[msgspec.Struct]:
    """A struct of the declared features, named f0, f1 … in it: a feature may be called anything.

    An optional feature that is absent is UNSET, and None where it is null.
    """
    fields: list[tuple[str, Any, Any]] = []
    rename: dict[str, str] = {}
    for i, feature in enumerate(features):
        rename[f"f{i}"] = feature.name
        if feature.required:
            fields.append((f"f{i}", feature.type.python, msgspec.field()))
        else:
            fields.append((f"f{i}", feature.type.python | None | UnsetType, UNSET))
    return msgspec.defstruct(name, fields, rename=rename, kw_only=True, gc=False)


def _request_decoder(
    context: Any, features: Any, in_context: Sequence[Feature], in_items: Sequence[Feature]
) -> Callable[[bytes], Any]:
    def group(struct: Any, declared: Sequence[Feature]) -> tuple[Any, Any]:
        # nothing required: the whole group may be absent or null
        if any(f.required for f in declared):
            return struct, msgspec.field()
        return struct | None | UnsetType, UNSET

    features_type, features_default = group(features, in_items)
    context_type, context_default = group(context, in_context)
    item = msgspec.defstruct(
        "Item",
        [("item_id", Id), ("features", features_type, features_default)],
        kw_only=True,
        gc=False,
    )
    request = msgspec.defstruct(
        "Request",
        [
            ("request_id", Id),
            ("user_id", Id),
            ("event_time", EventTime),
            ("items", Annotated[list[item], msgspec.Meta(min_length=1)]),  # type: ignore[valid-type]
            ("context", context_type, context_default),
        ],
        kw_only=True,
        gc=False,
    )
    return msgspec.json.Decoder(request).decode


def _filled(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same values, with null for those that are absent."""
    if UNSET not in values:
        return values
    return tuple(None if value is UNSET else value for value in values)


_item_id, _features = attrgetter("item_id"), attrgetter("features")
_values = msgspec.structs.astuple
_decode_any = msgspec.json.Decoder().decode
_decode_top = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
#: What a record may name at its top. All else is ignored.
_REQUEST_KEYS = frozenset(["request_id", "user_id", "event_time", "items", "context"])
_ACTION_KEYS = frozenset(
    ["user_id", "item_id", "action", "event_time", "event_id", "request_id", "value"]
)


def _decoded(decode: Callable[[bytes], Any], raw: bytes) -> Any:
    """What `decode` makes of a record. Raises BadRecord, and nothing else."""
    try:
        try:
            return decode(raw)
        except RecursionError:
            if too_deep(raw):
                raise _too_deep() from None
            return with_stack(decode, raw)
    except (msgspec.MsgspecError, ValueError) as error:
        raise _explain(error, raw) from None


def _dropped(raw: bytes, known: frozenset[str], keys: int, declared: int | None) -> int:
    """How many values of undeclared features a record has.

    For a record that may have more to it than what was decoded: `keys` different keys, `declared`
    of them declared features (None for an action, which has no features). `known`: what it may name
    at its top. Raises BadRecord: `too_deep` or `duplicate_key`.

    A record that names a key twice has more keys than different ones, and each key is followed by a
    colon. So no key is named twice when the text has no more colons than different keys. What is
    cheap to count is counted first.
    """
    colons, quoted = raw.count(b":"), raw.count(b'":')
    ignored = _ignored_keys(raw, known)
    if ignored is not None:
        if colons == keys + ignored:
            return 0
        if quoted == keys + ignored and not blank_before_colon(raw):
            return 0
    if too_deep(raw):
        raise _too_deep()
    try:
        record = with_stack(_decode_any, raw)
    except msgspec.MsgspecError:
        pass  # a number that is out of range, in a value that nobody asks for
    else:
        different, names = _different_keys(record, known, declared)
        if colons == different or (quoted == different and not blank_before_colon(raw)):
            return names - (declared or 0)
    try:
        record, twice = parse(raw)
    except NotJSON as error:
        raise BadRecord(error.reason, error.message) from None
    if twice is not None:
        raise _duplicate(twice, raw)
    return _different_keys(record, known, declared)[1] - (declared or 0)


def _different_keys(
    record: dict[str, Any], known: frozenset[str], declared: int | None
) -> tuple[int, int]:
    """How many different keys the objects of a record have at least, and how many are features.

    Objects in the values of undeclared features, and in what is ignored of an item, are left out.
    """
    if declared is None:
        return key_count((record,)), 0
    items = record["items"]
    names = sum(len(item.get("features") or ()) for item in items)
    names += len(record.get("context") or ())
    others = len(record) + sum(map(len, items))
    return others + names + key_count(v for k, v in record.items() if k not in known), names


def _ignored_keys(raw: bytes, known: frozenset[str]) -> int | None:
    """How many keys there are in what a record has at its top and nobody asks for.

    None: something of it is too deep or names a key twice, or there may be such a thing.
    """
    try:
        top = _decode_top(raw)
    except RecursionError:
        return None
    keys = 0
    for name, value in top.items():
        if name in known:
            continue
        keys += 1
        text = bytes(value)
        if text[:1] in b"{[":
            if too_deep(text, MAX_DEPTH - 1):
                return None
            inner, twice = parse(text)
            if twice is not None:
                return None
            keys += key_count((inner,))
    return keys


# -- what was wrong --------------------------------------------------------------------------------

_BY_MESSAGE: Mapping[str, str] = {
    "missing required field": "missing_field",
    "got `null`": "missing_field",
    "`str` of length >=": "missing_field",
    "`str` of length <=": "bad_id",
    "`array` of length": "empty_items",
    "`int` >": "out_of_range",
    "`int` <": "out_of_range",
    "`float` >": "out_of_range",
    "`float` <": "out_of_range",
    "out of range": "out_of_range",
}


def _explain(error: Exception, raw: bytes) -> BadRecord:
    """The reason for a record that msgspec refused. Slow, and only for bad records.

    msgspec stops at the first thing that it does not like. What makes the whole text unusable is
    looked for first, so that the reason does not depend on which fault stands further left.
    """
    if too_deep(raw):
        return _too_deep()
    try:
        record, twice = parse(raw)
    except NotJSON as not_json:
        return BadRecord(not_json.reason, not_json.message)
    if twice is not None:
        return _duplicate(twice, raw)
    message = str(error)
    if record is None:
        return BadRecord("wrong_type", message)  # not a field of it that is null
    time = _stated_time(raw)
    if time is not None and message.endswith("`$.event_time`"):
        return _wrong_time(time)
    reason = next((r for text, r in _BY_MESSAGE.items() if text in message), "wrong_type")
    return BadRecord(reason, message, time if in_bounds(time) else None)


def _too_deep() -> BadRecord:
    return BadRecord("too_deep", f"nested more than {MAX_DEPTH} levels deep")


def _duplicate(name: str, raw: bytes) -> BadRecord:
    time = _stated_time(raw)
    return BadRecord(
        "duplicate_key",
        f"an object names the key {name!r} twice",
        time if in_bounds(time) else None,
    )


def _wrong_time(time: int) -> BadRecord:
    """For an event time that is a number outside of the bounds: the unit that it seems to have."""
    for unit, factor, divisor in (
        ("seconds", 1000, 1),
        ("microseconds", 1, 1000),
        ("nanoseconds", 1, 1_000_000),
    ):
        ms = time * factor // divisor
        if in_bounds(ms):
            utc = _EPOCH + timedelta(milliseconds=ms)
            return BadRecord(
                "wrong_time_unit",
                f"event_time {time} looks like {unit} ({utc:%Y-%m-%d %H:%M:%S} UTC);"
                f" it must be milliseconds since 1970, here {ms}",
            )
    return BadRecord(
        "out_of_range",
        f"event_time {time}: expected milliseconds since 1970, from {EARLIEST_TIME} (1971)"
        f" up to {LATEST_TIME} (2100, not included)",
    )


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def in_bounds(time: int | None) -> bool:
    """Whether this is a time (epoch ms) that an event may have."""
    return time is not None and EARLIEST_TIME <= time < LATEST_TIME


class _Timed(msgspec.Struct):
    event_time: int


_decode_timed = msgspec.json.Decoder(_Timed).decode


def _stated_time(raw: bytes) -> int | None:
    """The number that a record gives as its event time, whatever else it is."""
    try:
        return with_stack(_decode_timed, raw).event_time
    except (msgspec.MsgspecError, ValueError):
        return None


def readable_time(raw: bytes) -> int | None:
    """The event time (epoch ms) of a JSON record, whatever else it is.

    None where none can be read, or where it is out of bounds.
    """
    if too_deep(raw):
        return None
    time = _stated_time(raw)
    return time if in_bounds(time) else None
