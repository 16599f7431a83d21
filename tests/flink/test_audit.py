"""The audit over real runs: it closes to zero, and names exactly what was taken away or changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs.pipeline.config import Pipeline, load
from tests import by_hand
from tests.flink import running
from tools.audit.command import CLOSES, DOES_NOT, audit, main
from tools.audit.report import Finding, Report
from tools.generate.model import Traffic
from tools.generate.traffic import generate

POLICIES = {
    "wait": [],
    "defer": ["join.policy=defer", "emission.first_emit_after=10min"],
}


@dataclass(frozen=True)
class Run:
    """A run of the job: its configuration, and what was set over it."""

    config: Path
    overrides: list[str]

    def with_output(self, output: Path) -> Run:
        kept = [o for o in self.overrides if not o.startswith("output.path=")]
        return replace(self, overrides=[*kept, f"output.path={output}"])

    @property
    def pipeline(self) -> Pipeline:
        return load(self.config, self.overrides)

    @property
    def output(self) -> Path:
        return Path(self.pipeline.output.path)

    def audit(self) -> Report:
        return audit(self.pipeline)

    def exit_code(self) -> int:
        sets = [f"--set={o}" for o in self.overrides]
        return main(["--config", str(self.config), *sets])


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated day with every kind of bad input, and much that comes too late."""
    out = tmp_path_factory.mktemp("audit") / "day"
    traffic = Traffic(
        requests=400, items=6, hours=8, bad_share=0.15, duplicate_share=0.1, late_share=0.1
    )
    generate(traffic, out)
    return out


@pytest.fixture(scope="module", params=list(POLICIES))
def run(request: pytest.FixtureRequest, day: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The job over that day, once under each policy; nobody may change its output."""
    made = Run(day / "pipeline.toml", POLICIES[request.param])
    made = made.with_output(tmp_path_factory.mktemp("out") / request.param)
    running.join(made.config, made.output, *POLICIES[request.param])
    return made


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Run:
    """A run whose output may be changed."""
    shutil.copytree(run.output, tmp_path / "out")
    return run.with_output(tmp_path / "out")


@pytest.mark.thorough
@pytest.mark.parametrize("name", by_hand.SETS)
def test_fixtures_written_by_hand_close_to_zero(name: str, tmp_path: Path) -> None:
    fixture = by_hand.load(name)
    made = Run(fixture.folder / "pipeline.toml", []).with_output(tmp_path / "out")
    running.join(made.config, made.output)

    report = made.audit()

    assert report.findings == []
    assert made.exit_code() == CLOSES
    numbers = report.numbers()
    # of q-end, which only the end of the input settles
    immature = 2 if name == "user_id" else 0
    assert numbers["impressions"].get("immature", 0) == immature
    assert numbers["impressions"]["in"] == len(fixture.samples) + immature
    assert numbers["rows in samples/"]["in"] == len(fixture.samples)
    assert numbers["rows in late_actions/"]["in"] == len(fixture.late)
    assert numbers["rows in rejected/"]["in"] == len(fixture.rejected)


def test_a_generated_day_closes_to_zero(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    report = run.audit()

    assert report.findings == []
    numbers = report.numbers()
    assert {n["difference"] for n in numbers.values()} == {0}
    # there was something of everything
    assert {"late: after_settle", "late: outside_window"} <= set(numbers["actions"])
    reasons = {r.removeprefix("rejected: ") for a in numbers.values() for r in a}
    assert reasons >= {"late_request", "duplicate_request", "orphan_action", "duplicate_action"}
    assert reasons >= {"broken_json", "invalid_utf8", "missing_field", "too_large", "future_clock"}
    assert run.exit_code() == CLOSES
    assert "Every record is accounted for." in capsys.readouterr().out


# -- tampering -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A row of a table, in its file."""

    file: Path
    number: int
    row: dict[str, Any]

    def rewrite(self, change: Callable[[pa.Table, int], pa.Table]) -> None:
        # the path says dt and hr, and pyarrow would make columns of them
        table = pq.read_table(self.file, partitioning=None)
        pq.write_table(change(table, self.number), self.file)


def rows_of(output: Path, table: str) -> Iterator[Found]:
    for file in sorted((output / table).rglob("*")):
        if file.is_file() and not file.name.startswith((".", "_")):
            rows = pq.read_table(file, partitioning=None).to_pylist()
            yield from (Found(file, n, row) for n, row in enumerate(rows))


def removed(table: pa.Table, number: int) -> pa.Table:
    return table.filter(pc.not_equal(pa.array(range(len(table))), number))


def doubled(table: pa.Table, number: int) -> pa.Table:
    return pa.concat_tables([table, table.slice(number, 1)])


def with_value(name: str, value: object) -> Callable[[pa.Table, int], pa.Table]:
    def change(table: pa.Table, number: int) -> pa.Table:
        values = table[name].to_pylist()
        values[number] = value
        index = table.schema.get_field_index(name)
        field = table.schema.field(name)
        return table.set_column(index, field, pa.array(values, type=field.type))

    return change


def culprit(tampered: Run) -> Finding:
    """The one thing that is unaccounted for."""
    report = tampered.audit()
    assert tampered.exit_code() == DOES_NOT
    assert len(report.findings) == 1, report.findings
    # it is off by one in one account, and in no other
    differences = [n["difference"] for n in report.numbers().values()]
    assert sorted(differences) == [0] * (len(differences) - 1) + [1]
    return report.findings[0]


def a_sample(tampered: Run, *, positive: bool, kind: str = "final") -> Found:
    found = [
        f
        for f in rows_of(tampered.output, "samples")
        if bool(f.row["label_click"]) == positive and f.row["kind"] == kind
    ]
    return found[len(found) // 2]


def version(found: Found) -> str:
    row = found.row
    return f"{row['request_id']} position {row['position']} revision {row['revision']}"


@pytest.mark.parametrize("positive", [False, True])
def test_a_row_that_is_removed(copy: Run, positive: bool) -> None:
    found = a_sample(copy, positive=positive)
    found.rewrite(removed)
    named = culprit(copy)
    assert named.what == "impression"
    assert version(found).startswith(f"{named.name} ")


@pytest.mark.parametrize("run", ["defer"], indirect=True)  # wait has no early rows
def test_an_early_row_that_is_removed(copy: Run) -> None:
    found = a_sample(copy, positive=False, kind="provisional")
    found.rewrite(removed)
    named = culprit(copy)
    assert named.what == "impression"
    assert version(found).startswith(f"{named.name} ")
    assert named.why == "revision 0 is missing"


def test_a_row_that_is_doubled(copy: Run) -> None:
    found = a_sample(copy, positive=False)
    found.rewrite(doubled)
    named = culprit(copy)
    assert (named.what, named.name) == ("row", version(found))
    assert named.where == str(found.file.relative_to(copy.output))


def test_a_label_that_is_changed(copy: Run) -> None:
    found = a_sample(copy, positive=True)
    found.rewrite(with_value("label_click", 0))
    named = culprit(copy)
    assert (named.what, named.name) == ("row", version(found))
    assert named.why.startswith("label_click is 0 with delay")


def test_a_positive_that_is_made_a_clean_negative(copy: Run) -> None:
    """Nothing in the row betrays it: the action that no row holds does."""
    found = next(
        f
        for f in rows_of(copy.output, "samples")
        if f.row["label_like"] == 1 and f.row["kind"] == "final"
    )
    found.rewrite(with_value("label_like", 0))
    found.rewrite(with_value("delay_like_ms", None))
    named = culprit(copy)
    assert named.what == "action"
    assert version(found) in named.why


@pytest.mark.parametrize("feature", ["f00", "f03", "hour"])
def test_a_feature_that_is_changed(copy: Run, feature: str) -> None:
    found = a_sample(copy, positive=False)
    other = {"f00": 123.5, "f03": None if found.row["f03"] else "red", "hour": 77}[feature]
    found.rewrite(with_value(feature, other))
    named = culprit(copy)
    assert (named.what, named.name) == ("row", version(found))
    assert named.why.startswith(f"{feature} is {other!r}; it must be")


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        ("features", "broken_json"),
        ("features", "late_request"),
        ("features", "duplicate_request"),
        ("actions", "missing_field"),
        ("actions", "orphan_action"),
        ("actions", "duplicate_action"),
    ],
)
def test_a_rejected_record_that_is_removed(copy: Run, stream: str, reason: str) -> None:
    found = next(
        f
        for f in rows_of(copy.output, "rejected")
        if (f.row["stream"], f.row["reason"]) == (stream, reason)
    )
    found.rewrite(removed)
    named = culprit(copy)
    good = "request" if stream == "features" else "action"
    assert named.what == ("record" if reason in ("broken_json", "missing_field") else good)
    assert named.where == f"{stream}/{Path(found.row['origin']).name} offset {found.row['offset']}"


def test_raw_bytes_that_are_changed(copy: Run) -> None:
    found = next(rows_of(copy.output, "rejected"))
    found.rewrite(with_value("raw", b"{}"))
    named = culprit(copy)
    assert named.what == "rejected row"
    assert named.why == "its raw bytes are not those of the record"


@pytest.mark.parametrize("reason", ["after_settle", "outside_window"])
def test_a_late_action_that_is_removed(copy: Run, reason: str) -> None:
    """Of a sample that has no other action of its kind: in an `any`, two are as good as one."""
    acted = {
        (f.row["sample_id"], kind)
        for f in rows_of(copy.output, "samples")
        for kind in copy.pipeline.actions
        if f.row[f"delay_{kind}_ms"] is not None
    }
    found = next(
        f
        for f in rows_of(copy.output, "late_actions")
        if f.row["reason"] == reason
        and f.row["event_id"] is not None
        and (f.row["sample_id"], f.row["action"]) not in acted
    )
    found.rewrite(removed)
    named = culprit(copy)
    assert (named.what, named.name) == ("action", found.row["event_id"])


def test_a_late_action_that_is_doubled(copy: Run) -> None:
    found = next(f for f in rows_of(copy.output, "late_actions") if f.row["event_id"] is not None)
    found.rewrite(doubled)
    named = culprit(copy)
    assert (named.what, named.name) == ("late row", found.row["event_id"])
