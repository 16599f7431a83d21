"""`[events]` of a pipeline's file: where the fields of events are in records of any shape.

`check` reads it, with everything that it names, into the plain form that is compiled
(`schemas.mapping.plan`). What is wrong is found here, before a job runs: the error names the key,
and what to do. What the keys mean is in docs/mapping.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Literal

import msgspec

from configuration.mapping_values import Reader
from configuration.reading import Section, Wrong, key_of
from schemas.actions import NEEDS_VALUE
from schemas.events import Stream
from schemas.features import FeatureSchema
from schemas.mapping.plan import ActionMapping, Mappings, RequestMapping, Said

#: A path, or several for an id that is made of them, or a table. What may be in it depends on the
#: key, so it is looked into by `Reader`.
Where = Any


class FeatureEventsSection(Section, frozen=True, kw_only=True):
    """`[events.features]`. `record`: what a record is, a whole request or one impression."""

    record: Literal["request", "impression"] = "request"
    request_id: Where
    user_id: Where
    event_time: Where
    items: str | None = None
    item_id: Where
    features: Where = None
    context: Where = None
    fields: dict[str, Where] = msgspec.field(default_factory=dict)
    skip: Where = None


class ActionEventsSection(Section, frozen=True, kw_only=True):
    """`[events.actions]`. `kinds`: the values of the field `action`, theirs and ours."""

    user_id: Where
    item_id: Where
    event_time: Where
    request_id: Where = None
    event_id: Where = None
    items: str | None = None
    action: Where = None
    kinds: dict[str, str] = msgspec.field(default_factory=dict)
    value: Where = None
    says: Where = None
    skip: Where = None


class EventsSection(Section, frozen=True, kw_only=True):
    """`[events]`: a stream without a table has records as docs/events.md describes them."""

    of_features: FeatureEventsSection | None = msgspec.field(name="features", default=None)
    of_actions: ActionEventsSection | None = msgspec.field(name="actions", default=None)
    #: Of streams that have several sources, by the name of the source; a table without a name is
    #: then that of all sources.
    features_by_name: dict[str, FeatureEventsSection] = msgspec.field(
        name="features.*", default_factory=dict
    )
    actions_by_name: dict[str, ActionEventsSection] = msgspec.field(
        name="actions.*", default_factory=dict
    )

    @property
    def features(self) -> FeatureEventsSection | None:
        """That of the one source of the feature stream."""
        assert not self.features_by_name, "there are several"
        return self.of_features

    @property
    def actions(self) -> ActionEventsSection | None:
        """That of the one source of the action stream."""
        assert not self.actions_by_name, "there are several"
        return self.of_actions

    def seen_from(self, stream: Stream, name: str | None) -> EventsSection:
        """The section for one source a stream: this one, and any of the other stream."""
        features, actions = self.of_features, self.of_actions
        if self.features_by_name:
            features = self.features_by_name.get(name or "") if stream == "features" else None
        if self.actions_by_name:
            actions = self.actions_by_name.get(name or "") if stream == "actions" else None
        return EventsSection(of_features=features, of_actions=actions)


def check(
    events: EventsSection,
    schema: FeatureSchema,
    kinds: Mapping[str, str],
    *,
    by_request: bool,
    has_record_time: bool,
    wrong: Wrong,
) -> Mappings:
    """The mappings. Raises ConfigError.

    `kinds`: the configured kinds of action and their labels. `by_request`: actions are joined by
    request id. `has_record_time`: records have timestamps of their own (Kafka).
    """
    features = actions = None
    of_impressions = events.features is not None and events.features.record == "impression"
    if events.features is not None:
        read = Reader("events.features", wrong, has_record_time=has_record_time)
        features = _features(events.features, schema, read, wrong)
    if events.actions is not None:
        read = Reader("events.actions", wrong, has_record_time=has_record_time)
        actions = _actions(events.actions, kinds, read, by_request=by_request, wrong=wrong)
        if of_impressions and by_request:
            actions = replace(actions, of_impressions=True)
    elif of_impressions and by_request:
        raise wrong(
            "events.actions",
            'this section is required with events.features.record = "impression" and join.key ='
            ' "request_id": an action must name its impression as the mapping does',
        )
    return Mappings(features, actions)


def _features(
    section: FeatureEventsSection, schema: FeatureSchema, read: Reader, wrong: Wrong
) -> RequestMapping:
    here = "events.features"
    whole = section.record == "request"
    if whole and section.items is None:
        raise wrong(
            f"{here}.items",
            "this key is required: the path of the array of items. Set record ="
            ' "impression" if each record is one impression',
        )
    if not whole and section.items is not None:
        raise wrong(
            f"{here}.items",
            "a record that is one impression has no array of items: leave the key out, or record ="
            ' "impression"',
        )
    names = {feature.name: feature for feature in schema.features}
    fields = []
    for name, said in section.fields.items():
        key = f"{here}.{key_of('fields', name)}"
        if name not in names:
            declared = ", ".join(names) or "none"
            raise wrong(
                key,
                f"there is no [{key_of('features', name)}] (declared are: {declared}); the keys of"
                " this table are features of the sample, the values are paths in the record",
            )
        of_item = whole and names[name].scope == "item"
        fields.append((name, read.value(key_of("fields", name), said, of_item=of_item)))
    item_features = read.group("features", section.features, of_item=whole)
    context_features = read.group("context", section.context, of_item=False)
    _check_used(section, schema, wrong)
    items = None if section.items is None else read.path("items", section.items, of_item=False)
    return RequestMapping(
        request_id=read.id("request_id", section.request_id, of_item=False),
        user_id=read.id("user_id", section.user_id, of_item=False),
        event_time=read.time("event_time", section.event_time, of_item=False),
        items=items,
        item_id=read.id("item_id", section.item_id, of_item=whole),
        item_features=item_features,
        context_features=context_features,
        fields=tuple(fields),
        skip=read.conditions("skip", section.skip, of_item=False),
    )


def _check_used(section: FeatureEventsSection, schema: FeatureSchema, wrong: Wrong) -> None:
    """Raises ConfigError for features that have two sources, or a source that gives none."""
    for key, said, scope in (
        ("features", section.features, "item"),
        ("context", section.context, "context"),
    ):
        if said is None:
            continue
        of_scope = [f.name for f in schema.features if f.scope == scope]
        if not of_scope:
            raise wrong(
                f"events.features.{key}",
                f'no feature with scope = "{scope}" is declared, so nothing is taken from here;'
                " leave the key out, or declare the features",
            )
        if all(name in section.fields for name in of_scope):
            raise wrong(
                f"events.features.{key}",
                f'two sources: each feature with scope = "{scope}" has a path in'
                " events.features.fields, so nothing is taken from here; leave one of the two out",
            )


def _actions(
    section: ActionEventsSection,
    kinds: Mapping[str, str],
    read: Reader,
    *,
    by_request: bool,
    wrong: Wrong,
) -> ActionMapping:
    here, of_item = "events.actions", section.items is not None
    items = None if section.items is None else read.path("items", section.items, of_item=False)
    if by_request and section.request_id is None:
        raise wrong(
            f"{here}.request_id",
            'this key is required with join.key = "request_id"; if the records have none, join by'
            ' user: join.key = "user_id"',
        )
    says = _says(section, kinds, read, of_item=of_item, wrong=wrong)
    if section.action is None and not says:
        raise wrong(
            f"{here}.action",
            "this key is required: the path of the kind of action, or a table { constant ="
            ' "click" }; or describe with [[events.actions.says]] what a record says',
        )
    if section.action is None and section.kinds:
        raise wrong(f"{here}.kinds", f"{here}.action must say where the kind is in a record")
    if section.action is None and section.value is not None:
        raise wrong(
            f"{here}.value",
            "belongs to the field action, which is not given; a value of [[events.actions.says]]"
            " is written there",
        )
    for theirs, ours in section.kinds.items():
        _check_kind(f"{here}.{key_of('kinds', theirs)}", ours, kinds, wrong)
    action = read.optional_id("action", section.action, of_item=of_item)
    if action is not None and not action.paths:
        _check_kind(f"{here}.action", action.constant, kinds, wrong)
    value = None
    if section.value is not None:
        value = read.value("value", section.value, of_item=of_item)
    return ActionMapping(
        user_id=read.id("user_id", section.user_id, of_item=of_item),
        item_id=read.id("item_id", section.item_id, of_item=of_item),
        event_time=read.time("event_time", section.event_time, of_item=of_item),
        request_id=read.optional_id("request_id", section.request_id, of_item=of_item),
        event_id=read.optional_id("event_id", section.event_id, of_item=of_item),
        items=items,
        action=action,
        kinds=tuple(section.kinds.items()),
        value=value,
        says=says,
        skip=read.conditions("skip", section.skip, of_item=False),
    )


def _says(
    section: ActionEventsSection,
    kinds: Mapping[str, str],
    read: Reader,
    *,
    of_item: bool,
    wrong: Wrong,
) -> tuple[Said, ...]:
    found = []
    tables = read.tables("says", section.says)
    for n, table in enumerate(tables):
        key = f"says[{n}]"
        read.keys(key, table, ("kind", "when", "value", "event_time", "event_id"))
        full = f"events.actions.{key}"
        if "kind" not in table:
            raise wrong(f"{full}.kind", "this key is required: a kind of [actions]")
        kind = table["kind"]
        _check_kind(f"{full}.kind", kind, kinds, wrong)
        value = None
        if "value" in table:
            value = read.value(f"{key}.value", table["value"], of_item=of_item)
        elif kinds[kind] in NEEDS_VALUE:
            raise wrong(
                f"{full}.value",
                f'this key is required, since [actions.{kind}] has label = "{kinds[kind]}"',
            )
        when = read.conditions(f"{key}.when", table.get("when"), of_item=of_item)
        if not when and section.action is None and len(tables) > 1:
            raise wrong(
                f"{full}.when",
                "this key is required where a record may say several things: a path, such as"
                ' "liked", or a condition, such as { path = "dwell_ms", above = 0 }',
            )
        time = event_id = None
        if "event_time" in table:
            time = read.time(f"{key}.event_time", table["event_time"], of_item=of_item)
        if "event_id" in table:
            event_id = read.id(f"{key}.event_id", table["event_id"], of_item=of_item)
        found.append(Said(kind, when, value, time, event_id))
    return tuple(found)


def _check_kind(key: str, kind: object, kinds: Collection[str], wrong: Wrong) -> None:
    if not isinstance(kind, str) or kind not in kinds:
        raise wrong(
            key, f"there is no [{key_of('actions', str(kind))}] (there are: {', '.join(kinds)})"
        )
