"""What a mapping says, checked and with its paths read: plain values, which a job can be sent.

`configuration.event_mapping` makes these of a pipeline's file, and `schemas.mapping.shape` compiles
them. Times are epoch milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

from schemas.mapping.paths import Path

#: What a value is made: 0 and 1 into a bool, text into a number, an integer into text.
Converted = Literal["bool", "number", "text"]
#: Units of times. `iso`: text as ISO 8601; `record`: the record's own timestamp. Anything else is a
#: format of `strptime`.
TIME_UNITS = ("s", "ms", "us", "ns", "iso", "record")


@dataclass(frozen=True)
class Source:
    """Where a value comes from.

    `paths`: one; or several, for an id that is made of several fields; or none, for a `constant`.
    A number is multiplied by `multiply` and divided by `divide`.
    """

    paths: tuple[Path, ...] = ()
    constant: Any = None
    converted: Converted | None = None
    multiply: float | None = None
    divide: float | None = None

    @property
    def text(self) -> str:
        """What messages call it."""
        return " + ".join(map(str, self.paths)) or f"the constant {self.constant!r}"


@dataclass(frozen=True)
class TimeSource:
    """Where a time comes from.

    `unit`: see `TIME_UNITS`. `zone`: the offset (ms, east of UTC) of a text that has none; None: it
    must have one. `since`: what a number counts from.
    """

    path: Path | None
    unit: str = "ms"
    zone: int | None = None
    since: int = 0

    @property
    def text(self) -> str:
        """What messages call it."""
        return "the record's timestamp" if self.path is None else str(self.path)


@dataclass(frozen=True)
class Condition:
    """What is asked of a value. All that is given must hold; with nothing given, the value must be
    there and not be null, false, 0 or empty.
    """

    path: Path
    equal: tuple[Any, ...] | None = None
    unequal: tuple[Any, ...] | None = None
    above: float | None = None
    below: float | None = None
    exists: bool | None = None


@dataclass(frozen=True)
class Group:
    """Where the features of a scope are, by name: an object at `path` (None: the record or the item
    itself), or, with `values`, two arrays, of which the first has the names.
    """

    path: Path | None = None
    values: Path | None = None


@dataclass(frozen=True)
class RequestMapping:
    """How a record is a feature event. `items` is None when a record is one impression."""

    request_id: Source
    user_id: Source
    event_time: TimeSource
    items: Path | None
    item_id: Source
    item_features: Group
    context_features: Group
    fields: tuple[tuple[str, Source], ...] = ()
    skip: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class Said:
    """An action that a record says if `when` holds. What is None is that of the record."""

    kind: str
    when: tuple[Condition, ...]
    value: Source | None = None
    event_time: TimeSource | None = None
    event_id: Source | None = None


@dataclass(frozen=True)
class ActionMapping:
    """How a record is one or several action events.

    `items`: an array, each element of which is about an item; None: the record is about one.
    `kinds`: the kinds of the field `action`, theirs and ours. `of_impressions`: requests are single
    impressions, and so named by item as well.
    """

    user_id: Source
    item_id: Source
    event_time: TimeSource
    request_id: Source | None = None
    event_id: Source | None = None
    items: Path | None = None
    action: Source | None = None
    kinds: tuple[tuple[str, str], ...] = ()
    value: Source | None = None
    says: tuple[Said, ...] = ()
    skip: tuple[Condition, ...] = ()
    of_impressions: bool = False


@dataclass(frozen=True)
class Mappings:
    """The mappings of the streams; None: its records are events already (docs/events.md)."""

    features: RequestMapping | None = None
    actions: ActionMapping | None = None


def paths_in(part: object) -> Iterator[Path]:
    """All paths in a part of a mapping, but for those of groups of features."""
    if isinstance(part, Path):
        yield part
    elif isinstance(part, tuple):
        for inner in part:
            yield from paths_in(inner)
    elif is_dataclass(part) and not isinstance(part, Group):
        for inner in fields(part):
            yield from paths_in(getattr(part, inner.name))
