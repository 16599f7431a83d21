"""What a configuration says of `s3://`, and what Flink's file system is told of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from configuration.store_requests import AWS, ObjectStorageSection
from configuration.stores import StorePath, address_of, folder, from_address
from jobs.pipeline import environment, object_storage
from jobs.pipeline.config import (
    ArchiveSource,
    ConfigError,
    Pipeline,
    SourcesSection,
    document,
    load,
)
from services.jars import read_lock, read_requested
from tests.configured import toml
from tests.timeline import Rules


def pipeline(tmp_path: Path, text: str = "", *overrides: str) -> Pipeline:
    path = tmp_path / "pipeline.toml"
    path.write_text(toml(Rules("request_id", {"click": 1_000}, {"click": "any"})) + text)
    return load(path, overrides, {"KEY": "a key"})


class TestPaths:
    def test_names(self) -> None:
        path = StorePath("s3a://bucket/a//b c/")
        assert str(path) == "s3://bucket/a/b c"
        assert (path.name, str(path.parent)) == ("b c", "s3://bucket/a")
        assert str(path / "x" / "y=1") == "s3://bucket/a/b c/x/y=1"
        assert path.with_name("z") == StorePath("s3://bucket/a/z")
        assert path / "x" < path / "y"
        assert str(StorePath("s3://bucket") / "x") == "s3://bucket/x"

    @pytest.mark.parametrize("text", ["/a", "gs://bucket/a", "s3://", "s3:///a"])
    def test_others_are_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"s3|bucket"):
            StorePath(text)

    @pytest.mark.parametrize(
        "section",
        [
            AWS,
            ObjectStorageSection(endpoint="http://127.0.0.1:9000", region="eu-1"),
            ObjectStorageSection(endpoint="https://s3.local", path_style=False),
        ],
    )
    def test_another_process_finds_the_same_place(self, section: ObjectStorageSection) -> None:
        place = StorePath("s3://bucket/50%/a b?c=d&e#f", section)
        assert from_address(address_of(place)) == place

    def test_a_configured_place_is_local_or_stored(self) -> None:
        assert folder("/a b") == Path("/a b")
        assert folder("file:///a%20b") == Path("/a b")
        assert folder("s3://bucket/a%20b") == StorePath("s3://bucket/a%20b")
        assert from_address(address_of(Path("/a b?c"))) == Path("/a b?c")
        with pytest.raises(ValueError, match="hdfs://x/y"):
            folder("hdfs://x/y")


class TestFlink:
    def test_it_is_told_where_the_service_is(self, tmp_path: Path) -> None:
        text = '[object_storage]\nendpoint = "http://127.0.0.1:9000"\nregion = "eu-1"\n'
        said = pipeline(tmp_path, text, 'flink."fs.s3a.attempts.maximum"=5')
        told = object_storage.options(said.object_storage, said.flink)
        assert told == {
            "s3.endpoint": "http://127.0.0.1:9000",
            "s3.endpoint.region": "eu-1",
            "s3.path.style.access": "true",
            "fs.s3a.directory.marker.retention": "keep",
            "fs.s3a.attempts.maximum": "5",
        }
        assert object_storage.options(AWS, {})["s3.path.style.access"] == "false"

    @pytest.mark.parametrize(
        ("override", "used"),
        [
            ("output.path=s3://bucket/out", True),
            ("runtime.checkpoint_path=s3a://bucket/chk", True),
            ('flink."execution.checkpointing.savepoint-dir"=s3://bucket/chk', True),
            ("output.path=hdfs://name/out", False),
            ("output.path=out", False),
        ],
    )
    def test_it_is_loaded_where_it_is_needed(
        self, tmp_path: Path, override: str, used: bool
    ) -> None:
        assert environment.uses_s3(pipeline(tmp_path, "", override)) == used

    def test_it_is_loaded_for_an_archive_that_is_read(self, tmp_path: Path) -> None:
        said = pipeline(tmp_path)
        archive = ArchiveSource(path="s3://bucket/archive")
        sources = SourcesSection(one_of_features=archive, one_of_actions=archive)
        assert environment.uses_s3(msgspec.structs.replace(said, sources=sources))

    @pytest.mark.parametrize(
        "key", ["s3.access-key", "s3.secret.key", "fs.s3a.secret.key", "fs.s3a.session.token"]
    )
    def test_credentials_are_not_written_out(self, tmp_path: Path, key: str) -> None:
        with pytest.raises(ConfigError, match=r"flink\..*credentials do not belong in this file"):
            pipeline(tmp_path, "", f'flink."{key}"=abc')
        assert pipeline(tmp_path, "", f'flink."{key}"=${{KEY}}').flink[key] == "a key"


def test_what_lies_beside_the_output_has_the_service(tmp_path: Path) -> None:
    text = '[object_storage]\nendpoint = "http://127.0.0.1:9000"\n'
    pipeline(tmp_path, text)
    kept = document(tmp_path / "pipeline.toml", ["output.path=s3://bucket/out"])
    assert kept["object_storage"] == {"endpoint": "http://127.0.0.1:9000"}
    output = kept["output"]
    assert isinstance(output, dict)
    assert output["path"] == "s3://bucket/out"


def test_an_endpoint_is_a_url(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"object_storage\.endpoint"):
        pipeline(tmp_path, "", "object_storage.endpoint=127.0.0.1:9000")


def test_a_set_without_transitive_jars_is_locked_as_it_is() -> None:
    requested = read_requested()["s3proxy"]
    assert requested["transitive"] is False
    asked = {entry["coordinate"] for entry in requested["jars"]}
    assert {str(jar.coordinate) for jar in read_lock()["s3proxy"]} == asked
