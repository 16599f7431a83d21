"""Mistakes in `[events]`: each is found before a job runs, in one line that says what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tomli

from jobs.pipeline.config import ConfigError, Pipeline, document, load
from schemas.mapping import paths
from tests.unit.mapped import BASE, KAFKA_SOURCES, pipeline_text

FEATURES = """
[events.features]
request_id = "ctx.req"
user_id = "user"
event_time = "ts"
items = "slate"
item_id = ".id"
"""
ACTIONS = """
[events.actions]
request_id = "req"
user_id = "user"
item_id = "item"
event_time = "ts"
action = "type"
"""


def loaded(tmp_path: Path, events: str, *overrides: str, base: str = BASE) -> Pipeline:
    path = tmp_path / "pipeline.toml"
    path.write_text(pipeline_text(events, base=base))
    return load(path, overrides)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        # keys
        (FEATURES + 'colour = "x"', "events.features.colour: there is no such key (there are: rec"),
        (FEATURES.replace('user_id = "user"', ""), "events.features.user_id: this key is required"),
        (ACTIONS.replace('item_id = "item"', ""), "events.actions.item_id: this key is required"),
        (FEATURES + 'record = "rows"', "events.features.record: invalid enum value 'rows'; expect"),
        (
            FEATURES.replace('items = "slate"', ""),
            "events.features.items: this key is required: th",
        ),
        (
            FEATURES + 'record = "impression"',
            "events.features.items: a record that is one impressi",
        ),
        # paths
        (
            FEATURES.replace('"user"', '"a..b"'),
            "user_id: 'a..b' lacks a name; write names with a d",
        ),
        (FEATURES.replace('"user"', '""'), "user_id: the path is empty; write the name of a field"),
        (FEATURES.replace('"user"', '"a[x]"'), "user_id: 'a[x]': [x] is no index; write a number"),
        (FEATURES.replace('"user"', '"a[0"'), "events.features.user_id: 'a[0' has a [ without a ]"),
        (FEATURES.replace('"user"', "'a.\"b'"), "has a quote that does not end; write names"),
        (FEATURES.replace('"user"', '"a[0]b"'), "'a[0]b': expected a dot or a [ before 'b'"),
        (FEATURES.replace('"user"', "3"), 'user_id: expected a path, such as "ctx.user.id"; got 3'),
        (FEATURES.replace('"user"', '".id"'), "user_id: '.id' begins at an item, or runs along"),
        (
            FEATURES.replace('"user"', '"ids[]"'),
            "user_id: 'ids[]' begins at an item, or runs along",
        ),
        (FEATURES.replace('".id"', '"a[].b[]"'), "item_id: 'a[].b[]' has [] twice; there is one l"),
        (
            FEATURES.replace('".id"', '".a[]"'),
            "item_id: '.a[]': a path that begins with a dot is w",
        ),
        (ACTIONS.replace('"item"', '".id"'), "events.actions.item_id: '.id' begins at an item, or"),
        # ids and constants
        (
            FEATURES.replace('"user"', '["a"]'),
            "user_id: expected several paths, or one",
        ),
        (FEATURES.replace('"user"', "{constant = true}"), "an id is text or an integer; got True"),
        (FEATURES.replace('"user"', '{path = "a", constant = "b"}'), "one of path and constant is"),
        (
            FEATURES.replace('"user"', '{path = "a", as = "text"}'),
            "user_id.as: there is no such key",
        ),
        # times
        (
            FEATURES.replace('"ts"', '{path = "t", unit = "min"}'),
            "event_time.unit: expected one of",
        ),
        (
            FEATURES.replace('"ts"', '{unit = "s"}'),
            "event_time.path: this key is required: where t",
        ),
        (
            FEATURES.replace('"ts"', '{unit = "record"}'),
            "records of files have no timestamp of the",
        ),
        (
            FEATURES.replace('"ts"', '{path = "t", unit = "%H:%M"}'),
            "has no whole date: %Y, %m and %",
        ),
        (
            FEATURES.replace('"ts"', '{path = "t", unit = "%Y-%m-%d"}'),
            "has no offset (%z): add zone",
        ),
        (FEATURES.replace('"ts"', '{path = "t", unit = "%Y %Q"}'), "is no format of times: "),
        (
            FEATURES.replace('"ts"', '{path = "t", zone = "UTC"}'),
            "event_time.zone: a number has no z",
        ),
        (
            FEATURES.replace('"ts"', '{path = "t", unit = "iso", zone = "Europe/Paris"}'),
            'event_time.zone: expected "UTC" or an offset such as "+01:00"; got \'Europe/Paris\'',
        ),
        (
            FEATURES.replace('"ts"', '{path = "t", unit = "iso", since = "2026-01-01T00:00:00Z"}'),
            "event_time.since: only a number counts from a time",
        ),
        (
            FEATURES.replace('"ts"', '{path = "t", since = "2026-01-01"}'),
            'event_time.since: expected a time such as "2026-01-01T00:00:00Z"; got',
        ),
        # features
        (
            FEATURES + '[events.features.fields]\nprize = ".p"',
            "events.features.fields.prize: there is no [features.prize] (declared are: price",
        ),
        (FEATURES + '[events.features.fields]\nhour = ".h"', "fields.hour: '.h' begins at an item"),
        (
            FEATURES + 'features = ".f"\n[events.features.fields]\nprice = ".p"',
            "events.features.features: two sources: each feature with scope",
        ),
        (
            FEATURES + '[events.features.fields]\nprice = {path = ".p", as = "money"}',
            "fields.price.as: expected one of bool, number, text; got 'money'",
        ),
        (
            FEATURES + '[events.features.fields]\nprice = {path = ".p", divide = 0}',
            "fields.price.divide: must not be 0",
        ),
        (
            FEATURES + '[events.features.fields]\nprice = {path = ".p", divide = "100"}',
            "fields.price.divide: expected a number; got '100'",
        ),
        (
            FEATURES + "[events.features.fields]\nprice = {constant = 1.0, divide = 2}",
            "fields.price: a constant is written as it is to be: leave the rest out",
        ),
        (
            FEATURES + "[events.features.fields]\nprice = {constant = nan}",
            "fields.price: expected text, a number, true or false as the constant",
        ),
        (FEATURES + 'features = {names = ".n"}', "features.values: names and values go together"),
        (FEATURES + 'features = {path = ".n"}', "events.features.features.path: there is no such"),
        # kinds
        (
            ACTIONS + 'kinds = {a = "clik"}',
            "events.actions.kinds.a: there is no [actions.clik] (the",
        ),
        (
            ACTIONS.replace('"type"', '{constant = "x"}'),
            "events.actions.action: there is no [action",
        ),
        (
            ACTIONS.replace('action = "type"', ""),
            "events.actions.action: this key is required: the",
        ),
        (
            ACTIONS.replace('action = "type"', 'kinds = {a = "click"}')
            + '[[events.actions.says]]\nkind = "click"',
            "events.actions.kinds: events.actions.action must say where the kind is",
        ),
        (
            ACTIONS.replace('action = "type"', 'value = "v"')
            + '[[events.actions.says]]\nkind = "click"',
            "events.actions.value: belongs to the field action, which is not given",
        ),
        (
            ACTIONS.replace('request_id = "req"', ""),
            "events.actions.request_id: this key is",
        ),
        (
            ACTIONS + '[[events.actions.says]]\nwhen = "x"',
            "says[0].kind: this key is required: a k",
        ),
        (
            ACTIONS + '[[events.actions.says]]\nkind = "like"',
            "says[0].kind: there is no [actions.l",
        ),
        (
            ACTIONS + '[[events.actions.says]]\nkind = "dwell"',
            "says[0].value: this key is required",
        ),
        (
            ACTIONS + '[[events.actions.says]]\nkind = "click"\nif = "x"',
            "events.actions.says[0].if: there is no such key (there are: kind, when, value",
        ),
        (
            ACTIONS.replace('action = "type"', "")
            + '[[events.actions.says]]\nkind = "click"\n[[events.actions.says]]\nkind = "click"',
            "says[0].when: this key is required where a record may say several things",
        ),
        (
            ACTIONS + 'says = "click"',
            "events.actions.says: expected tables [[events.actions.says]]",
        ),
        # conditions
        (
            ACTIONS + "skip = {is = 1}",
            "events.actions.skip.path: this key is required: what the co",
        ),
        (
            ACTIONS + 'skip = {path = "a", equals = 1}',
            "skip.equals: there is no such key (there ar",
        ),
        (ACTIONS + 'skip = {path = "a", above = "1"}', "skip.above: expected a number; got '1'"),
        (ACTIONS + 'skip = {path = "a", is = []}', "skip.is: expected a value or a list of values"),
        (ACTIONS + 'skip = {path = "a", exists = 1}', "skip.exists: expected true or false; got 1"),
        (
            ACTIONS + 'skip = {path = "a", exists = false, is = 1}',
            "skip.exists: of what is not there nothing else can be asked",
        ),
        (ACTIONS + 'skip = ".a"', "events.actions.skip: '.a' begins at an item"),
        # both streams
        (
            FEATURES.replace('items = "slate"', 'record = "impression"').replace('".id"', '"id"'),
            "events.actions: this section is required with events.features.record = ",
        ),
    ],
)
def test_a_mistake_is_found_before_the_job_runs(tmp_path: Path, mistake: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, mistake)
    assert words in str(raised.value)
    assert str(raised.value).startswith(f"{tmp_path / 'pipeline.toml'}: events.")
    assert "\n" not in str(raised.value)


def test_a_key_that_is_given_twice_is_no_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        loaded(tmp_path, FEATURES + '[events.features.fields]\nprice = ".a"\nprice = ".b"')


def test_a_source_that_gives_no_feature_is_found(tmp_path: Path) -> None:
    base = re.sub(r"\[features.hour\][^\[]*", "", BASE)
    with pytest.raises(ConfigError, match=r'no feature with scope = "context" is declared'):
        loaded(tmp_path, FEATURES + 'context = "ctx"', base=base)


def test_an_override_is_named_as_the_culprit(tmp_path: Path) -> None:
    override = "events.features.event_time={path='ts', unit='min'}"
    with pytest.raises(ConfigError, match=r"^--set events\.features\.event_time=.*: expected one"):
        loaded(tmp_path, FEATURES + ACTIONS, override)


def test_records_of_kafka_have_a_timestamp(tmp_path: Path) -> None:
    events = FEATURES.replace('"ts"', '{unit = "record"}') + ACTIONS
    base = re.sub(r"\[sources.*?(?=\[output)", KAFKA_SOURCES, BASE, flags=re.DOTALL)
    features = loaded(tmp_path, events, base=base).mappings.features
    assert features is not None
    assert (features.event_time.unit, features.event_time.path) == ("record", None)


def test_what_lies_beside_the_output_gives_the_same_mapping(tmp_path: Path) -> None:
    import tomli_w

    since = '{path = "ts", unit = "s", since = 2026-01-01T00:00:00Z}'
    events = FEATURES.replace('"ts"', since) + (
        '[events.features.fields]\nprice = {path = ".p", divide = 100}\n'
    )
    events += ACTIONS + '[[events.actions.says]]\nkind = "dwell"\nvalue = "d"\nwhen = ["a", "b"]\n'
    mappings = loaded(tmp_path, events).mappings
    written: dict[str, Any] = document(tmp_path / "pipeline.toml")
    again = tmp_path / "again.toml"
    again.write_text(tomli_w.dumps(written))
    assert load(again).mappings == mappings
    assert tomli.loads(again.read_text())["events"]["features"]["items"] == "slate"


@pytest.mark.parametrize(
    ("text", "of_item", "steps"),
    [
        ("a", False, ("a",)),
        ("a.b.c", False, ("a", "b", "c")),
        ("a[0].b[-1]", False, ("a", 0, "b", -1)),
        ("[2]", False, (2,)),
        (".", True, ()),
        (".a", True, ("a",)),
        (".[1].a", True, (1, "a")),
        ("prices[]", False, ("prices", None)),
        ("rows[].price", False, ("rows", None, "price")),
        ('"a.b"."c[0]"', False, ("a.b", "c[0]")),
        ('."\\u00e9\\""', True, ('é"',)),
        ("com/acme$x-1 y", False, ("com/acme$x-1 y",)),
    ],
)
def test_paths(text: str, of_item: bool, steps: tuple[object, ...]) -> None:
    path = paths.parse(text)
    assert (path.text, path.of_item, path.steps) == (text, of_item, steps)
