"""The features that records seem to have, as a part of a pipeline's file that a person edits."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count

from configuration.declaration import name_fault
from configuration.reading import key_of
from schemas.features import Scope
from schemas.mapping.paths import quoted
from tools.infer_schema.seen import Place, Seen, Values, merged


@dataclass(frozen=True)
class _Found:
    """A place whose values are one feature. `beside`: one for each item, in an array beside them.

    `of`: how many values there could be.
    """

    scope: Scope
    place: Place
    types: Counter[str]
    of: int
    beside: bool = False

    @property
    def logged(self) -> Scope:
        """The scope of the place itself."""
        return "context" if self.beside else self.scope

    @property
    def present(self) -> int:
        return self.types.total()


def toml(
    seen: Seen,
    reserved: frozenset[str],
    labels: frozenset[tuple[Scope, Place]] = frozenset(),
    *,
    mapped: bool,
    counted: bool = True,
) -> str:
    """`[features]`, and `events.features.fields` for those that are not where the mapping looks.

    `reserved`: names that columns of the samples have. `labels`: places that actions are read from,
    in the same records. `mapped`: there is a mapping. `counted`: the records were real ones.
    """
    found = [_found(seen, scope, place, v) for (scope, place), v in seen.values.items()]
    found.sort(key=lambda one: one.scope)
    names = _names(found)
    lines: list[str] = []
    fields: list[str] = []
    for one, name in zip(found, names, strict=True):
        is_object = (one.logged, one.place) in seen.objects
        type_ = None if is_object else merged(set(one.types))
        told = _told(one) if counted else _allowed(one)
        fault = name_fault(name)
        if (one.logged, one.place) in labels:
            fault = "[events.actions] reads it, so it may not be known when items are ranked"
        if name.casefold() in reserved:
            fault = f"the samples have a column {name!r} already"
        if type_ is None or fault is not None:
            why = fault or "not one type that a feature can have"
            lines += [f"# {_path(one, seen)}: {why}; {told}", ""]
            continue
        lines += [f"# {told}", f"[{key_of('features', name)}]", f'type = "{type_}"']
        lines += ['scope = "context"'] if one.scope == "context" else []
        lines += ["required = false"] if one.present < one.of else []
        lines.append("")
        if one.beside or one.place != (*_start(seen, one.scope), name):
            fields.append(f"{key_of(name)} = {json.dumps(_path(one, seen), ensure_ascii=False)}")
    if fields:
        lines.append("[events.features.fields]")
        lines += (
            fields if mapped else ["# without a mapping, only names at the top of features and"]
        )
        lines += (
            [] if mapped else ["# context are features; describe the records in [events.features]"]
        )
    return "\n".join(lines).rstrip() + "\n"


def _found(seen: Seen, scope: Scope, place: Place, values: Values) -> _Found:
    if scope == "context" and values.beside and values.present and seen.items:
        return _Found("item", place, values.elements, seen.items, beside=True)
    return _Found(scope, place, values.types, seen.items if scope == "item" else seen.records)


def _start(seen: Seen, scope: Scope) -> Place:
    return seen.where.item if scope == "item" else seen.where.context


def _names(found: Sequence[_Found]) -> list[str]:
    """The last name of each place; a longer one, or a number, where that is taken."""
    taken: set[str] = set()
    named: list[str] = []
    for one in found:
        # a dot would make it the name of a part of a list (docs/configuration.md, "Names")
        whole = "_".join(map(str, one.place)).replace(".", "_")
        last = str(one.place[-1])
        usual = [last] if "." not in last else []
        more = (f"{whole}_{n}" for n in count(2))
        for name in chain([*usual, whole, f"{one.scope}_{whole}"], more):
            alike = unicodedata.normalize("NFC", name).casefold()
            if alike not in taken:
                taken.add(alike)
                named.append(name)
                break
    return named


def _path(one: _Found, seen: Seen) -> str:
    text = ""
    for step in one.place:
        text += f"[{step}]" if isinstance(step, int) else ("." if text else "") + quoted(step)
    if one.beside:
        return f"{text}[]"
    return f".{text}" if one.scope == "item" and seen.where.items is not None else text


def _told(one: _Found) -> str:
    """How many values there are, and of which types."""
    missing = one.of - one.present
    share = f"{missing:,} of {one.of:,} missing ({missing / one.of:.1%})" if one.of else "none"
    return "; ".join([share, *_types(one)])


def _allowed(one: _Found) -> str:
    """What a schema says of a place."""
    types = [type_.replace("<>", " (empty)") for type_ in one.types]
    return "; ".join(["may be absent" if one.present < one.of else "always there", *types])


def _types(one: _Found) -> Iterator[str]:
    if one.types:
        yield ", ".join(f"{t.replace('<>', ' (empty)')} {n:,}" for t, n in one.types.most_common())
