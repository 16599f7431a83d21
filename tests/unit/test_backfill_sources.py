"""What of an archive a backfill reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.backfill import hours, sources
from jobs.pipeline.config import ArchiveSource, ConfigError, Pipeline, load
from schemas.events import STREAMS
from tests import archives
from tests.archives import Kept

HOUR = 3_600_000
#: 2026-11-01, 00:00 UTC.
START = 1_793_491_200_000

TOPICS = """
[actions.click]
window = "10min"
[sources.features]
type = "kafka"
topic = "f"
bootstrap_servers = "nowhere:1"
out_of_orderness = "30s"
[sources.actions]
type = "kafka"
topic = "a"
bootstrap_servers = "nowhere:1"
[output]
path = "out"
"""


def pipeline(folder: Path, *overrides: str, archived: bool = True) -> Pipeline:
    config = folder / "p.toml"
    config.write_text(TOPICS + ('[archive]\npath = "archive"\n' if archived else ""))
    return load(config, overrides)


def keep(folder: Path, stream: str, *at: int) -> None:
    records = [Kept(stream, 0, n, START + hour * HOUR, b"{}") for n, hour in enumerate(at)]
    archives.write(folder / "archive" / stream, records)


def listed(folder: Path) -> sources.Listings:
    return sources.listed(sources.replayed(pipeline(folder)))


def cut(folder: Path, first: int, end: int, *overrides: str) -> Pipeline:
    replayed = sources.replayed(pipeline(folder, *overrides))
    stop = START + end * HOUR
    goes_on = sources.go_on(sources.listed(replayed), stop)
    return sources.cut(replayed, START + first * HOUR, stop, goes_on=goes_on)


def test_topics_are_read_from_their_archive(tmp_path: Path) -> None:
    for stream in STREAMS:
        keep(tmp_path, stream, 0, 1, 2, 3)
    found = cut(tmp_path, 1, 3)
    for stream in STREAMS:
        source = getattr(found.sources, stream)
        assert isinstance(source, ArchiveSource)
        assert source.range_ms == (START + HOUR, START + 3 * HOUR)
    assert int(found.sources.features.out_of_orderness) == 30_000
    assert found.bounded
    assert sources.described(found, listed(tmp_path)).startswith("4 records, ")


def test_the_input_is_complete_where_it_was_cut_if_it_goes_on(tmp_path: Path) -> None:
    """Only if both streams do: else the end is that of the data, as for the live run."""
    keep(tmp_path, "features", 0, 1, 2, 3)
    keep(tmp_path, "actions", 0, 1, 2)
    assert cut(tmp_path, 0, 2).end_of_input.complete_until == START + 2 * HOUR
    assert cut(tmp_path, 0, 3).end_of_input.complete_until is None
    own = cut(tmp_path, 0, 2, f"end_of_input.complete_until={START}")
    assert own.end_of_input.complete_until == START


def test_hours_without_a_record_are_empty(tmp_path: Path) -> None:
    keep(tmp_path, "features", 0, 5)
    keep(tmp_path, "actions", 0, 4)
    assert sources.are_empty(cut(tmp_path, 1, 4), listed(tmp_path))
    assert not sources.are_empty(cut(tmp_path, 1, 5), listed(tmp_path))
    assert not sources.are_empty(cut(tmp_path, 5, 6), listed(tmp_path))


def test_an_archive_that_ends_too_early_is_noted(tmp_path: Path) -> None:
    keep(tmp_path, "features", 0, 1, 2)
    keep(tmp_path, "actions", 0, 1)
    assert sources.notes(cut(tmp_path, 0, 2), listed(tmp_path)) == []
    (note,) = sources.notes(cut(tmp_path, 0, 3), listed(tmp_path))
    assert "actions" in note
    assert "its last hour is 2026-11-01T01" in note
    (tmp_path / "archive").rename(tmp_path / "elsewhere")
    assert len(sources.notes(cut(tmp_path, 0, 1), listed(tmp_path))) == 2


def test_topics_without_an_archive_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="archive: this section is required"):
        sources.replayed(pipeline(tmp_path, archived=False))


def test_a_join_of_a_slice_shares_nothing_with_the_live_one(tmp_path: Path) -> None:
    own = (
        "runtime.checkpoint_path=checkpoints",
        "runtime.metrics_port=9249",
        "output.table=iceberg",
    )
    live = pipeline(tmp_path, *own)
    found = sources.into(live, str(tmp_path / "slice"))
    assert found.checkpoints == f"{tmp_path}/slice/_checkpoints"
    assert found.runtime.metrics_port is None
    assert found.output.table == "files"
    assert found.pipeline.name != live.pipeline.name


def test_hours_are_read_and_written() -> None:
    assert hours.text(START) == "2026-11-01T00"
    assert hours.read("2026-11-01T00", "--from") == START
    assert hours.between(START, START + 2 * HOUR) == ["2026-11-01T00", "2026-11-01T01"]
