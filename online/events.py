"""From the arguments of a logging call to the bytes of a record that the join accepts, or to the
reason why it would reject it.

The record is validated by the decoders of the job (`schemas.decoding`), so both have one opinion.
What no decoder can see is looked for here: a feature that is not declared, and a number that JSON
cannot hold.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from schemas.decoding import ActionDecoder, BadRecord, Decoder, RequestDecoder
from schemas.events import Origin
from schemas.features import FeatureSchema, Scope

#: An item that was shown: its id, and its features by name.
Item = tuple[str, Mapping[str, Any]]

_NOWHERE = Origin("", None, 0)


class InvalidEventError(ValueError):
    """An event that the join would reject, or of which it would drop something.

    `reason` is one of docs/events.md, or `undeclared_feature`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


@dataclass(frozen=True)
class Record:
    """What is sent to Kafka. `time` (epoch ms) becomes the record's timestamp."""

    key: bytes
    value: bytes
    time: int


class RequestEncoder:
    """Makes the records of feature events. Their key is what `join.key` names."""

    def __init__(self, decoder: RequestDecoder, schema: FeatureSchema, *, by_user: bool) -> None:
        self._decoder, self._by_user = decoder, by_user
        self._context = _Features(schema, "context")
        self._features = _Features(schema, "item")

    def record(
        self,
        request_id: str,
        user_id: str,
        items: Iterable[Item],
        context: Mapping[str, Any],
        event_time: int,
        now: int,
    ) -> Record:
        """Times are epoch ms. Raises InvalidEventError."""
        said = self._context(context)
        shown = [(item, self._features(features)) for item, features in items]
        event_time = _time(event_time)
        value = _encoded(
            {
                "request_id": _text("request_id", request_id),
                "user_id": _text("user_id", user_id),
                "event_time": event_time,
                "context": said,
                "items": [
                    {"item_id": _text("item_id", item), "features": features}
                    for item, features in shown
                ],
            }
        )
        _check(self._decoder, value, now)
        return Record((user_id if self._by_user else request_id).encode(), value, event_time)


class ActionEncoder:
    """Makes the records of action events. Their key is what `join.key` names."""

    def __init__(self, decoder: ActionDecoder, *, by_user: bool) -> None:
        self._decoder, self._by_user = decoder, by_user

    def record(self, action: Mapping[str, Any], event_time: int, now: int) -> Record:
        """`action`: the fields of docs/events.md but the time. Times are epoch ms.

        Raises InvalidEventError.
        """
        fields = {
            name: _value(value) if name == "value" else _text(name, value)
            for name, value in action.items()
            if value is not None
        }
        event_time = _time(event_time)
        value = _encoded(fields | {"event_time": event_time})
        _check(self._decoder, value, now)
        # without a request's id the decoder has refused it, if that is what it is joined by
        key: str = fields["user_id"] if self._by_user else fields["request_id"]
        return Record(key.encode(), value, event_time)


def _check(decoder: Decoder[Any], value: bytes, now: int) -> None:
    """Raises InvalidEventError for a record that the join would reject."""
    try:
        decoder.decode(value, _NOWHERE, now)
    except BadRecord as bad:
        raise InvalidEventError(bad.reason, bad.message) from None


class _Features:
    """The features of one scope: of the request, or of an item."""

    def __init__(self, schema: FeatureSchema, scope: Scope) -> None:
        self._scope = scope
        self._declared = frozenset(f.name for f in schema.scoped(scope))
        self._elsewhere = {f.name: f.scope for f in schema.features if f.scope != scope}

    def __call__(self, features: Mapping[str, Any]) -> Mapping[str, Any]:
        """The same with values that JSON has. Raises InvalidEventError.

        msgspec would write some others as text without a word: bytes, dates, UUIDs.
        """
        if not isinstance(features, Mapping):
            raise InvalidEventError("wrong_type", f"expected features by name, got {features!r}")
        if not features.keys() <= self._declared:
            raise self._undeclared(features)
        if _PLAIN.issuperset(map(type, features.values())):
            return features
        return {name: _value(value) for name, value in features.items()}

    def _undeclared(self, features: Mapping[str, Any]) -> InvalidEventError:
        name = min(str(name) for name in features.keys() - self._declared)
        if name in self._elsewhere:
            what = f"the feature {name!r} is declared for scope {self._elsewhere[name]!r}"
            what += f", and was logged in {self._scope!r}"
        else:
            known = ", ".join(sorted(self._declared)) or "none"
            what = f"no [features.{name}] of scope {self._scope!r} is declared"
            what += f"; declared are: {known}"
        return InvalidEventError("undeclared_feature", what)


_PLAIN = frozenset([str, int, float, bool, type(None)])


def _value(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, list | tuple):
        return [_value(one) for one in value]
    # numbers and arrays of numpy, pyarrow and their like
    for plain in ("tolist", "as_py"):
        if hasattr(value, plain):
            found = getattr(value, plain)()
            if type(found) in _PLAIN or isinstance(found, list):
                return _value(found)
    raise InvalidEventError("wrong_type", f"a {type(value).__name__} is no value of a feature")


def _text(field: str, value: Any) -> str:
    if type(value) is not str:
        raise InvalidEventError("wrong_type", f"{field}: expected a str, got {value!r}")
    return value


def _time(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise InvalidEventError(
            "wrong_type", f"event_time: expected epoch milliseconds, got {value!r}"
        ) from None


_encode = msgspec.json.Encoder().encode


def _encoded(record: dict[str, Any]) -> bytes:
    try:
        value = _encode(record)
    except UnicodeEncodeError as error:
        raise InvalidEventError("invalid_utf8", str(error)) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEventError("wrong_type", str(error)) from None
    # msgspec writes null for a number that JSON does not have: an absent feature, for the join
    if b"null" in value and (found := _not_finite(record)) is not None:
        raise InvalidEventError("not_finite", f"JSON has no {found}")
    return value


def _not_finite(value: Any) -> float | None:
    """The first NaN or infinity in it."""
    if isinstance(value, float):
        return None if math.isfinite(value) else value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return next((f for f in map(_not_finite, value) if f is not None), None)
    return None
