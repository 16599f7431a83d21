"""Positions of sources in a snapshot: which of them the configuration has a place for."""

from __future__ import annotations

from pathlib import Path

import pytest

from configuration.reading import ConfigError
from jobs.pipeline import restored_sources
from jobs.pipeline.config import load
from jobs.pipeline.source_sections import SourcesSection
from tests.unit.test_several_sources import HEAD, KAFKA, MAPPED, written

ALL = ("features-app", "features-web", "actions-clicks", "actions-orders")
OTHERS = ["Source: archive source", "decode features-app", "keep time", "join", ""]
ONE_EACH = '[sources.{}]\ntype = "kafka"\ntopic = "t"\nbootstrap_servers = "b:1"\n'


def operators(*sources: str) -> list[str]:
    return [*OTHERS, *(f"Source: {name} source" for name in sources)]


@pytest.fixture
def several(tmp_path: Path) -> SourcesSection:
    return load(written(tmp_path, HEAD + KAFKA + MAPPED)).sources


@pytest.fixture
def one_each(tmp_path: Path) -> SourcesSection:
    text = HEAD + "".join(ONE_EACH.format(stream) for stream in ("features", "actions"))
    return load(written(tmp_path, text)).sources


def notes(before: list[str], sources: SourcesSection, *, may_drop: bool = False) -> list[str]:
    return restored_sources.check(before, sources, "--restore latest", may_drop=may_drop)


def test_the_same_sources_and_added_ones_are_as_they_should_be(several: SourcesSection) -> None:
    assert notes(operators(*ALL), several) == []
    assert notes(operators(*ALL[:-1]), several) == []
    # a snapshot that cannot be read, or tells no names, is Flink's to judge
    assert notes([], several) == []
    assert notes(OTHERS, several) == []


def test_one_source_a_stream_goes_on(one_each: SourcesSection) -> None:
    assert notes(operators("features", "actions"), one_each) == []


def test_a_source_that_is_gone_is_named_with_what_to_do(several: SourcesSection) -> None:
    before = operators(*ALL, "actions-till-two")
    with pytest.raises(ConfigError, match=r"position in sources\.actions\.till-two, which") as said:
        notes(before, several)
    assert str(said.value).startswith("--restore latest: ")
    assert "execution.state-recovery.ignore-unclaimed-state=true" in str(said.value)
    assert "\n" not in str(said.value)
    dropped = notes(before, several, may_drop=True)
    assert dropped == ["the position in sources.actions.till-two is dropped"]


def test_from_one_source_to_several_nothing_fits(
    several: SourcesSection, one_each: SourcesSection
) -> None:
    for may_drop in (False, True):
        with pytest.raises(ConfigError, match="the sources have names now"):
            notes(operators("features", "actions"), several, may_drop=may_drop)
    with pytest.raises(ConfigError, match=r"sources\.actions\.clicks, sources\.actions\.orders"):
        notes(operators(*ALL), one_each)
