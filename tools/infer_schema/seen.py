"""What values records have, and where: by scope and path, how often, and of which types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from schemas.features import INT64_MAX, INT64_MIN, Scope
from schemas.mapping.paths import Path
from schemas.mapping.plan import ActionMapping, RequestMapping, paths_in

#: The names on the way to a value; an index where it is an element of an array.
Place = tuple["str | int", ...]


@dataclass(frozen=True)
class Where:
    """Where to look. `items`: the array of items in the record, None if a record is an impression.
    `item` and `context`: where the features are in an item and in the record. `ids`: places that
    are no features, by scope.
    """

    items: Place | None = ("items",)
    item: Place = ("features",)
    context: Place = ("context",)
    ids: frozenset[tuple[Scope, Place]] = frozenset()


#: For records that are events already.
PLAIN = Where()


def where(mapping: RequestMapping) -> Where:
    """Where the features of mapped records are."""

    return Where(
        None if mapping.items is None else _steps(mapping.items),
        _steps(mapping.item_features.path),
        _steps(mapping.context_features.path),
        # what is a feature already is proposed again
        places(replace(mapping, fields=())),
    )


def places(mapping: RequestMapping | ActionMapping) -> frozenset[tuple[Scope, Place]]:
    """The places of all that a mapping takes from a record, but for groups of features."""
    whole = mapping.items is None and isinstance(mapping, RequestMapping)
    if isinstance(mapping, RequestMapping):
        # what the items hold is proposed
        mapping = replace(mapping, items=None)
    found: set[tuple[Scope, Place]] = set()
    for path in paths_in(mapping):
        found.add(("item" if path.of_item or whole else "context", _steps(path)))
    return frozenset(found)


def _steps(path: Path | None) -> Place:
    return () if path is None else tuple(step for step in path.steps if step is not None)


@dataclass
class Values:
    """The values at one place. `types`: how many there are of each type; nulls are not counted.

    `beside`: each was an array as long as the items, so it may hold a value for each of them;
    `elements` are then the types of these.
    """

    types: Counter[str] = field(default_factory=Counter)
    beside: bool = True
    elements: Counter[str] = field(default_factory=Counter)

    @property
    def present(self) -> int:
        """How many there are."""
        return self.types.total()


@dataclass
class Seen:
    """What was seen: by scope and place (from the record, or from the item), the values there; the
    places with objects; and how many records and items there were.
    """

    where: Where
    values: dict[tuple[Scope, Place], Values] = field(default_factory=dict)
    objects: set[tuple[Scope, Place]] = field(default_factory=set)
    records: int = 0
    items: int = 0

    def add(self, record: dict[str, Any]) -> None:
        """A good record."""
        self.records += 1
        where = self.where
        if where.items is None:
            self.items += 1
            self._add("item", where.item, _at(record, where.item), None)
            return
        items = _at(record, where.items)
        items = items if isinstance(items, list) else []
        self.items += len(items)
        for item in items:
            self._add("item", where.item, _at(item, where.item), None)
        self._add("context", where.context, _at(record, where.context), len(items))

    def _add(self, scope: Scope, start: Place, value: Any, items: int | None) -> None:
        for place, leaf in _leaves(start, value):
            if (scope, place) in self.where.ids or (
                scope == "context" and place == self.where.items
            ):
                continue
            if isinstance(leaf, dict):
                self.objects.add((scope, place))
                continue
            values = self.values.setdefault((scope, place), Values())
            if leaf is None:
                continue
            values.types[type_of(leaf)] += 1
            values.beside &= isinstance(leaf, list) and len(leaf) == items
            if values.beside:
                values.elements.update(type_of(e) for e in leaf if e is not None)


def _at(value: Any, place: Place) -> Any:
    for step in place:
        if isinstance(step, int):
            good = isinstance(value, list) and -len(value) <= step < len(value)
        else:
            good = isinstance(value, dict) and step in value
        if not good:
            return None
        value = value[step]
    return value


def _leaves(place: Place, value: Any) -> Iterator[tuple[Place, Any]]:
    """The values below a place, objects included."""
    if place:
        yield place, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves((*place, name), inner)


def type_of(value: Any) -> str:
    """The type of a feature that a JSON value could be, or what else it is."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if INT64_MIN <= value <= INT64_MAX else "float64"
    if isinstance(value, float):
        return "float64"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list):
        if not value:
            return "list<>"
        inner = merged({type_of(element) for element in value})
        return "array of other things" if inner is None or "list" in inner else f"list<{inner}>"
    return "null" if value is None else "number out of range"


_SCALARS = {"bool", "int64", "float64", "string"}


def merged(types: set[str]) -> str | None:
    """The one type that all have; None if there is none."""
    lists = {t.removeprefix("list<").removesuffix(">") for t in types if t.startswith("list<")}
    if lists and len(lists) == len(types):
        inner = merged(lists - {""})
        return None if inner is None else f"list<{inner}>"
    if types == {"int64", "float64"}:
        return "float64"
    return next(iter(types)) if len(types) == 1 and types <= _SCALARS else None
