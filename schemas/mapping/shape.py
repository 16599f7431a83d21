"""Compiles a mapping: from a decoded record of theirs to records of ours, as docs/events.md has
them.

The outcome is not validated: that is for the decoders of events. What a record lacks is None in it.
Its keys are always in the same order, so that of several faults the same one is found first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from schemas.features import Feature, FeatureSchema
from schemas.mapping import values
from schemas.mapping.code import Code
from schemas.mapping.paths import Path
from schemas.mapping.plan import (
    ActionMapping,
    Condition,
    Group,
    RequestMapping,
    Said,
    Source,
    TimeSource,
)

#: Records of ours that a record of theirs is; None if it is to be skipped. Given the record, and
#: its own timestamp (epoch ms; None for files). Raises BadRecord.
Shape = Callable[[dict[str, Any], "int | None"], "list[dict[str, Any]] | None"]


@dataclass(frozen=True)
class Shaper:
    """A compiled mapping. `times` gives the times (epoch ms) that a record states, None for one
    that is missing; it raises BadRecord, too. `time_is_at`: their path.
    """

    shape: Shape
    times: Callable[[dict[str, Any], int | None], list[int | None]]
    time_is_at: str


def of_requests(mapping: RequestMapping, schema: FeatureSchema) -> Shaper:
    """A shaper of feature events with the features of a schema."""
    return Shaper(
        _requests(mapping, schema), _times(mapping.event_time, None), mapping.event_time.text
    )


def of_actions(mapping: ActionMapping) -> Shaper:
    """A shaper of action events."""
    return Shaper(
        _actions(mapping), _times(mapping.event_time, mapping.items), mapping.event_time.text
    )


def _times(source: TimeSource, items: Path | None) -> Any:
    code = Code()
    code.line("times = []")
    if source.path is not None and source.path.needs_item and items is not None:
        with _each(code, items, [source.path]):
            code.line(f"times.append({_time(code, source)})")
    else:
        code.line(f"times.append({_time(code, source)})")
    code.line("return times")
    return code.compiled("times")


def _requests(mapping: RequestMapping, schema: FeatureSchema) -> Any:
    code = Code()
    _skip(code, mapping.skip)
    fields = dict(mapping.fields)
    in_items, in_context = schema.scoped("item"), schema.scoped("context")
    time = code.name(_time(code, mapping.event_time))
    context_group, item_group = mapping.context_features, mapping.item_features
    used = list(_paths(mapping))
    context = _features(code, in_context, context_group, fields, used, of_item=False)
    if mapping.items is None:
        item_id = code.name(_id(code, mapping.item_id))
        features = _features(code, in_items, item_group, fields, used, of_item=False)
        item = _literal([("item_id", item_id), ("features", features)])
        items = f"[{item}]"
        request_id = _id_of_impression(code, mapping.request_id, item_id)
    else:
        request_id = _id(code, mapping.request_id)
        with _each(code, mapping.items, used) as items:
            item_id = _id(code, mapping.item_id)
            features = _features(code, in_items, item_group, fields, used, of_item=True)
            item = _literal([("item_id", item_id), ("features", features)])
            code.line(f"out.append({item})")
    record = [
        ("request_id", request_id),
        ("user_id", _id(code, mapping.user_id)),
        ("event_time", time),
        ("context", context),
        ("items", items),
    ]
    code.line(f"return [{_literal(record)}]")
    return code.compiled("features")


@contextmanager
def _each(code: Code, items: Path, used: Sequence[Path]) -> Iterator[str]:
    """A loop over the items, in which `out` may be appended to. Gives what the items are then: what
    is no array stays as it is. `used`: the paths that are used in the loop.
    """
    array = code.name(code.value(items))
    code.line(f"out = {array}")
    beside = {path.steps[: path.steps.index(None)]: path for path in used if None in path.steps}
    with code.block(f"if {array}.__class__ is list:"):
        code.line("out = []")
        for path in beside.values():
            check = code.constant(values.check_beside)
            other = code.array_beside(path)
            code.line(f"{check}({other}, {array}, {path.text!r}, {items.text!r})")
        with code.loop(array, counted=True):
            yield "out"


def _features(
    code: Code,
    features: Sequence[Feature],
    group: Group,
    fields: dict[str, Source],
    used: Sequence[Path],
    *,
    of_item: bool,
) -> str | None:
    """An expression for an object with the declared features; None where none are declared.

    `used`: the paths of what a record has beside the features.
    """
    if not features:
        return None
    by_name = [feature for feature in features if feature.name not in fields]
    whole = group.path is not None and bool(group.path.steps)
    found = None
    if group.values is not None and group.path is not None:
        zipped = code.constant(values.zipped)
        arrays = f"{code.value(group.path)}, {code.value(group.values)}"
        found = f"{zipped}({arrays}, {group.path.text!r}, {group.values.text!r})"
    elif whole and group.path is not None:
        found = code.value(group.path)
    if found is not None and len(by_name) == len(features) and not _holds_more(group, used):
        return found  # as it is: the decoder drops and counts the rest of it
    parts = []
    if by_name:
        if group.values is not None and found is not None:
            holder = code.as_object(found)
        else:
            holder = code.object(group.path, of_item=of_item)
        parts = [(f.name, f"{holder}.get({f.name!r})") for f in by_name]
    sources = [(f.name, _value(code, fields[f.name])) for f in features if f.name in fields]
    given = dict(parts + sources)
    return _literal([(feature.name, given[feature.name]) for feature in features])


def _paths(mapping: RequestMapping) -> Iterator[Path]:
    """Those of everything that is taken from a record, but for the groups of features."""
    sources = [mapping.request_id, mapping.user_id, mapping.item_id]
    sources += [source for _, source in mapping.fields]
    for source in sources:
        yield from source.paths
    for path in (mapping.event_time.path, mapping.items):
        if path is not None:
            yield path
    for condition in mapping.skip:
        yield condition.path


def _holds_more(group: Group, used: Sequence[Path]) -> bool:
    """Whether an object of features holds something else that is asked for."""
    if group.path is None:
        return True
    of_item, steps = group.path.of_item, group.path.steps
    return any(p.of_item == of_item and p.steps[: len(steps)] == steps for p in used)


def _actions(mapping: ActionMapping) -> Any:
    code = Code()
    _skip(code, mapping.skip)
    if mapping.items is None:
        code.line("out = []")
        _said(code, mapping)
        code.line("return out")
        return code.compiled("actions")
    used = [path for source in _sources(mapping) for path in source]
    with _each(code, mapping.items, used) as out:
        _said(code, mapping)
    with code.block(f"if {out}.__class__ is not list:"):
        code.line(f"{code.constant(values.refuse_as_array)}({out}, {mapping.items.text!r})")
    code.line(f"return {out}")
    return code.compiled("actions")


def _sources(mapping: ActionMapping) -> Iterator[tuple[Path, ...]]:
    """The paths of everything that an action is made of."""
    parts: list[ActionMapping | Said] = [mapping, *mapping.says]
    for one in parts:
        if one.event_time is not None and one.event_time.path is not None:
            yield (one.event_time.path,)
        yield from (s.paths for s in (one.value, one.event_id) if s is not None)
    of_all = (mapping.user_id, mapping.item_id, mapping.request_id, mapping.action)
    yield from (source.paths for source in of_all if source is not None)
    for said in mapping.says:
        yield tuple(condition.path for condition in said.when)


def _said(code: Code, mapping: ActionMapping) -> None:
    """Lines that append to `out` what a record, or an item of it, says."""
    item_id = code.name(_id(code, mapping.item_id))
    who = [("user_id", _id(code, mapping.user_id)), ("item_id", item_id)]
    request_id = None
    if mapping.request_id is not None:
        request_id = (
            _id_of_impression(code, mapping.request_id, item_id)
            if mapping.of_impressions
            else _id(code, mapping.request_id)
        )
    event_id = None if mapping.event_id is None else code.name(_id(code, mapping.event_id))
    of_item = mapping.event_id is not None and any(p.needs_item for p in mapping.event_id.paths)
    numbered = mapping.items is not None and not of_item
    time = code.name(_time(code, mapping.event_time))

    def add(kind: str, said: Said | None) -> None:
        own_time = time if said is None or said.event_time is None else _time(code, said.event_time)
        own_id = event_id
        if said is not None and said.event_id is not None:
            own_id = _id(code, said.event_id)
        elif event_id is not None and (mapping.says or numbered):
            parts = [event_id, *(["k"] if numbered else []), *([kind] if mapping.says else [])]
            own_id = f"{code.constant(values.event_id_of)}({', '.join(parts)})"
        value = mapping.value if said is None else said.value
        record = [
            *who,
            ("action", kind),
            ("event_time", own_time),
            ("event_id", own_id),
            ("request_id", request_id),
            ("value", None if value is None else _value(code, value)),
        ]
        code.line(f"out.append({_literal(record)})")

    kinds = [said.kind for said in mapping.says]
    once = mapping.action is None and len(set(kinds)) == len(kinds)
    if not once:
        code.line("said = set()")
    if mapping.action is not None:
        kind = code.name(_id(code, mapping.action))
        if mapping.kinds:
            table = code.constant(dict(mapping.kinds))
            kind = code.name(f"{table}.get({kind}, {kind}) if {kind}.__class__ is str else {kind}")
        add(kind, None)
        if kinds:
            code.line(f"if {kind}.__class__ is str: said.add({kind})")
    for said in mapping.says:
        tests = [_holds(code, condition) for condition in said.when]
        if not once:
            tests.append(f"{said.kind!r} not in said")
        with code.block(f"if {' and '.join(tests) or 'True'}:"):
            if not once:
                code.line(f"said.add({said.kind!r})")
            add(repr(said.kind), said)


def _skip(code: Code, conditions: Sequence[Condition]) -> None:
    for condition in conditions:
        code.line(f"if {_holds(code, condition)}: return None")


def _holds(code: Code, condition: Condition) -> str:
    return f"{code.constant(values.condition_of(condition))}({code.value(condition.path)})"


def _time(code: Code, source: TimeSource) -> str:
    read = code.constant(values.time_reader(source))
    value = "None" if source.path is None else code.value(source.path)
    return f"{read}({value}, time)"


def _id(code: Code, source: Source) -> str:
    """An expression for an id: an integer is text."""
    if not source.paths:
        return repr(source.constant)
    if len(source.paths) > 1:
        parts = ", ".join(code.value(path) for path in source.paths)
        return f"{code.constant(values.joined)}(({parts}))"
    value = code.value(source.paths[0])
    return f"({code.constant(values.text_of)}(x) if (x := {value}).__class__ is int else x)"


def _id_of_impression(code: Code, request_id: Source, item_id: str) -> str:
    """An expression for the id of a request that is one impression of theirs."""
    parts = [code.value(path) for path in request_id.paths] or [repr(request_id.constant)]
    return f"{code.constant(values.joined)}(({', '.join(parts)}, {item_id}))"


def _value(code: Code, source: Source) -> str:
    """An expression for a feature, or for the value of an action."""
    if not source.paths:
        return code.constant(source.constant)
    value = code.value(source.paths[0])
    if source.converted is None and source.multiply is None and source.divide is None:
        return value
    convert = values.converter(source.converted, source.multiply, source.divide)
    return f"{code.constant(convert)}({value})"


def _literal(pairs: Sequence[tuple[str, str | None]]) -> str:
    """The text of a dict, without what is None."""
    inner = ", ".join(f"{name!r}: {value}" for name, value in pairs if value is not None)
    return f"{{{inner}}}"
