"""docs/ranking.md has the keys and metrics that there are, and its examples are true."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from prometheus_client import generate_latest

from online import collector, ranking
from online.collector import CollectorConfig
from online.event_log import ActionLog, FeatureLog
from online.model_keeper import ModelKeeper
from online.ranking_config import RankingConfig, load
from tests.documented_keys import DOCS, differences, real, tables
from tests.online import planted

PAGE = (DOCS / "ranking.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("number", "struct"), [(0, RankingConfig), (1, CollectorConfig)])
def test_the_page_has_all_keys_with_their_defaults(
    number: int, struct: type[msgspec.Struct]
) -> None:
    _, keys = tables("ranking.md")[number]
    assert len(keys) > 5
    assert differences(keys, real(struct)) == []


def test_the_page_has_all_metrics(tmp_path: Path) -> None:
    found, pipeline = load(_files(tmp_path))
    with FeatureLog(found.pipeline) as features, ActionLog(found.pipeline) as actions:
        keeper = ModelKeeper(Path("nowhere"), found.value, pipeline.schema, 1.0, max_candidates=1)
        texts = [
            generate_latest(ranking.Instruments(keeper, features).registry).decode(),
            generate_latest(collector.Instruments(actions).registry).decode(),
        ]
    there = re.findall(r"^# TYPE sample_stitch_(\w+) (\w+)$", "\n".join(texts), re.MULTILINE)
    ours = {
        (re.sub("_log_.*", "_log_…", name), kind)
        for name, kind in there
        if not name.endswith("_created")
    }
    rows = re.findall(r"^\| (`(?:ranking|collector)_.*?`) +\| (\w+)", PAGE, re.MULTILINE)
    said = {(name, kind) for names, kind in rows for name in re.findall(r"`(.+?)`", names)}
    assert ours == said


def test_the_examples_are_requests_and_a_file(tmp_path: Path) -> None:
    asked, _, batch = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    msgspec.json.decode(asked, type=ranking.RankRequest)
    (raw,) = msgspec.json.decode(batch, type=collector.Batch).actions
    msgspec.json.decode(raw, type=collector.CollectedAction)
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    path = _files(tmp_path)
    path.write_text(toml)
    assert load(path)[0].log.model == "rank_model"


def _files(folder: Path) -> Path:
    planted.pipeline(folder)
    return planted.ranking(folder)
