"""`[sources.*.format]`: what is shipped, what is hidden, and the line that says what is wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import tomli_w

from jobs.pipeline import record_format
from jobs.pipeline.config import ConfigError, KafkaSource, document, load, secrets_of
from schemas.formats.declared import Avro, Json, Protobuf, Registry
from services.process import free_port
from tests.record_formats import REQUEST_AVSC, descriptors

PIPELINE = """
[actions.click]
window = "10min"
[sources.features]
type = "kafka"
topic = "f"
bootstrap_servers = "b:1"
{format}
[sources.actions]
type = "kafka"
topic = "a"
bootstrap_servers = "b:1"
[output]
path = "out"
"""
REGISTRY = """
[sources.features.format.registry]
url = "http://registry:8081"
subject = ["f-value", "g-value"]
properties = { "basic.auth.user.info" = "me:${PASSWORD}", timeout = "3" }
"""
AS_SHIPPED = Registry(
    "http://registry:8081",
    ("f-value", "g-value"),
    {"basic.auth.user.info": "me:hunter2", "timeout": "3"},
)


def written(folder: Path, text: str) -> Path:
    (folder / "request.avsc").write_text(REQUEST_AVSC)
    (folder / "events.desc").write_bytes(descriptors())
    path = folder / "pipeline.toml"
    path.write_text(PIPELINE.format(format=text))
    return path


def features(path: Path) -> KafkaSource:
    source = load(path, environment={"PASSWORD": "hunter2"}).sources.features
    assert isinstance(source, KafkaSource)
    return source


@pytest.mark.parametrize(
    ("text", "shipped"),
    [
        ('[sources.features.format]\ntype = "json"' + REGISTRY, Json(AS_SHIPPED)),
        ('[sources.features.format]\ntype = "avro"' + REGISTRY, Avro(None, AS_SHIPPED)),
        ('format = { type = "avro", schema = "request.avsc" }', Avro(REQUEST_AVSC)),
        (
            '[sources.features.format]\ntype = "avro"\nschema = "request.avsc"' + REGISTRY,
            Avro(REQUEST_AVSC, AS_SHIPPED),
        ),
        (
            'format = { type = "protobuf", descriptor_set = "events.desc",'
            ' message = "shop.Request" }',
            Protobuf(descriptors(), "shop.Request"),
        ),
        (
            '[sources.features.format]\ntype = "protobuf"' + REGISTRY,
            Protobuf(None, None, AS_SHIPPED),
        ),
    ],
)
def test_what_is_shipped_is_there_by_value(tmp_path: Path, text: str, shipped: object) -> None:
    source = features(written(tmp_path, text))
    assert source.format is not None
    form = record_format.of(source.format)
    assert form == shipped
    assert pickle.loads(pickle.dumps(form)) == shipped


def test_without_a_format_records_are_json(tmp_path: Path) -> None:
    assert features(written(tmp_path, "")).format is None


def test_the_file_beside_the_output_gives_the_same_and_holds_no_secret(tmp_path: Path) -> None:
    path = written(
        tmp_path, '[sources.features.format]\ntype = "avro"\nschema = "request.avsc"' + REGISTRY
    )
    text = tomli_w.dumps(document(path))
    assert "hunter2" not in text
    assert secrets_of(load(path, environment={"PASSWORD": "hunter2"})) >= {"hunter2"}
    elsewhere = tmp_path / "elsewhere" / "pipeline.toml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(text)
    assert features(elsewhere).format == features(path).format


def test_a_login_that_is_written_out_is_not_kept(tmp_path: Path) -> None:
    plain = REGISTRY.replace("${PASSWORD}", "hunter2")
    path = written(tmp_path, '[sources.features.format]\ntype = "avro"' + plain)
    assert "hunter2" not in tomli_w.dumps(document(path))
    assert "me:hunter2" in secrets_of(load(path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('format = { type = "xml" }', "xml"),
        ('format = { type = "json" }', "registry"),
        ('format = { type = "avro" }', "sources.features.format: Avro needs a schema"),
        ('format = { type = "avro", schema = "gone.avsc" }', "gone.avsc: No such file"),
        ('format = { type = "avro", schema = "events.desc" }', "is not UTF-8"),
        ('format = { type = "avro", schema = "pipeline.toml" }', "this is no Avro schema"),
        ('format = { type = "avro", skema = "x" }', "skema"),
        ('format = { type = "protobuf", descriptor_set = "events.desc" }', "set `message`"),
        (
            'format = { type = "protobuf", descriptor_set = "events.desc", message = "Gone" }',
            "the descriptor set has no message 'Gone'",
        ),
        (
            'format = { type = "protobuf", descriptor_set = "pipeline.toml", message = "M" }',
            "this is no descriptor set",
        ),
        ('format = { type = "avro", registry = { url = "registry:8081" } }', "Invalid url"),
        (
            'format = { type = "avro", registry = { url = "http://r", properties = '
            '{ "basic.auth.user.info" = "${GONE}" } } }',
            "sources.features.format.registry.properties.basic.auth.user.info: $GONE is not set",
        ),
    ],
)
def test_one_line_says_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load(path, environment={})
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_registry_that_does_not_answer_is_found_before_the_start(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    text = (
        f'format = {{ type = "avro", registry = {{ url = "{url}", '
        'properties = { "max.retries" = "0" } } }'
    )
    section = features(written(tmp_path, text)).format
    assert section is not None
    with pytest.raises(ConfigError, match=rf"^the.key: the schema registry {url} gives no answer"):
        record_format.check("the.key", section)
