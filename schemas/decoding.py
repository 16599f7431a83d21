"""From the bytes of a record to an event, or to the reason why not.

The JSON types are built from the declared schema, so that one pass of msgspec decodes and
validates. What is not declared is dropped and counted. The reasons are those of
docs/sample-format.md; nothing here raises for bad input.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Any

import msgspec

from schemas.actions import NEEDS_VALUE, ActionKind
from schemas.events import LATEST_TIME, ActionEvent, Origin, RequestEvent
from schemas.features import Feature, FeatureSchema

#: As many undeclared names are remembered per scope; records with others take a slower path.
MAX_UNDECLARED = 1024

_Id = Annotated[str, msgspec.Meta(min_length=1)]
_Time = Annotated[int, msgspec.Meta(ge=0, lt=LATEST_TIME)]


class BadRecord(Exception):  # noqa: N818 - it is an outcome, not a fault of the program
    """Why a record cannot be used: a reason of docs/sample-format.md, and a sentence for people.

    `event_time` is what the record says of its time, if that could be read.
    """

    def __init__(self, reason: str, message: str, event_time: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.event_time = event_time


class _Bounds:
    """What both decoders ask of a record before and after its JSON is read."""

    def __init__(
        self, max_record_bytes: int, not_after: int | None, max_future_ms: int | None
    ) -> None:
        self._max_record_bytes = max_record_bytes
        self._not_after = not_after
        self._max_future_ms = max_future_ms

    def check_bytes(self, raw: bytes) -> None:
        if not raw:
            raise BadRecord("empty_record", "the record is empty")
        if len(raw) > self._max_record_bytes:
            raise BadRecord(
                "too_large", f"{len(raw)} bytes; max_record_bytes is {self._max_record_bytes}"
            )
        try:
            # msgspec does not look at strings that it skips
            raw.decode()
        except UnicodeDecodeError as error:
            raise BadRecord("invalid_utf8", str(error)) from None

    def check_time(self, event_time: int, record_time: int | None) -> None:
        if self._not_after is not None and event_time > self._not_after:
            raise BadRecord(
                "future_clock",
                f"event_time {event_time} is after not_after {self._not_after}",
                event_time,
            )
        if (
            record_time is not None
            and self._max_future_ms is not None
            and event_time > record_time + self._max_future_ms
        ):
            raise BadRecord(
                "future_clock",
                f"event_time {event_time} is {event_time - record_time} ms ahead of the record's "
                f"timestamp {record_time}; max_future is {self._max_future_ms} ms",
                event_time,
            )


class RequestDecoder:
    """Decodes and validates feature events of one schema.

    `undeclared` counts the values of undeclared features that were dropped so far. `max_future_ms`
    applies to records that have a timestamp of their own (Kafka), `not_after` (epoch ms) to all.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        *,
        max_record_bytes: int,
        not_after: int | None = None,
        max_future_ms: int | None = None,
    ) -> None:
        self._bounds = _Bounds(max_record_bytes, not_after, max_future_ms)
        self._context = schema.scoped("context")
        self._columns = schema.scoped("item")
        self._pack = msgspec.msgpack.Encoder().encode
        self._context_names = self._pack([f.name for f in self._context])
        self._column_names = self._pack([f.name for f in self._columns])
        self._context_values = _values_of(self._context)
        self._item_values = _values_of(self._columns)
        self._known_undeclared: dict[str, list[str]] = {"context": [], "item": []}
        self.undeclared = 0
        self._build()

    def decode(self, raw: bytes, origin: Origin, record_time: int | None = None) -> RequestEvent:
        """Raises BadRecord, and nothing else."""
        self._bounds.check_bytes(raw)
        try:
            try:
                record = self._strict.decode(raw)
            except msgspec.ValidationError as error:
                if "unknown field" not in str(error):
                    raise
                record = self._with_undeclared(raw)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise _explain(error, raw) from None
        self._bounds.check_time(record.event_time, record_time)
        if self._count_context is not None and record.context is not None:
            self.undeclared += self._count_context(record.context)
        items = record.items
        features = [item.features or self._no_features for item in items]
        if self._count_item is not None:
            self.undeclared += sum(map(self._count_item, features))
        columns = list(zip(*map(self._item_values, features), strict=True))
        context = record.context or self._no_context
        body = (
            record.user_id,
            [item.item_id for item in items],
            msgspec.Raw(self._context_names),
            self._context_values(context),
            msgspec.Raw(self._column_names),
            columns,
        )
        return RequestEvent(record.request_id, record.event_time, self._pack(body), origin, raw)

    def _build(self) -> None:
        """The strict decoder: it knows every name that is declared or was met before."""
        context = _features_struct("Context", self._context, self._known_undeclared["context"])
        features = _features_struct("Features", self._columns, self._known_undeclared["item"])
        self._strict = _request_decoder(context, features, self._context, self._columns)
        self._no_context = _empty(context, self._context)
        self._no_features = _empty(features, self._columns)
        self._count_context = _undeclared_counter(self._known_undeclared["context"])
        self._count_item = _undeclared_counter(self._known_undeclared["item"])

    def _with_undeclared(self, raw: bytes) -> Any:
        """A record with names that were not met before: learn them, so that the next is quick.

        Records are strict about features only, so unknown names elsewhere end here too; those are
        not features, and are skipped without a count.
        """
        generic = msgspec.json.decode(raw)
        seen = {"context": [generic.get("context")], "item": []}
        items = generic.get("items")
        if isinstance(items, list):
            seen["item"] = [item.get("features") for item in items if isinstance(item, dict)]
        declared = {
            "context": {f.name for f in self._context},
            "item": {f.name for f in self._columns},
        }
        learned = False
        for scope, groups in seen.items():
            known = self._known_undeclared[scope]
            for group in groups:
                for name in group if isinstance(group, dict) else ():
                    if name in declared[scope] or name in known:
                        continue
                    if len(known) < MAX_UNDECLARED:
                        known.append(name)
                        learned = True
                    else:
                        self.undeclared += 1
        if learned:
            self._build()
        try:
            return self._strict.decode(raw)
        except msgspec.ValidationError as error:
            if "unknown field" not in str(error):
                raise
        # more undeclared names than are remembered: counted above, skipped here
        context = _features_struct(
            "Context", self._context, self._known_undeclared["context"], strict=False
        )
        features = _features_struct(
            "Features", self._columns, self._known_undeclared["item"], strict=False
        )
        return _request_decoder(context, features, self._context, self._columns).decode(raw)


class ActionDecoder:
    """Decodes and validates action events of the configured kinds.

    `key_is_request_id`: an action must then carry a request id. `ignored` counts the actions of
    unknown kinds when those are ignored and not rejected.
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
        self._bounds = _Bounds(max_record_bytes, not_after, max_future_ms)
        self._needs_value = {kind.name: kind.label in NEEDS_VALUE for kind in kinds}
        self._key_is_request_id = key_is_request_id
        self._reject_unknown = reject_unknown
        self._decoder = msgspec.json.Decoder(_ActionRecord)
        self.ignored = 0

    def decode(
        self, raw: bytes, origin: Origin, record_time: int | None = None
    ) -> ActionEvent | None:
        """None for an action that is ignored. Raises BadRecord, and nothing else."""
        self._bounds.check_bytes(raw)
        try:
            record = self._decoder.decode(raw)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise _explain(error, raw) from None
        time = record.event_time
        self._bounds.check_time(time, record_time)
        needs_value = self._needs_value.get(record.action)
        if needs_value is None:
            if not self._reject_unknown:
                self.ignored += 1
                return None
            raise BadRecord(
                "unknown_action",
                f"action {record.action!r} is not configured; configured are "
                + ", ".join(self._needs_value),
                time,
            )
        if self._key_is_request_id and record.request_id is None:
            raise BadRecord(
                "missing_field", "an action needs a request_id with key = 'request_id'", time
            )
        if needs_value and record.value is None:
            raise BadRecord("missing_value", f"{record.action!r} needs a value", time)
        return ActionEvent(
            record.event_id,
            record.user_id,
            record.item_id,
            record.request_id,
            record.action,
            record.value,
            time,
            origin,
            raw,
        )


class _ActionRecord(msgspec.Struct, frozen=True):
    user_id: _Id
    item_id: _Id
    action: _Id
    event_time: _Time
    event_id: _Id | None = None
    request_id: _Id | None = None
    value: float | None = None


def _features_struct(
    name: str, features: Sequence[Feature], undeclared: Sequence[str], *, strict: bool = True
) -> type[msgspec.Struct]:
    """A struct of the declared features as f0, f1 …, and u0, u1 … for names that are only counted.

    Renamed, since a feature may be called anything that JSON allows.
    """
    fields: list[tuple[str, Any, Any]] = []
    rename: dict[str, str] = {}
    for i, feature in enumerate(features):
        rename[f"f{i}"] = feature.name
        if feature.required:
            fields.append((f"f{i}", feature.type.python, msgspec.field()))
        else:
            fields.append((f"f{i}", feature.type.python | None, None))
    for i, unknown in enumerate(undeclared):
        rename[f"u{i}"] = unknown
        fields.append((f"u{i}", msgspec.Raw | msgspec.UnsetType, msgspec.UNSET))
    return msgspec.defstruct(
        name, fields, rename=rename, kw_only=True, forbid_unknown_fields=strict, gc=False
    )


def _request_decoder(
    context: Any, features: Any, in_context: Sequence[Feature], in_items: Sequence[Feature]
) -> Any:
    def group(struct: Any, declared: Sequence[Feature]) -> tuple[Any, Any]:
        # nothing required: the whole group may be absent or null
        if any(f.required for f in declared):
            return struct, msgspec.field()
        return struct | None, None

    features_type, features_default = group(features, in_items)
    context_type, context_default = group(context, in_context)
    item = msgspec.defstruct(
        "Item",
        [("item_id", _Id), ("features", features_type, features_default)],
        kw_only=True,
        gc=False,
    )
    request = msgspec.defstruct(
        "Request",
        [
            ("request_id", _Id),
            ("user_id", _Id),
            ("event_time", _Time),
            ("items", Annotated[list[item], msgspec.Meta(min_length=1)]),  # type: ignore[valid-type]
            ("context", context_type, context_default),
        ],
        kw_only=True,
        gc=False,
    )
    return msgspec.json.Decoder(request)


def _empty(struct: Any, features: Sequence[Feature]) -> Any:
    return None if any(f.required for f in features) else struct()


def _values_of(features: Sequence[Feature]) -> Callable[[Any], tuple[Any, ...]]:
    """Reads all declared features off a struct; always a tuple (attrgetter of one is not)."""
    names = [f"f{i}" for i in range(len(features))]
    if len(names) > 1:
        return attrgetter(*names)
    if names:
        only = attrgetter(names[0])
        return lambda struct: (only(struct),)
    return lambda struct: ()


def _undeclared_counter(undeclared: Sequence[str]) -> Callable[[Any], int] | None:
    if not undeclared:
        return None
    names = [f"u{i}" for i in range(len(undeclared))]

    def count(struct: Any) -> int:
        return sum(getattr(struct, name) is not msgspec.UNSET for name in names)

    return count


# -- what was wrong --------------------------------------------------------------------------------

_BY_MESSAGE: Mapping[str, str] = {
    "missing required field": "missing_field",
    "got `null`": "missing_field",
    "`str` of length": "missing_field",
    "`array` of length": "empty_items",
    "`int` >": "out_of_range",
    "`int` <": "out_of_range",
    "`float` >": "out_of_range",
    "`float` <": "out_of_range",
    "out of range": "out_of_range",
}


def _explain(error: Exception, raw: bytes) -> BadRecord:
    """The reason for a record that msgspec refused. Slow, and only for bad records."""
    message = str(error)
    if isinstance(error, RecursionError):
        return BadRecord("too_deep", "nested too deeply to be decoded")
    reason = next((r for text, r in _BY_MESSAGE.items() if text in message), None)
    if isinstance(error, msgspec.ValidationError):
        return BadRecord(reason or "wrong_type", message, readable_time(raw))
    if reason is None:
        reason = "not_finite" if _has_non_finite(raw) else "broken_json"
    return BadRecord(reason, message)


class _Timed(msgspec.Struct):
    event_time: _Time


_decode_timed = msgspec.json.Decoder(_Timed).decode


def readable_time(raw: bytes) -> int | None:
    """The event time of a record, whatever else it is; None where none can be read."""
    try:
        return _decode_timed(raw).event_time
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _has_non_finite(raw: bytes) -> bool:
    """Whether the record would be JSON but for NaN or Infinity, which the standard leaves out."""
    found = False

    def note(literal: str) -> float:
        nonlocal found
        found = True
        return math.nan

    try:
        json.loads(raw, parse_constant=note)
    except (ValueError, RecursionError):
        return False
    return found
