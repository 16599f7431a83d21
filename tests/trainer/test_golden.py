"""What an earlier release has written is read, and what is written has the same bytes.

`tests/fixtures/trainer-v1` is a run of release 0.1: a factorisation machine of two actions, with
every optimizer. See its README.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trainer import runs
from trainer import checkpoint
from trainer.config import load
from trainer.evaluation.tally import Tally
from trainer.run.session import State
from trainer.server.shard_file import write_snapshot
from trainer.serving.format import Manifest
from trainer.serving.model import ServedModel
from trainer.serving.snapshot import Snapshot
from trainer.serving.write import write_dense, write_part
from trainer.spec import AdaGrad, Adam, Ftrl

GOLDEN = Path(__file__).parents[1] / "fixtures" / "trainer-v1"
STEP = GOLDEN / "model/checkpoints/step-000000000003"
RUN = "20261125T222147-307e01"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN, tmp_path / "v1")
    return tmp_path / "v1"


def test_a_checkpoint_of_it_is_read_to_the_number() -> None:
    manifest = checkpoint.read_manifest(STEP)
    assert (manifest.step, manifest.consistency, manifest.workers) == (3, "ssp", 1)
    assert manifest.spec.heads == ("click", "like")
    assert [type(t.segments[0].optimizer) for t in manifest.spec.tables] == [
        *(Ftrl, Adam, AdaGrad, Ftrl)
    ]
    # settings that it did not know
    assert manifest.spec.base == ()
    assert {(s.log1p, s.scale, s.clip) for s in manifest.spec.slots} == {(False, 1.0, 1e6)}
    state = msgspec.convert(manifest.session, State)
    assert (state.rows, state.step, state.since) == (48, 3, {})
    assert [(e.path, e.absent) for e in state.entries] == [
        ("samples/dt=2023-11-14/hr=23/part-0.parquet", ())
    ]
    tally = Tally.decode(state.tally)
    rows = {m.action: m.measures.rows for m in tally.whole() if m.slice == "all"}
    assert rows == {"click": 48, "like": 48}
    (parts,) = checkpoint.read_shards(STEP, manifest)
    assert [len(rows) for rows in parts.tables] == [2, 1, 3, 1]
    # FTRL keeps z and n, AdaGrad w and n, Adam w, m, v and its steps
    assert [[s.shape[1] for s in rows.states] for rows in parts.tables] == [
        *([4, 4], [7, 7], [4, 4], [4])
    ]
    assert [np.shape(a) for a in parts.dense] == [(4,), (), (4,), (4,)]
    assert int(parts.dense[1]) == 3


def test_a_shard_is_written_with_the_same_bytes() -> None:
    manifest = checkpoint.read_manifest(STEP)
    (parts,) = checkpoint.read_shards(STEP, manifest)
    file = io.BytesIO()
    write_snapshot(parts, file)
    assert _members(file) == _members(STEP / "shard-0.npz")


def _members(archive: io.BytesIO | Path) -> list[tuple[str, int, bytes]]:
    """Name, compression and bytes of each, in their order.

    Not the archive as a whole: the zipfile of Python 3.11.2 writes another version into the headers
    (20) than that of 3.11.7 (45).
    """
    with zipfile.ZipFile(archive) as file:
        return [(one.filename, one.compress_type, file.read(one)) for one in file.infolist()]


def test_a_run_goes_on_from_it(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The second hour, and with a feature that the first did not have."""
    shutil.copytree(project / "later", project / "first", dirs_exist_ok=True)
    config = load(project / "trainer.toml", ())
    session = runs.session_of(config)
    with caplog.at_level("INFO"):
        run = runs.run(session)
    assert "resumed from step-000000000003: 48 samples were learned before" in caplog.messages
    assert run.session.rows == 96
    assert run.session.progress.rows == 48
    assert run.session.since == {}
    before = checkpoint.read_shards(STEP, checkpoint.read_manifest(STEP))
    # each key has learned more, and there are no others
    for old, new in zip(runs.one(before).tables, run.parts.tables, strict=True):
        np.testing.assert_array_equal(old.keys, new.keys)
        assert all((a != b).any() for a, b in zip(old.states, new.states, strict=True))

    file = next((project / "first").rglob("hr=00/*.parquet"))
    table = pq.ParquetFile(file).read()
    wider = table.append_column("new", pa.array(["x"] * table.num_rows))
    pq.write_table(wider, file.with_name("part-1.parquet"))
    with (project / "pipeline.toml").open("a") as pipeline:
        pipeline.write('\n[features.new]\ntype = "string"\nrequired = false\n')
    with (project / "trainer.toml").open("a") as trainer:
        trainer.write("\n[slots.new]\n")
    again = runs.train_here(load(project / "trainer.toml", ()))
    assert again.session.rows == 144
    assert set(again.session.since) == {"new"}


def test_an_export_of_it_is_read_and_predicts_the_same() -> None:
    snapshot = Snapshot.open(GOLDEN / "model/serving")
    assert (snapshot.run_id, snapshot.number) == (RUN, 1)
    assert snapshot.view.manifest.since == {}
    model = ServedModel.open(GOLDEN / "model/serving")
    table = pa.table({"cat": ["a", "b", None], "age": [1, 4, None], "user_id": ["u0", "u2", "?"]})
    predicted = model.predict(table)
    # of what release 0.1 predicted from the same files
    expected = [[0.4870089, 0.4522132], [0.430174, 0.4268102], [0.4781025, 0.4773983]]
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)


def test_parts_are_written_as_they_were(tmp_path: Path) -> None:
    folder = GOLDEN / "model/serving" / RUN
    manifest = msgspec.json.decode((folder / "export-000001.json").read_bytes(), type=Manifest)
    for part in manifest.parts:
        table = pa.ipc.open_file(folder / part.file.name).read_all()
        keys = table["key"].to_numpy()
        values = np.array(table["values"].to_pylist(), np.float32)
        made = write_part(tmp_path, 1, part.shard, part.table, keys, values, keys[:0])
        again = pa.ipc.open_file(tmp_path / made.file.name).read_all()
        assert made.file.name == part.file.name
        assert again.equals(table)
        assert again.schema.equals(table.schema, check_metadata=True)
    assert manifest.dense is not None
    dense = pa.ipc.open_file(folder / manifest.dense.name).read_all()
    made_dense = write_dense(tmp_path, 1, dense["value"].to_numpy())
    assert pa.ipc.open_file(tmp_path / made_dense.name).read_all().equals(dense)


def as_json(value: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def test_manifests_have_the_fields_of_before_and_those_that_are_new() -> None:
    """A field that goes, or has another name, is another format."""
    old = msgspec.json.decode((STEP / "manifest.json").read_bytes())
    new = as_json(checkpoint.read_manifest(STEP))
    assert new.keys() - old.keys() == {"steps"}
    assert old.keys() <= new.keys()
    assert new["steps"] == "batch", "it had no other"
    assert new["spec"].keys() - old["spec"].keys() == {"base"}
    assert old["spec"].keys() <= new["spec"].keys()
    for before, now in zip(old["spec"]["slots"], new["spec"]["slots"], strict=True):
        assert before == {name: now[name] for name in before}
        assert now.keys() - before.keys() == {"log1p", "scale", "clip"}
    state = as_json(msgspec.convert(old["session"], State))
    assert state.keys() - old["session"].keys() == {"since"}
    assert old["session"].keys() <= state.keys()
    folder = GOLDEN / "model/serving" / RUN
    data = (folder / "export-000001.json").read_bytes()
    exported = msgspec.json.decode(data)
    now_exported = as_json(msgspec.json.decode(data, type=Manifest))
    assert now_exported.keys() - exported.keys() == {"since"}
    assert exported.keys() <= now_exported.keys()
