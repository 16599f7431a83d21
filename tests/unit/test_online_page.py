"""The example of docs/online.md, with brokers that are not there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from kafka.future import Future

from configuration.reading import ConfigError
from online import ActionLog, FeatureLog, event_log

ROOT = Path(__file__).resolve().parents[2]
_DECLARED = """
[actions.click]
window = "10min"
[features.hour]
scope = "context"
type = "int64"
[features.price]
type = "float64"
[output]
path = "out"
"""
_OF_FILES = f"""{_DECLARED}
[sources]
features = {{ type = "files", path = "features" }}
actions = {{ type = "files", path = "actions" }}
"""
_PIPELINE = f"""{_DECLARED}
[sources.features]
type = "kafka"
topic = "shown"
bootstrap_servers = "127.0.0.1:1"
[sources.actions]
type = "kafka"
topic = ["web", "app"]
bootstrap_servers = "127.0.0.1:1"
"""


class _Brokers:
    """They have every record at once."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []

    def send(self, topic: str, value: bytes, key: bytes, *, timestamp_ms: int) -> Future:
        self.sent.append((topic, key))
        future = Future()
        future.success(None)
        return future

    def close(self, timeout: float | None = None) -> None:
        pass


@pytest.fixture
def brokers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Brokers:
    brokers = _Brokers()
    monkeypatch.setattr(event_log, "_connecting", lambda *_: lambda: brokers)
    monkeypatch.chdir(tmp_path)
    return brokers


def _write(text: str) -> str:
    Path("pipeline.toml").write_text(text, encoding="utf-8")
    return "pipeline.toml"


def test_the_example_logs_a_request_and_a_click(brokers: _Brokers) -> None:
    _write(_PIPELINE.replace('["web", "app"]', '"acts"'))
    page = (ROOT / "docs" / "online.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    for log in (names["features"], names["actions"]):
        assert log.close(30.0)
        assert (log.counts.accepted, log.counts.delivered) == (1, 1)
    assert sorted(brokers.sent) == [("acts", b"r-1001"), ("shown", b"r-1001")]


def test_of_several_topics_the_application_names_one(brokers: _Brokers) -> None:
    path = _write(_PIPELINE)
    with pytest.raises(ConfigError, match=r"sources.actions has not one topic.*topic="):
        ActionLog(path)
    with ActionLog(path, topic="app") as log:
        assert log.action("click", "u-1", "i-1", request_id="r-1", event_time=1_700_000_000_000)
    assert [topic for topic, _ in brokers.sent] == ["app"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (_PIPELINE.replace("float64", "double"), "features.price.type"),
        (_PIPELINE.replace("[actions.click]\nwindow", "[action.click]\nwindow"), "actions"),
        (_PIPELINE.replace('topic = "shown"', 'topic = "a b"'), "sources.features.topic"),
        (_OF_FILES, "sources.features.type: a log needs a source of type 'kafka'"),
    ],
)
def test_a_wrong_file_is_told_before_anything_is_logged(
    brokers: _Brokers, changed: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        FeatureLog(_write(changed))
