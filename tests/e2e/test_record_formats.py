"""Records of Confluent's own serialisers, with a real registry: the rows that JSON gives, bad
records with their reason, and a registry that is away for a while.
"""

from __future__ import annotations

import json
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import requests
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import json_format, message_factory
from kafka import KafkaProducer

from jobs.pipeline.config import load
from schemas.formats import protobuf
from schemas.formats.framing import HEADER
from services import programs
from services.jars import JarError
from services.schema_registry import SchemaRegistry
from tests.e2e.secured import SecuredBroker
from tests.flink import running
from tests.record_formats import ACTION_AVSC, MESSAGES, REQUEST_AVSC, descriptors
from tools.audit.command import audit

START = 1_700_000_000_000
REQUESTS = 200

CONFIG = """
[actions.click]
window = "10s"
[actions.purchase]
window = "10s"
label = "sum"
[features.hour]
scope = "context"
type = "int64"
[features.price]
type = "float64"
[features.score]
type = "float32"
required = false
[features.tags]
type = "list<string>"
required = false
[output]
path = "{output}"
[runtime]
max_rejected = 1.0
"""
ARCHIVE = """
[sources.{stream}]
type = "archive"
path = "{folder}"
"""
FILES = """
[sources.{stream}]
type = "files"
path = "{folder}/{stream}.jsonl"
"""
KAFKA = """
[sources.{stream}]
type = "kafka"
topic = "fmt-{stream}"
bootstrap_servers = "{servers}"
end = "latest"
"""
FORMAT = """
[sources.{stream}.format]
type = "{format}"
[sources.{stream}.format.registry]
url = "{url}"
subject = "fmt-{stream}-value"
properties = {{ "max.retries" = "1", "retries.wait.ms" = "10" }}
"""
RESTARTS = """
[flink]
"restart-strategy.type" = "fixed-delay"
"restart-strategy.fixed-delay.attempts" = "20"
"restart-strategy.fixed-delay.delay" = "100 ms"
"""


def requests_and_actions() -> Iterator[tuple[str, dict[str, Any]]]:
    for i in range(REQUESTS):
        time = START + i * 1000
        items = [
            {
                "item_id": f"i{k}",
                "features": {
                    "price": i + k / 7,
                    "score": None if k == 1 else k / 4,
                    "tags": [f"t{k}"] * k,
                },
            }
            for k in range(3)
        ]
        event = {"request_id": f"r{i}", "user_id": f"u{i % 7}", "event_time": time}
        yield "features", {**event, "context": {"hour": i % 24}, "items": items}
        for kind, when in (("click", 700), ("purchase", 2_500)):
            if i % 3 == 0:
                action = {"item_id": f"i{i % 2}", "action": kind, "value": i / 3}
                yield (
                    "actions",
                    {
                        **event,
                        **action,
                        "event_id": f"{kind}{i}",
                        "event_time": time + when,
                    },
                )


class Between:
    """Stands between the job and the registry. It refuses the first `refusals` questions after a
    schema, and counts all of them. It knows schemas by GUIDs too, which Apicurio does not.
    """

    def __init__(self, registry: str, refusals: int) -> None:
        self.refusals = refusals
        self.asked: Counter[str] = Counter()
        between = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply(*between._answer(registry, self.path))

            def do_POST(self) -> None:
                asked = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {"Content-Type": self.headers["Content-Type"]}
                answer = requests.post(
                    registry + self.path, data=asked, headers=headers, timeout=60
                )
                self._reply(answer.status_code, answer.content)

            def _reply(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, registry: str, path: str) -> tuple[int, bytes]:
        by_guid = path.startswith("/schemas/guids/")
        if by_guid or (path.startswith("/schemas/ids/") and not path.endswith("/versions")):
            with self._lock:
                self.asked[path] += 1
                refused = sum(self.asked.values()) <= self.refusals
            if refused:
                return 503, b"{}"
        if by_guid:
            guids = {str(guid_of(schema_id)): schema_id for schema_id in range(1, 100)}
            found = guids.get(path.partition("?")[0].rpartition("/")[2])
            if found is None:
                return 404, b'{"error_code": 40403, "message": "not found"}'
            path = f"/schemas/ids/{found}"
        answer = requests.get(registry + path, timeout=60)
        return answer.status_code, answer.content

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def guid_of(schema_id: int) -> UUID:
    return UUID(int=schema_id << 64 | 7)


def framed(raw: bytes, id_bytes: int, form: int) -> tuple[bytes, list[tuple[str, bytes]]]:
    """A record as a serialiser made it, with the id before it; or with that in a header, as it is
    or as a GUID. The value, and the headers.
    """
    head, value = raw[:id_bytes], raw[id_bytes:]
    if form == 0:
        return raw, []
    if form == 2:
        head = b"\x01" + guid_of(int.from_bytes(head[1:5], "big")).bytes + head[5:]
    return value, [("trace", b"\xff"), (HEADER, head)]


def produce(broker: SecuredBroker, client: SchemaRegistryClient) -> Counter[tuple[str, str]]:
    """Both topics, with the bad records among the good ones; how many of those, by reason. What
    names the schema stands before a third of the records, and in a header of the others.
    """
    stray = client.register_schema("stray-value", Schema(ACTION_AVSC, "AVRO"))
    as_avro = AvroSerializer(client, REQUEST_AVSC)
    pool = protobuf.pool_of(descriptors())
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName(MESSAGES["actions"]))
    as_protobuf = ProtobufSerializer(message, client, {"use.deprecated.format": False})
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    written: dict[str, bytes] = {}
    for i, (stream, event) in enumerate(requests_and_actions()):
        context = SerializationContext(f"fmt-{stream}", MessageField.VALUE)
        if stream == "features":
            raw = as_avro(event, context)
        else:
            raw = as_protobuf(json_format.ParseDict(event, message()), context)
        written.setdefault(stream, raw)
        # an Action is the second message of its file: a count and an index stand after the id
        value, headers = framed(raw, 5 if stream == "features" else 7, i % 3)
        topic, time = f"fmt-{stream}", event["event_time"]
        producer.send(topic, value, headers=headers, timestamp_ms=time)
    features = written["features"]
    header = written["actions"][:7]
    bad = {
        ("features", "unknown_schema"): b"\0" + struct.pack(">I", 999_999) + features[5:],
        ("features", "wrong_schema"): b"\0" + struct.pack(">I", stray) + features[5:],
        ("features", "broken_record"): features[:-1],
        ("features", "no_schema_id"): b'{"request_id": "json"}',
        ("actions", "wrong_schema"): features,
        ("actions", "broken_record"): header + b"\xff\xff",
        ("actions", "empty_record"): b"",
        ("actions", "out_of_range"): header,
    }
    reasons = Counter(bad.keys())
    for (stream, _), raw in bad.items():
        producer.send(f"fmt-{stream}", raw or None, key=b"k", timestamp_ms=START)
    for reason, header in (
        ("no_schema_id", b"\x01short"),
        ("unknown_schema", b"\x01" + guid_of(999).bytes),
        ("wrong_schema", b"\x01" + guid_of(stray).bytes),
    ):
        headers = [(HEADER, header)]
        producer.send("fmt-features", features[5:], headers=headers, timestamp_ms=START)
        reasons["features", reason] += 1
    producer.flush()
    producer.close()
    return reasons


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_confluents_records_give_the_rows_of_json(
    kafka_broker: SecuredBroker, tmp_path: Path
) -> None:
    try:
        programs.folder_of("schema-registry")
    except JarError as error:
        pytest.skip(f"the registry, 155 MB, could not be fetched: {error}")
    for stream in ("features", "actions"):
        kafka_broker.create_topic(f"fmt-{stream}")
        lines = [json.dumps(e) + "\n" for s, e in requests_and_actions() if s == stream]
        (tmp_path / f"{stream}.jsonl").write_text("".join(lines))
    as_json = tmp_path / "json.toml"
    as_json.write_text(
        CONFIG.format(output=tmp_path / "json")
        + "".join(FILES.format(stream=s, folder=tmp_path) for s in ("features", "actions"))
    )
    running.join(as_json, tmp_path / "json")
    expected = by_id(running.rows(tmp_path / "json", "samples"))
    assert len(expected) == 3 * REQUESTS

    with SchemaRegistry(tmp_path / "registry") as registry:
        bad = produce(kafka_broker, SchemaRegistryClient({"url": registry.url}))
        between = Between(registry.url, refusals=6)
        config = tmp_path / "pipeline.toml"
        output = tmp_path / "out"
        servers, url = kafka_broker.bootstrap_servers, between.url
        kept = tmp_path / "archive"
        formats = {"features": "avro", "actions": "protobuf"}
        text = f'{CONFIG.format(output=output)}[archive]\npath = "{kept}"\n{RESTARTS}'
        for stream, name in formats.items():
            text += KAFKA.format(stream=stream, servers=servers)
            text += FORMAT.format(stream=stream, url=url, format=name)
        config.write_text(text)
        replay = tmp_path / "replay.toml"
        text = CONFIG.format(output=tmp_path / "again")
        for stream, name in formats.items():
            text += ARCHIVE.format(stream=stream, folder=kept)
            text += FORMAT.format(stream=stream, url=url, format=name)
        replay.write_text(text)
        with between.running():
            running.join(config, output)
            asked = sum(between.asked.values())
            report = audit(load(config))
            done = running.run_module("jobs.archive_events", "--config", str(config))
            assert done.returncode == 0, done.stdout + done.stderr
            running.join(replay, tmp_path / "again")
            replayed = audit(load(replay))
    assert by_id(running.rows(output, "samples")) == expected
    # each refusal failed the job until the registry answered: nothing was rejected for it
    assert asked > between.refusals
    rejected = running.rows(output, "rejected")
    assert Counter((row["stream"], row["reason"]) for row in rejected) == bad
    messages = {f"{row['reason']}: {row['message']}" for row in rejected}
    for says in (
        *("knows no schema 999999", f"knows no schema {guid_of(999)}"),
        *("registered under stray-value, not under fmt-features-value", "broken_record: schema "),
        "is not registered under fmt-features-value",
        f"no_schema_id: the header {HEADER} begins with 01 73",
    ):
        assert any(says in message for message in messages), (says, messages)
    assert report.closes, report.findings
    # the archive has what the decoders say, and joined again it gives the same rows
    reasons = Counter(
        (stream, row["reason"])
        for stream in formats
        for row in running.rows(kept, stream, ["reason"])
        if row["reason"] is not None
    )
    assert reasons == bad
    assert by_id(running.rows(tmp_path / "again", "samples")) == expected
    assert records(running.rows(tmp_path / "again", "rejected")) == records(rejected)
    assert replayed.closes, replayed.findings


def records(rows: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    names = ("stream", "reason", "message", "origin", "partition", "offset", "raw")
    return {tuple(row[name] for name in names) for row in rows}


def by_id(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["sample_id"]: row for row in rows}
