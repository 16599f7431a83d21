"""Whether record timestamps fit the events, by a sample of a topic; and whether two sources read
one topic, by what a broker lists.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.pipeline import kafka_preflight, preflight
from jobs.pipeline.config import ConfigError, KafkaSource, Pipeline, load
from jobs.pipeline.kafka_preflight import Sampled, judge, too_old_after
from schemas.events import Stream
from tests.unit.test_config import KAFKA, written

NOW = 1_700_000_000_000
YEAR = 365 * 86_400_000


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    path = written(tmp_path_factory.mktemp("preflight"), KAFKA)
    overrides = ["join.clock_skew=2s", "join.allowed_lateness=3s"]
    return load(path, overrides, {"SECRET": "x"})


def said(pipeline: Pipeline, ages: list[int], stream: Stream, *, appended: bool = False) -> str:
    source = getattr(pipeline.sources, stream)
    assert isinstance(source, KafkaSource)
    sample = [Sampled(NOW, NOW - age, appended) for age in ages]
    return judge(sample, stream, source, pipeline) or ""


def test_an_event_may_be_as_old_as_its_time_lasts(pipeline: Pipeline) -> None:
    """Window 10 min, S = 2 s, L = 3 s, disorder 10 s: an action is held for one S more."""
    for stream, bound in (("features", 615_000), ("actions", 617_000)):
        source = getattr(pipeline.sources, stream)
        assert too_old_after(stream, source, pipeline) == bound
        assert said(pipeline, [bound] * 20, stream) == ""  # type: ignore[arg-type]
        assert said(pipeline, [bound + 1] * 20, stream) != ""  # type: ignore[arg-type]


def test_events_of_long_ago_produced_now_are_refused_with_the_cure(pipeline: Pipeline) -> None:
    requests = said(pipeline, [YEAR] * 50, "features")
    assert "50 of 50 sampled records of topic 'f' have an event_time too far behind" in requests
    assert "365 days" in requests
    assert "late_request" in requests
    assert "Let the producer set each record's timestamp to its event_time" in requests
    assert "the labels say 0" in said(pipeline, [YEAR] * 50, "actions")
    assert "message.timestamp.type=CreateTime" in said(
        pipeline, [YEAR] * 50, "features", appended=True
    )


def test_timestamps_before_the_events_are_refused_too(pipeline: Pipeline) -> None:
    assert "max_future" in said(pipeline, [-YEAR] * 50, "actions")
    assert said(pipeline, [-600_000] * 50, "actions") == ""


@given(st.data())
def test_only_more_than_the_tolerated_share_is_refused(
    pipeline: Pipeline, data: st.DataObject
) -> None:
    good = data.draw(st.integers(0, 200))
    bad = data.draw(st.integers(0, 200))
    ages = [0] * good + [YEAR] * bad
    refused = good + bad >= 10 and bad > pipeline.runtime.max_late_requests * (good + bad)
    assert bool(said(pipeline, ages, "features")) == refused


def test_nothing_is_refused_when_told_so(tmp_path: Path) -> None:
    path = written(tmp_path, KAFKA)
    relaxed = load(path, ["runtime.max_late_requests=1"], {"SECRET": "x"})
    assert said(relaxed, [YEAR] * 50, "features") == ""


#: Sources of actions that only a broker can tell apart, or not.
PATTERNS = """
[actions.click]
window = "10s"
[output]
path = "out"
[sources.features]
type = "kafka"
topic = "shop-ranked"
bootstrap_servers = "b:1"
[sources.actions.shop]
type = "kafka"
topic_pattern = "shop-.*"
bootstrap_servers = "b:1"
[sources.actions.orders]
type = "kafka"
topic_pattern = ".*-orders"
bootstrap_servers = "b:1"
"""


class Listed:
    """A consumer of empty topics, of one partition each."""

    def __init__(self, topics: Iterable[str], cluster: str | None) -> None:
        self._topics = set(topics)
        self._cluster = SimpleNamespace(cluster_id=cluster)

    def topics(self) -> set[str]:
        return self._topics

    def partitions_for_topic(self, topic: str) -> set[int]:
        return {0}

    def beginning_offsets(self, partitions: list[Any]) -> dict[Any, int]:
        return dict.fromkeys(partitions, 0)

    end_offsets = beginning_offsets

    def poll(self, **_: Any) -> dict[Any, Any]:
        return {}

    def assign(self, partitions: list[Any]) -> None:
        pass

    def seek_to_end(self, *partitions: Any) -> None:
        pass

    def close(self) -> None:
        pass


class TestTopicsOfTwoSources:
    @pytest.fixture
    def said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        """What the preflight says when clusters have these topics, by address: id and topics."""

        def check(clusters: dict[str, tuple[str | None, list[str]]], *overrides: str) -> str:
            def connect(key: str, source: KafkaSource, **_: Any) -> Listed:
                cluster, topics = clusters[source.bootstrap_servers]
                return Listed(topics, cluster)

            monkeypatch.setattr(kafka_preflight, "connect", connect)
            try:
                assert preflight.check(load(written(tmp_path, PATTERNS), overrides)) == []
            except ConfigError as error:
                return str(error)
            return ""

        return check

    def test_a_topic_that_two_patterns_match_is_named(self, said: Any) -> None:
        line = said({"b:1": ("id", ["shop-ranked", "shop-clicks", "shop-orders", "web-orders"])})
        assert line.startswith(
            "sources.actions.orders: the topic 'shop-orders' is read by sources.actions.shop "
            "already, so its records would be there twice; take it out of one of the two"
        )
        assert "\n" not in line

    def test_the_other_stream_may_read_it(self, said: Any) -> None:
        assert said({"b:1": (None, ["shop-ranked", "shop-clicks", "web-orders"])}) == ""

    def test_one_cluster_may_have_two_addresses(self, said: Any) -> None:
        topics = ["shop-ranked", "shop-clicks", "shop-orders"]
        other = "sources.actions.orders.bootstrap_servers=b:2"
        assert "'shop-orders'" in said({"b:1": ("id", topics), "b:2": ("id", topics)}, other)
        assert said({"b:1": ("id", topics), "b:2": ("another", topics)}, other) == ""
        # a broker that tells no id is known by its address
        assert said({"b:1": (None, topics), "b:2": (None, topics)}, other) == ""
