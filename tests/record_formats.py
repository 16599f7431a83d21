"""Events of one small schema as Avro and as Protocol Buffers, by those formats' own tools."""

from __future__ import annotations

import io
import json
from functools import cache
from typing import Any

import fastavro
from google.protobuf import json_format, message_factory

from schemas.features import Feature, FeatureSchema, FeatureType
from schemas.formats import compiled, protobuf


def _feature(name: str, type_: str, **more: Any) -> Feature:
    return Feature(name, FeatureType.parse(type_), **more)


SCHEMA = FeatureSchema.of(
    [
        _feature("hour", "int64", scope="context"),
        _feature("price", "float64"),
        _feature("score", "float32", required=False),
        _feature("tags", "list<string>", required=False),
    ]
)

REQUEST_AVSC = json.dumps(
    {
        "type": "record",
        "name": "Request",
        "namespace": "shop",
        "fields": [
            {"name": "request_id", "type": "string"},
            {"name": "user_id", "type": "string"},
            {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {
                "name": "context",
                "type": {
                    "type": "record",
                    "name": "Context",
                    "fields": [{"name": "hour", "type": "int"}],
                },
            },
            {
                "name": "items",
                "type": {
                    "type": "array",
                    "items": {
                        "type": "record",
                        "name": "Item",
                        "fields": [
                            {"name": "item_id", "type": "string"},
                            {
                                "name": "features",
                                "type": {
                                    "type": "record",
                                    "name": "Features",
                                    "fields": [
                                        {"name": "price", "type": "double"},
                                        {"name": "score", "type": ["null", "float"]},
                                        {
                                            "name": "tags",
                                            "type": {"type": "array", "items": "string"},
                                        },
                                    ],
                                },
                            },
                        ],
                    },
                },
            },
        ],
    }
)
ACTION_AVSC = json.dumps(
    {
        "type": "record",
        "name": "Action",
        "namespace": "shop",
        "fields": [
            {"name": "event_id", "type": ["null", "string"], "default": None},
            {"name": "user_id", "type": "string"},
            {"name": "item_id", "type": "string"},
            {"name": "request_id", "type": ["null", "string"], "default": None},
            {
                "name": "action",
                "type": {"type": "enum", "name": "Kind", "symbols": ["click", "purchase"]},
            },
            {"name": "value", "type": ["null", "double"], "default": None},
            {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        ],
    }
)
PROTO = """
syntax = "proto3";
package shop;

message Request {
  string request_id = 1;
  string user_id = 2;
  int64 event_time = 3;
  message Context { int32 hour = 1; }
  Context context = 4;
  message Item {
    string item_id = 1;
    message Features {
      double price = 1;
      optional float score = 2;
      repeated string tags = 3;
    }
    Features features = 2;
  }
  repeated Item items = 5;
}

message Action {
  optional string event_id = 1;
  string user_id = 2;
  string item_id = 3;
  string request_id = 4;
  enum Kind { click = 0; purchase = 1; }
  Kind action = 5;
  optional double value = 6;
  int64 event_time = 7;
}
"""
#: The names of the messages in `PROTO`, by stream.
MESSAGES = {"features": "shop.Request", "actions": "shop.Action"}
AVSC = {"features": REQUEST_AVSC, "actions": ACTION_AVSC}


@cache
def descriptors() -> bytes:
    """A descriptor set of `PROTO`."""
    return compiled.descriptor_set(PROTO, {})


def as_avro(record: dict[str, Any], schema: str) -> bytes:
    """One datum of a schema (JSON text)."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(schema)), record)
    return out.getvalue()


def as_protobuf(record: dict[str, Any], message: str) -> bytes:
    """One message of `PROTO`. What is None in the record is not set."""
    pool = protobuf.pool_of(descriptors())
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName(message))()
    json_format.ParseDict(record, made)
    raw: bytes = made.SerializeToString(deterministic=True)
    return raw
