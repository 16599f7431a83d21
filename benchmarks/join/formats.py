"""What decoding a request costs by the format of its record.

    python -m benchmarks.join.formats [--requests 2000] [--repeat 5]

Requests of 20 items with 8 features, as the other benchmarks read them, in JSON, Avro and Protocol
Buffers. The formats take turns in one process. Prints CPU microseconds a request: the median of the
turns, their least and most, and the ratio to JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import fastavro
from google.protobuf import json_format, message_factory
from rich.console import Console
from rich.table import Table

from benchmarks.join.data import feature_names, input_folder
from benchmarks.join.spec import Spec
from schemas.decoding import Decoder, RequestDecoder
from schemas.events import Origin, RequestEvent
from schemas.features import Feature, FeatureSchema, FeatureType
from schemas.formats import compiled, protobuf
from schemas.formats.declared import Avro, Protobuf
from schemas.formats.transcode import Transcoding, transcoder

FEATURES, ITEMS = 8, 20
_HERE = Origin("topic", 0, 0)
_ANY = 1 << 62

Case = tuple[Decoder[RequestEvent], list[bytes]]


def cases(records: list[dict[str, Any]]) -> dict[str, Case]:
    """A decoder and the encoded records, by format."""
    written = avsc()
    doubles, words = feature_names(FEATURES)
    descriptors = compiled.descriptor_set(_proto(doubles, words), {})
    return {
        "JSON": (json_decoder(), [json.dumps(record).encode() for record in records]),
        "Avro": (
            Transcoding(transcoder(Avro(json.dumps(written))), json_decoder(), _ANY),
            _as_avro(records, written),
        ),
        "Protocol Buffers": (
            Transcoding(transcoder(Protobuf(descriptors, "Request")), json_decoder(), _ANY),
            _as_protobuf(records, descriptors),
        ),
    }


def json_decoder() -> RequestDecoder:
    """Of the JSON of these requests."""
    doubles, words = feature_names(FEATURES)
    declared = [Feature(name, FeatureType.parse("float64")) for name in doubles]
    declared += [Feature(name, FeatureType.parse("string")) for name in words]
    return RequestDecoder(FeatureSchema.of(declared), max_record_bytes=_ANY)


def avsc() -> dict[str, Any]:
    """Their schema in Avro."""
    doubles, words = feature_names(FEATURES)
    fields = [{"name": name, "type": "double"} for name in doubles]
    fields += [{"name": name, "type": "string"} for name in words]
    features = {"type": "record", "name": "Features", "fields": fields}
    item = [{"name": "item_id", "type": "string"}, {"name": "features", "type": features}]
    items = {"type": "array", "items": {"type": "record", "name": "Item", "fields": item}}
    return {
        "type": "record",
        "name": "Request",
        "fields": [
            {"name": "request_id", "type": "string"},
            {"name": "user_id", "type": "string"},
            {"name": "event_time", "type": "long"},
            {"name": "items", "type": items},
        ],
    }


def _proto(doubles: list[str], words: list[str]) -> str:
    fields = [f"double {name}" for name in doubles] + [f"string {name}" for name in words]
    features = " ".join(f"{field} = {i};" for i, field in enumerate(fields, 1))
    return f"""
        syntax = "proto3";
        message Request {{
          string request_id = 1;
          string user_id = 2;
          int64 event_time = 3;
          message Features {{ {features} }}
          message Item {{ string item_id = 1; Features features = 2; }}
          repeated Item items = 4;
        }}
    """


def _as_avro(records: list[dict[str, Any]], schema: dict[str, Any]) -> list[bytes]:
    parsed, found = fastavro.parse_schema(schema), []
    for record in records:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, record)
        found.append(out.getvalue())
    return found


def _as_protobuf(records: list[dict[str, Any]], descriptors: bytes) -> list[bytes]:
    kind = protobuf.message_named(protobuf.pool_of(descriptors), "Request")
    message = message_factory.GetMessageClass(kind)
    return [
        json_format.ParseDict(record, message(), ignore_unknown_fields=True).SerializeToString()
        for record in records
    ]


def microseconds(case: Case, clock: Callable[[], int] = time.process_time_ns) -> float:
    """CPU time of one pass over the records, a record."""
    decoder, records = case
    decode = decoder.decode
    began = clock()
    for raw in records:
        decode(raw, _HERE)
    return (clock() - began) / len(records) / 1_000


def options_of(name: str, requests: int) -> argparse.Namespace:
    """The command line: `requests`, by default so many, and `repeat`, how many turns."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.join.{name}")
    parser.add_argument("--requests", type=int, default=requests)
    parser.add_argument("--repeat", type=int, default=5)
    return parser.parse_args()


def request_lines(cache: Path, requests: int) -> bytes:
    """So many requests as lines of JSON, which are made in the folder."""
    spec = Spec("whole", "ours", "hashmap", requests, FEATURES, 10, 60_000, items=ITEMS)
    return (input_folder(cache, spec) / "features" / "part.jsonl").read_bytes()


def main() -> None:
    """Run the command line."""
    options = options_of("formats", 2_000)
    with tempfile.TemporaryDirectory() as cache:
        lines = request_lines(Path(cache), options.requests)
    found = cases([json.loads(line) for line in lines.splitlines()])
    turns: dict[str, list[float]] = {name: [] for name in found}
    for case in found.values():
        microseconds(case)  # what is compiled or cached on first use is not what it costs
    for _ in range(options.repeat):
        for name, case in found.items():
            turns[name].append(microseconds(case))
    table = Table("format", title=f"CPU microseconds a request of {ITEMS} items")
    for heading in ("bytes", "median", "least", "most", "an impression", "of JSON's"):
        table.add_column(heading, justify="right")
    for name, spent in turns.items():
        size = sum(map(len, found[name][1])) // options.requests
        middle = median(spent)
        table.add_row(
            name,
            f"{size:,}",
            *(f"{value:.1f}" for value in (middle, min(spent), max(spent))),
            f"{middle / ITEMS:.2f}",
            f"{middle / median(turns['JSON']):.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
