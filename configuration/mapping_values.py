"""Reads the values of a mapping's keys: paths, tables around a path, conditions.

A wrong one gives a ConfigError that names the key, what was expected, and often what was meant.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, get_args

import msgspec

from configuration.reading import ConfigError, Wrong, key_of
from schemas.mapping import paths
from schemas.mapping.paths import Path
from schemas.mapping.plan import TIME_UNITS, Condition, Converted, Group, Source, TimeSource

_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")
_CONDITIONS = ("is", "is_not", "above", "below", "exists")
_SCALARS = (str, bool, int, float)


class Reader:
    """Reads the keys of one table, `section`.

    `has_record_time`: records have timestamps of their own.
    """

    def __init__(self, section: str, wrong: Wrong, *, has_record_time: bool) -> None:
        self._section = section
        self._wrong = wrong
        self._has_record_time = has_record_time

    def path(self, key: str, said: object, *, of_item: bool) -> Path:
        """A path. `of_item`: one that begins at the item has a meaning here."""
        if not isinstance(said, str):
            raise self._fault(key, f'expected a path, such as "ctx.user.id"; got {said!r}')
        try:
            path = paths.parse(said)
        except ValueError as error:
            raise self._fault(key, str(error)) from None
        if path.needs_item and not of_item:
            raise self._fault(
                key,
                f"{said!r} begins at an item, or runs along the items, and here is no item: write"
                " a path from the top of the record",
            )
        return path

    def id(self, key: str, said: object, *, of_item: bool) -> Source:
        """Where an id is: a path, several, or a constant."""
        if isinstance(said, list):
            if len(said) < 2:
                raise self._fault(key, "expected several paths, or one path without brackets")
            return Source(tuple(self.path(key, one, of_item=of_item) for one in said))
        if isinstance(said, dict):
            self.keys(key, said, ("path", "constant"))
        source = self.value(key, said, of_item=of_item)
        if source.paths:
            return source
        constant = source.constant
        if isinstance(constant, bool) or not isinstance(constant, str | int) or constant == "":
            raise self._fault(key, f"an id is text or an integer; got {constant!r}")
        return Source(constant=str(constant))

    def optional_id(self, key: str, said: object, *, of_item: bool) -> Source | None:
        """The same; None where nothing is said."""
        return None if said is None else self.id(key, said, of_item=of_item)

    def value(self, key: str, said: object, *, of_item: bool) -> Source:
        """Where a value is: a path, or a table with one, or a constant."""
        if not isinstance(said, dict):
            return Source((self.path(key, said, of_item=of_item),))
        self.keys(key, said, ("path", "constant", "as", "multiply", "divide"))
        if ("path" in said) == ("constant" in said):
            raise self._fault(
                key, "one of path and constant is required, and not both: a value has one source"
            )
        if "constant" in said:
            if len(said) > 1:
                raise self._fault(key, "a constant is written as it is to be: leave the rest out")
            constant = said["constant"]
            elements = constant if isinstance(constant, list) else [constant]
            if not all(isinstance(e, _SCALARS) and _is_finite(e) for e in elements):
                raise self._fault(
                    key, f"expected text, a number, true or false as the constant; got {constant!r}"
                )
            return Source(constant=constant)
        return Source(
            (self.path(key, said["path"], of_item=of_item),),
            converted=self._one_of(f"{key}.as", said.get("as"), get_args(Converted)),
            multiply=self._factor(f"{key}.multiply", said.get("multiply")),
            divide=self._factor(f"{key}.divide", said.get("divide")),
        )

    def time(self, key: str, said: object, *, of_item: bool) -> TimeSource:
        """Where a time is, and in which unit."""
        if not isinstance(said, dict):
            return TimeSource(self.path(key, said, of_item=of_item))
        self.keys(key, said, ("path", "unit", "zone", "since"))
        unit = said.get("unit", "ms")
        if not isinstance(unit, str) or not (unit in TIME_UNITS or "%" in unit):
            raise self._fault(
                f"{key}.unit",
                f"expected one of {', '.join(TIME_UNITS)}, or a format such as"
                f' "%m/%d/%Y %I:%M:%S %p"; got {unit!r}',
            )
        if unit == "record":
            if len(said) > 1:
                raise self._fault(key, 'with unit = "record" no other key has a meaning')
            if not self._has_record_time:
                raise self._fault(
                    f"{key}.unit",
                    "records of files have no timestamp of their own; give the path of a time",
                )
            return TimeSource(None, unit)
        if "path" not in said:
            raise self._fault(f"{key}.path", "this key is required: where the time is")
        path = self.path(key, said["path"], of_item=of_item)
        if "zone" in said and unit in ("s", "ms", "us", "ns"):
            raise self._fault(f"{key}.zone", f'a number has no zone; it is for text, not "{unit}"')
        if "since" in said and unit not in ("s", "ms", "us", "ns"):
            raise self._fault(f"{key}.since", f'only a number counts from a time, not "{unit}"')
        if "%" in unit:
            self._check_format(f"{key}.unit", unit, zoned="zone" in said)
        return TimeSource(
            path,
            unit,
            zone=self._zone(f"{key}.zone", said.get("zone")),
            since=self._since(f"{key}.since", said.get("since")),
        )

    def group(self, key: str, said: object, *, of_item: bool) -> Group:
        """Where features are by name."""
        if said is None:
            return Group()
        if isinstance(said, dict):
            self.keys(key, said, ("names", "values"))
            for needed in ("names", "values"):
                if needed not in said:
                    raise self._fault(f"{key}.{needed}", "names and values go together")
            names = self.path(f"{key}.names", said["names"], of_item=of_item)
            return Group(names, self.path(f"{key}.values", said["values"], of_item=of_item))
        return Group(self.path(key, said, of_item=of_item))

    def conditions(self, key: str, said: object, *, of_item: bool) -> tuple[Condition, ...]:
        """Conditions: a path, a table, or a list of these."""
        if said is None:
            return ()
        found = said if isinstance(said, list) else [said]
        return tuple(self._condition(key, one, of_item=of_item) for one in found)

    def tables(self, key: str, said: object) -> Sequence[dict[str, Any]]:
        """An array of tables."""
        if said is None:
            return ()
        if not isinstance(said, list) or not all(isinstance(one, dict) for one in said):
            raise self._fault(key, f"expected tables [[{self._section}.{key}]]; got {said!r}")
        return said

    def keys(self, key: str, table: dict[str, Any], known: Collection[str]) -> None:
        """Raises ConfigError for a key that a table cannot have."""
        for name in table:
            if name not in known:
                raise self._fault(
                    f"{key}.{key_of(name)}",
                    f"there is no such key (there are: {', '.join(known)})",
                )

    def _condition(self, key: str, said: object, *, of_item: bool) -> Condition:
        if not isinstance(said, dict):
            return Condition(self.path(key, said, of_item=of_item))
        self.keys(key, said, ("path", *_CONDITIONS))
        if "path" not in said:
            raise self._fault(f"{key}.path", "this key is required: what the condition is about")
        exists = said.get("exists")
        if exists is not None and not isinstance(exists, bool):
            raise self._fault(f"{key}.exists", f"expected true or false; got {exists!r}")
        if exists is False and len(said) > 2:
            raise self._fault(f"{key}.exists", "of what is not there nothing else can be asked")
        return Condition(
            self.path(key, said["path"], of_item=of_item),
            equal=self._choices(f"{key}.is", said.get("is")),
            unequal=self._choices(f"{key}.is_not", said.get("is_not")),
            above=self._number(f"{key}.above", said.get("above")),
            below=self._number(f"{key}.below", said.get("below")),
            exists=exists,
        )

    def _choices(self, key: str, said: object) -> tuple[Any, ...] | None:
        if said is None:
            return None
        found = said if isinstance(said, list) else [said]
        if not found or not all(isinstance(one, _SCALARS) for one in found):
            raise self._fault(key, f"expected a value or a list of values; got {said!r}")
        return tuple(found)

    def _number(self, key: str, said: object) -> float | None:
        if said is None:
            return None
        if isinstance(said, bool) or not isinstance(said, int | float) or not _is_finite(said):
            raise self._fault(key, f"expected a number; got {said!r}")
        return said

    def _factor(self, key: str, said: object) -> float | None:
        number = self._number(key, said)
        if number == 0:
            raise self._fault(key, "must not be 0")
        return number

    def _one_of(self, key: str, said: object, known: Collection[Any]) -> Any:
        if said is not None and said not in known:
            raise self._fault(key, f"expected one of {', '.join(known)}; got {said!r}")
        return said

    def _zone(self, key: str, said: object) -> int | None:
        if said is None:
            return None
        found = _OFFSET.fullmatch("+00:00" if said == "UTC" else str(said))
        minutes = int(found[2]) * 60 + int(found[3]) if found else 24 * 60
        if found is None or minutes >= 24 * 60:
            raise self._fault(
                key,
                f'expected "UTC" or an offset such as "+01:00"; got {said!r}. A place has no fixed'
                " offset: summer time would make some times ambiguous",
            )
        return (-minutes if found[1] == "-" else minutes) * 60_000

    def _since(self, key: str, said: object) -> int:
        if said is None:
            return 0
        try:
            time = said if isinstance(said, datetime) else msgspec.convert(said, datetime)
        except msgspec.ValidationError:
            time = None
        if time is None or time.tzinfo is None:
            raise self._fault(
                key, f'expected a time such as "2026-01-01T00:00:00Z"; got {str(said)!r}'
            )
        return (time - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(milliseconds=1)

    def _check_format(self, key: str, unit: str, *, zoned: bool) -> None:
        try:
            text = datetime(2026, 1, 31, 18, 5, 9, tzinfo=timezone.utc).strftime(unit)
            time = datetime.strptime(text, unit)  # noqa: DTZ007 - the zone is what is looked for
        except (ValueError, re.error) as error:
            raise self._fault(key, f"{unit!r} is no format of times: {error}") from None
        if (time.year, time.month, time.day) != (2026, 1, 31):
            raise self._fault(key, f"{unit!r} has no whole date: %Y, %m and %d, or the like")
        if time.tzinfo is None and not zoned:
            raise self._fault(
                key, f'{unit!r} has no offset (%z): add zone = "UTC", or an offset such as "+01:00"'
            )

    def _fault(self, key: str, text: str) -> ConfigError:
        return self._wrong(f"{self._section}.{key}", text)


def _is_finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
