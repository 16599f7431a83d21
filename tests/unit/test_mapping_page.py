"""docs/mapping.md: its examples are decoded as the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec

from jobs.pipeline.config import load
from jobs.pipeline.sources import decode_settings
from schemas.events import ActionEvent, Origin, RequestBody, RequestEvent
from udfs.core.decode_batches import action_decoder, request_decoder

PAGE = (Path(__file__).parents[2] / "docs" / "mapping.md").read_text()
HERE = Origin("page", None, 0)
REST = """
[sources.features]
type = "files"
path = "f"
[sources.actions]
type = "files"
path = "a"
[output]
path = "out"
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_the_first_example_is_what_the_page_says(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.toml"
    path.write_text(blocks("toml")[0] + REST)
    settings = decode_settings(load(path), ())
    request, action = (json.dumps(json.loads(text)).encode() for text in blocks("json"))
    event = request_decoder(settings).decode(request, HERE)
    assert isinstance(event, RequestEvent)
    body = msgspec.msgpack.decode(event.body, type=RequestBody)
    assert (event.request_id, event.event_time) == ("77", 1_700_000_000_000)
    assert (body.user_id, body.items) == ("u-7", ["3", "8"])
    assert (body.context, body.columns) == ([22], [[9.5, 12.0]])
    actions = action_decoder(settings).decode(action, HERE)
    assert isinstance(actions, list)
    said = [(a.event_id, a.action, a.value) for a in actions if isinstance(a, ActionEvent)]
    assert said == [
        ("e-1/click", "click", None),
        ("e-1/like", "like", None),
        ("e-1/dwell", "dwell", 1.5),
    ]
    assert {(a.item_id, a.event_time) for a in actions if isinstance(a, ActionEvent)} == {
        ("8", 1_700_000_100_000)
    }


def test_the_several_sources_of_the_page(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.toml"
    schema = {"type": "record", "name": "R", "fields": [{"name": "id", "type": "string"}]}
    (tmp_path / "ranked.avsc").write_text(json.dumps(schema))
    kinds = '[actions.purchase]\nwindow = "1d"\nlabel = "sum"\n'
    path.write_text(blocks("toml")[1] + kinds + '[output]\npath = "out"\n')
    settings = decode_settings(load(path), ())
    assert settings.sources == (
        *("features.app", "features.web", "actions.clicks", "actions.orders"),
    )
    order = {"basket": 7, "customer": "u", "sku": "i", "at": 1_700_000_000_000, "cents": 250}
    said = action_decoder(settings.of("actions.orders")).decode(json.dumps(order).encode(), HERE)
    (action,) = said if isinstance(said, list) else [said]
    assert isinstance(action, ActionEvent)
    assert (action.action, action.request_id, action.value) == ("purchase", "7", 2.5)


def test_the_impressions_of_the_page(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.toml"
    path.write_text(
        blocks("toml")[2] + '[join]\nkey = "user_id"\n[actions.click]\nwindow = "1h"\n' + REST
    )
    decoder = request_decoder(decode_settings(load(path), ()))
    record = {"ranking_id": "q", "user": "u", "ts": 1_700_000_000_000, "ad": 5}
    event = decoder.decode(json.dumps(record).encode(), HERE)
    assert isinstance(event, RequestEvent)
    assert event.request_id == "q/5"
