"""What is exported while a run goes on predicts as the trainer itself would at that step."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.trainer.data import Traffic, files, write
from schemas.actions import ActionKind
from tests.trainer import runs
from tests.trainer.runs import Joined, Run
from trainer.features.batch import Targets
from trainer.features.encode import Encoder
from trainer.models import bags
from trainer.models.network import Network
from trainer.run.session import Session
from trainer.server.shard import Shard
from trainer.serving.format import (
    ContentError,
    GapError,
    NothingPublishedError,
    ServingError,
    SpecError,
    read_current,
)
from trainer.serving.model import ServedModel

#: 16 batches of 1,024, in four files of an hour each.
TRAFFIC = Traffic(rows=16_384, files=4, hours=4, users=400, catalogue=300)
STEPS = 16
MODELS = {
    "lr": ("model.type=lr",),
    "fm": ("model.type=fm", "model.embedding=4", "model.scale=0.2"),
    "deepfm": ("model.type=deepfm", "model.embedding=4", "model.hidden=[8]", "model.scale=0.2"),
}
OFTEN = ("output.export_every=1ms", "output.base_every=3")
ONE_BASE = ("output.export_every=1ms", "output.base_every=100")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("samples")
    write(TRAFFIC, root)
    return root


@pytest.fixture(scope="module")
def candidates(folder: Path) -> pa.Table:
    """Rows of all hours (of which some keys have not been seen, and others have gone), and some

    whose user, item and name nobody ever saw, or that have none.
    """
    some = pa.concat_tables([pq.ParquetFile(path).read().slice(0, 60) for path in files(folder)])
    new = some.slice(0, 60)
    for column in ("user_id", "item_id", "f05"):
        at = new.schema.get_field_index(column)
        values = [f"new-{n}" if n % 3 else None for n in range(60)]
        new = new.set_column(at, new.schema.field(at), pa.array(values))
    return pa.concat_tables([some, new]).combine_chunks()


class Trainer:
    """What a run would predict now: with its parameters, pulled as for a batch."""

    def __init__(self, session: Session, rows: pa.Table) -> None:
        self._session, self._spec = session, session.runner.job.spec
        self._actions = len(session.runner.job.rules.actions)
        none = np.zeros((rows.num_rows, 0), np.float32)
        chunk = Encoder(self._spec).chunk(rows, Targets(none, none, none, none))
        self._batch = chunk.batch(0, rows.num_rows)
        self._network = Network(self._spec)
        self.unseen = 0

    def predict(self) -> Any:
        """(rows, actions)."""
        shard = Shard(self._spec, contributions=None, has_dense=True)
        shard.load(runs.local(self._session).shard.snapshot())
        pulled = shard.pull(0, [bag.keys for bag in self._batch.tables], dense=True)
        self.unseen = sum(int((known == 0).sum()) for _, known in pulled.tables)
        values = [of_table for of_table, _ in pulled.tables]
        sums = bags.sums(self._spec, self._batch, values, self._batch.rows)
        logits = np.asarray(self._network.logits(*sums, pulled.dense))[:, : self._actions]
        return 1 / (1 + np.exp(-logits))


class Watched:
    """A run that says at each step what it would predict, and what those who rank would.

    `look` is called after each step, when what came of it may be exported.
    """

    def __init__(self, config: Any, rows: pa.Table, stop_after: int | None = None) -> None:
        self.session = runs.session_of(config, stopping=self._stopping, by_batches=True)
        self.trainer = Trainer(self.session, rows)
        self.by_step: dict[int, Any] = {}
        self._stop_after = stop_after

    def _stopping(self) -> bool:
        self.by_step[self.session.step] = self.trainer.predict()
        self.look()
        return self._stop_after is not None and self.session.progress.steps >= self._stop_after

    def look(self) -> None:
        """Nothing to be done."""

    def run(self) -> Run:
        return runs.run(self.session)


def step_of(root: Path, model: ServedModel) -> int:
    run_id, number = model.version
    manifest = json.loads((root / run_id / f"export-{number:06d}.json").read_text())
    return int(manifest["step"])


def kinds_of(root: Path, run_id: str) -> list[str]:
    """Of the exports that are still there, in their order."""
    return [json.loads(p.read_text())["kind"] for p in sorted((root / run_id).glob("export-*"))]


def assert_near(one: Any, other: Any) -> None:
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_every_export_predicts_as_the_trainer(
    kind: str, folder: Path, candidates: pa.Table, tmp_path: Path
) -> None:
    """With items that come late and users that go, bases and deltas."""
    settings = ("slots.item_id.admit_after=3", "slots.user_id.expire_after=30min", *MODELS[kind])
    serving = tmp_path / "serving"
    models: list[ServedModel] = []
    looked_at: list[int] = []

    class Looking(Watched):
        def look(self) -> None:
            if read_current(serving) is None:
                return
            changed = False
            if models:
                changed = models[0].refresh()
            else:
                models.append(ServedModel.open(serving))
            step = step_of(serving, models[0])
            if not looked_at or step != looked_at[-1]:
                assert changed == bool(looked_at)
                looked_at.append(step)
                predicted = models[0].predict(candidates)
                assert_near(predicted, self.by_step[step])
                # by deltas or from a base: the same
                if step in (3, 4, 15):
                    anew = ServedModel.open(serving)
                    np.testing.assert_array_equal(anew.predict(candidates), predicted)

    watched = Looking(runs.configured(folder, tmp_path, *settings, *OFTEN), candidates)
    run = watched.run()
    assert run.session.progress.exports == STEPS
    # the last one is out when the run is over
    assert looked_at == list(range(1, STEPS))
    assert models[0].refresh()
    assert not models[0].refresh()
    assert_near(models[0].predict(candidates), watched.trainer.predict())
    assert step_of(serving, models[0]) == STEPS
    # this was of keys that are known, that are not, and that went; and the model moves
    assert run.session.progress.expired > 100
    assert 0 < watched.trainer.unseen < 1_000
    steps = [watched.by_step[n] for n in range(1, STEPS)]
    moved = [np.abs(a - b).max() for a, b in itertools.pairwise(steps)]
    assert min(moved) > 1e-3
    kinds = kinds_of(serving, models[0].version[0])
    assert kinds == ["base", "delta", "delta", "base"]


def test_keys_that_nobody_has_seen_begin_as_in_the_trainer(
    folder: Path, candidates: pa.Table, tmp_path: Path
) -> None:
    """Embeddings of a factorization machine begin with values of their own, not with zeros."""
    watched = Watched(runs.configured(folder, tmp_path, *MODELS["fm"]), candidates, stop_after=1)
    watched.run()
    model = ServedModel.open(tmp_path / "serving")
    new = candidates.slice(240)
    assert_near(model.predict(new), watched.trainer.predict()[240:])
    differ = new.set_column(
        new.schema.get_field_index("user_id"), "user_id", pa.array(["another"] * new.num_rows)
    )
    assert np.abs(model.predict(differ) - model.predict(new)).max() > 1e-4


def test_each_action_has_its_column(tmp_path: Path) -> None:
    """And heads beside the actions have none."""
    kinds = (ActionKind("click", 10_000), ActionKind("purchase", 60_000))
    joined = Joined(tmp_path, kinds, policy="es_dfm", first_emit_after="5s", features=("who", "ad"))
    rows = {
        "who": [f"u{n % 5}" for n in range(100)],
        "ad": [f"a{n % 7}" for n in range(100)],
        "kind": ["provisional"] * 100,
        "observed_ms": [5_000] * 100,
        "delay_click_ms": [n if n % 3 == 0 else None for n in range(100)],
        "mature_purchase": [False] * 100,
    }
    joined.samples(rows)
    fm = ("model.type=fm", "model.embedding=4", "model.scale=0.2", "train.batch=10")
    config = joined.configured("model", *fm)
    watched = Watched(config, joined.table(rows))
    watched.run()
    model = ServedModel.open(tmp_path / "model" / "serving")
    assert model.actions == ("click", "purchase")
    assert sorted(model.columns) == ["ad", "who"]
    predicted = model.predict(joined.table(rows))
    assert predicted.shape == (100, 2)
    assert_near(predicted, watched.trainer.predict())
    with pytest.raises(KeyError, match="who"):
        model.predict(joined.table(rows).drop_columns(["who"]))


# -- what is missing, and what comes after ---------------------------------------------------------


def behind(config: Any, serving: Path, candidates: pa.Table, at: int) -> tuple[ServedModel, Any]:
    """Trains to the end; a model that was opened at export `at`, and what it predicted then."""
    opened: list[ServedModel] = []

    class Opening(Watched):
        def look(self) -> None:
            current = read_current(serving)
            if not opened and current is not None and current.number == at:
                opened.append(ServedModel.open(serving))

    Opening(config, candidates).run()
    return opened[0], opened[0].predict(candidates)


@pytest.mark.parametrize(
    ("name", "error"),
    [("export-000004.json", GapError), ("part-000004-t0-0000.arrow", ContentError)],
)
def test_a_gap_is_refused_and_the_old_model_still_predicts(
    name: str, error: type[ServingError], folder: Path, candidates: pa.Table, tmp_path: Path
) -> None:
    serving = tmp_path / "serving"
    config = runs.configured(folder, tmp_path, *MODELS["fm"], *ONE_BASE)
    model, predicted = behind(config, serving, candidates, at=2)
    run_id, number = model.version
    assert number == 2
    away = tmp_path / name
    (serving / run_id / name).rename(away)
    for _ in range(2):
        with pytest.raises(error, match="is missing"):
            model.refresh()
        assert model.version == (run_id, 2)
        np.testing.assert_array_equal(model.predict(candidates), predicted)
    with pytest.raises(error, match="is missing"):
        ServedModel.open(serving)
    # it comes after all (a slow copy)
    away.rename(serving / run_id / name)
    assert model.refresh()
    assert model.version == (run_id, STEPS - 1)
    anew = ServedModel.open(serving)
    np.testing.assert_array_equal(model.predict(candidates), anew.predict(candidates))
    assert np.abs(model.predict(candidates) - predicted).max() > 1e-3


def test_a_newer_base_is_read_over_a_gap(
    folder: Path, candidates: pa.Table, tmp_path: Path
) -> None:
    serving = tmp_path / "serving"
    config = runs.configured(folder, tmp_path, *MODELS["fm"], *OFTEN)
    model, _ = behind(config, serving, candidates, at=2)
    # all that was before the last two bases has gone meanwhile
    assert kinds_of(serving, model.version[0]) == ["base", "delta", "delta", "base"]
    assert model.refresh()
    anew = ServedModel.open(serving)
    assert model.version == anew.version
    np.testing.assert_array_equal(model.predict(candidates), anew.predict(candidates))


def test_a_run_that_goes_on_is_followed(folder: Path, candidates: pa.Table, tmp_path: Path) -> None:
    serving = tmp_path / "serving"
    with pytest.raises(NothingPublishedError):
        ServedModel.open(serving)
    going_on = (*MODELS["deepfm"], "output.resume=true", *ONE_BASE)
    config = runs.configured(folder, tmp_path, *going_on)
    first = Watched(config, candidates, stop_after=3)
    first.run()
    model = ServedModel.open(serving)
    before = model.version
    assert before[1] == 2
    assert_near(model.predict(candidates), first.trainer.predict())
    second = Watched(config, candidates, stop_after=2)
    second.run()
    # the run has begun anew with a base, and all that is in it
    assert model.refresh()
    assert model.version[0] != before[0]
    assert kinds_of(serving, model.version[0]) == ["base", "delta"]
    assert_near(model.predict(candidates), second.trainer.predict())
    assert step_of(serving, model) == 5
    # a run that has nothing to learn any more has the model to export still
    third = Watched(config, candidates)
    third.run()
    fourth = Watched(config, candidates)
    fourth.run()
    assert fourth.session.progress.steps == 0
    assert model.refresh()
    assert step_of(serving, model) == STEPS
    assert_near(model.predict(candidates), fourth.trainer.predict())


def test_another_model_in_the_same_place_is_refused(
    folder: Path, candidates: pa.Table, tmp_path: Path
) -> None:
    serving = tmp_path / "serving"
    runs.train_here(runs.configured(folder, tmp_path, *MODELS["lr"]), stop_after=2)
    model = ServedModel.open(serving)
    predicted = model.predict(candidates)
    runs.train_here(runs.configured(folder, tmp_path, *MODELS["fm"]), stop_after=2)
    with pytest.raises(SpecError):
        model.refresh()
    np.testing.assert_array_equal(model.predict(candidates), predicted)
    assert ServedModel.open(serving).spec.kind == "fm"
