"""What the join's benchmark keeps: a run that is done is not repeated, other rows are noticed."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.join import large_state, measure, report, run_ours
from benchmarks.join.cases import GROWTH, SPAN_MS, SPEED, WINDOW_MS, in_turns
from benchmarks.join.flink_options import ROCKSDB_KEYS
from benchmarks.join.kept import disagreement, on, readable, runs_done
from benchmarks.join.latency import _Acks, _millis
from benchmarks.join.spec import PLANS, Spec
from jobs.pipeline import config, environment


def _run(spec: Spec, **measured: Any) -> dict[str, Any]:
    cpu = {"source": 1.0, "join and sink": 2.0, "JIT": 50.0}
    return asdict(spec) | {"rows": 0, "clicks": 0, "cpu": cpu} | measured


def _whole(plan: Any, rows: int = 40, clicks: int = 2, **changed: Any) -> dict[str, Any]:
    spec = Spec("whole", plan, "hashmap", 2, 8, SPAN_MS // 2, WINDOW_MS)
    return _run(replace(spec, **changed), rows=rows, clicks=clicks)


@pytest.mark.parametrize("stopped_after", [0, 1, 7, 23, 10_000])
def test_an_interrupted_benchmark_goes_on_where_it_stopped(stopped_after: int) -> None:
    everything = list(in_turns(SPEED))
    assert len(everything) == sum(s.repeats * len(s.plans) for s in SPEED)
    done = [_run(spec) for _, spec in everything[:stopped_after]]
    left = [(repeat, spec) for repeat, spec in everything if repeat >= runs_done(done, spec)]
    assert left == everything[stopped_after:]


def test_runs_of_another_size_or_plan_do_not_count_as_done() -> None:
    spec = Spec("alone", "ours", "hashmap", 100, 1, 10, WINDOW_MS)
    others = [
        replace(spec, plan="over"),
        replace(spec, requests=101),
        replace(spec, backend="rocksdb"),
        replace(spec, part="whole"),
        replace(spec, source="kafka"),
        replace(spec, partitions=4),
        replace(spec, parallelism=2),
        replace(spec, items=10),
        replace(spec, click_percent=6),
    ]
    assert runs_done([_run(other) for other in others], spec) == 0
    assert runs_done([_run(replace(spec, scratch="/elsewhere", port=1))], spec) == 1
    assert runs_done(on("", [_run(spec) | {"processor": "another"}]), spec) == 0


def test_runs_of_an_older_benchmark_are_left_out() -> None:
    run = _whole("ours")
    older = {name: value for name, value in run.items() if name != "source"}
    assert readable([older, run]) == [run]


@pytest.mark.parametrize("other", [{"rows": 39}, {"clicks": 3}])
@pytest.mark.parametrize("backend", ["hashmap", "rocksdb"])
def test_a_plan_that_writes_other_rows_is_named(other: dict[str, int], backend: str) -> None:
    told = disagreement([_whole("ours"), _whole("over", backend=backend, **other)])
    assert told is not None
    assert "ours: 40 rows, 2 clicks" in told
    assert "over:" in told


def test_plans_agree_and_other_inputs_may_differ() -> None:
    assert disagreement([_whole(plan) for plan in PLANS]) is None
    assert disagreement([_whole("ours"), _whole("ours", rows=60, requests=3)]) is None
    alone = Spec("alone", "ours", "hashmap", 2, 8, 1, 1)
    assert disagreement([_run(alone), _run(alone, rows=7)]) is None


def test_the_headline_is_the_work_a_request_without_compilation() -> None:
    runs = [
        _whole(plan) | {"rate": 1.0, "seconds": 1.0, "jvm_bytes": 1, "all_bytes": 1}
        for plan in PLANS
    ]
    headline = report.tables({"speed": runs, "state": [], "delay": {}})[0]
    assert headline.rows[0][3:] == (*["1,500,000 (1,500,000-1,500,000; 1)"] * 3, "1.00")


def test_plans_are_compared_on_one_processor() -> None:
    spent = {"rate": 1.0, "seconds": 1.0, "jvm_bytes": 1, "all_bytes": 1}
    runs = [
        _whole(plan) | spent | {"processor": processor, "cpu": {"source": seconds}}
        for processor, seconds in (("Slow(R) X", 4.0), ("Quick 1", 1.0))
        for plan in ("ours", "over")
    ]
    headline = report.tables({"speed": runs, "state": [], "delay": {}})[0]
    assert [row[0].partition(" (")[2] for row in headline.rows] == ["Slow X)", "Quick 1)"]
    assert [row[-1] for row in headline.rows] == ["1.00", "1.00"]


def test_a_growth_is_of_one_processor() -> None:
    growth = GROWTH[0]
    whole = [setting.spec(plan) for _, setting in growth.sizes for plan in ("ours", "over")]
    runs = [_run(spec) | {"processor": "Quick 1", "cpu": {"source": 1.0}} for spec in whole]
    runs += [_run(spec) | {"processor": "Slow 2", "cpu": {"source": 9.0}} for spec in whole[:4]]
    assert {run["processor"] for run in report.growth_runs(growth, runs)} == {"Quick 1"}
    assert len(report.costs(growth, runs)) == len(growth.sizes)
    table = report.tables({"speed": [], "state": [], "delay": {}, "growth": runs})[0]
    assert table.note.endswith("On Quick 1.")


def test_a_row_is_due_when_an_event_late_enough_is_in_kafka() -> None:
    acks = _Acks.of([(30, 135), (10, 111), (20, 140)])
    # the event of 30 was there before that of 20, and moves time past 20 as well
    assert [acks.reached(time) for time in (5, 10, 11, 20, 30, 31)] == [
        111,
        111,
        135,
        135,
        135,
        None,
    ]


@pytest.mark.parametrize(
    ("printed", "millis"),
    [
        ("2023-11-14T22:13:20Z", 1_700_000_000_000),
        ("2023-11-14T22:13:20.5Z", 1_700_000_000_500),
        ("2023-11-14T22:13:20.042Z", 1_700_000_000_042),
    ],
)
def test_the_wall_clock_of_a_printed_row(printed: str, millis: int) -> None:
    assert _millis(printed) == millis


@pytest.mark.parametrize(
    ("thread", "kind"),
    [
        ("keep time -> jo", "join and sink"),
        ("OverAggregate[7", "join and sink"),
        ("IntervalJoin[8]", "join and sink"),
        ("samples compact", "sink"),
        ("Source: chunks[", "source"),
        ("C2 CompilerThre", "JIT"),
        ("Executor task l", "join and sink"),
        ("flink-pekko.act", "other"),
    ],
)
def test_threads_are_counted_where_they_work(thread: str, kind: str) -> None:
    assert measure._kind(thread) == kind


@pytest.mark.parametrize("options", large_state.OPTIONS)
def test_a_run_on_rocksdb_has_the_options_that_it_names(options: str, tmp_path: Path) -> None:
    """The job sets some for itself: then two rows of the table would be one."""
    spec = Spec("alone", "ours", "rocksdb", 10, 1, 10, WINDOW_MS, "large", scratch=str(tmp_path))
    own = environment.options(_pipeline(spec, tmp_path))
    assert {own[key] for key in ROCKSDB_KEYS} == {"false"}
    named = large_state.OPTIONS[options]
    used = environment.options(_pipeline(replace(spec, flink=dict(named)), tmp_path))
    assert {key: used[key] for key in ROCKSDB_KEYS} == named


def _pipeline(spec: Spec, folder: Path) -> config.Pipeline:
    path = folder / "pipeline.toml"
    path.write_text(run_ours.pipeline_toml(spec))
    return config.load(path)
