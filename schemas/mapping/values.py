"""What becomes of single values between a record and an event: ids, numbers, times, conditions.

A value of a type that cannot be used is passed on as it is: the decoder of events refuses it, with
the reasons that it has for every record. Only times are refused here, for what they were is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec

from schemas.decoding import BadRecord, in_bounds
from schemas.mapping.plan import Condition, Converted, TimeSource

#: Stands for a number that no float64 can hold, which is `out_of_range` wherever it is asked for.
BEYOND = msgspec.Raw(b"1e999")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MS = timedelta(milliseconds=1)
#: A unit in ms, as a fraction.
_UNITS = {"s": (1_000, 1), "ms": (1, 1), "us": (1, 1_000), "ns": (1, 1_000_000)}
_NUMBERS = (int, float)
_MANY = 10**1_000


def text_of(value: Any) -> Any:
    """An integer as text; anything else as it is."""
    if value.__class__ is int:
        # Python writes no number of thousands of digits, and no id is so long
        return str(value) if -_MANY < value < _MANY else BEYOND
    return value


def joined(parts: Sequence[Any]) -> Any:
    """One id of several: different parts give different ids, since `%` and `/` are escaped in them.

    A part that is no id is the outcome, to be refused.
    """
    texts = []
    for part in parts:
        text = text_of(part)
        if text.__class__ is not str or not text:
            return text
        texts.append(text.replace("%", "%25").replace("/", "%2F"))
    return "/".join(texts)


def event_id_of(event_id: Any, *parts: object) -> Any:
    """The id of one of several actions that a record says."""
    text = text_of(event_id)
    if text.__class__ is not str or not text:
        return text
    return "/".join((text, *map(str, parts)))


def element(array: Any, index: int) -> Any:
    """An element of an array; None when there is none."""
    if array.__class__ is list and -len(array) <= index < len(array):
        return array[index]
    return None


def refuse_as_array(value: Any, path: str) -> None:
    """Raises BadRecord for what should be an array."""
    if value is None:
        raise BadRecord("missing_field", f"{path} is missing")
    raise BadRecord("wrong_type", f"{path}: {_shown(value)} is no array")


def check_beside(array: Any, items: Sequence[Any], path: str, items_path: str) -> None:
    """Raises BadRecord (`wrong_type`) for an array beside the items that is of another length."""
    if array.__class__ is list and len(array) != len(items):
        raise BadRecord(
            "wrong_type",
            f"{path}: {len(array)} elements beside {len(items)} in {items_path}; arrays that run"
            " side by side must have the same length",
        )


def zipped(names: Any, values: Any, path: str, values_path: str) -> Any:
    """An object of two arrays; None without them, and what is no array as it is.

    Raises BadRecord (`wrong_type`, `duplicate_key`).
    """
    if names.__class__ is not list or values.__class__ is not list:
        return names if names.__class__ is not list else values
    check_beside(values, names, values_path, path)
    if not all(name.__class__ is str for name in names):
        raise BadRecord("wrong_type", f"{path}: expected an array of strings, the names")
    found = dict(zip(names, values, strict=True))
    if len(found) != len(names):
        raise BadRecord("duplicate_key", f"{path} has a name twice")
    return found


def converter(
    converted: Converted | None, multiply: float | None, divide: float | None
) -> Callable[[Any], Any]:
    """A function of a value; of an array, it is applied to the elements."""
    convert = {None: _same, "bool": _bool, "number": _number, "text": text_of}[converted]

    def of_one(value: Any) -> Any:
        value = convert(value)
        if (multiply is None and divide is None) or value.__class__ not in _NUMBERS:
            return value
        return scaled(value, multiply, divide)

    def of_any(value: Any) -> Any:
        return list(map(of_one, value)) if value.__class__ is list else of_one(value)

    return of_any


def scaled(value: float, multiply: float | None, divide: float | None) -> Any:
    """`value * multiply / divide`. What is a whole number of whole numbers stays an integer."""
    try:
        if multiply is not None:
            value = value * multiply
        if divide is not None:
            whole = {value.__class__, divide.__class__} == {int} and not value % divide
            value = value // divide if whole else value / divide
    except OverflowError:
        return BEYOND
    return BEYOND if math.isinf(value) else value


def _same(value: Any) -> Any:
    return value


_BOOLS: dict[Any, bool] = {"0": False, "1": True, "false": False, "true": True}


def _bool(value: Any) -> Any:
    if value.__class__ is int and value in (0, 1):
        return bool(value)
    return _BOOLS.get(value, value) if value.__class__ is str else value


def _number(value: Any) -> Any:
    if value.__class__ is not str:
        return value
    try:
        number = msgspec.json.decode(value)
    except msgspec.ValidationError:
        return BEYOND
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError, ValueError):
        return value
    return number if number.__class__ in _NUMBERS else value


# -- times -----------------------------------------------------------------------------------------


def time_reader(source: TimeSource) -> Callable[[Any, int | None], Any]:
    """A function of the value and the record's own timestamp that gives epoch ms.

    What is missing (None) stays so, and is refused by the decoder. The function raises BadRecord.
    """
    if source.unit == "record":
        return _of_record
    if source.unit in _UNITS:
        return _number_reader(source)
    return _text_reader(source)


def _of_record(_: Any, record_time: int | None) -> int:
    if record_time is None:
        raise BadRecord("missing_field", "the record has no timestamp of its own")
    return record_time


def _number_reader(source: TimeSource) -> Callable[[Any, int | None], Any]:
    numerator, denominator = _UNITS[source.unit]
    since, path, unit = source.since, source.text, source.unit

    def read(value: Any, _: int | None) -> Any:
        if value.__class__ is int:
            ms = value * numerator // denominator + since
        elif value.__class__ is float:
            # beyond this bound it is no time in any unit
            ms = round(value * numerator / denominator) + since if abs(value) < 1e24 else -1
        elif value is None:
            return None
        elif value.__class__ is msgspec.Raw:
            raise BadRecord("out_of_range", f"{path}: this number is out of every range")
        else:
            raise BadRecord("wrong_type", f"{path}: {_shown(value)} is no number ({unit})")
        if not in_bounds(ms):
            raise _out_of_bounds(path, value, unit, since)
        return ms

    return read


def _out_of_bounds(path: str, value: float, unit: str, since: int) -> BadRecord:
    if not since and abs(value) < 1e24:
        for other, (numerator, denominator) in _UNITS.items():
            if other != unit and in_bounds(int(value * numerator // denominator)):
                return BadRecord(
                    "wrong_time_unit",
                    f'{path}: {_shown(value)} is no time in unit = "{unit}"; it looks like'
                    f' "{other}"',
                )
    return BadRecord(
        "out_of_range", f'{path}: {_shown(value)} in unit = "{unit}" is not from 1971 up to 2100'
    )


def _text_reader(source: TimeSource) -> Callable[[Any, int | None], Any]:
    path, unit = source.text, source.unit
    zone = None if source.zone is None else timezone(timedelta(milliseconds=source.zone))

    def parsed(text: str) -> datetime:
        if unit == "iso":
            return msgspec.convert(text, datetime)
        return datetime.strptime(text, unit)  # noqa: DTZ007 - the zone is put in below

    def read(value: Any, _: int | None) -> Any:
        if value is None:
            return None
        if value.__class__ is not str:
            raise BadRecord("wrong_type", f"{path}: {_shown(value)} is no text with a time")
        try:
            time = parsed(value)
        except (msgspec.ValidationError, ValueError, OverflowError):
            expected = "2026-01-31T18:05:09.250+01:00" if unit == "iso" else unit
            raise BadRecord(
                "wrong_type", f"{path}: {_shown(value)} is no time like {expected}"
            ) from None
        if time.tzinfo is None:
            if zone is None:
                raise BadRecord(
                    "wrong_type", f'{path}: {_shown(value)} has no offset; set zone = "UTC" or so'
                )
            time = time.replace(tzinfo=zone)
        ms = (time - _EPOCH) // _MS
        if not in_bounds(ms):
            raise BadRecord("out_of_range", f"{path}: {_shown(value)} is not from 1971 up to 2100")
        return ms

    return read


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# -- conditions ------------------------------------------------------------------------------------


def condition_of(condition: Condition) -> Callable[[Any], bool]:
    """Whether a value meets a condition. A bool equals a bool only, and text text only."""
    equal = None if condition.equal is None else set(map(_tagged, condition.equal))
    unequal = None if condition.unequal is None else set(map(_tagged, condition.unequal))
    above, below, exists = condition.above, condition.below, condition.exists
    if all(asked is None for asked in (equal, unequal, above, below, exists)):
        return _is_true

    def holds(value: Any) -> bool:
        if exists is not None and (value is not None) != exists:
            return False
        if equal is not None and _tagged(value) not in equal:
            return False
        if unequal is not None and _tagged(value) in unequal:
            return False
        if above is None and below is None:
            return True
        if value.__class__ not in _NUMBERS:
            return False
        return (above is None or value > above) and (below is None or value < below)

    return holds


def _is_true(value: Any) -> bool:
    return value.__class__ is msgspec.Raw or bool(value)


def _tagged(value: Any) -> tuple[str, Any]:
    """Equal for equal JSON values: Python takes True for 1."""
    if value.__class__ in _NUMBERS:
        return "number", value
    if value is None or value.__class__ in (str, bool):
        return value.__class__.__name__, value
    return "other", id(value)
