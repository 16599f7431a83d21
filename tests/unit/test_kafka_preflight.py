"""Whether record timestamps fit the events: what a sample of a topic is judged to be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.pipeline.config import KafkaSource, Pipeline, load
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
