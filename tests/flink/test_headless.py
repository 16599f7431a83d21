"""The headless join gives the samples that the job gives: all columns of all rows of a day."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tomli_w

from examples.closed_loop.events import Action, Request
from examples.closed_loop.headless.join import HeadlessJoin
from examples.closed_loop.headless.rows import RowTables
from examples.closed_loop.shown import action_record, as_shown, feature_record
from examples.closed_loop.world import MINUTE, Settings, World
from jobs.pipeline import config
from tests.e2e import several_jobs
from tests.flink import running

PIPELINE = running.ROOT / "examples/closed_loop/pipeline.toml"
DAY = Settings(days=1.0, requests_a_day=300, users=40)

#: Each has something of its own: when rows come, which, and of which impressions.
CONFIGURATIONS = {
    "wait": (),
    "fake_negative, marked": ("join.policy=fake_negative", "exposure.unexposed=mark"),
    "es_dfm, sampled": (
        "join.policy=es_dfm",
        "emission.first_emit_after=5min",
        "sampling.rate=0.2",
    ),
    "defer, short windows": (
        "join.policy=defer",
        "emission.first_emit_after=1min",
        *(f"actions.{kind}.window=10min" for kind in ("click", "dwell", "like", "comment")),
        "actions.purchase.window=1h",
        "actions.impression.window=5min",
    ),
}


@pytest.mark.thorough
def test_the_headless_join_gives_the_rows_of_the_job(tmp_path: Path) -> None:
    """All configurations in one process, a job each: most of the time is that of a start."""
    ours: dict[str, tuple[pa.Table, HeadlessJoin, Path]] = {}
    jobs: list[tuple[Path, dict[str, str]]] = []
    for name, sets in CONFIGURATIONS.items():
        folder = tmp_path / f"{len(ours)}"
        folder.mkdir()
        own = [f"sources.{stream}.path={folder / stream}" for stream in ("features", "actions")]
        document = config.document(PIPELINE, [*sets, *own, f"output.path={folder / 'out'}"])
        document["output"] = {"path": "out"}
        (folder / "pipeline.toml").write_text(tomli_w.dumps(document))
        pipeline = config.load(folder / "pipeline.toml")
        join = HeadlessJoin(pipeline)
        _live_a_day(join, folder)
        assert join.keys == 0
        ours[name] = RowTables(pipeline.schema, pipeline.kinds).of(join.take()), join, folder
        jobs.append((folder / "pipeline.toml", {}))

    ended, said = several_jobs.run(jobs, {})
    assert [done.code for done in ended] == [0] * len(jobs), f"{ended}\n{said}"
    for name, (table, join, folder) in ours.items():
        theirs = running.rows(folder / "out", "samples", table.schema.names)
        assert len(theirs) > 300, name
        assert _different(table.to_pylist(), theirs) == [], name
        late = Counter(row["reason"] for row in running.rows(folder / "out", "late_actions"))
        assert late == {reason: join.counts[reason] for reason in late}, name
        rejected = Counter(row["reason"] for row in running.rows(folder / "out", "rejected"))
        assert rejected == {reason: join.counts[reason] for reason in rejected}, name
        assert late["outside_window"] + rejected["orphan_action"] > 10, name


def _live_a_day(join: HeadlessJoin, folder: Path) -> None:
    """The world meets a random ranker; what happens goes to the headless join and into files."""
    world, random = World(21, DAY), np.random.default_rng(21)
    turn, seen = DAY.begin, dict[type, int]()
    (folder / "features").mkdir()
    (folder / "actions").mkdir()
    with (
        (folder / "features/day.jsonl").open("w") as features,
        (folder / "actions/day.jsonl").open("w") as actions,
    ):
        for event in world.events():
            seen[type(event)] = event.time
            # the watermark of files is the lesser of what both streams have reached
            if len(seen) == 2 and min(seen.values()) >= turn + 5 * MINUTE:
                turn = min(seen.values())
                join.advance(turn - MINUTE)
            if isinstance(event, Request):
                ranking = random.permutation([c.item_id for c in event.candidates]).tolist()
                scores = dict(zip(ranking, random.random(len(ranking)).tolist(), strict=True))
                world.show(event, ranking)
                shown = as_shown(event, ranking, scores if random.random() < 0.8 else None)
                join.request(shown)
                features.write(json.dumps(feature_record(shown)) + "\n")
            else:
                assert isinstance(event, Action)
                join.action(event)
                actions.write(json.dumps(action_record(event)) + "\n")
    join.finish()


def _different(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    """Rows that only one has, as text; each counts as often as it occurs."""

    def text(row: dict[str, Any]) -> str:
        return json.dumps(row, sort_keys=True)

    counted = Counter(map(text, ours))
    counted.subtract(Counter(map(text, theirs)))
    # +: only the headless join has it; -: only the job
    return [f"{n:+d} {row}" for row, n in counted.items() if n][:20]
