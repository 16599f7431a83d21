"""What a record says, read as docs/events.md has it: a second decoder, so that the audit does not
trust the one that it judges.

Written from that page with Python's own JSON parser, one plain step after the other. It shares
nothing with `schemas.decoding` but the types of a feature schema.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.pipeline.config import FilesSource, Pipeline, Source
from schemas.events import Stream
from schemas.features import Feature, FeatureSchema

_LEVELS = 100
_ID_CHARACTERS = 1_024
_FIRST_TIME, _END_OF_TIME = 31_536_000_000, 4_102_444_800_000  # 1971 and 2100, epoch ms
#: One of each other unit, in ms: a fraction, numerator and denominator.
_OTHER_UNITS = ((1_000, 1), (1, 1_000), (1, 1_000_000))
_LARGEST_FLOAT32 = 3.4028234663852886e38
_NEED_VALUE = ("sum", "max", "last")


@dataclass(slots=True)
class DecodedRequest:
    """A good feature event. Times are epoch ms.

    `context`: a value for each context feature, in the order of the schema. `columns`: by item
    feature, a value for each item. What is absent is None.
    """

    request_id: str
    user_id: str
    event_time: int
    items: list[str]
    context: list[Any]
    columns: list[list[Any]]


@dataclass(slots=True)
class DecodedAction:
    """A good action event. `event_time`: epoch ms. `ignored`: it is of no configured kind."""

    event_id: str | None
    user_id: str
    item_id: str
    request_id: str | None
    action: str
    value: float | None
    event_time: int
    ignored: bool = False


class _Bad(Exception):  # noqa: N818 - it is an outcome, not a fault of the program
    """The reason why a record is rejected is the argument."""


class _Number(str):
    """The text of a number, not read yet: `1e999` is a fault only where it is asked for."""

    __slots__ = ()


class _Integer(_Number):
    """The same, without a fraction and an exponent."""

    __slots__ = ()


class _Object(list[tuple[str, Any]]):
    """Keys and values as they stand in the text."""

    __slots__ = ()


class _Text:
    """JSON text to `_Object`, list, str, `_Number`, bool and None (steps 1 to 6)."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._constants: list[str] = []
        self._parse = json.JSONDecoder(
            object_pairs_hook=_Object,
            parse_int=_Integer,
            parse_float=_Number,
            parse_constant=self._constants.append,
        ).decode

    def read(self, raw: bytes) -> Any:
        if not raw:
            raise _Bad("empty_record")
        if len(raw) > self._max_bytes:
            raise _Bad("too_large")
        try:
            text = raw.decode("utf-8", "strict")
        except UnicodeDecodeError:
            raise _Bad("invalid_utf8") from None
        if _is_deep(text):
            raise _Bad("too_deep")
        self._constants.clear()
        try:
            value = self._parse(text)
        except ValueError:
            raise _Bad("broken_json") from None
        if self._constants:
            raise _Bad("not_finite")
        if "\\u" in text and _has_half_a_pair(value):
            raise _Bad("invalid_utf8")
        if _names_twice(value):
            raise _Bad("duplicate_key")
        return value


def _is_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= _LEVELS:
        return False
    open_, in_string, escaped = 0, False, False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "[{":
            open_ += 1
            if open_ > _LEVELS:
                return True
        elif character in "]}":
            open_ -= 1
    return False


def _inside(value: Any) -> Iterable[Any]:
    if type(value) is _Object:
        return (x for _, x in value)
    return value if type(value) is list else ()


def _names_twice(value: Any) -> bool:
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if type(inner) is _Object and len({name for name, _ in inner}) < len(inner):
            return True
        waiting += [x for x in _inside(inner) if type(x) is _Object or type(x) is list]
    return False


def _has_half_a_pair(value: Any) -> bool:
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        strings = [inner] if type(inner) is str else []
        if type(inner) is _Object:
            strings += [name for name, _ in inner]
        if any("\ud800" <= character <= "\udfff" for text in strings for character in text):
            return True
        waiting += _inside(inner)
    return False


# -- step 7: one value -----------------------------------------------------------------------------


def _other_type(value: Any) -> _Bad:
    """A number that is no float64 is out of range whatever is asked for."""
    is_beyond = isinstance(value, _Number) and math.isinf(float(value))
    return _Bad("out_of_range" if is_beyond else "wrong_type")


def _id(value: Any) -> str:
    if value is None or value == "":
        raise _Bad("missing_field")
    if type(value) is not str:
        raise _other_type(value)
    if len(value) > _ID_CHARACTERS:
        raise _Bad("bad_id")
    return value


def _optional_id(value: Any) -> str | None:
    return None if value is None else _id(value)


def _time(value: Any) -> int:
    if value is None:
        raise _Bad("missing_field")
    if type(value) is not _Integer:
        raise _other_type(value)
    if len(value) > 30:
        raise _Bad("out_of_range")
    time = int(value)
    if _FIRST_TIME <= time < _END_OF_TIME:
        return time
    for numerator, denominator in _OTHER_UNITS:
        if _FIRST_TIME <= time * numerator // denominator < _END_OF_TIME:
            raise _Bad("wrong_time_unit")
    raise _Bad("out_of_range")


def _float(value: Any) -> float:
    if not isinstance(value, _Number):
        raise _other_type(value)
    number = float(value)
    if math.isinf(number):
        raise _Bad("out_of_range")
    return number + 0.0 if type(value) is _Integer else number  # the integer -0 is 0


def _optional_float(value: Any) -> float | None:
    return None if value is None else _float(value)


def _float32(value: Any) -> float:
    number = _float(value)
    if abs(number) > _LARGEST_FLOAT32:
        raise _Bad("out_of_range")
    return number


def _int64(value: Any) -> int:
    if type(value) is not _Integer:
        raise _other_type(value)
    # no number of more digits is in the bounds, and Python reads no number of very many
    if len(value) > 20 or not -(2**63) <= int(value) < 2**63:
        raise _Bad("out_of_range")
    return int(value)


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise _other_type(value)
    return value


def _string(value: Any) -> str:
    if type(value) is not str:
        raise _other_type(value)
    return value


_SCALARS = {
    "bool": _bool,
    "int64": _int64,
    "float32": _float32,
    "float64": _float,
    "string": _string,
}


def _feature(feature: Feature, value: Any) -> Any:
    if value is None:
        if feature.required:
            raise _Bad("missing_field")
        return None
    scalar = _SCALARS[feature.type.scalar]
    if not feature.type.is_list:
        return scalar(value)
    if type(value) is not list:
        raise _other_type(value)
    if None in value:
        # as it stands in the list: a fault before it comes first
        for element in value[: value.index(None)]:
            scalar(element)
        raise _Bad("missing_field")
    return [scalar(element) for element in value]


# -- step 7: objects -------------------------------------------------------------------------------


class _Features:
    """The features of one scope: `read` gives their values in the order of the schema."""

    def __init__(self, features: Sequence[Feature]) -> None:
        self._by_name = {feature.name: (i, feature) for i, feature in enumerate(features)}
        self._required = [i for i, feature in enumerate(features) if feature.required]

    @property
    def required(self) -> bool:
        return bool(self._required)

    def none(self) -> list[Any]:
        return [None] * len(self._by_name)

    def read(self, value: Any) -> list[Any]:
        if value is None:
            if self._required:
                raise _Bad("missing_field")
            return self.none()
        if type(value) is not _Object:
            raise _other_type(value)
        values = self.none()
        for name, found in value:
            known = self._by_name.get(name)
            if known is not None:
                values[known[0]] = _feature(known[1], found)
        if any(values[i] is None for i in self._required):
            raise _Bad("missing_field")
        return values


class _Requests:
    """Reads feature events of a schema. `max_bytes`: `max_record_bytes`. `max_items`:
    `limits.items_per_request`.
    """

    def __init__(self, schema: FeatureSchema, max_bytes: int, max_items: int) -> None:
        self._text = _Text(max_bytes)
        self._max_items = max_items
        self._context = _Features(schema.scoped("context"))
        self._features = _Features(schema.scoped("item"))
        self._width = len(schema.scoped("item"))

    def read(self, raw: bytes) -> DecodedRequest:
        record = self._text.read(raw)
        if type(record) is not _Object:
            raise _Bad("wrong_type")
        found: dict[str, Any] = {}
        for name, value in record:
            if name in ("request_id", "user_id"):
                found[name] = _id(value)
            elif name == "event_time":
                found[name] = _time(value)
            elif name == "items":
                found[name] = self._items(value)
            elif name == "context":
                found[name] = self._context.read(value)
        if "context" not in found and not self._context.required:
            found["context"] = self._context.none()
        if len(found) < 5:
            raise _Bad("missing_field")
        ids = [item_id for item_id, _ in found["items"]]
        _check_ids([found["request_id"], found["user_id"], *ids])
        rows = [features for _, features in found["items"]]
        columns = [[row[i] for row in rows] for i in range(self._width)]
        return DecodedRequest(
            found["request_id"],
            found["user_id"],
            found["event_time"],
            ids,
            found["context"],
            columns,
        )

    def judge(self, request: DecodedRequest) -> DecodedRequest:
        """Step 13."""
        if len(request.items) > self._max_items:
            raise _Bad("too_many_items")
        return request

    def _items(self, value: Any) -> list[tuple[str, list[Any]]]:
        if value is None:
            raise _Bad("missing_field")
        if type(value) is not list:
            raise _other_type(value)
        if not value:
            raise _Bad("empty_items")
        return [self._item(item) for item in value]

    def _item(self, value: Any) -> tuple[str, list[Any]]:
        if value is None:
            raise _Bad("missing_field")
        if type(value) is not _Object:
            raise _other_type(value)
        item_id: str | None = None
        features: list[Any] | None = None if self._features.required else self._features.none()
        for name, found in value:
            if name == "item_id":
                item_id = _id(found)
            elif name == "features":
                features = self._features.read(found)
        if item_id is None or features is None:
            raise _Bad("missing_field")
        return item_id, features


class _Actions:
    """Reads action events. `kinds`: the configured kinds, and whether each needs a value."""

    def __init__(
        self,
        kinds: Mapping[str, bool],
        max_bytes: int,
        *,
        needs_request_id: bool,
        reject_unknown: bool,
    ) -> None:
        self._text = _Text(max_bytes)
        self._kinds = kinds
        self._needs_request_id = needs_request_id
        self._reject_unknown = reject_unknown

    def read(self, raw: bytes) -> DecodedAction:
        record = self._text.read(raw)
        if type(record) is not _Object:
            raise _Bad("wrong_type")
        found: dict[str, Any] = {"event_id": None, "request_id": None, "value": None}
        for name, value in record:
            if name in ("user_id", "item_id", "action"):
                found[name] = _id(value)
            elif name == "event_time":
                found[name] = _time(value)
            elif name in ("event_id", "request_id"):
                found[name] = _optional_id(value)
            elif name == "value":
                found[name] = _optional_float(value)
        if len(found) < 7:
            raise _Bad("missing_field")
        ids = ("user_id", "item_id", "action", "event_id", "request_id")
        _check_ids([found[name] for name in ids if found[name] is not None])
        return DecodedAction(**found)

    def judge(self, action: DecodedAction) -> DecodedAction:
        """Steps 10 to 12."""
        needs_value = self._kinds.get(action.action)
        if needs_value is None:
            if self._reject_unknown:
                raise _Bad("unknown_action")
            action.ignored = True
            return action
        if self._needs_request_id and action.request_id is None:
            raise _Bad("missing_field")
        if needs_value and action.value is None:
            raise _Bad("missing_value")
        return action


def _check_ids(ids: Iterable[str]) -> None:
    """Step 8."""
    for text in ids:
        if text.isspace() or any(character < " " for character in text):
            raise _Bad("bad_id")


class Decoder:
    """Decodes the records of both streams under a pipeline's configuration. `max_items`: another
    bound than its own. `any_length`: `max_record_bytes` is not asked.
    """

    def __init__(
        self, pipeline: Pipeline, max_items: int | None = None, *, any_length: bool = False
    ) -> None:
        features, actions = pipeline.sources.features, pipeline.sources.actions
        self._sources: dict[Stream, Source] = {"features": features, "actions": actions}
        if max_items is None:
            max_items = pipeline.limits.items_per_request
        most = (sys.maxsize, sys.maxsize)
        if not any_length:
            most = (features.max_record_bytes, actions.max_record_bytes)
        self._texts: dict[Stream, _Text] = {"features": _Text(most[0]), "actions": _Text(most[1])}
        self._requests = _Requests(pipeline.schema, most[0], max_items)
        self._actions = _Actions(
            {kind.name: kind.label in _NEED_VALUE for kind in pipeline.kinds},
            most[1],
            needs_request_id=pipeline.join.key == "request_id",
            reject_unknown=pipeline.join.unknown_actions == "reject",
        )

    def decode(
        self, stream: Stream, raw: bytes, record_time: int | None
    ) -> DecodedRequest | DecodedAction | str:
        """The event, or the reason why the record is bad. `record_time`: Kafka's (epoch ms)."""
        try:
            if stream == "features":
                request = self._requests.read(raw)
                self._check_clock(stream, request.event_time, record_time)
                return self._requests.judge(request)
            action = self._actions.read(raw)
            self._check_clock(stream, action.event_time, record_time)
            return self._actions.judge(action)
        except _Bad as bad:
            return str(bad)

    def text_fault(self, stream: Stream, raw: bytes) -> str | None:
        """The reason why bytes are no JSON object (steps 1 to 7); None if they are one."""
        try:
            record = self._texts[stream].read(raw)
        except _Bad as bad:
            return str(bad)
        return None if type(record) is _Object else "wrong_type"

    def is_ahead(self, stream: Stream, time: int, record_time: int | None) -> bool:
        """Whether an event's time (epoch ms) is beyond the bounds of its source."""
        source = self._sources[stream]
        if isinstance(source, FilesSource):
            return source.not_after is not None and time > source.not_after
        return record_time is not None and time > record_time + int(source.max_future)

    def _check_clock(self, stream: Stream, time: int, record_time: int | None) -> None:
        """Step 9."""
        if self.is_ahead(stream, time, record_time):
            raise _Bad("future_clock")
