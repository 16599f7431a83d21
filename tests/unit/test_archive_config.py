"""The pipeline of the archiving job follows from that of the join."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import tomli_w

from jobs.pipeline import archive, config, newer_rows, output_guard, run_report, runs
from jobs.pipeline.config import ArchiveSource, ConfigError, KafkaSource

KAFKA = """
[actions.click]
window = "1s"
[sources.features]
type = "kafka"
topic = "f"
bootstrap_servers = "b:1"
group_id = "g"
[sources.actions]
type = "kafka"
topic = "a"
bootstrap_servers = "b:1"
[output]
path = "out"
"""
ARCHIVE = """
[archive]
path = "kept"
compression = "SNAPPY"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "pipeline.toml"
    path.write_text(text)
    return path


def groups(path: Path, *overrides: str) -> list[str | None]:
    sources = archive.load(path, overrides).sources
    assert isinstance(sources.features, KafkaSource)
    assert isinstance(sources.actions, KafkaSource)
    return [sources.features.group_id, sources.actions.group_id]


def test_its_output_is_the_archive(tmp_path: Path) -> None:
    pipeline = archive.load(written(tmp_path, KAFKA + ARCHIVE))
    assert pipeline.output.path == str(tmp_path / "kept")
    assert pipeline.output.compression == "SNAPPY"
    assert pipeline.checkpoints == str(tmp_path / "kept" / "_checkpoints")
    assert pipeline.pipeline.name == "sample-stitch-archive"
    assert pipeline.compact


def test_its_consumer_group_is_not_the_joins(tmp_path: Path) -> None:
    path = written(tmp_path, KAFKA + ARCHIVE)
    assert groups(path) == ["g-archive", None]
    assert groups(path, "archive.group_id=own") == ["own", "own"]


@pytest.mark.parametrize(
    ("text", "overrides", "wrong"),
    [
        (KAFKA, (), "archive: this section is required"),
        (KAFKA + ARCHIVE, ("archive.path=out/",), "archive.path: must not be output.path"),
        (
            KAFKA.replace(
                'type = "kafka"\ntopic = "f"\nbootstrap_servers = "b:1"\ngroup_id = "g"',
                'type = "files"\npath = "f"',
            ).replace(
                'type = "kafka"\ntopic = "a"\nbootstrap_servers = "b:1"',
                'type = "files"\npath = "a"',
            )
            + ARCHIVE,
            (),
            "only Kafka is archived",
        ),
    ],
)
def test_what_cannot_be_archived_is_said_in_one_line(
    tmp_path: Path, text: str, overrides: Sequence[str], wrong: str
) -> None:
    with pytest.raises(ConfigError, match=wrong):
        archive.load(written(tmp_path, text), overrides)


def test_the_document_beside_the_archive_gives_the_same_job(tmp_path: Path) -> None:
    path = written(tmp_path, KAFKA + ARCHIVE)
    beside = tmp_path / "kept" / "_pipeline.toml"
    beside.parent.mkdir()
    beside.write_text(tomli_w.dumps(archive.document(path)))
    assert archive.load(beside) == archive.load(path)
    beside_output = tmp_path / "out" / "_pipeline.toml"
    beside_output.parent.mkdir()
    beside_output.write_text(tomli_w.dumps(config.document(path)))
    assert config.load(beside_output) == config.load(path)


def test_rows_of_the_archive_are_guarded_as_the_joins_are(tmp_path: Path) -> None:
    file = tmp_path / "actions" / "dt=2026-11-26" / "hr=16" / "part-0.parquet"
    file.parent.mkdir(parents=True)
    file.write_text("x")
    with pytest.raises(ConfigError, match=r"archive\.path: .* has rows already \(in actions/\)"):
        output_guard.check(str(tmp_path), "fresh", archive.WRITTEN)
    output_guard.check(str(tmp_path), "append", archive.WRITTEN)
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="was not written by an archive"):
        output_guard.check(str(tmp_path), "overwrite", archive.WRITTEN)
    (tmp_path / "samples").mkdir()
    output_guard.clear(str(tmp_path), archive.WRITTEN)
    assert [path.name for path in tmp_path.iterdir()] == ["samples"]


def test_the_report_says_when_nothing_came(tmp_path: Path) -> None:
    pipeline = archive.load(written(tmp_path, KAFKA + ARCHIVE))
    counts = {"features_archived": 3, "unusable/features/broken_json": 1}
    said = archive.report(pipeline, counts, False)
    assert said.judgement == run_report.Judgement(warnings=["no actions were read"])
    assert said.table.row_count == 5
    assert archive.report(pipeline, counts, True).judgement == run_report.Judgement()


def test_records_that_a_snapshot_knows_nothing_of_are_found(tmp_path: Path) -> None:
    start = runs.started("a" * 32, "fresh", None, "b" * 12)
    file = tmp_path / "actions" / "dt=2026-11-26" / "hr=16" / f"part-{start.files}-7-0-x-0.parquet"
    file.parent.mkdir(parents=True)
    file.write_text("x")
    snapshot = f"{tmp_path}/_checkpoints/{start.job}/chk-7"

    def newer(number: int) -> str | None:
        return newer_rows.newer_file(
            str(tmp_path), snapshot, [start], lambda _: number, tables=archive.WRITTEN.tables
        )

    assert newer(7) == str(file)
    assert newer(8) is None


def test_a_join_over_topics_can_be_joined_again_from_its_archive(tmp_path: Path) -> None:
    kafka = 'out_of_orderness = "3s"\nmax_future = "1s"\nmax_record_bytes = 9\n'
    text = KAFKA.replace("[sources.actions]", f"{kafka}[sources.actions]") + ARCHIVE
    live = config.load(written(tmp_path, text))
    again = archive.replayed(live, "2026-11-01T00", "2026-11-02T00")
    assert (again.bounded, live.bounded) == (True, False)
    features, actions = again.sources.features, again.sources.actions
    assert isinstance(features, ArchiveSource)
    assert isinstance(actions, ArchiveSource)
    assert features.path == str(tmp_path / "kept")
    assert features.range_ms == (1_793_491_200_000, 1_793_577_600_000)
    assert (features.out_of_orderness, features.max_future) == (3_000, 1_000)
    assert (features.max_record_bytes, actions.max_record_bytes) == (9, 4 << 20)
    assert archive.replayed(live).sources.actions == msgspec.structs.replace(
        actions, from_=None, to=None
    )
    for begin, end, said in (
        ("2026-11-31T00", None, "sources.features.from: expected an hour .* got '2026-11-31T00'"),
        ("2026-11-02", None, "sources.features.from: expected an hour"),
        ("2026-11-01T00", "2026-11-01T00", "sources.features.to: must be after from"),
    ):
        with pytest.raises(ConfigError, match=said):
            archive.replayed(live, begin, end)
    with pytest.raises(ConfigError, match="only topics are archived"):
        archive.replayed(again)
    with pytest.raises(ConfigError, match="this section is required"):
        archive.replayed(config.load(written(tmp_path, KAFKA)))


def test_what_decides_about_records_is_the_same_when_they_are_joined_again(tmp_path: Path) -> None:
    path = written(tmp_path, KAFKA + ARCHIVE)
    live = config.load(
        path,
        [
            'sources.features.format={ type = "avro", registry = { url = "http://r:8081" } }',
            "sources.features.out_of_orderness=7s",
            "sources.features.max_future=8s",
            "sources.features.max_record_bytes=9",
        ],
    )
    # `max_drift` is about how they are read
    shared = {*KafkaSource.__struct_fields__} & {*ArchiveSource.__struct_fields__} - {"max_drift"}
    usual = config.load(path).sources.features
    again = archive.replayed(live).sources.features
    for key in shared:
        value = getattr(live.sources.features, key)
        assert value != getattr(usual, key), f"try {key} with a value of its own"
        assert getattr(again, key) == value


def test_an_archive_is_a_source_of_both_streams(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '[actions.click]\nwindow = "1s"\n[output]\npath = "out"\n'
        '[sources.features]\ntype = "archive"\npath = "kept"\nfrom = "2026-11-01T00"\n'
        '[sources.actions]\ntype = "archive"\npath = "kept"\n',
    )
    pipeline = config.load(path)
    assert pipeline.sources.features.path == str(tmp_path / "kept")  # type: ignore[union-attr]
    assert pipeline.bounded
    assert pipeline.checkpoint_interval is None
    beside = tmp_path / "elsewhere" / "pipeline.toml"
    beside.parent.mkdir()
    beside.write_text(tomli_w.dumps(config.document(path)))
    assert config.load(beside).sources == pipeline.sources
    for override, said in (
        ("sources.actions.type=files", "both streams have the same type"),
        ("sources.features.max_drift=0s", "sources.features.max_drift: must be longer than 0"),
        ("sources.features.max_drift=1s", "sources.actions.max_drift: must be that"),
        ("sources.features.to=2026-10-31T23", "sources.features.to: must be after from"),
        ("sources.actions.incomplete=skip", "sources.actions.incomplete"),
        ("sources.actions.topic=t", "sources.actions.topic"),
    ):
        with pytest.raises(ConfigError, match=said):
            config.load(path, [override])
    with pytest.raises(ConfigError, match="only Kafka is archived"):
        archive.load(path, ["archive.path=a"])
