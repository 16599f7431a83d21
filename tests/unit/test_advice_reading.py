"""Observations from samples and from events: who acted when, and how far each was followed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.pipeline.config import ConfigError, Pipeline, load
from schemas.features import FeatureSchema
from schemas.samples import LATE_ACTIONS, REJECTED, samples
from tools.advise_window import read_events, read_samples
from tools.advise_window.observations import KindObservations
from tools.generate.model import ACTIONS, Traffic
from tools.generate.traffic import generate

HOUR = 3_600_000
#: The hours of events count from here.
START = 1_700_002_800_000

CONFIG = """
[join]
key = "{key}"
late_horizon = "4h"

[actions.click]
window = "1h"

[actions.buy]
window = "2h"
label = "sum"

[sources.features]
type = "files"
path = "features"
out_of_orderness = "0s"

[sources.actions]
type = "files"
path = "actions"
out_of_orderness = "0s"

[output]
path = "out"
"""


def pipeline(folder: Path, key: str = "request_id", *overrides: str) -> Pipeline:
    (folder / "pipeline.toml").write_text(CONFIG.format(key=key))
    return load(folder / "pipeline.toml", overrides)


def sample(sample_id: int, hour: float, **more: Any) -> dict[str, Any]:
    """A final, mature row without actions, unless said otherwise."""
    row: dict[str, Any] = {
        "sample_id": sample_id,
        "request_id": f"r{sample_id}",
        "user_id": "u",
        "item_id": f"i{sample_id}",
        "position": 0,
        "event_time": round(hour * HOUR),
        "label_click": 0,
        "delay_click_ms": None,
        "mature_click": True,
        "label_buy": 0.0,
        "delay_buy_ms": None,
        "mature_buy": True,
        "observed_ms": 2 * HOUR,
        "exposed": None,
        "sampling_rate": 1.0,
        "revision": 0,
        "kind": "final",
    }
    return row | more


def late(sample_id: int, hour: float, action: str, delay_ms: int) -> dict[str, Any]:
    row = dict.fromkeys(LATE_ACTIONS.names)
    return row | {
        "sample_id": sample_id,
        "request_time": round(hour * HOUR),
        "action": action,
        "delay_ms": delay_ms,
    }


def write(
    pipe: Pipeline,
    rows: list[dict[str, Any]],
    lates: list[dict[str, Any]] | None = None,
    rejected: list[dict[str, Any]] | None = None,
) -> None:
    output = Path(pipe.output.path)
    tables = {
        "samples": (rows, samples(FeatureSchema(()), pipe.kinds)),
        "late_actions": (lates or [], LATE_ACTIONS),
        "rejected": (rejected or [], REJECTED),
    }
    for name, (content, schema) in tables.items():
        if content:
            folder = output / name / "dt=1970-01-01" / "hr=00"
            folder.mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(content, schema), folder / "part-0")


def idle(observations: KindObservations) -> dict[float, float]:
    """How many impressions without an action were followed for so many hours."""
    hours = (observations.idle_follow / HOUR).tolist()
    return dict(zip(hours, observations.idle_weight.tolist(), strict=True))


def test_late_actions_are_delays_and_the_horizon_or_the_end_bounds_the_follow_up(
    tmp_path: Path,
) -> None:
    pipe = pipeline(tmp_path)
    write(
        pipe,
        [
            sample(1, 0, delay_click_ms=5_000),
            sample(2, 0, delay_buy_ms=HOUR),
            sample(3, 5),
            sample(4, 9, delay_click_ms=HOUR),  # the last action: followed until 10 h
        ],
        [
            late(1, 0, "click", 3_000),  # was late, and earlier than the one that was joined
            late(2, 0, "click", 3 * HOUR),
            late(3, 5, "buy", 2 * HOUR),
            late(3, 5, "buy", 3 * HOUR),
        ],
    )
    observed = read_samples.read(pipe)
    click, buy = observed.kinds
    assert observed.until == 10 * HOUR
    assert sorted(click.delays) == [3_000, HOUR, 3 * HOUR]
    assert idle(click) == {4: 1}
    assert sorted(buy.delays) == [HOUR, 2 * HOUR]
    assert idle(buy) == {1: 1, 4: 1}
    assert click.impressions == buy.impressions == 4


def test_files_of_before_a_label_became_wider_are_read_with_the_others(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path)
    write(pipe, [sample(1, 0, delay_click_ms=5_000), sample(2, 9, delay_click_ms=HOUR)])
    (file,) = Path(pipe.output.path).glob("samples/*/*/*")
    table = pq.ParquetFile(file).read()
    at = table.schema.get_field_index("label_click")
    wider = table.schema.set(at, pa.field("label_click", pa.float64()))
    pq.write_table(table.cast(wider), file.with_name("part-1"))
    click, _ = read_samples.read(pipe).kinds
    assert sorted(set(click.delays)) == [5_000, HOUR]


def test_only_the_last_version_of_a_sample_counts(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path)
    first = {"kind": "provisional", "observed_ms": 0, "mature_click": False}
    write(
        pipe,
        [
            sample(1, 0, **first),
            sample(1, 0, revision=1, kind="positive", observed_ms=9_000, delay_click_ms=9_000),
            sample(2, 0, **first),
            sample(3, 9, delay_buy_ms=HOUR),
        ],
    )
    click, _ = read_samples.read(pipe).kinds
    assert click.delays.tolist() == [9_000]
    # a provisional row is not the end of the follow-up: a label would have come out, or be late
    assert idle(click) == {4: 1, 1: 1}


def test_negatives_stand_for_those_that_were_sampled_out(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path)
    write(
        pipe,
        [
            sample(1, 0, delay_click_ms=5_000),
            sample(2, 0, sampling_rate=0.1),
            sample(3, 0, sampling_rate=0.1),
            sample(4, 9, delay_click_ms=HOUR),
        ],
        # 3 has its row, the row of 99 was sampled out: late actions are there for all
        [late(3, 0, "click", 3 * HOUR), late(99, 0, "click", 2 * HOUR)],
    )
    click, buy = read_samples.read(pipe).kinds
    assert sorted(click.delays) == [5_000, HOUR, 2 * HOUR, 3 * HOUR]
    assert idle(click) == {4: 10}
    assert idle(buy) == {4: 21, 1: 1}


def test_a_silent_label_stream_is_no_follow_up(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path)
    silent = {"observed_ms": HOUR // 2, "mature_click": False, "mature_buy": False}
    unknown = silent | {"observed_ms": None}
    write(
        pipe,
        [sample(1, 0, **silent), sample(2, 0, **unknown), sample(3, 9, delay_click_ms=HOUR)],
    )
    click, _ = read_samples.read(pipe).kinds
    assert idle(click) == {0.5: 1}


def test_orphans_show_how_far_the_actions_reach_and_broken_records_do_not(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path)
    no = dict.fromkeys(REJECTED.names)
    write(
        pipe,
        [sample(1, 9, delay_click_ms=HOUR), sample(2, 10)],
        rejected=[
            no | {"stream": "actions", "reason": "orphan_action", "record_time": 12 * HOUR},
            no | {"stream": "actions", "reason": "future_clock", "record_time": 90 * HOUR},
            no | {"stream": "features", "reason": "late_request", "record_time": 80 * HOUR},
        ],
    )
    assert read_samples.read(pipe).until == 12 * HOUR
    stated = pipeline(tmp_path, "request_id", f"end_of_input.complete_until={11 * HOUR}")
    assert read_samples.read(stated).until == 11 * HOUR


def test_an_id_that_is_used_again_is_another_sample(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path)
    write(
        pipe,
        [
            sample(1, 0, delay_click_ms=5_000),
            sample(1, 9),  # the same request id, long after the first was forgotten
            sample(2, 20, delay_click_ms=HOUR),
        ],
        [late(1, 9, "click", 2 * HOUR)],
    )
    click, _ = read_samples.read(pipe).kinds
    assert sorted(click.delays) == [5_000, HOUR, 2 * HOUR]
    assert click.impressions == 3


def test_orphans_of_known_requests_came_beyond_the_horizon(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path)
    no = dict.fromkeys(REJECTED.names) | {"stream": "actions", "reason": "orphan_action"}
    orphans = [
        action("click", 6, "i1", "r1"),  # 6 h after its request: the horizon is 4 h
        action("click", 7, "i1", "r1"),  # the same impression
        action("click", 9, "i2", "r2"),  # that one has a click
        action("click", 3, "i3", "r3"),  # within the horizon: something else was wrong
        action("buy", 9, "i9", "unknown"),
        action("click", 9, "i1", "r1") | {"event_time": 9},
        action("other", 9, "i1", "r1"),
    ]
    write(
        pipe,
        [
            sample(n, 0, event_time=START, delay_click_ms=5_000 if n == 2 else None)
            for n in range(1, 4)
        ],
        rejected=[
            no | {"raw": json.dumps(one).encode(), "record_time": one["event_time"]}
            for one in orphans
        ],
    )
    observed = read_samples.read(pipe)
    assert [kind.beyond for kind in observed.kinds] == [1, 0]
    notes = "\n".join(observed.notes)
    assert "click: 1 orphan came more than 4.0 h (the late horizon)" in notes
    assert "against 1 action seen within it" in notes
    assert "buy: orphans of no sample that was written: 1;" in notes


def test_by_user_an_impression_is_followed_until_the_item_is_shown_again(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path, "user_id")
    write(
        pipe,
        [
            sample(1, 0, item_id="same"),
            sample(2, 1, item_id="same"),
            sample(3, 9, delay_click_ms=HOUR),
        ],
    )
    click, _ = read_samples.read(pipe).kinds
    assert idle(click) == {1: 1, 4: 1}


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path)
    with pytest.raises(ConfigError, match="there are no samples yet"):
        read_samples.read(pipe)
    write(pipe, [sample(1, 0)])
    with pytest.raises(ConfigError, match="nothing to learn"):
        read_samples.read(pipe)
    with pytest.raises(ConfigError, match="no column 'delay_share_ms'"):
        read_samples.read(pipeline(tmp_path, "request_id", "actions.share.window=1h"))


# -- events ----------------------------------------------------------------------------------------


def log(folder: Path, stream: str, *records: dict[str, Any] | str) -> None:
    (folder / stream).mkdir()
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    (folder / stream / "a.jsonl").write_text("\n".join(lines) + "\n")


def request(name: str, hour: float, *items: str) -> dict[str, Any]:
    return {
        "request_id": name,
        "user_id": "u",
        "event_time": START + round(hour * HOUR),
        "items": [{"item_id": item} for item in items],
    }


def action(kind: str, hour: float, item: str, name: str | None = None) -> dict[str, Any]:
    told: dict[str, Any] = {"user_id": "u", "item_id": item, "action": kind}
    told["event_time"] = START + round(hour * HOUR)
    return told | ({} if name is None else {"request_id": name})


def test_events_by_request_have_no_horizon(tmp_path: Path) -> None:
    log(
        tmp_path,
        "features",
        request("r1", 0, "a", "b", "b"),
        "broken",
        request("r1", 7, "c"),  # a duplicate: the first wins
        request("r2", 10, "a"),
    )
    log(
        tmp_path,
        "actions",
        action("click", 30, "a", "r1"),
        action("click", 20, "a", "r1"),
        action("click", 1, "b", "r1"),
        action("buy", 1, "a", "r1"),  # without the value that its label needs
        action("click", 9, "a", "r2"),  # before its request
        action("click", 40, "zzz", "r1"),
    )
    click, buy = read_events.read(pipeline(tmp_path)).kinds
    assert sorted(click.delays / HOUR) == [1, 20]
    # one of the two b can never act: its action is given to the other
    assert idle(click) == {30: 1}
    assert idle(buy) == {30: 1, 40: 2}


def test_events_by_user_go_to_the_latest_showing(tmp_path: Path) -> None:
    log(tmp_path, "features", request("r1", 0, "a", "b"), request("r2", 4, "a"))
    log(
        tmp_path,
        "actions",
        action("click", 3, "a", "ignored"),
        action("click", 4, "a"),
        action("click", 10, "b"),
    )
    click, _ = read_events.read(pipeline(tmp_path, "user_id")).kinds
    assert sorted(click.delays / HOUR) == [0, 3, 10]
    assert sorted(click.follow / HOUR) == [4, 6, 10]


def test_events_need_files_with_something_in_them(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path)
    log(tmp_path, "features", "broken")
    log(tmp_path, "actions", action("click", 1, "a", "r"))
    with pytest.raises(ConfigError, match=r"sources\.features\.path: no usable record"):
        read_events.read(pipe)


def test_event_times_in_another_unit_are_left_out_and_said(tmp_path: Path) -> None:
    seconds = request("r2", 1, "a")
    seconds["event_time"] //= 1000
    log(tmp_path, "features", request("r1", 0, "a", "b"), seconds)
    micro = action("click", 2, "a", "r1")
    micro["event_time"] *= 1000
    log(tmp_path, "actions", micro, action("click", 3, "a", "r1"))
    observed = read_events.read(pipeline(tmp_path))
    click, _ = observed.kinds
    assert click.delays.tolist() == [3 * HOUR]
    assert "features: 1 records" in observed.notes[0]
    assert "looks like seconds" in observed.notes[0]
    assert "looks like microseconds" in observed.notes[1]


@pytest.mark.parametrize("key", ["request_id", "user_id"])
def test_events_give_the_delays_of_the_generated_truth(key: Any, tmp_path: Path) -> None:
    traffic = Traffic(requests=400, items=10, hours=3, seed=3, key=key, catalogue=5_000, users=400)
    generate(traffic, tmp_path)
    observed = read_events.read(load(tmp_path / "pipeline.toml"))
    truth = pq.read_table(tmp_path / "truth" / "impressions.parquet")
    times = truth["event_time"].to_numpy()
    for model, kind in zip(ACTIONS, observed.kinds, strict=True):
        delays = truth[f"delay_{model.kind}_ms"].to_numpy()
        true = delays[times + np.nan_to_num(delays, nan=np.inf) <= observed.until]
        if key == "request_id":
            assert sorted(kind.delays) == sorted(true)
        else:  # now and then an item is shown again before its action
            assert len(set(kind.delays) - set(true)) <= 0.01 * len(true) + 1
            assert len(kind.delays) >= 0.98 * len(true) - 1
