"""Streams with several sources: the configuration, and the join of events that are spread over them
in records of several shapes.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from configuration.reading import ConfigError, convert
from jobs.backfill import sources as sources_of_backfill
from jobs.pipeline import archive, archive_plan
from jobs.pipeline.config import KafkaSource, Pipeline, document, load, secrets_of
from jobs.pipeline.decoding import decode_settings
from jobs.pipeline.file_plan import of_pipeline
from tests import archives, oracle
from tests.mapped_join import joined
from tests.timeline import Action, Request, Rules, Timeline
from tools.audit import source
from udfs.core.trust import NEVER, Trust, trust_in

T = 1_700_000_000_000
HEAD = """
[join]
key = "request_id"
[actions.click]
window = "10s"
label = "count"
[actions.purchase]
window = "60s"
label = "sum"
[features.price]
type = "float64"
[output]
path = "out"
"""
WEB = """
[events.features.web]
request_id = "id"
user_id = "who"
event_time = { path = "at", unit = "s" }
items = "shown"
item_id = ".sku"
fields = { price = { path = ".cents", divide = 100 } }
"""
ORDERS = """
[events.actions.orders]
request_id = "basket"
user_id = "customer"
item_id = "sku"
event_time = "at"
event_id = "order"
action = { constant = "purchase" }
value = { path = "cents", divide = 100 }
"""
MAPPED = WEB + ORDERS


def sources(of: str) -> str:
    """The same four sources, of files or topics."""
    names = ("features.app", "features.web", "actions.clicks", "actions.orders")
    return "".join(f"[sources.{name}]\n{of.format(name=name)}\n" for name in names)


FILES = sources('type = "files"\npath = "{name}"')
KAFKA = sources('type = "kafka"\ntopic = "{name}"\nbootstrap_servers = "b:1"')


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pipeline.toml"
    path.write_text(text)
    return path


class TestConfiguration:
    def test_each_source_has_its_own_keys_and_mapping(self, tmp_path: Path) -> None:
        path = written(tmp_path, HEAD + KAFKA + MAPPED)
        more = [
            "sources.actions.orders.out_of_orderness=1h",
            "sources.actions.orders.idle_timeout=2min",
            "sources.features.web.properties.client.rack=me",
        ]
        pipeline = load(path, more)
        each = pipeline.sources.each
        assert [(n.stream, n.name, n.id) for n in each] == [
            ("features", "app", "features-app"),
            ("features", "web", "features-web"),
            ("actions", "clicks", "actions-clicks"),
            ("actions", "orders", "actions-orders"),
        ]
        _, web, clicks, orders = (n.source for n in each)
        assert isinstance(web, KafkaSource)
        assert isinstance(orders, KafkaSource)
        assert web.properties == {"client.rack": "me"}
        assert (int(orders.out_of_orderness), int(orders.idle_timeout)) == (3_600_000, 120_000)
        assert int(clicks.out_of_orderness) == 10_000
        mapped = [pipeline.seen_from(named).mappings for named in each]
        assert [getattr(m, n.stream) is not None for m, n in zip(mapped, each, strict=True)] == [
            *(False, True, False, True)
        ]
        settings = decode_settings(pipeline, ())
        assert settings.sources == tuple(named.key for named in each)
        assert settings.source("actions.orders").out_of_orderness == 3_600_000

    def test_a_mapping_without_a_name_is_that_of_all_sources(self, tmp_path: Path) -> None:
        pipeline = load(written(tmp_path, HEAD + FILES + WEB.replace("features.web", "features")))
        app, web, *_ = (pipeline.seen_from(n).mappings.features for n in pipeline.sources.each)
        assert app == web
        assert app is not None

    def test_one_source_a_stream_is_as_it_was(self, tmp_path: Path) -> None:
        text = HEAD + '[sources.features]\ntype = "files"\npath = "f"\n'
        pipeline = load(written(tmp_path, text + '[sources.actions]\ntype = "files"\npath = "a"\n'))
        assert [(n.key, n.id) for n in pipeline.sources.each] == [
            *(("features", "features"), ("actions", "actions"))
        ]
        assert pipeline.seen_from(pipeline.sources.each[0]) is pipeline
        assert decode_settings(pipeline, ()).by_source == {}

    def test_one_stream_may_have_names_and_the_other_none(self, tmp_path: Path) -> None:
        app = KAFKA.partition("[sources.features.web]")[0].replace("features.app", "features")
        actions = "[sources.actions" + KAFKA.partition("[sources.actions")[2]
        pipeline = load(written(tmp_path, HEAD + app + actions + ORDERS))
        assert [n.key for n in pipeline.sources.each] == [
            *("features", "actions.clicks", "actions.orders")
        ]

    def test_the_document_gives_the_same_pipeline(self, tmp_path: Path) -> None:
        path = written(tmp_path, HEAD + KAFKA + MAPPED)
        properties = "sources.features.web.properties"
        secret = [f"{properties}.security.protocol=SSL", f"{properties}.ssl.key.password=hunter2"]
        (tmp_path / "out").mkdir()
        again = tmp_path / "out" / "_pipeline.toml"
        text = tomli_w.dumps(document(path, secret))
        assert "hunter2" not in text
        again.write_text(text)
        one = load(path, secret)
        assert "hunter2" in secrets_of(one)
        other = load(again, environment={"SSL_KEY_PASSWORD": "hunter2"})
        assert other == one
        assert isinstance(convert(document(path), Pipeline), Pipeline)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("[sources.actions.orders]", "[sources.actions.value]", "sources.actions.value: a sou"),
            ("[sources.actions.orders]", '[sources.actions."a b"]', r'actions."a b": the name'),
            ("[sources.actions.orders]", "[sources.actions.Clicks]", "differs from 'clicks' in up"),
            ("[events.actions.orders]", "[events.actions.order]", r"no \[sources.actions.order\]"),
            ("[sources.features.app]\n",
             '[sources.features]\ntopic = "x"\n[sources.features.app]\n',
             r"sources.features: has 'topic', a key of one source, beside the source 'app'"),
            ('topic = "actions.orders"', 'topic = "actions.clicks"',
             "sources.actions.orders.topic: 'actions.clicks' is read by sources.actions.clicks al"),
            ('topic = "actions.orders"', 'topic_pattern = "actions[.](clicks|returns)"',
             "orders.topic_pattern: 'actions.clicks' is read by sources.actions.clicks already"),
            ('topic = "actions.clicks"', 'topic_pattern = ".*orders"',
             "clicks.topic_pattern: 'actions.orders' is read by sources.actions.orders already"),
            ('topic = "actions.orders"', 'topik = "x"',
             "sources.actions.orders.topik: there is no such key"),
            ('topic = "actions.orders"', 'topic = "a b"', "sources.actions.orders.topic: expected"),
            ('order"\naction = ', 'order"\nactoin = ',
             "events.actions.orders.actoin: there is no such key"),
            ('{ constant = "purchase" }', '{ constant = "buy" }', "events.actions.orders.action: "),
            ("[events.actions.orders]", '[events.actions]\nvalue = "v"\n[events.actions.orders]',
             "events.actions.value: a mapping of all sources beside that of 'orders'"),
            ("[events.features.web]", '[events.features.web]\nrecord = "impression"',
             "events.features.web.items: a record that is one impression"),
        ],
    )  # fmt: skip
    def test_a_mistake_is_one_line(self, tmp_path: Path, old: str, new: str, message: str) -> None:
        text = HEAD + KAFKA + MAPPED
        assert old in text
        with pytest.raises(ConfigError, match=message) as error:
            load(written(tmp_path, text.replace(old, new)))
        assert "\n" not in str(error.value)

    def test_a_topic_may_be_that_of_both_streams_or_of_two_clusters(self, tmp_path: Path) -> None:
        path = written(tmp_path, HEAD + KAFKA + MAPPED)
        load(path, ["sources.actions.orders.topic=features.app"])
        other = "sources.actions.orders.bootstrap_servers=elsewhere:1"
        load(path, ["sources.actions.orders.topic=actions.clicks", other])

    def test_sources_of_one_stream_have_one_kind_of_record(self, tmp_path: Path) -> None:
        impressions = WEB.replace('items = "shown"', 'record = "impression"').replace('".', '"')
        actions = '[events.actions]\nrequest_id = "r"\nuser_id = "u"\nitem_id = "i"\n'
        actions += 'event_time = "t"\naction = "a"\n'
        path = written(tmp_path, HEAD + KAFKA + impressions + actions)
        with pytest.raises(ConfigError, match=r"events.features.web.record: with join.key"):
            load(path)
        load(path, ["join.key=user_id"])

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            (
                "sources.actions.orders.max_drift=1s",
                "max_drift: must be that of sources.features",
            ),
            ("sources.actions.orders.type=files", "sources: both streams have the same type|topic"),
        ],
    )
    def test_what_must_be_alike(self, tmp_path: Path, override: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load(written(tmp_path, HEAD + KAFKA + MAPPED), [override])


def test_an_archive_has_a_folder_for_each_source(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD + KAFKA + MAPPED + '[archive]\npath = "kept"\n')
    kept = archive.load(path, ["sources.actions.orders.group_id=join"])
    assert archive.WRITTEN.by(kept).tables == (
        *("features-app", "features-web", "actions-clicks", "actions-orders"),
    )
    orders = kept.sources.each[3].source
    assert isinstance(orders, KafkaSource)
    assert orders.group_id == "join-archive"
    for n, named in enumerate(kept.sources.each):
        archives.write(tmp_path / "kept" / named.id, [archives.Kept(f"t{n}", 0, 0, T + n)])
    again = sources_of_backfill.replayed(load(path))
    planned = archive_plan.plan(again.sources)
    assert [(p.source, p.topic) for p in planned.partitions] == [
        (named.key, f"t{n}") for n, named in enumerate(again.sources.each)
    ]
    listings = sources_of_backfill.listed(again)
    hour = T // 3_600_000 * 3_600_000
    cut = sources_of_backfill.cut(again, hour, hour + 3_600_000, goes_on=False)
    assert not sources_of_backfill.are_empty(cut, listings)
    assert sources_of_backfill.described(cut, listings).startswith("4 records")
    read = [list(source.records(named, [])) for named in again.sources.each]
    assert [[record.origin.name for record in of] for of in read] == [
        *(["t0"], ["t1"], ["t2"], ["t3"])
    ]


def test_labels_are_trusted_as_far_as_the_source_that_is_behind() -> None:
    keys = ("features", "actions.clicks", "actions.orders")
    rest: dict[str, Any] = {"complete_until": None, "silence_after": None}
    seen = {"features": 50, "actions.clicks": 40}
    assert trust_in(seen, sources=keys, at_end=True, **rest) == NEVER
    seen["actions.orders"] = 10
    assert trust_in(seen, sources=keys, at_end=True, **rest) == Trust.until(10)
    # rule 10 is about the whole stream
    rest["silence_after"] = 5
    assert trust_in(seen, sources=keys, at_end=False, **rest) == Trust.until(45)


def events(rng: random.Random) -> tuple[list[Request], list[Action]]:
    requests: list[Request] = []
    actions: list[Action] = []
    for i in range(rng.randrange(20, 60)):
        items = tuple(f"i{n}" for n in rng.sample(range(9), 3))
        # whole seconds: the records of the web site have no finer time
        request = Request(f"r{i}", f"u{i % 5}", T + 1000 * rng.randrange(120), items)
        requests.append(request)
        for _ in range(rng.randrange(4)):
            kind = rng.choice(("click", "click", "purchase"))
            delay = rng.choice((-1, 0, 999, 10_000, 10_001, 30_000, 60_000, 60_001))
            value = None if kind == "click" else rng.randrange(1, 900) / 100
            who = (request.user_id, rng.choice(items), request.request_id)
            name = f"e{len(actions)}"
            actions.append(Action(name, *who, kind, value, request.event_time + delay))
    return requests, actions


def plain(event: Request | Action) -> dict[str, Any]:
    fields = {name: value for name, value in vars(event).items() if value is not None}
    if isinstance(event, Request):
        fields["items"] = [{"item_id": i, "features": {"price": 0.5}} for i in event.items]
    return fields


def theirs(event: Request | Action) -> dict[str, Any]:
    """A record of the web site, or of the order system."""
    if isinstance(event, Request):
        shown = [{"sku": item, "cents": 50} for item in event.items]
        rest = {"at": event.event_time // 1000, "shown": shown}
        return {"id": event.request_id, "who": event.user_id} | rest
    assert event.value is not None
    rest = {"at": event.event_time, "cents": round(event.value * 100), "order": event.event_id}
    return {"basket": event.request_id, "customer": event.user_id, "sku": event.item_id} | rest


def spread(folder: Path, requests: list[Request], actions: list[Action]) -> None:
    """Each source has a file, in the order of time; its last record is long after all others."""
    far = T + 3_600_000
    logs: dict[str, list[Request | Action]] = {
        "features.app": [r for r in requests if int(r.request_id[1:]) % 3],
        "features.web": [r for r in requests if not int(r.request_id[1:]) % 3],
        "actions.clicks": [a for a in actions if a.action == "click"],
        "actions.orders": [a for a in actions if a.action != "click"],
    }
    for name, log in logs.items():
        log.sort(key=lambda event: event.event_time)
        if name.startswith("features"):
            log.append(Request(f"far-{name}", "u", far, ("i",)))
        else:
            kind, value = ("click", None) if name == "actions.clicks" else ("purchase", 1.0)
            log.append(Action(f"far-{name}", "u", "i", "none", kind, value, far))
        record = theirs if name in ("features.web", "actions.orders") else plain
        (folder / name).mkdir(parents=True)
        lines = "".join(json.dumps(record(event)) + "\n" for event in log)
        (folder / name / "log.jsonl").write_text(lines)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("key", ["request_id", "user_id"])
def test_events_spread_over_sources_give_the_rows_of_the_oracle(
    tmp_path: Path, seed: int, key: Any
) -> None:
    requests, actions = events(random.Random(seed))
    spread(tmp_path, requests, actions)
    windows = {"click": 10_000, "purchase": 60_000}
    rules = Rules(key, windows, {"click": "count", "purchase": "sum"})
    truth = oracle.expected(Timeline((*requests, *actions), T + 3_600_000), rules)
    path = written(tmp_path, HEAD.replace("request_id", key) + FILES + MAPPED)
    found = joined(path)
    rows = {
        (row["request_id"], row["position"]): (row["label_click"], row["label_purchase"])
        for row in found.rows
        if not row["request_id"].startswith("far")
    }
    expected = {
        (row.request_id, row.position): (row.labels["click"], row.labels["purchase"])
        for row in truth.rows
    }
    assert rows == expected
    assert {row["price"] for row in found.rows} == {0.5}
    assert found.counts["features_read"] == len(requests) + 2
    assert found.counts["actions_read"] == len(actions) + 2


def test_a_source_that_is_behind_holds_the_clock(tmp_path: Path) -> None:
    """The order system ends at once: nothing is late by the clicks."""
    requests, actions = events(random.Random(1))
    spread(tmp_path, requests, actions)
    only = Action("e", "u", "i", "none", "purchase", 1.0, T)
    (tmp_path / "actions.orders" / "log.jsonl").write_text(json.dumps(theirs(only)) + "\n")
    late = Request("r-late", "u", T, ("i",))
    with (tmp_path / "features.web" / "log.jsonl").open("a") as log:
        log.write(json.dumps(theirs(late)) + "\n")
    found = joined(written(tmp_path, HEAD + FILES + MAPPED))
    assert {row["reason"] for row in found.rejected} == {"orphan_action"}
    assert "r-late" in {row["request_id"] for row in found.rows}


def test_chunks_name_their_source(tmp_path: Path) -> None:
    spread(tmp_path, *events(random.Random(2)))
    planned = of_pipeline(load(written(tmp_path, HEAD + FILES + MAPPED)))
    named = {Path(chunk.path).parent.name: chunk.source for chunk in planned.chunks}
    assert named == {name: name for name in named}
    assert len(named) == 4


def test_a_file_of_two_sources_of_a_stream_is_told_of(tmp_path: Path) -> None:
    spread(tmp_path, *events(random.Random(2)))
    path = written(tmp_path, HEAD + FILES + MAPPED)
    with pytest.raises(ConfigError, match=r"orders\.path: .*log\.jsonl' is read by sources\.act"):
        of_pipeline(load(path, ["sources.actions.orders.path=actions.*/log.jsonl"]))
    # the other stream may read it
    of_pipeline(load(path, ["sources.actions.orders.path=features.*/log.jsonl"]))
