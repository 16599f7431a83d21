"""`infer-schema --from-schema`: what an Avro or Protobuf schema says of the features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli

from schemas.formats.declared import Avro, FormatError, Json, Protobuf, Registry
from schemas.formats.registry import Registered
from tests.record_formats import PROTO, REQUEST_AVSC, descriptors
from tools.infer_schema.command import main
from tools.infer_schema.examples import examples

PIPELINE = """
[actions.click]
window = "1h"
[sources.features]
type = "kafka"
bootstrap_servers = "b:1"
topic = "f"
{format}
[sources.actions]
type = "kafka"
bootstrap_servers = "b:1"
topic = "a"
[output]
path = "out"
"""
AS_AVRO = 'format = { type = "avro", schema = "request.avsc" }'
AS_PROTOBUF = (
    'format = { type = "protobuf", descriptor_set = "events.desc", message = "shop.Request" }'
)


def written(folder: Path, text: str) -> str:
    (folder / "request.avsc").write_text(REQUEST_AVSC)
    (folder / "events.desc").write_bytes(descriptors())
    path = folder / "pipeline.toml"
    path.write_text(PIPELINE.format(format=text))
    return str(path)


@pytest.mark.parametrize("text", [AS_AVRO, AS_PROTOBUF])
def test_a_schema_proposes_its_features(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    assert main(["--config", written(tmp_path, text), "--from-schema"]) == 0
    said = capsys.readouterr().out
    assert tomli.loads(said)["features"] == {
        "hour": {"type": "int64", "scope": "context"},
        "price": {"type": "float64"},
        "score": {"type": "float64", "required": False},
        "tags": {"type": "list<string>"},
    }
    assert "# may be absent; float64\n[features.score]" in said
    assert "# always there; int64\n[features.hour]" in said
    assert "missing" not in said


def test_what_has_no_schema_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", written(tmp_path, ""), "--from-schema"]) == 2
    assert "leave --from-schema out to look at records" in capsys.readouterr().err


def types_of(records: list[dict[str, Any]], name: str) -> set[str]:
    return {type(record.get(name)).__name__ for record in records}


def test_every_branch_of_a_union_is_seen() -> None:
    fields = [
        {"name": "a", "type": ["null", "long", "string"]},
        {"name": "b", "type": ["double", "boolean"]},
        {"name": "c", "type": {"type": "map", "values": "int"}},
        {"name": "d", "type": {"type": "enum", "name": "E", "symbols": ["q"]}},
        {"name": "again", "type": ["null", "E"]},
        {"name": "when", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ]
    schema = {"type": "record", "name": "R", "fields": fields}
    made = examples(Avro(json.dumps(schema)))
    assert types_of(made, "a") == {"NoneType", "int", "str"}
    assert types_of(made, "b") == {"float", "bool"}
    assert types_of(made, "c") == {"dict"}
    assert types_of(made, "d") == {"str"}
    assert types_of(made, "again") == {"NoneType", "str"}
    assert types_of(made, "when") == {"int"}


class Newest:
    """A registry whose only subject is `f-value`."""

    def __init__(self, schema: Registered) -> None:
        self._schema = schema

    def newest(self, subject: str) -> Registered:
        assert subject == "f-value"
        return self._schema


def of_registry(declared: Avro | Protobuf, schema: Registered) -> list[dict[str, Any]]:
    return examples(declared, lambda _: Newest(schema))  # type: ignore[arg-type,return-value]


def test_of_a_registry_the_newest_schema_is_looked_at() -> None:
    registry = Registry("http://127.0.0.1:1", ("f-value",))
    of_avro = of_registry(Avro(registry=registry), Registered("AVRO", REQUEST_AVSC, {}))
    assert types_of(of_avro, "items") == {"list"}
    text = Registered("PROTOBUF", PROTO, {})
    assert of_registry(Protobuf(registry=registry), text) == examples(
        Protobuf(descriptors(), "shop.Request")
    )
    actions = of_registry(Protobuf(message="shop.Action", registry=registry), text)
    assert types_of(actions, "value") == {"float", "NoneType"}


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        (Avro(registry=Registry("http://r")), "set registry.subject"),
        (Avro('"string"'), "no record"),
        (Json(Registry("http://r", ("s",))), "give a sample of records"),
    ],
)
def test_a_schema_that_cannot_be_looked_at(declared: Any, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        examples(declared)


def test_messages_within_themselves_end() -> None:
    text = 'syntax = "proto3"; message N { N next = 1; optional int32 v = 2; repeated N all = 3; }'
    registry = Registry("http://r", ("f-value",))
    made = of_registry(Protobuf(registry=registry), Registered("PROTOBUF", text, {}))
    assert made == [{"v": 1}, {}]
