"""Says what is wrong with a record in the words of those who wrote it: with their paths.

The decoders of events name the fields of ours (`$.items[2].features.price`). Here that becomes the
path of theirs (`slate[2].attrs.price`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from schemas.decoding import BadRecord
from schemas.features import FeatureSchema
from schemas.mapping.paths import Path, quoted
from schemas.mapping.plan import ActionMapping, Group, RequestMapping, Source, TimeSource

_PLACE = re.compile(r"^(.*) - at `\$(.*)`$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(.*)`", re.DOTALL)
_ITEM = re.compile(r"^\.items\[(\d+)\](.*)$", re.DOTALL)
_ELEMENT = re.compile(r"^(.*)(\[\d+\])$", re.DOTALL)


#: For faults that name no place in the record: the field that they are about.
_FIELDS = {
    "unknown_action": "action",
    "missing_value": "value",
    "missing_field": "request_id",
    "future_clock": "event_time",
    "too_many_items": "items",
}
_IDS = ("request_id", "user_id")
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True)
class Names:
    """What theirs is for each field of ours. `item` and `context`: by feature. `items`: the path of
    the array; None when a record is one impression. `values`: of actions, by kind of ours.
    `item_group` and `context_group`: where the features are.
    """

    top: Mapping[str, str]
    items: Path | None
    item_id: str
    item: Mapping[str, str]
    context: Mapping[str, str]
    values: Mapping[str, str] = field(default_factory=dict)
    item_group: str = ""
    context_group: str = ""

    def theirs(self, bad: BadRecord, text: bytes) -> BadRecord:
        """The same fault with the name of theirs before it. `text`: the record of ours."""
        found = _PLACE.match(bad.message)
        said, place = (found[1], found[2]) if found else (bad.message, "")
        missing = _MISSING.search(said)
        if missing:
            place, said = f"{place}.{missing[1]}", "missing, or null"
        elif "got `null`" in said:
            said = "missing, or null"
        elif not found:
            place = _bad_id(text) if bad.reason == "bad_id" else f".{_FIELDS.get(bad.reason, '')}"
        theirs = self._path(place, text)
        return BadRecord(bad.reason, f"{theirs}: {said}" if theirs else said, bad.event_time)

    def _path(self, place: str, text: bytes) -> str:
        item = _ITEM.match(place)
        if item:
            return self._of_item(int(item[1]), item[2])
        if place.startswith(".context"):
            return _feature(self.context, place.removeprefix(".context"), self.context_group)
        if place == ".items" and self.items is not None:
            return str(self.items)
        name = place.removeprefix(".")
        if name == "value" and self.values:
            return self.values.get(_decode(text)["action"], self.top.get(name, ""))
        return self.top.get(name, "")

    def _of_item(self, index: int, place: str) -> str:
        if place.startswith(".features"):
            text = _feature(self.item, place.removeprefix(".features"), self.item_group)
        else:
            text = self.item_id if place == ".item_id" else "."
        if self.items is None:
            return text
        if text.startswith("."):
            return f"{self.items}[{index}]{'' if text == '.' else text}"
        if "[]" in text:
            return text.replace("[]", f"[{index}]")
        return f"{text} (of {self.items}[{index}])"


def _bad_id(text: bytes) -> str:
    """The place of the first id of a record of ours that is blank or has control characters."""
    record = _decode(text)
    items = record.get("items", ())
    places = [(f".{name}", record.get(name)) for name in (*_IDS, "item_id", "action", "event_id")]
    places += [(f".items[{n}].item_id", item["item_id"]) for n, item in enumerate(items)]
    for place, value in places:
        if isinstance(value, str) and (value.isspace() or min(value, default=" ") < " "):
            return place
    return ""


def _feature(names: Mapping[str, str], place: str, otherwise: str) -> str:
    """Of a place within an object of features (`.price`, `.tags[3]`)."""
    name = place.removeprefix(".")
    if name in names:
        return names[name]
    element = _ELEMENT.match(name)
    if element and element[1] in names:
        return f"{names[element[1]]}{element[2]}"
    return otherwise


def of_requests(mapping: RequestMapping, schema: FeatureSchema) -> Names:
    """The names of a mapping of feature events."""
    fields = dict(mapping.fields)
    by_scope = {}
    for scope, group in (("item", mapping.item_features), ("context", mapping.context_features)):
        of_item = scope == "item" and mapping.items is not None
        features = schema.scoped("item" if scope == "item" else "context")
        by_scope[scope] = {f.name: _named(f.name, fields, group, of_item) for f in features}
    top = {
        "request_id": mapping.request_id.text,
        "user_id": mapping.user_id.text,
        "event_time": mapping.event_time.text,
    }
    return Names(
        top,
        mapping.items,
        mapping.item_id.text,
        by_scope["item"],
        by_scope["context"],
        item_group="." if mapping.item_features.path is None else mapping.item_features.path.text,
        context_group=str(mapping.context_features.path or ""),
    )


def _named(name: str, fields: Mapping[str, Source], group: Group, of_item: bool) -> str:
    if name in fields:
        text = fields[name].text
        return text if text == name else f"{text} (the feature {name})"
    if group.values is not None:
        return f"{group.values} (the feature {name})"
    if group.path is None or not group.path.steps:
        return f".{quoted(name)}" if of_item else quoted(name)
    return f"{group.path}.{quoted(name)}"


def of_actions(mapping: ActionMapping) -> Names:
    """The names of a mapping of action events."""
    sources: dict[str, Source | TimeSource | None] = {
        "user_id": mapping.user_id,
        "item_id": mapping.item_id,
        "request_id": mapping.request_id,
        "event_id": mapping.event_id,
        "action": mapping.action,
        "event_time": mapping.event_time,
        "value": mapping.value,
    }
    top = {name: source.text for name, source in sources.items() if source is not None}
    by_kind = {said.kind: said.value.text for said in mapping.says if said.value is not None}
    return Names(top, None, mapping.item_id.text, {}, {}, by_kind)
