"""`sample-stitch try-mapping`: what records become, and why not, in tables that line up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.pipeline.config import KafkaSource, NamedSource
from schemas.events import Origin
from tests.unit.mapped import BASE, KAFKA_SOURCES, pipeline_text
from tools.audit.source import Record
from tools.try_mapping.command import main

EVENTS = """
[events.features]
request_id = "ctx.req"
user_id = "ctx.user"
event_time = {path = "ts", unit = "s"}
items = "slate"
item_id = ".id"
context = "ctx"
skip = {path = "type", is_not = "ranked"}
[events.actions]
request_id = "req"
user_id = "user"
item_id = "item"
event_time = {path = "ts", unit = "s"}
event_id = "id"
action = "type"
[[events.actions.says]]
kind = "dwell"
when = {path = "ms", above = 0}
value = {path = "ms", divide = 1000}
"""
TS = 1_700_000_000
REQUEST = {
    "type": "ranked",
    "ts": TS,
    "ctx": {"req": 77, "user": "u\n1", "hour": 3, "ip": "::1"},
    "slate": [{"id": n, "price": 1.5, "more": 0} for n in range(5)],
}
ACTION = {"req": 77, "user": "u", "item": "i", "ts": TS, "id": "e", "type": "click", "ms": 1500}


def config(folder: Path, events: str = EVENTS, base: str = BASE) -> Path:
    path = folder / "pipeline.toml"
    path.write_text(pipeline_text(events, base=base))
    return path


def write(folder: Path, name: str, records: list[object]) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_both_streams_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {**REQUEST, "ctx": {"req": 77, "user": "u1", "hour": 3, "ip": "::1"}}
    write(
        tmp_path,
        "features/a.jsonl",
        [good, REQUEST, {"type": "page", "ts": TS}, "junk", good | {"slate": [{"id": "a"}]}],
    )
    write(tmp_path, "actions/a.jsonl", [ACTION, ACTION | {"type": "clik"}])
    assert main(["--config", str(config(tmp_path))]) == 0
    out = capsys.readouterr().out.splitlines()
    table = out[2:8]
    starts = {
        line.index(word)
        for line, word in zip(table[1:], ("request", "rej", "skip", "rej", "rej"), strict=True)
    }
    assert starts == {table[0].index("becomes")}
    assert "77       u1    2023-11-14 22:13:20  0, 1, 2, and 2  hour=3 price=1.5" in table[1]
    text = "\n".join(out)
    assert "bad_id: ctx.user: the id 'u\\n1' has control characters" in text
    assert "broken_json: Expecting value" in text
    assert "missing_field: slate[0].price: missing, or null" in text
    assert "3 rejected, 1 request, 1 skipped" in text
    assert "not asked for: ctx.ip, slate[].more" in text
    assert "i     click      e/click" in text
    assert "i     dwell 1.5  e/dwell" in text
    assert "unknown_action: type: action 'clik' is not configured" in text
    assert "2 actions, 1 rejected" in text


def test_a_sample_and_a_number_of_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = write(tmp_path, "sample.jsonl", [ACTION | {"id": f"e{n}"} for n in range(12)])
    usual = ["--config", str(config(tmp_path)), "--sample", str(sample)]
    assert main([*usual, "--stream", "actions"]) == 0
    assert "20 actions" in capsys.readouterr().out
    assert main([*usual, "--stream", "actions", "--records", "2"]) == 0
    assert "4 actions" in capsys.readouterr().out
    # as requests they are all skipped; as requests that are not skipped, all bad
    assert main([*usual, "--stream", "features", "--set", "events.features.skip=no"]) == 1
    assert "10 rejected" in capsys.readouterr().out
    write(tmp_path, "sample.jsonl", [])
    assert main([*usual, "--stream", "actions"]) == 0
    assert "no records were found" in capsys.readouterr().out


def test_without_a_mapping_records_are_shown_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"user_id": "u", "item_id": "i", "action": "click", "event_time": TS * 1000}
    sample = write(tmp_path, "sample.jsonl", [record | {"request_id": "r"}, record])
    usual = ["--config", str(config(tmp_path, "")), "--sample", str(sample)]
    assert main([*usual, "--stream", "actions"]) == 0
    out = capsys.readouterr().out
    assert "1 action, 1 rejected" in out
    assert "not asked for" not in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sample", "a.jsonl"], "--sample needs --stream features or --stream actions"),
        (["--sample", "a.jsonl", "--topic", "x"], "choose one of --sample and --topic"),
        (["--topic", "x"], "--topic x: not the topic of one configured stream; add --stream"),
        (["--topic", "x", "--stream", "actions"], "--topic: sources.actions is no Kafka source"),
        (["--sample", "/nowhere.jsonl", "--stream", "actions"], "there is no such file"),
        (["--set", "events.features.items=a..b"], "events.features.items: 'a..b' lacks a name"),
        ([], "sources.features.path: no event files in"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert main(["--config", str(config(tmp_path)), *options]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1


def test_the_topic_of_one_stream_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = BASE[: BASE.index("[sources.features]")] + KAFKA_SOURCES + '[output]\npath = "out"\n'
    asked = []

    def records(named: NamedSource, *_: object) -> Iterator[Record]:
        source = named.source
        assert isinstance(source, KafkaSource)
        asked.append((named.key, source.topics, source.start, source.end))
        yield Record(json.dumps(ACTION).encode(), Origin("x", 2, 17), TS * 1000)

    monkeypatch.setattr("tools.try_mapping.reading.records", records)
    path = config(tmp_path, base=base.replace('topic = "a"', 'topic = "a"\nstart = "latest"'))
    assert main(["--config", str(path), "--topic", "a"]) == 0
    assert main(["--config", str(path), "--topic", "other", "--stream", "actions"]) == 0
    assert asked == [
        ("actions", ["a"], "earliest", "latest"),
        ("actions", ["other"], "earliest", "latest"),
    ]
    assert "x[2] offset 17" in capsys.readouterr().out
