"""What is trained goes on when the features, the actions or the slots change.

Whole runs are over a folder with files of several declarations, as a joining job leaves them that
was changed over a savepoint.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.actions import ActionKind
from schemas.features import Feature, FeatureSchema, FeatureType
from schemas.samples import LATE_ACTIONS
from schemas.samples import samples as sample_layout
from tests.trainer import runs
from trainer import checkpoint
from trainer.checkpoint import CheckpointError
from trainer.config import load
from trainer.evolution import CannotGoOnError, Evolution, evolved
from trainer.features.keys import keys_of
from trainer.reading.columns import absent, conformed
from trainer.reading.files import ReadError
from trainer.run.runner import LostShardError
from trainer.server.shard import Push, Shard, ShardSnapshot, TablePush
from trainer.serving.model import ServedModel
from trainer.serving.snapshot import Snapshot
from trainer.spec import AdaGrad, Adam, Ftrl, ModelSpec, Optimizer, Segment, Slot, TableSpec
from trainer.train import main

START_MS = 1_700_002_800_000
ROWS = 60
CLICK, LIKE = ActionKind("click", 10_000, "any"), ActionKind("like", 20_000, "any")


class Project:
    """A pipeline whose declaration changes, and the files that it has written under each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hour = 0

    def declare(
        self,
        features: dict[str, str],
        kinds: tuple[ActionKind, ...] = (CLICK,),
        *,
        meta: tuple[str, ...] = (),
        slots: str = "",
    ) -> None:
        self.features, self.kinds = features, kinds
        self.root.mkdir(parents=True, exist_ok=True)
        parts = [
            *(f'[actions.{k.name}]\nwindow = "{k.window_ms}ms"' for k in kinds),
            *(
                f'[features.{name}]\ntype = "{text}"\nrequired = false'
                + ('\nrole = "meta"' if name in meta else "")
                for name, text in features.items()
            ),
            '[output]\npath = "out"',
        ]
        (self.root / "pipeline.toml").write_text("\n".join(parts))
        ours = f'[train]\nbatch = 20\n[evaluation]\nby = []\n[output]\npath = "model"\n{slots}'
        (self.root / "trainer.toml").write_text(ours)

    def write(self, **columns: list[Any]) -> None:
        """A file of the next hour: every third row has all actions."""
        schema = FeatureSchema.of(
            Feature(name, FeatureType.parse(text)) for name, text in self.features.items()
        )
        layout = sample_layout(schema, self.kinds)
        made: dict[str, Any] = {
            "sample_id": list(range(ROWS)),
            "request_id": [f"h{self.hour}r{n}" for n in range(ROWS)],
            "user_id": [f"u{n % 7}" for n in range(ROWS)],
            "item_id": [f"i{n % 5}" for n in range(ROWS)],
            "position": [0] * ROWS,
            "event_time": [START_MS + self.hour * 3_600_000 + n for n in range(ROWS)],
            "observed_ms": [20_000] * ROWS,
            "exposed": [None] * ROWS,
            "sampling_rate": [1.0] * ROWS,
            "revision": [0] * ROWS,
            "kind": ["final"] * ROWS,
        }
        for kind in self.kinds:
            delays = [5 if n % 3 == 0 else None for n in range(ROWS)]
            made |= {
                f"delay_{kind.name}_ms": delays,
                f"label_{kind.name}": [int(d is not None) for d in delays],
                f"mature_{kind.name}": [True] * ROWS,
            }
        made |= columns
        table = pa.table([pa.array(made[f.name], f.type) for f in layout], schema=layout)
        self._put("samples", table)
        self.hour += 1

    def late(self, hour: int, action: str) -> None:
        """A late action for row 1 of that hour."""
        row = {
            "sample_id": 1,
            "request_id": f"h{hour}r1",
            "user_id": "u1",
            "item_id": "i1",
            "position": 0,
            "request_time": START_MS + hour * 3_600_000 + 1,
            "action": action,
            "event_time": START_MS + hour * 3_600_000 + 5_001,
            "delay_ms": 5_000,
            "reason": "after_settle",
        }
        before, self.hour = self.hour, hour
        self._put("late_actions", pa.Table.from_pylist([row], schema=LATE_ACTIONS))
        self.hour = before

    def _put(self, stream: str, table: pa.Table) -> None:
        folder = self.root / f"out/{stream}/dt=2023-11-{14 + (23 + self.hour) // 24}"
        folder = folder / f"hr={(23 + self.hour) % 24:02}"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"part-{len(list(folder.iterdir()))}"
        pq.write_table(table, folder / f".{name}")
        (folder / f".{name}").rename(folder / f"{name}.parquet")

    def train(self, *overrides: str) -> runs.Run:
        return runs.train(load(self.root / "trainer.toml", overrides))

    def command(self, *overrides: str) -> int:
        sets = [part for text in overrides for part in ("--set", text)]
        return main(["--config", str(self.root / "trainer.toml"), *sets])

    def newest(self) -> tuple[checkpoint.Manifest, ShardSnapshot]:
        folder = checkpoint.find(self.root / "model/checkpoints")[-1]
        manifest = checkpoint.read_manifest(folder)
        return manifest, runs.one(checkpoint.read_shards(folder, manifest))


def states(spec: ModelSpec, parts: ShardSnapshot, slot: str, value: str) -> list[list[float]]:
    """The optimizer states of a key; empty where it has no row."""
    table = next(s.table for s in spec.slots if s.name == slot)
    rows = parts.tables[table]
    at = np.flatnonzero(rows.keys == keys_of(slot, [value])[0])
    return [state[at[0]].tolist() for state in rows.states] if len(at) else []


CATS = ["abc"[n % 3] for n in range(ROWS)]
AGES = [n % 7 for n in range(ROWS)]
NEW = ["xy"[n % 2] for n in range(ROWS)]


@pytest.mark.parametrize("more", [(), ("model.type=deepfm",)])
def test_a_feature_is_added(
    more: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project = Project(tmp_path)
    project.declare({"cat": "string", "age": "int64"})
    project.write(cat=CATS, age=AGES)
    first = project.train(*more)
    project.declare({"cat": "string", "age": "int64", "new": "string"})
    project.write(cat=CATS, age=AGES, new=NEW)
    config = load(tmp_path / "trainer.toml", more)
    session = runs.session_of(config)
    with caplog.at_level("INFO"):
        run = runs.run(session)
    assert run.session.rows == 2 * ROWS
    assert "the model has changed: new slots, which start empty: new" in caplog.messages
    # what was known went on, what is new was learned from the second file alone
    old_spec, spec = first.session.runner.job.spec, run.session.runner.job.spec
    before, after = states(old_spec, first.parts, "cat", "a"), states(spec, run.parts, "cat", "a")
    assert after[0][1] > before[0][1] > 0
    assert states(spec, run.parts, "new", "x")
    # and says since when it knows it
    manifest, _ = project.newest()
    assert msgspec.to_builtins(run.session.since) == manifest.session["since"]
    assert manifest.session["since"] == {"new": {"step": 3, "event_time": START_MS + ROWS - 1}}
    served = Snapshot.open(tmp_path / "model/serving")
    assert served.view.manifest.since == run.session.since
    # it is kept by those that follow
    project.write(cat=CATS, age=AGES, new=NEW)
    assert project.train(*more).session.since == run.session.since


def test_a_feature_is_added_and_the_run_is_a_fresh_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of before have null: as if the column had been there, and empty."""
    project, whole = Project(tmp_path / "changed"), Project(tmp_path / "whole")
    project.declare({"cat": "string"})
    project.write(cat=CATS)
    later = {"cat": "string", "new": "string", "tags": "list<string>", "n": "list<int64>"}
    columns: dict[str, list[Any]] = {"new": NEW, "tags": [["a", "b"]] * ROWS, "n": [[1]] * ROWS}
    for each in (project, whole):
        each.declare(later)
        if each is whole:
            each.write(cat=CATS, new=[None] * ROWS, tags=[None] * ROWS, n=[None] * ROWS)
        each.write(cat=CATS, **columns)
    runs.assert_equal(project.train().parts, whole.train().parts)
    assert project.command("output.path=again", "output.resume=false") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "columns read as null n, new, tags: 1 files lack some" in out


def test_a_feature_is_removed_and_comes_back(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.declare({"cat": "string", "age": "int64"})
    project.write(cat=CATS, age=AGES)
    first = project.train()
    project.declare({"cat": "string"})
    project.write(cat=CATS)
    second = project.train()
    assert "age" not in [slot.name for slot in second.session.runner.job.spec.slots]
    assert second.session.rows == 2 * ROWS
    project.declare({"cat": "string", "age": "int64"})
    project.write(cat=CATS, age=AGES)
    third = project.train()
    spec = third.session.runner.job.spec
    # it shares its table with the others, so it has its rows again
    assert (
        states(spec, third.parts, "age", "1")[0][1]
        > (states(first.session.runner.job.spec, first.parts, "age", "1")[0][1])
    )
    assert third.session.since["age"].step == 6


@pytest.mark.parametrize("encoding", ["value", "buckets"])
@pytest.mark.parametrize(("was", "now"), [("int64", "float64"), ("float32", "float64")])
def test_a_feature_is_widened(was: str, now: str, encoding: str, tmp_path: Path) -> None:
    slots = f'[slots.cat]\n[slots.age]\nas = "{encoding}"'
    # the base rate of a fresh run would be of both files
    zero = ("model.start=zero",)
    project = Project(tmp_path)
    project.declare({"cat": "string", "age": was}, slots=slots)
    project.write(cat=CATS, age=AGES)
    first = project.train(*zero)
    project.declare({"cat": "string", "age": now}, slots=slots)
    project.write(cat=CATS, age=[age + 0.5 for age in AGES])
    run = project.train(*zero)
    assert run.session.rows == 2 * ROWS
    assert run.session.since == {}
    # fresh, over files of both types: the same
    fresh = project.train("output.path=fresh", *zero)
    runs.assert_equal(fresh.parts, run.parts)
    assert first.session.runner.job.spec.slots == run.session.runner.job.spec.slots


def test_a_category_that_is_widened_to_a_float_begins_anew_as_buckets(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.declare({"age": "int64"})
    project.write(age=AGES)
    project.train()
    project.declare({"age": "float64"})
    project.write(age=[age + 0.5 for age in AGES])
    run = project.train()
    assert run.session.since["age"].step == 3


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("string", "int64"),
        ("float64", "int64"),
        ("int64", "string"),
        ("int64", "float32"),
        ("int64", "list<int64>"),
    ],
)
def test_a_feature_of_another_type_is_refused(
    was: str, now: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values: dict[str, Any] = {
        "string": ["a"] * ROWS,
        "int64": [1] * ROWS,
        "float64": [0.5] * ROWS,
        "float32": [0.5] * ROWS,
        "list<int64>": [[1]] * ROWS,
    }
    project = Project(tmp_path)
    project.declare({"age": was})
    project.write(age=values[was])
    project.declare({"age": now})
    project.write(age=values[now])
    assert project.command() == 2
    error = " ".join(runs.unstamped(capsys.readouterr().err).split())
    assert error.startswith("train: samples/dt=2023-11-14/hr=23/part-0.parquet: column 'age' is ")
    assert "Declare the new feature under another name, or move the files of before away" in error


def test_a_role_that_changes(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.declare({"cat": "string", "age": "int64"})
    project.write(cat=CATS, age=AGES)
    project.train()
    project.declare({"cat": "string", "age": "int64"}, meta=("age",))
    project.write(cat=CATS, age=AGES)
    second = project.train()
    assert "age" not in [slot.name for slot in second.session.runner.job.spec.slots]
    project.declare({"cat": "string", "age": "int64"})
    project.write(cat=CATS, age=AGES)
    assert set(project.train().session.since) == {"age"}


@pytest.mark.parametrize(
    ("optimizer", "more"),
    [
        ("ftrl", ()),
        ("adam", ()),
        ("adagrad", ("model.type=fm",)),
        ("ftrl", ("model.type=deepfm",)),
    ],
)
def test_actions_come_and_go(optimizer: str, more: tuple[str, ...], tmp_path: Path) -> None:
    project = Project(tmp_path)
    more = (*more, f"optimizer.linear={{type='{optimizer}'}}")
    project.declare({"cat": "string"})
    project.write(cat=CATS)
    first = project.train(*more)
    project.declare({"cat": "string"}, (LIKE, CLICK))
    project.late(0, "like")
    project.write(cat=CATS)
    second = project.train(*more)
    assert second.session.runner.job.spec.heads == ("like", "click")
    assert set(second.session.since) == {"like"}
    one = states(first.session.runner.job.spec, first.parts, "cat", "a")[0]
    two = states(second.session.runner.job.spec, second.parts, "cat", "a")[0]
    assert len(two) == (2 * len(one) if optimizer != "adam" else 2 * (len(one) - 1) + 1)
    measured = runs.of_each_action(second)
    # of files that do not have it nothing is learned, but for the late action
    assert measured["like"].rows == ROWS + 1
    assert measured["click"].rows == ROWS
    if not more[0].startswith("model"):
        project.declare({"cat": "string"}, (CLICK,))
        project.write(cat=CATS)
        third = project.train(*more)
        assert third.session.runner.job.spec.heads == ("click",)
        assert third.session.since == {}
        # as if the other had never been there
        fresh = Project(tmp_path / "fresh")
        fresh.declare({"cat": "string"})
        for _ in range(3):
            fresh.write(cat=CATS)
            last = fresh.train(*more)
        np.testing.assert_allclose(
            states(third.session.runner.job.spec, third.parts, "cat", "a")[0],
            states(last.session.runner.job.spec, last.parts, "cat", "a")[0],
            # to Adam the late like was one more step, of gradient 0 for clicks
            rtol=5e-3 if optimizer == "adam" else 1e-5,
        )


@pytest.mark.thorough
def test_servers_go_on_with_another_model_and_readers_follow(tmp_path: Path) -> None:
    """The fault that was seen: `resume` was of another model, a fresh run had no column."""
    project = Project(tmp_path)
    project.declare({"cat": "string", "age": "int64"})
    project.write(cat=CATS, age=AGES)
    deep = ("model.type=deepfm", "train.servers=2", "train.consistency=bsp")
    project.train(*deep)
    model = ServedModel.open(tmp_path / "model/serving")
    project.declare({"cat": "string", "age": "float64", "new": "string"}, (CLICK, LIKE))
    project.write(cat=CATS, age=[0.5] * ROWS, new=NEW)
    run = project.train(*deep)
    assert run.session.rows == 2 * ROWS
    assert set(run.session.since) == {"new", "age", "like"}
    for shard, parts in run.primaries.items():
        for mine, theirs in zip(parts.tables, run.backups[shard].tables, strict=True):
            np.testing.assert_array_equal(mine.sorted().keys, theirs.sorted().keys)
    # who ranks with the model of before has to open the new one, as it needs other columns
    with pytest.raises(Exception, match="is of another model"):
        model.refresh()
    served = ServedModel.open(tmp_path / "model/serving")
    table = pa.table(
        {
            "user_id": ["u1"],
            "item_id": ["i1"],
            "cat": ["a"],
            "age": [0.5],
            "new": ["x"],
            "position": [0],
        }
    )
    assert served.predict(table).shape == (1, 2)
    # in this process, from the same files: the same
    here = project.train("model.type=deepfm", "train.consistency=bsp")
    assert here.session.progress.rows == 0
    runs.assert_equal(here.parts, run.parts)


def test_what_cannot_be_gone_on_with_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project(tmp_path)
    slots = "[slots.cat]\n[slots.age]\n"
    project.declare({"cat": "string", "age": "int64"}, slots=slots)
    project.write(cat=CATS, age=AGES)
    project.train()
    capsys.readouterr()
    for settings, expected in (
        (("model.type=fm",), "model.type was lr, and is fm"),
        (("model.seed=3",), "model.seed was 0, and is 3"),
        (
            ("optimizer.linear={type='adagrad'}",),
            "the linear optimizer of slot cat was ftrl (alpha = 0.2",
        ),
        (
            ("slots.age.admit_after=2",),
            "the slots cat and age had the same settings, and have not now",
        ),
    ):
        assert project.command(*settings) == 2
        error = capsys.readouterr().err
        assert "step-000000000003 is of another model: " in error
        assert expected in error
        assert "Set these back, or set output.path to a new folder" in error
        assert len(error.strip().splitlines()) == 1


# -- without files ---------------------------------------------------------------------------------


FTRL = Ftrl()


def model(
    heads: tuple[str, ...],
    slots: dict[str, tuple[str, int]],
    linear: Optimizer = FTRL,
    admit: tuple[int, ...] = (1, 1),
) -> ModelSpec:
    tables = max(t for _, t in slots.values()) + 1
    return ModelSpec(
        "lr",
        heads,
        tuple(Slot(name, name, of, t) for name, (of, t) in slots.items()),  # type: ignore[arg-type]
        tuple(
            TableSpec(f"t{n}", (Segment("linear", len(heads), linear),), admit[n])
            for n in range(tables)
        ),
    )


ONE = model(("a", "b"), {"x": ("category", 0), "y": ("category", 0), "z": ("category", 1)})


def test_nothing_changes_where_nothing_changed() -> None:
    evolution = Evolution.of(ONE, ONE)
    assert evolution.text == ""
    assert evolution.sources == ((0,), (1,))


def test_tables_that_become_one_are_put_together() -> None:
    other = model(("a", "b"), {"z": ("category", 0), "x": ("category", 0)})
    evolution = Evolution.of(ONE, other)
    assert evolution.sources == ((1, 0),)
    assert evolution.removed == ("y",)
    shard = pushed(ONE)
    (made,) = evolved([shard.snapshot()], ONE, other)
    assert len(made.tables[0]) == sum(t.rows for t in shard.tables)
    loaded = Shard(other, contributions=None, has_dense=False)
    loaded.load(made)
    for table in shard.tables:
        np.testing.assert_array_equal(
            loaded.tables[0].pull(table.keys())[0], table.pull(table.keys())[0]
        )


def test_a_table_that_is_to_be_parted_is_refused() -> None:
    other = model(("a", "b"), {"x": ("category", 0), "y": ("category", 1)}, admit=(1, 5))
    with pytest.raises(CannotGoOnError, match="the slots x and y had the same settings"):
        Evolution.of(ONE, other)
    # one of them alone may have other settings
    alone = model(("a", "b"), {"x": ("category", 0), "z": ("category", 1)}, admit=(3, 1))
    assert Evolution.of(ONE, alone).sources == ((0,), (1,))


def pushed(spec: ModelSpec) -> Shard:
    rng = np.random.default_rng(5)
    shard = Shard(spec, contributions=None, has_dense=True)
    for n in range(4):
        tables = []
        for t, table in enumerate(spec.tables):
            keys = np.arange(1 + 100 * t, 21 + 100 * t, dtype=np.uint64)
            gradients = rng.normal(size=(20, table.width)).astype(np.float32)
            counts = np.full(20, 9, np.uint32) if table.admit_after > 1 else None
            tables.append(TablePush(keys, gradients, counts))
        dense = None
        if shard.dense is not None:
            dense = rng.normal(size=len(shard.dense.values)).astype(np.float32)
        shard.push(Push(0, n, 0, n, tables, dense))
    return shard


@pytest.mark.parametrize("optimizer", [Ftrl(), AdaGrad(), Adam()])
@given(
    old=st.permutations(["a", "b", "c"]),
    new=st.permutations(["a", "b", "c", "d"]),
    had=st.integers(1, 3),
    has=st.integers(1, 4),
)
def test_heads_keep_their_weights_whatever_their_order(
    optimizer: Optimizer, old: list[str], new: list[str], had: int, has: int
) -> None:
    was, now = tuple(old[:had]), tuple(new[:has])
    one = model(was, {"x": ("category", 0)}, optimizer)
    other = model(now, {"x": ("category", 0)}, optimizer)
    shard = pushed(one)
    (made,) = evolved([shard.snapshot()], one, other)
    loaded = Shard(other, contributions=None, has_dense=False)
    loaded.load(made)
    keys = shard.tables[0].keys()
    before, after = shard.tables[0].pull(keys)[0], loaded.tables[0].pull(keys)[0]
    for n, head in enumerate(now):
        if head in was:
            np.testing.assert_array_equal(after[:, n], before[:, was.index(head)])
        else:
            assert not after[:, n].any()
    # and the next step of a head is as it would have been
    gradient = np.full((len(keys), len(was)), 0.5, np.float32)
    wider = np.full((len(keys), len(now)), 0.5, np.float32)
    shard.push(Push(0, 99, 0, 9, [TablePush(keys, gradient, None)], None))
    loaded.push(Push(0, 99, 0, 9, [TablePush(keys, wider, None)], None))
    before, after = shard.tables[0].pull(keys)[0], loaded.tables[0].pull(keys)[0]
    for n, head in enumerate(now):
        if head in was:
            np.testing.assert_array_equal(after[:, n], before[:, was.index(head)])


@given(
    was=st.builds(Ftrl, alpha=st.floats(0.01, 2), beta=st.floats(0, 2), l1=st.floats(0, 2)),
    now=st.builds(Ftrl, alpha=st.floats(0.01, 2), beta=st.floats(0, 2), l2=st.floats(0, 2)),
)
def test_other_rates_leave_the_weights_as_they_are(was: Ftrl, now: Ftrl) -> None:
    old, new = (model(("a", "b"), {"x": ("category", 0)}, rates) for rates in (was, now))
    assert Evolution.of(old, new).text == ""
    shard = pushed(old)
    (made,) = evolved([shard.snapshot()], old, new)
    loaded = Shard(new, contributions=None, has_dense=False)
    loaded.load(made)
    keys = shard.tables[0].keys()
    np.testing.assert_allclose(
        loaded.tables[0].pull(keys)[0], shard.tables[0].pull(keys)[0], rtol=1e-4, atol=1e-7
    )


def deep(heads: tuple[str, ...], slots: tuple[str, ...]) -> ModelSpec:
    segments = (Segment("linear", len(heads), Ftrl()), Segment("embedding", 3, AdaGrad(), 0.1))
    return ModelSpec(
        "deepfm",
        heads,
        tuple(Slot(name, name, "category") for name in slots),
        (TableSpec("t0", segments),),
        embedding=3,
        hidden=(5, 4),
    )


def test_a_new_slot_of_a_deepfm_changes_no_prediction_before_it_has_a_key() -> None:
    from trainer.models.network import Network

    old, new = deep(("a", "b"), ("x", "y")), deep(("b", "c", "a"), ("n", "y", "x"))
    shard = pushed(old)
    (made,) = evolved([shard.snapshot()], old, new)
    rng = np.random.default_rng(1)
    pooled = rng.normal(size=(6, 2, 3)).astype(np.float32)
    linear = np.zeros((6, 2), np.float32)
    assert shard.dense is not None
    before = np.asarray(Network(old).logits(linear, pooled, shard.dense.values))
    nothing = np.zeros((6, 1, 3), np.float32)
    moved = np.concatenate([nothing, pooled[:, 1:], pooled[:, :1]], axis=1)
    after = np.asarray(Network(new).logits(np.zeros((6, 3), np.float32), moved, made.dense[0]))
    np.testing.assert_allclose(after[:, [2, 0]], before, rtol=1e-4, atol=1e-5)
    # its optimizer goes on, too: the same number of steps, and moments in their places
    loaded = Shard(new, contributions=None, has_dense=True)
    loaded.load(made)
    assert [np.shape(a) for a in made.dense] == [
        np.shape(a)
        for a in Shard(new, contributions=None, has_dense=True).dense.arrays()  # type: ignore[union-attr]
    ]
    assert int(made.dense[1]) == 4


# -- reading ---------------------------------------------------------------------------------------


@given(data=st.data())
def test_files_of_any_declaration_are_read_as_the_present_one(data: st.DataObject) -> None:
    """Each column of an earlier file is there, narrower, or absent; one more that is not read."""
    narrower = {"float64": ["int64", "float32", "float64"], "list<float64>": ["list<int64>"]}
    types = ["bool", "int64", "float32", "float64", "string", "list<string>", "list<float64>"]
    now = data.draw(st.dictionaries(st.sampled_from("abcdefg"), st.sampled_from(types), max_size=6))
    layout = sample_layout(
        FeatureSchema.of(Feature(n, FeatureType.parse(t)) for n, t in now.items()), (CLICK,)
    )
    rows = 3
    written: dict[str, pa.Array] = {}
    lacking = []
    for field in layout:
        text = now.get(field.name)
        if text is None:
            if field.name.endswith(("_click", "_click_ms")) and data.draw(st.booleans()):
                lacking.append(field.name)
                continue
            written[field.name] = pa.nulls(rows, field.type)
        elif data.draw(st.booleans()):
            lacking.append(field.name)
        else:
            was = FeatureType.parse(data.draw(st.sampled_from(narrower.get(text, [text]))))
            values: dict[str, Any] = {"bool": True, "int64": 7, "string": "s"}
            value = values.get(was.scalar, 7.0)
            cell = [value, None, value] if not was.is_list else [[value], None, []]
            written[field.name] = pa.array(cell, was.arrow)
    written["dropped"] = pa.array([1] * rows)
    table = pa.table(written)
    assert list(absent(table.schema, layout, "file")) == lacking
    made = conformed(table, layout, layout.names)
    assert made.column_names == layout.names
    for field in layout:
        got = made[field.name].to_pylist()
        if field.name in lacking:
            assert got == [None] * rows
        else:
            assert got == table[field.name].to_pylist()
            assert made[field.name].type == field.type


def test_a_file_that_is_not_the_jobs(tmp_path: Path) -> None:
    layout = sample_layout(FeatureSchema(()), (CLICK,))
    with pytest.raises(ReadError, match="x: has no column 'event_time', which every sample has"):
        absent(layout.remove(layout.get_field_index("event_time")), layout, "x")


def test_a_checkpoint_that_is_gone_back_to_is_brought_forward_again(tmp_path: Path) -> None:
    """A roll-back goes to the newest checkpoint, which may be of the model of before."""
    project = Project(tmp_path)
    project.declare({"cat": "string"})
    project.write(cat=CATS)
    project.train()
    project.declare({"cat": "string", "new": "string"})
    project.write(cat=CATS, new=NEW)
    config = load(tmp_path / "trainer.toml", ())
    session = runs.session_of(config)
    lost: list[int] = []

    def once(next_task: Any, done: Callable[[Any], None], pause: Any) -> None:
        if session.progress.steps == 1 and not lost:
            lost.append(1)
            raise LostShardError("shards [0]")
        original(next_task, done, lambda: pause() or (session.progress.steps == 1 and not lost))

    original = session.runner.run
    session.runner.run = once  # type: ignore[method-assign]
    run = runs.run(session)
    assert lost
    assert run.session.rows == 2 * ROWS
    assert run.session.since["new"].step == 3


def test_a_model_that_cannot_be_brought_forward_leaves_the_checkpoint(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.declare({"cat": "string"})
    project.write(cat=CATS)
    project.train()
    before = sorted(p for p in (tmp_path / "model").rglob("*") if p.is_file())
    with pytest.raises(CheckpointError, match=r"model\.embedding|model\.type"):
        project.train("model.type=fm")
    assert [p for p in before if p.exists()] == before
