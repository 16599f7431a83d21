"""A logistic regression by FTRL, sample by sample, as Vowpal Wabbit learns it.

The whole path is compared: a file of samples, its reader, keys, pull, loss, gradient, push, and the
progressive log loss. Vowpal Wabbit's `--ftrl` is algorithm 1 of McMahan et al. 2013 as well, in
float32, and its `--l1` and `--l2` are the paper's, in the weight. Two differences do not show here.
It clips the sum of the weights to 50 on both sides before the loss, which is far from what is
reached. And it keeps each weight as it was after the last step, where `trainer.table` works it out
from z and n when it is read; that is the same number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.actions import ActionKind
from schemas.features import Feature, FeatureSchema, FeatureType
from schemas.samples import samples as sample_layout
from trainer.config.sections import StepsPer
from trainer.evaluation.tally import Layout
from trainer.features.encode import SliceNames
from trainer.features.keys import keys_of
from trainer.losses.targets import LossRules
from trainer.reading.ledger import Ledger
from trainer.reading.planner import Cursor, Planner
from trainer.run.job import Job, Task
from trainer.run.local import LocalRunner
from trainer.spec import Encoding, Ftrl, ModelSpec, Segment, Slot, TableSpec
from trainer.table import optimizers
from trainer.table.optimizers import Floats, Positions

vowpalwabbit = pytest.importorskip("vowpalwabbit")

ROWS = 3000
ALPHA, BETA = 0.05, 1.0
#: Of the mean over the samples, in nats.
TOLERANCE = 1e-5
CLICK = ActionKind("click", 60_000)
#: Column, its type, how it is encoded, and of a category how many values there are.
COLUMNS: list[tuple[str, str, Encoding, int]] = [
    ("user_id", "string", "category", 60),
    ("item_id", "string", "category", 200),
    ("device", "string", "category", 3),
    ("hour", "int64", "category", 24),
    ("member", "bool", "category", 2),
    ("price", "float32", "value", 0),
    ("age", "int64", "value", 0),
    ("score", "float64", "value", 0),
]
FEATURES = FeatureSchema.of(
    [
        Feature(name, FeatureType.parse(type_))
        for name, type_, _, _ in COLUMNS
        if name not in ("user_id", "item_id")
    ]
)
LAYOUT = sample_layout(FEATURES, [CLICK])


@dataclass
class Samples:
    """`numbers`: what Vowpal Wabbit has instead of a key, for each (column, text of the value)."""

    table: pa.Table
    lines: list[str]
    numbers: dict[tuple[str, str], int]


@pytest.fixture(scope="module")
def made() -> Samples:
    """Clicks of a model with large weights, so that there is something to learn."""
    random = np.random.default_rng(17)
    columns: dict[str, list[Any]] = {}
    logit = np.full(ROWS, -1.0)
    for name, type_, encoding, count in COLUMNS:
        if encoding == "value":
            # eighths: the text that Vowpal Wabbit reads is exact
            numbers = random.integers(-16, 17, ROWS) / 8.0
            if type_ == "int64":
                numbers = np.round(numbers)
            logit += random.normal(0, 1) * numbers
            columns[name] = numbers.astype("int64" if type_ == "int64" else "float64").tolist()
        else:
            # frequent ones and rare ones
            chosen = np.minimum(random.geometric(3 / (count + 3), ROWS) - 1, count - 1)
            logit += random.normal(0, 1, count)[chosen]
            texts: dict[str, Callable[[int], Any]]
            texts = {"string": "v{}".format, "int64": int, "bool": bool}
            columns[name] = [texts[type_](n) for n in chosen.tolist()]
        missing = random.random(ROWS) < 0.05
        columns[name] = [None if m else v for v, m in zip(columns[name], missing, strict=True)]
    clicks = random.random(ROWS) < 1 / (1 + np.exp(-logit))
    everything: dict[str, Any] = {
        **columns,
        "event_time": 1_714_550_400_000 + np.arange(ROWS),
        "delay_click_ms": pa.array([5 if click else None for click in clicks], pa.int64()),
        "mature_click": np.ones(ROWS, bool),
        "sampling_rate": np.ones(ROWS),
        "kind": ["final"] * ROWS,
        "revision": np.zeros(ROWS, np.int32),
    }
    arrays = [
        pa.array(everything[field.name], field.type)
        if field.name in everything
        else pa.nulls(ROWS, field.type)
        for field in LAYOUT
    ]
    numbers_of: dict[tuple[str, str], int] = {}
    lines = []
    for row in range(ROWS):
        line = ["1 |" if clicks[row] else "-1 |"]
        for name, _, encoding, _ in COLUMNS:
            value = columns[name][row]
            if value is None:
                continue
            text = "" if encoding == "value" else str(value)
            text = text.lower() if isinstance(value, bool) else text
            number = numbers_of.setdefault((name, text), 1 + len(numbers_of))
            line.append(f"{number}:{value}" if encoding == "value" else str(number))
        lines.append(" ".join(line))
    return Samples(pa.table(arrays, schema=LAYOUT), lines, numbers_of)


def theirs(made: Samples, l1: float, l2: float) -> tuple[float, npt.NDArray[np.float64]]:
    """Average progressive loss, and the weight of each number."""
    workspace = vowpalwabbit.Workspace(
        "--ftrl --noconstant --loss_function logistic --quiet --bit_precision 18"
        f" --ftrl_alpha {ALPHA} --ftrl_beta {BETA} --l1 {l1} --l2 {l2}"
    )
    try:
        for line in made.lines:
            workspace.learn(line)
        loss = workspace.get_sum_loss() / workspace.get_weighted_examples()
        weights = [workspace.get_weight(number) for number in made.numbers.values()]
    finally:
        workspace.finish()
    return loss, np.array(weights)


def ours(
    made: Samples, folder: Path, optimizer: Ftrl, batch: int = 1, steps: StepsPer = "batch"
) -> tuple[float, Floats]:
    """The same of ours, from a file."""
    file = folder / "samples/dt=2024-05-01/hr=08/part-0-0"
    file.parent.mkdir(parents=True)
    pq.write_table(made.table, file, row_group_size=700)
    slots = tuple(Slot(name, name, encoding) for name, _, encoding, _ in COLUMNS)
    table = TableSpec("t0", (Segment("linear", 1, optimizer),))
    actions = (CLICK.name,)
    job = Job(
        spec=ModelSpec("lr", actions, slots, (table,)),
        rules=LossRules("plain", actions),
        root=str(folder),
        features=FEATURES.features,
        kinds=(CLICK,),
        exposure=None,
        leaves_out=False,
        batch_rows=batch,
        workers=1,
        consistency="ssp",
        layout=Layout(actions, 3_600_000, (), tuple(slot.name for slot in slots)),
        steps=steps,
    )
    runner = LocalRunner(job, SliceNames())
    runner.start([])
    ledger = Ledger(job.samples)
    assert len(ledger.discover(folder)) == 1
    planner = Planner(ledger, Cursor(), job.batch_rows)

    def next_task() -> Task | None:
        ticket = planner.next()
        return None if ticket is None else Task(ticket, ledger.entries[ticket.entry])

    runner.run(next_task, lambda _: None, lambda: False)
    of_all = next(m.measures for m in runner.take_tally().whole() if m.slice == "all")
    assert of_all.rows == of_all.weight == ROWS
    keys = np.concatenate([keys_of(slot, [text]) for slot, text in made.numbers])
    weights, known = runner.shard.tables[0].pull(keys)
    assert known.all()
    assert runner.shard.tables[0].rows == len(keys)
    return of_all.log_loss, weights[:, 0]


@pytest.mark.parametrize(("batch", "steps"), [(1, "batch"), (1, "sample"), (512, "sample")])
@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.5, 0.1), (2.0, 0.0), (0.0, 5.0)])
def test_loss_and_weights_are_those_of_vowpal_wabbit(
    made: Samples, tmp_path: Path, l1: float, l2: float, batch: int, steps: StepsPer
) -> None:
    """A step for each sample is what it makes, in batches of one sample or of many.

    Ours are predicted before their batch is learned, its are not.
    """
    loss, weights = ours(made, tmp_path, Ftrl(ALPHA, BETA, l1, l2), batch, steps)
    expected, expected_weights = theirs(made, l1, l2)
    if batch == 1:
        assert loss == pytest.approx(expected, abs=TOLERANCE)
    else:
        assert loss > expected + TOLERANCE
    np.testing.assert_allclose(weights, expected_weights, rtol=1e-3, atol=2e-5)
    # it learned something, and l1 took something away
    assert loss < 0.66
    assert np.abs(weights).max() > 0.2
    assert (weights == 0).any() == (l1 > 0)
    np.testing.assert_array_equal(weights == 0, expected_weights == 0)


class Variant(optimizers._Ftrl):
    """FTRL again, in numpy, so that it can be made wrong."""

    def read(self, state: Floats, positions: Positions, out: Floats, first: int) -> None:
        known = positions >= 0
        out[known, first] = self.weights(*state[positions[known]].T)

    def update(self, state: Floats, positions: Positions, gradients: Floats, first: int) -> None:
        alpha = self._rates[0]
        z, n = state[positions].T
        g = gradients[:, first]
        sigma = (np.sqrt(n + g * g) - np.sqrt(n)) / alpha
        state[positions, 0] = z + g - sigma * self.before(z, n, g)
        state[positions, 1] = n + g * g

    def before(self, z: Floats, n: Floats, g: Floats) -> Floats:
        """The weight in the update."""
        return self.weights(z, n)

    def weights(self, z: Floats, n: Floats) -> Floats:
        alpha, beta, l1, l2 = self._rates
        made: Floats = -self.shrunk(z, l1) / ((beta + np.sqrt(n)) / alpha + l2)
        return made

    def shrunk(self, z: Floats, l1: np.float32) -> Floats:
        made: Floats = np.sign(z) * np.maximum(np.abs(z) - l1, np.float32(0))
        return made


class NothingTakenFromLargeOnes(Variant):
    """The branch of l1 keeps z, and does not take l1 from it."""

    def shrunk(self, z: Floats, l1: np.float32) -> Floats:
        return z * (np.abs(z) > l1)


class AddedToNegativeOnes(Variant):
    """As it is when the sign of z is forgotten."""

    def shrunk(self, z: Floats, l1: np.float32) -> Floats:
        return (z - l1) * (np.abs(z) > l1)


class NoThreshold(Variant):
    """Weights between -l1 and l1 are not 0."""

    def shrunk(self, z: Floats, l1: np.float32) -> Floats:
        made: Floats = z - l1 * np.sign(z).astype(np.float32)
        return made


class WeightOfAfter(Variant):
    """The update takes the weight with the new n."""

    def before(self, z: Floats, n: Floats, g: Floats) -> Floats:
        return self.weights(z, n + g * g)


@pytest.mark.parametrize(
    ("variant", "wrong"),
    [
        (Variant, False),
        (NothingTakenFromLargeOnes, True),
        (AddedToNegativeOnes, True),
        (NoThreshold, True),
        (WeightOfAfter, True),
    ],
)
def test_a_wrong_step_shows(
    made: Samples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variant: type[Variant],
    wrong: bool,
) -> None:
    """That the tolerance tells them apart."""
    monkeypatch.setitem(optimizers._KERNELS, Ftrl, variant)
    loss, _ = ours(made, tmp_path, Ftrl(ALPHA, BETA, 0.5, 0.1))
    expected, _ = theirs(made, 0.5, 0.1)
    assert (abs(loss - expected) > TOLERANCE) == wrong
