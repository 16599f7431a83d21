"""The job on the mini-cluster over the fixtures written by hand, against their truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.pipeline.config import load
from schemas import samples
from tests import by_hand
from tests.flink import running


@pytest.fixture(scope="module", params=by_hand.SETS)
def joined(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    fixture = by_hand.load(request.param)
    output = tmp_path_factory.mktemp("out")
    running.join(fixture.folder / "pipeline.toml", output)
    return fixture, output


def test_samples_are_those_written_by_hand(joined: Any) -> None:
    fixture, output = joined
    rows = {(r["request_id"], r["position"]): r for r in running.rows(output, "samples")}
    expected = {(r["request_id"], r["position"]): r for r in fixture.samples}
    assert rows.keys() == expected.keys()
    for name, truth in expected.items():
        row = rows[name]
        assert {k: row[k] for k in truth} == pytest.approx(truth, nan_ok=False), name
        assert (row["exposed"], row["sampling_rate"]) == (None, 1.0)
        assert (row["revision"], row["kind"]) == (0, "final")


def test_late_actions_are_those_written_by_hand(joined: Any) -> None:
    fixture, output = joined
    ids = {(r["request_id"], r["position"]): r for r in running.rows(output, "samples")}
    found = sorted(running.rows(output, "late_actions"), key=_late_order)
    truth = sorted(fixture.late, key=_late_order)
    # a sample_id is in the truth of some rows only
    assert [{k: row[k] for k in t} for row, t in zip(found, truth, strict=True)] == truth
    for row in found:
        sample = ids.get((row["request_id"], row["position"]))
        assert sample is None or row["sample_id"] == sample["sample_id"]


def _late_order(row: dict[str, Any]) -> tuple[Any, ...]:
    return (row["request_id"], row["position"], row["event_time"], str(row["event_id"]))


def test_rejected_are_those_written_by_hand_with_their_bytes(joined: Any) -> None:
    fixture, output = joined
    found = running.rows(output, "rejected")
    places = {
        (r["stream"], r["reason"], Path(r["origin"]).name, r["offset"]): r["raw"] for r in found
    }
    expected = {
        (r["stream"], r["reason"], Path(r["file"]).name, r["offset"]) for r in fixture.rejected
    }
    assert places.keys() == expected
    assert len(found) == len(fixture.rejected)
    for (stream, _, file, offset), raw in places.items():
        line = (fixture.folder / stream / file).read_bytes()[offset:].split(b"\n")[0]
        assert raw == line


def test_schema_is_the_declared_one_and_nothing_half_written_is_visible(joined: Any) -> None:
    fixture, output = joined
    pipeline = load(fixture.folder / "pipeline.toml")
    schemas = {
        "samples": samples.samples(pipeline.schema, pipeline.kinds),
        "late_actions": samples.LATE_ACTIONS,
        "rejected": samples.REJECTED,
    }
    for table, schema in schemas.items():
        files = [f for f in (output / table).rglob("*") if f.is_file()]
        data = [f for f in files if not f.name.startswith(("_", "."))]
        assert data
        for file in data:
            written = pq.read_schema(file)
            assert written.names == schema.names
            assert [_plain(t) for t in written.types] == [_plain(t) for t in schema.types]
            assert pq.read_metadata(file).row_group(0).column(0).compression == "ZSTD"
            assert (file.parent / "_SUCCESS").exists()
        assert {f.name for f in files} - {f.name for f in data} == {"_SUCCESS"}


def _plain(arrow: Any) -> str:
    """List elements are called `element` or `item`, as the writer likes."""
    return str(arrow).replace("element:", "item:")
