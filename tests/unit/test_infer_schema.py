"""`sample-stitch infer-schema`: the features that a sample of records has, as TOML to be edited."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.pipeline.config import load
from jobs.pipeline.decoding import decode_settings
from schemas.events import Origin, RequestEvent
from tests.effort import examples
from tools.infer_schema.command import main
from udfs.core.decode_batches import request_decoder

MAPPING = """
[events.features]
request_id = "req"
user_id = "user"
event_time = {path = "ts", unit = "s"}
items = "slate"
item_id = ".id"
skip = {path = "type", is = "page"}
"""
REST = """
[actions.click]
window = "1h"
[sources.features]
type = "files"
path = "features.jsonl"
[sources.actions]
type = "files"
path = "actions.jsonl"
[output]
path = "out"
"""
TS = 1_700_000_000


def sample(folder: Path, records: list[Any], text: str = MAPPING) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / "features.jsonl").write_text("".join(f"{line}\n" for line in lines))
    path = folder / "pipeline.toml"
    path.write_text(text + REST)
    return path


def record(slate: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"req": "r", "user": "u", "ts": TS, "slate": slate} | more


def test_what_is_proposed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [
        record(
            [
                {"id": 1, "price": 1, "a": {"tags": []}},
                {"id": 2, "price": 2.5, "a": {"tags": ["x"]}},
            ],
            hour=3,
            scores=[0.5, None],
            mixed=1,
        ),
        record(
            [{"id": 1, "price": 3, "a": {"tags": ["y"]}, "item_id": 1}], scores=[1.5], mixed="x"
        ),
        {"type": "page"},
        "junk",
    ]
    assert main(["--config", str(sample(tmp_path, records))]) == 0
    said = capsys.readouterr()
    assert "1 records are skipped" in said.err
    assert "1 records are bad (broken_json)" in said.err
    assert tomli.loads(said.out) == {
        "features": {
            "price": {"type": "float64"},
            "tags": {"type": "list<string>"},
            "hour": {"type": "int64", "scope": "context", "required": False},
            "scores": {"type": "float64", "required": False},
        },
        "events": {"features": {"fields": {"tags": ".a.tags", "scores": "scores[]"}}},
    }
    assert "# 0 of 3 missing (0.0%); int64 2, float64 1\n[features.price]" in said.out
    assert "# 1 of 3 missing (33.3%); float64 2\n[features.scores]" in said.out
    assert (
        "# mixed: not one type that a feature can have; 0 of 2 missing (0.0%); int64 1" in said.out
    )
    assert "# .item_id: the samples have a column 'item_id' already" in said.out


def test_what_actions_are_read_from_is_no_feature(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    actions = """
[events.actions]
request_id = "req"
user_id = "user"
event_time = {path = "ts", unit = "s"}
items = "slate"
item_id = ".id"
says = [{kind = "click", when = ".clicked"}]
"""
    path = sample(tmp_path, [record([{"id": 1, "clicked": 1, "price": 2}])], MAPPING + actions)
    same = ["--set", "sources.actions.path=features.jsonl"]
    assert main(["--config", str(path), *same]) == 0
    said = capsys.readouterr().out
    assert list(tomli.loads(said)["features"]) == ["price"]
    assert "# .clicked: [events.actions] reads it, so it may not be known" in said
    assert main(["--config", str(path)]) == 0
    assert list(tomli.loads(capsys.readouterr().out)["features"]) == ["clicked", "price"]


def test_records_that_are_events_already(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event = {
        "request_id": "r",
        "user_id": "u",
        "event_time": TS * 1000,
        "context": {"hour": 3},
        "items": [{"item_id": "i", "features": {"price": 2.5}}],
    }
    assert main(["--config", str(sample(tmp_path, [event], ""))]) == 0
    assert tomli.loads(capsys.readouterr().out) == {
        "features": {
            "price": {"type": "float64"},
            "hour": {"type": "int64", "scope": "context"},
        }
    }


def test_without_a_record_nothing_is_proposed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(sample(tmp_path, ["junk"]))]) == 1
    assert "no record could be used" in capsys.readouterr().err
    assert main(["--config", str(tmp_path / "nowhere.toml")]) == 2


names = st.sampled_from(["a", "b.c", "price", "event_time", "x y", 'q"', "d[0]", "__p"])
leaves: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=2)
    | st.lists(st.integers(0, 3) | st.none() | st.text(max_size=1), max_size=3)
)
objects = st.dictionaries(names, leaves | st.dictionaries(names, leaves, max_size=2), max_size=4)


@settings(max_examples=examples(100), deadline=None)
@given(
    st.lists(st.tuples(objects, st.lists(objects, min_size=1, max_size=3)), min_size=1, max_size=3)
)
def test_every_record_of_the_sample_fits_what_is_proposed(drawn: Any) -> None:
    records = [
        record([{**item, "id": "i"} for item in items], **context) for context, items in drawn
    ]
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = sample(folder, records)
        output = folder / "proposed.toml"
        with output.open("w") as file, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", file)
            assert main(["--config", str(path)]) == 0
        path.write_text(MAPPING + output.read_text() + REST)
        decoder = request_decoder(decode_settings(load(path), ()))
        for one in records:
            event = decoder.decode(json.dumps(one).encode(), Origin("x", None, 0))
            assert isinstance(event, RequestEvent)
