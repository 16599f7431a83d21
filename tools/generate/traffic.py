"""All of the traffic: logs, pipeline.toml and truth, written block by block."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tools.generate.draw import (
    ActionRow,
    Block,
    draw_actions,
    draw_block,
    popularity,
    request_times,
)
from tools.generate.model import Traffic, parameters, pipeline
from tools.generate.records import (
    Log,
    action_record,
    request_records,
    schedule,
    spoil_action,
    spoil_request,
)
from tools.generate.truth import actions_schema, impressions_schema, true_impressions, write_rows

#: Requests that are made at a time. Part of what a seed means: another size, other traffic.
BLOCK = 1_000


def generate(
    traffic: Traffic, out: Path, progress: Callable[[int], None] = lambda _: None
) -> dict[str, Counter[str]]:
    """Write everything under `out`; `progress` is told how many requests were made.

    Returns the numbers of lines by stream and sort. Raises FileExistsError if `out` has a log or
    a truth already, OSError if it cannot be written.
    """
    seeds = np.random.SeedSequence(traffic.seed)
    times = request_times(traffic, np.random.default_rng(seeds.spawn(1)[0]))
    cdfs = (popularity(traffic.users), popularity(traffic.catalogue))
    truth = out / "truth"
    truth.mkdir(parents=True)
    (out / "pipeline.toml").write_text(pipeline(traffic))
    (truth / "parameters.json").write_text(json.dumps(parameters(traffic), indent=2) + "\n")

    with (
        pq.ParquetWriter(truth / "impressions.parquet", impressions_schema()) as impressions,
        pq.ParquetWriter(truth / "actions.parquet", actions_schema()) as caused,
        pq.ParquetWriter(truth / "records.parquet", Log.SCHEMA) as records,
    ):
        features = Log(traffic, out, "features", records)
        actions = Log(traffic, out, "actions", records)
        for first in range(0, traffic.requests, BLOCK):
            part = times[first : first + BLOCK]
            # nothing from here on can be received before its own time
            features.flush(int(part[0]))
            actions.flush(int(part[0]))
            rng = np.random.default_rng(seeds.spawn(1)[0])
            block = draw_block(traffic, first, part, cdfs, rng)
            drawn = draw_actions(traffic, block, rng)
            impressions.write_table(true_impressions(traffic, block, drawn))

            made = request_records(traffic, block)
            names = [record["request_id"] for record in made]
            for received, record in schedule(traffic, made, names, spoil_request, rng):
                features.add(received, record)
            _add_actions(traffic, block, drawn, actions, caused, rng)
            progress(len(part))
        features.close()
        actions.close()
    return {"features": features.counts, "actions": actions.counts}


def _add_actions(
    traffic: Traffic,
    block: Block,
    drawn: Sequence[ActionRow],
    log: Log,
    truth: pq.ParquetWriter,
    rng: np.random.Generator,
) -> None:
    nameless = rng.random(len(drawn)) < traffic.no_event_id_share
    made, names, rows = [], [], []
    for n, action in enumerate(drawn):
        name = f"e{block.first:08}-{n}"
        event_id = None if nameless[n] else name
        record = action_record(traffic, block, action, event_id)
        written = action.event_time <= traffic.end
        if written:
            made.append(record)
            names.append(name)
        rows.append(
            (
                name,
                event_id,
                record["action"],
                block.request_id(action.row),
                record["user_id"],
                record["item_id"],
                action.position,
                action.event_time,
                action.delay_ms,
                action.value,
                written,
            )
        )
    if rows:
        write_rows(truth, actions_schema(), rows)
    for received, spooled in schedule(traffic, made, names, spoil_action, rng):
        log.add(received, spooled)
