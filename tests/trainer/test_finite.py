"""No model that is not finite leaves the trainer, whatever the join has accepted.

The fuzzer makes samples of extreme numbers for each model, loss and optimizer, learns them, and
looks at every parameter and optimizer state, at what is written, and at what is predicted from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.actions import ActionKind
from schemas.features import FLOAT32_MAX, INT64_MAX, INT64_MIN, Feature, FeatureSchema, FeatureType
from schemas.samples import samples as sample_layout
from tests.effort import examples
from trainer import checkpoint
from trainer.checkpoint import CheckpointError, Manifest
from trainer.config.sections import StepsPer
from trainer.evaluation.tally import Layout, Limited, Tally
from trainer.features.encode import Encoder
from trainer.features.keys import keys_of
from trainer.limits import MAX_GRADIENT, MAX_VALUE, MIN_SAMPLING_RATE, transformed
from trainer.losses.targets import LossKind, LossRules, Sampling, targets
from trainer.models.by_sample import OPTIMIZERS
from trainer.run.learner import Learner
from trainer.server.commands import COMMANDS
from trainer.server.parameters import LocalParameters
from trainer.server.replicas import Replica, Replicas
from trainer.server.shard import Push, Shard, ShardSnapshot, TablePush
from trainer.server.shard_file import (
    File,
    check_snapshot,
    checksum,
    write_shard,
    write_snapshot,
)
from trainer.serving.format import ContentError
from trainer.serving.model import ServedModel
from trainer.serving.write import write_tables
from trainer.spec import (
    AdaGrad,
    Adam,
    Ftrl,
    ModelKind,
    ModelSpec,
    Optimizer,
    Segment,
    Slot,
    TableSpec,
)
from trainer.table.finite import NotFiniteError, check_rows, check_vector
from trainer.train import main

ROWS = 16
CLICK, BUY = ActionKind("click", 60_000, "any"), ActionKind("buy", 600_000, "sum")
KINDS = (CLICK, BUY)
TYPES = {
    "price": "float64",
    "nanos": "int64",
    "scores": "list<float32>",
    "ratio": "float64",
    "flag": "bool",
    "word": "string",
}
SCHEMA = sample_layout(
    FeatureSchema.of(Feature(name, FeatureType.parse(text)) for name, text in TYPES.items()), KINDS
)
LOSSES: tuple[LossKind, ...] = ("plain", "fnw", "es_dfm", "defer")
MODELS: tuple[ModelKind, ...] = ("lr", "fm", "deepfm")
#: Usual ones, and those at the ends of what the configuration allows.
LINEAR: tuple[Optimizer, ...] = (
    Ftrl(),
    Ftrl(alpha=1e4, beta=0.0),
    Ftrl(alpha=1e-6, beta=0.0, l1=1e12, l2=1e12),
    AdaGrad(),
    AdaGrad(rate=1e2, initial=1e-12),
    Adam(),
    Adam(rate=1e2, beta1=0.999999, beta2=0.999999, epsilon=1e-20),
    Adam(rate=1e-9, beta1=0.0, beta2=0.0, epsilon=1e-20),
)
EMBEDDING: tuple[Optimizer, ...] = LINEAR[3:]
DENSE = (Adam(), Adam(rate=1e2, beta1=0.0, beta2=0.0, epsilon=1e-20))

# -- what the join accepts -------------------------------------------------------------------------

_TINY = 5e-324
doubles = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 1e25, -1e25, 1e300, 1.7976931348623157e308, _TINY, 1e-45]),
    st.floats(allow_nan=False, allow_infinity=False),
)
singles = st.one_of(
    st.sampled_from([0.0, FLOAT32_MAX, -FLOAT32_MAX, 1e-45]),
    st.floats(-FLOAT32_MAX, FLOAT32_MAX, width=32),
)
integers = st.one_of(
    st.sampled_from([0, 1, INT64_MIN, INT64_MAX, 1_700_000_000_000_000_000]),
    st.integers(INT64_MIN, INT64_MAX),
)
delays = st.one_of(st.none(), st.sampled_from([0, 5, 60_000]), integers)
rates = st.sampled_from([1.0, 0.5, 1e-9, MIN_SAMPLING_RATE])


def column(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.one_of(st.none(), values), min_size=ROWS, max_size=ROWS)


@st.composite
def tables(draw: Callable[..., Any]) -> pa.Table:
    """Samples of any numbers: of one value as a whole, or of another for each row."""

    def numbers(of: st.SearchStrategy[Any]) -> list[Any]:
        same = draw(st.booleans())
        return [draw(of)] * ROWS if same else draw(column(of))

    made: dict[str, list[Any]] = {
        "sample_id": list(range(ROWS)),
        "request_id": [f"r{n}" for n in range(ROWS)],
        "user_id": ["u"] * ROWS,
        "item_id": ["i"] * ROWS,
        "position": [draw(st.sampled_from([0, 2**31 - 1]))] * ROWS,
        "event_time": draw(
            st.lists(st.one_of(st.just(1_700_000_000_000), integers), min_size=ROWS, max_size=ROWS)
        ),
        "price": numbers(doubles),
        "nanos": numbers(integers),
        "scores": numbers(st.lists(singles, max_size=40)),
        "ratio": numbers(doubles),
        "flag": draw(column(st.booleans())),
        "word": draw(column(st.sampled_from(["", "a", "é" * 200]))),
        "observed_ms": draw(column(delays)),
        "exposed": draw(column(st.booleans())),
        "sampling_rate": [draw(rates)] * ROWS,
        "revision": draw(st.lists(st.sampled_from([0, 1, 7]), min_size=ROWS, max_size=ROWS)),
        "kind": draw(
            st.lists(
                st.sampled_from(["provisional", "positive", "final"]),
                min_size=ROWS,
                max_size=ROWS,
            )
        ),
    }
    for kind in KINDS:
        given_delays = draw(column(delays))
        made[f"delay_{kind.name}_ms"] = given_delays
        made[f"label_{kind.name}"] = [0 if d is None else 1 for d in given_delays]
        made[f"mature_{kind.name}"] = [True] * ROWS
    return pa.table([pa.array(made[f.name], f.type) for f in SCHEMA], schema=SCHEMA)


def spec_of(
    kind: ModelKind, loss: LossKind, linear: Optimizer, embedding: Optimizer, dense: Adam
) -> ModelSpec:
    heads = [k.name for k in KINDS]
    if loss in ("es_dfm", "defer"):
        heads += [f"dp:{name}" for name in heads]
    segments = [Segment("linear", len(heads), linear)]
    if kind != "lr":
        segments.append(Segment("embedding", 4, embedding, 0.1))
    slots = (
        Slot("price", "price", "value"),
        Slot("nanos", "nanos", "value", log1p=True, scale=1e300, clip=10.0),
        Slot("scores", "scores", "value", scale=-1e-3),
        Slot("ratio", "ratio", "buckets"),
        Slot("flag", "flag", "category"),
        Slot("word", "word", "category"),
        Slot("bias", None, "value", 1),
    )
    return ModelSpec(
        kind,
        tuple(heads),
        slots,
        (TableSpec("t0", tuple(segments)), TableSpec("t1", (segments[0],))),
        embedding=0 if kind == "lr" else 4,
        hidden=(8, 4) if kind == "deepfm" else (),
        dense=dense,
    )


def learned(
    spec: ModelSpec,
    rules: LossRules,
    samples: list[pa.Table],
    repeat: int = 3,
    steps: StepsPer = "batch",
) -> tuple[Shard, Tally]:
    layout = Layout(rules.actions, 3_600_000, (), tuple(s.name for s in spec.slots if s.column))
    learner = Learner(spec, rules, layout, ROWS, steps)
    shard = Shard(spec, contributions=None, has_dense=True)
    parameters, encoder = LocalParameters(shard), Encoder(spec)
    sequence = 0
    for _ in range(repeat):
        for table in samples:
            chunk = encoder.chunk(table, targets(table, rules))
            batch = chunk.batch(0, ROWS, by_row=steps == "sample")
            learner.learn(batch, parameters, sequence, 0)
            sequence += 1
    return shard, learner.take_tally()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", MODELS)
@settings(
    max_examples=examples(4),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(data=st.data())
def test_whatever_is_accepted_every_parameter_stays_finite(
    kind: ModelKind, loss: LossKind, data: st.DataObject
) -> None:
    linear = data.draw(st.sampled_from(LINEAR), "linear")
    embedding = data.draw(st.sampled_from(EMBEDDING), "embedding") if kind != "lr" else AdaGrad()
    dense = data.draw(st.sampled_from(DENSE), "dense") if kind != "lr" else Adam()
    sampling: Sampling = data.draw(st.sampled_from(["importance", "log_odds", "none"]), "sampling")
    samples = data.draw(st.lists(tables(), min_size=1, max_size=3), "samples")
    spec = spec_of(kind, loss, linear, embedding, dense)
    rules = LossRules(
        loss,
        tuple(k.name for k in KINDS),
        None if loss == "plain" else 0,
        sampling,
        repeats=True,
        rate=data.draw(rates, "rate"),
    )
    steps: StepsPer = "batch"
    if kind != "deepfm" and isinstance(linear, OPTIMIZERS) and isinstance(embedding, OPTIMIZERS):
        steps = data.draw(st.sampled_from(["batch", "sample"]), "steps")
    shard, tally = learned(spec, rules, samples, steps=steps)
    check_snapshot("checkpoint", shard.snapshot(), spec)
    for table in shard.tables:
        keys, values, _ = table.changed(everything=True)
        check_rows("export", table.spec.name, keys, [values], spec)
    if shard.dense is not None:
        check_vector("export", shard.dense.values)
    for metric in tally.whole():
        measures = metric.measures
        assert math.isfinite(measures.log_loss)
        assert math.isfinite(measures.prediction)
    assert Tally.decode(tally.encode()).limited == tally.limited


# -- the bounds by themselves ----------------------------------------------------------------------


@given(
    numbers=st.lists(doubles, max_size=30),
    log1p=st.booleans(),
    scale=doubles.filter(lambda x: x != 0),
    clip=st.floats(1e-9, MAX_VALUE),
)
def test_values_are_within_the_bound_and_only_what_is_beyond_is_clipped(
    numbers: list[float], log1p: bool, scale: float, clip: float
) -> None:
    values, clipped = transformed(np.array(numbers, float), log1p=log1p, scale=scale, clip=clip)
    assert values.dtype == np.float32
    assert (np.abs(values) <= np.float32(clip)).all()
    for number, value, cut in zip(numbers, values.tolist(), clipped.tolist(), strict=True):
        exact = math.copysign(math.log1p(abs(number)), number) if log1p else number
        exact *= scale
        assert cut == (abs(exact) > clip)
        if not cut:
            assert value == pytest.approx(exact, rel=1e-6, abs=1e-44)


@pytest.mark.parametrize("optimizer", LINEAR)
@settings(max_examples=examples(30), deadline=None)
@given(
    gradients=st.lists(
        st.one_of(
            st.sampled_from([math.nan, math.inf, -math.inf, 1e-45, 1e-23, 3.4e38]),
            st.floats(width=32),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_no_gradient_makes_a_state_that_is_not_finite(
    optimizer: Optimizer, gradients: list[float]
) -> None:
    """Also not one that comes over the wire: shards check for themselves."""
    spec = ModelSpec(
        "lr",
        ("click",),
        (Slot("a", "a", "category"),),
        (TableSpec("t0", (Segment("linear", 1, optimizer),)),),
    )
    shard = Shard(spec, contributions=None, has_dense=False)
    key = np.array([7], np.uint64)
    for n, gradient in enumerate(gradients):
        pushed = np.array([[gradient]], np.float32)
        shard.push(Push(0, n, 0, n, [TablePush(key, pushed, None)], None))
        parts = shard.snapshot()
        check_snapshot("checkpoint", parts, spec)
        assert np.isfinite(shard.pull(0, [key]).tables[0][0]).all()


def test_a_gradient_within_the_bounds_is_taken_as_it_is() -> None:
    spec = ModelSpec(
        "lr",
        ("click",),
        (Slot("a", "a", "category"),),
        (TableSpec("t0", (Segment("linear", 1, Ftrl()),)),),
    )
    shard = Shard(spec, contributions=None, has_dense=False)
    large = np.array([[MAX_GRADIENT / 2]], np.float32)
    shard.push(Push(0, 0, 0, 0, [TablePush(np.array([7], np.uint64), large, None)], None))
    assert shard.snapshot().tables[0].states[0][0].tolist() == [large[0, 0], large[0, 0] ** 2]


def test_rows_without_a_finite_gradient_are_left_out_and_the_others_learned() -> None:
    """Parameters that the bounds would not allow give such rows: here a NaN."""
    spec = spec_of("fm", "plain", Ftrl(), AdaGrad(), Adam())
    rules = LossRules("plain", tuple(k.name for k in KINDS))
    good = _plain_table()
    layout = Layout(rules.actions, 3_600_000)
    learner, encoder = Learner(spec, rules, layout, ROWS), Encoder(spec)
    shard = Shard(spec, contributions=None, has_dense=True)
    parameters = LocalParameters(shard)
    batch = encoder.chunk(good, targets(good, rules)).batch(0, ROWS)
    learner.learn(batch, parameters, 0, 0)
    key = keys_of("word", ["x"])[0]
    at = int(np.argmax(shard.tables[0]._places == key))
    before = shard.tables[0]._states[1][at].copy()
    shard.tables[0]._states[1][at] = np.nan
    learner.learn(batch, parameters, 1, 0)
    shard.tables[0]._states[1][at] = before
    tally = learner.take_tally()
    having = sum(value == "x" for value in good["word"].to_pylist())
    assert 0 < having < ROWS
    assert tally.limited.refused == having
    assert sum(m.measures.rows for m in tally.whole() if m.action == "click") == 2 * ROWS - having
    check_snapshot("checkpoint", shard.snapshot(), spec)


def _plain_table(**columns: Any) -> pa.Table:
    made: dict[str, Any] = {
        "sample_id": list(range(ROWS)),
        "request_id": [f"r{n}" for n in range(ROWS)],
        "user_id": ["u"] * ROWS,
        "item_id": ["i"] * ROWS,
        "position": [0] * ROWS,
        "event_time": [1_700_000_000_000] * ROWS,
        "price": [1.0] * ROWS,
        "nanos": [5] * ROWS,
        "scores": [[1.0, 2.0]] * ROWS,
        "ratio": [0.5] * ROWS,
        "flag": [True] * ROWS,
        "word": ["x" if n % 3 == 0 else "y" for n in range(ROWS)],
        "observed_ms": [600_000] * ROWS,
        "exposed": [None] * ROWS,
        "sampling_rate": [1.0] * ROWS,
        "revision": [0] * ROWS,
        "kind": ["final"] * ROWS,
    }
    for kind in KINDS:
        made |= {
            f"delay_{kind.name}_ms": [5 if n % 2 else None for n in range(ROWS)],
            f"label_{kind.name}": [n % 2 for n in range(ROWS)],
            f"mature_{kind.name}": [True] * ROWS,
        }
    made |= columns
    return pa.table([pa.array(made[f.name], f.type) for f in SCHEMA], schema=SCHEMA)


def test_what_was_limited_adds_up_over_workers() -> None:
    one, other = Limited(), Limited()
    one.note("price", 2, -1e30)
    other.note("price", 1, 1e25)
    other.note("age", 3, 1e9)
    other.refused = 4
    one.add(other)
    assert one.clipped == {"price": (3, -1e30), "age": (3, 1e9)}
    assert one.refused == 4
    assert bool(one)
    assert not Limited()


# -- whole runs ------------------------------------------------------------------------------------

PIPELINE = """
[actions.click]
window = "60s"
[actions.buy]
window = "600s"
label = "sum"
[features.price]
type = "float64"
[features.nanos]
type = "int64"
[features.scores]
type = "list<float32>"
[features.ratio]
type = "float64"
[features.flag]
type = "bool"
[features.word]
type = "string"
[output]
path = "out"
"""
TRAINER = """
[train]
batch = 16
[slots.price]
as = "value"
[slots.nanos]
as = "value"
[slots.word]
[slots.item_id]
[evaluation]
by = []
[output]
path = "model"
"""


def joined(root: Path, tables: list[pa.Table]) -> Path:
    (root / "pipeline.toml").write_text(PIPELINE)
    (root / "trainer.toml").write_text(TRAINER)
    folder = root / "out/samples/dt=2023-11-14/hr=22"
    folder.mkdir(parents=True)
    for n, table in enumerate(tables):
        pq.write_table(table, folder / f"part-{n}.parquet")
    return root / "trainer.toml"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("where", ["first", "last"])
def test_a_price_of_1e25_and_times_in_nanoseconds(
    where: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fault that was seen: all predictions NaN, or a traceback, by where the price came."""
    odd = _plain_table(price=[1e25, *[1.0] * (ROWS - 1)], nanos=[1_700_000_000_000_000_000] * ROWS)
    plain = [_plain_table()] * 3
    config = joined(tmp_path, [odd, *plain] if where == "first" else [*plain, odd])
    assert main(["--config", str(config), "--set", f"model.type={model}"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "clipped in price 1 values beyond the bound, the furthest 1e+25: set slots.price." in out
    assert f"clipped in nanos {ROWS} values beyond the bound, the furthest 1.7e+18" in out
    limited = json.loads((tmp_path / "model/evaluation/limited.json").read_text())
    assert limited == {
        "refused_rows": 0,
        "clipped": {
            "price": {"values": 1, "largest": 1e25},
            "nanos": {"values": ROWS, "largest": 1.7e18},
        },
    }
    assert "clipped in price" in (tmp_path / "model/evaluation/report.html").read_text()
    served = ServedModel.open(tmp_path / "model/serving")
    predicted = served.predict(pa.concat_tables([odd, *plain]))
    assert np.isfinite(predicted).all()
    folder = checkpoint.find(tmp_path / "model/checkpoints")[-1]
    checkpoint.read_shards(folder, checkpoint.read_manifest(folder))
    # and it says the same after it was resumed, without more to learn
    assert main(["--config", str(config), "--set", f"model.type={model}"]) == 0
    assert json.loads((tmp_path / "model/evaluation/limited.json").read_text()) == limited


def test_a_value_slot_is_scaled_as_declared(tmp_path: Path) -> None:
    odd = _plain_table(price=[1e25] * ROWS, nanos=[1_700_000_000_000_000_000] * ROWS)
    config = joined(tmp_path, [odd])
    settings = ("slots.price.log1p=true", "slots.nanos.scale=1e-18", "slots.nanos.clip=2")
    sets = [part for text in settings for part in ("--set", text)]
    assert main(["--config", str(config), *sets]) == 0
    limited = json.loads((tmp_path / "model/evaluation/limited.json").read_text())
    assert limited == {"refused_rows": 0, "clipped": {}}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("slots.price.clip=1e7", "slots.price.clip: must be more than 0, and at most 1,000,000"),
        ("slots.price.scale=0", "slots.price.scale: must be a finite number other than 0"),
        ("slots.word.log1p=true", 'slots.word.log1p: is of as = "value", and this is a \'categor'),
        ("optimizer.linear={type='adam', beta2=0.99999999}", "beta2: must be at least 0, and at"),
        ("optimizer.linear={type='adam', epsilon=1e-60}", "epsilon: must be at least 1e-20"),
        ("optimizer.linear={type='ftrl', alpha=1e-50}", "alpha: must be at least 1e-06"),
    ],
)
def test_settings_that_float32_cannot_compute_with(
    setting: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = joined(tmp_path, [_plain_table()])
    assert main(["--config", str(config), "--set", setting]) == 2
    assert message in capsys.readouterr().err


# -- the check before anything is written ----------------------------------------------------------


def spoilt(value: float) -> tuple[ModelSpec, ShardSnapshot]:
    """A model of which one optimizer state, that of `price`, is not finite."""
    spec = spec_of("lr", "plain", Ftrl(), AdaGrad(), Adam())
    shard, _ = learned(spec, LossRules("plain", ("click", "buy")), [_plain_table()], 1)
    parts = shard.snapshot()
    (price,) = Encoder(spec)._slots[0]._keys.tolist()
    parts.tables[0].states[0][parts.tables[0].keys == price, 1] = value
    return spec, parts


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_checkpoint_is_not_written(value: float, tmp_path: Path) -> None:
    spec, parts = spoilt(value)
    with pytest.raises(NotFiniteError) as raised:
        write_shard(tmp_path, 0, parts, spec)
    text = str(raised.value)
    assert "slot price, key 0x" in text
    assert str(value) in text
    assert "slots.<name>.clip" in text
    assert not list(tmp_path.iterdir())


def test_an_export_is_not_written(tmp_path: Path) -> None:
    spec, parts = spoilt(math.nan)
    keys, values = parts.tables[0].keys, parts.tables[0].states[0][:, :2]
    with pytest.raises(NotFiniteError, match=r"slot price, key 0x\w+ has the parameter nan"):
        write_tables(tmp_path, 0, 0, ["t0"], [(keys, values, keys[:0])], spec)
    assert not list(tmp_path.iterdir())


def test_a_server_does_not_write_it_either(tmp_path: Path) -> None:
    spec, parts = spoilt(math.nan)
    replicas = Replicas(0, later=lambda work: work(), spec=spec)
    shard = Shard(spec, contributions=None, has_dense=False)
    shard.load(parts)
    replicas.held[3] = Replica(shard, primary=True)
    COMMANDS["checkpoint"](replicas, 3, (), folder=str(tmp_path))
    COMMANDS["export"](replicas, 3, (), folder=str(tmp_path), number=0, everything=True)
    for name in ("checkpoint 3", "export 3"):
        assert "slot price" in replicas.results[name]["error"]
    assert not list(tmp_path.iterdir())


def test_what_an_earlier_release_wrote_is_refused(tmp_path: Path) -> None:
    """It did not check. The message says what to do, and a reader ranks with what it has."""
    spec, parts = spoilt(math.nan)
    folder = checkpoint.begin(tmp_path, 7)
    path = Path(str(folder / "shard-0.npz"))
    with path.open("wb") as file:
        write_snapshot(parts, file)
    with path.open("rb") as written:
        made = File(path.name, path.stat().st_size, checksum(written))
    manifest = Manifest(7, spec, [made], "ssp", 1, {})
    final = checkpoint.finish(folder, manifest, 3)
    with pytest.raises(CheckpointError, match=r"slot price.*remove step-000000000007 to go back"):
        checkpoint.read_shards(final, manifest)


def test_a_dense_parameter_is_named() -> None:
    with pytest.raises(NotFiniteError, match=r"export 3: dense parameter 2 is inf \(1 of 4\)"):
        check_vector("export 3", np.array([0, 1, np.inf, 2], np.float32))


def test_a_reader_refuses_an_export_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = joined(tmp_path, [_plain_table()])
    assert main(["--config", str(config)]) == 0
    monkeypatch.setattr("trainer.serving.write.check_rows", lambda *_: None)
    monkeypatch.setattr(
        "trainer.table.table.Table._values",
        lambda table, at: np.full((len(at), table.spec.width), np.nan, np.float32),
    )
    config.write_text(TRAINER.replace('"model"', '"spoilt"'))
    assert main(["--config", str(config)]) == 0
    with pytest.raises(ContentError, match="has a parameter that is not a finite number"):
        ServedModel.open(tmp_path / "spoilt/serving")
