"""The trainer's configuration: the model that results, and the one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config import ConfigError, TrainerConfig, load
from trainer.spec import AdaGrad, Adam, Ftrl, ModelSpec, Segment, Slot, TableSpec

PIPELINE = """
[join]
key = "user_id"
late_horizon = "1h"
[exposure]
action = "seen"
[actions.seen]
window = "1min"
[actions.click]
window = "10min"
[actions.buy]
window = "30min"
label = "sum"
[features.hour]
type = "int64"
scope = "context"
[features.price]
type = "float64"
[features.tags]
type = "list<string>"
[features.fresh]
type = "bool"
[features.score]
type = "float32"
role = "meta"
[features.model]
type = "string"
role = "meta"
[sources.features]
type = "kafka"
topic = "f"
[output]
path = "out"
compact = false
"""
TRAINER = """
[output]
path = "model"
"""
WAIT = ""
FAKE = '[join]\npolicy = "fake_negative"'
ES_DFM = '[join]\npolicy = "es_dfm"\n[emission]\nfirst_emit_after = "5min"'
DEFER = '[join]\npolicy = "defer"\n[emission]\nfirst_emit_after = "5min"'


def config(
    folder: Path, overrides: tuple[str, ...] = (), joined: str = WAIT, trainer: str = TRAINER
) -> TrainerConfig:
    """`joined`: the pipeline's `[join]`, and what else is to be in its file."""
    pipeline = PIPELINE if not joined else PIPELINE.replace("[join]", f"{joined}\n[other]")
    (folder / "pipeline.toml").write_text(pipeline)
    (folder / "trainer.toml").write_text(trainer)
    return load(folder / "trainer.toml", overrides)


# -- what results ----------------------------------------------------------------------------------


def test_the_defaults_are_a_logistic_regression_on_all_features(tmp_path: Path) -> None:
    linear = Segment("linear", 2, Ftrl(alpha=0.2))
    assert config(tmp_path).spec == ModelSpec(
        "lr",
        ("click", "buy"),
        (
            Slot("user_id", "user_id", "category"),
            Slot("item_id", "item_id", "category"),
            Slot("position", "position", "category"),
            Slot("hour", "hour", "category"),
            Slot("price", "price", "buckets"),
            Slot("tags", "tags", "category"),
            Slot("fresh", "fresh", "category"),
            Slot("bias", None, "value", table=1),
        ),
        (TableSpec("t0", (linear,)), TableSpec("t1", (linear,))),
    )


def test_slots_with_equal_settings_share_a_table(tmp_path: Path) -> None:
    slots = """
[slots.user]
column = "user_id"
admit_after = 3
expire_after = "2d"
[slots.item_id]
[slots.price]
boundaries = [1, 2.5]
[slots.exact]
column = "price"
as = "value"
optimizer = {type = "adagrad", rate = 0.5}
[slots.tags]
admit_after = 3
expire_after = "48h"
"""
    model = ["model.type=deepfm", "model.embedding=4", "model.hidden=[16]", "model.seed=7"]
    optimizer = ["optimizer.embedding={type='adam',rate=0.1}", "optimizer.dense.epsilon=0.5"]
    spec = config(
        tmp_path,
        (*model, *optimizer, "model.scale=0.2", "model.actions=['buy']"),
        ES_DFM,
        TRAINER + slots,
    ).spec
    linear = Segment("linear", 2, Ftrl(alpha=0.2))
    embedding = Segment("embedding", 4, Adam(rate=0.1), 0.2)
    assert spec == ModelSpec(
        "deepfm",
        ("buy", "dp:buy"),
        (
            Slot("user", "user_id", "category", table=0),
            Slot("item_id", "item_id", "category", table=1),
            Slot("price", "price", "buckets", table=1, boundaries=(1.0, 2.5)),
            Slot("exact", "price", "value", table=2),
            Slot("tags", "tags", "category", table=0),
            Slot("bias", None, "value", table=3),
        ),
        (
            TableSpec("t0", (linear, embedding), admit_after=3, expire_after_s=172_800),
            TableSpec("t1", (linear, embedding)),
            TableSpec("t2", (Segment("linear", 2, AdaGrad(rate=0.5)), embedding)),
            TableSpec("t3", (linear,)),
        ),
        embedding=4,
        hidden=(16,),
        dense=Adam(epsilon=0.5),
        seed=7,
    )


def test_only_deepfm_has_layers_and_only_lr_no_embeddings(tmp_path: Path) -> None:
    lr, fm = (config(tmp_path, (f"model.type={kind}",)).spec for kind in ("lr", "fm"))
    assert (lr.embedding, lr.hidden) == (0, ())
    assert (fm.embedding, fm.hidden) == (8, ())
    assert fm.tables[0].width == 2 + 8


def test_without_a_bias_its_name_is_free(tmp_path: Path) -> None:
    slots = '[slots.bias]\ncolumn = "hour"'
    spec = config(tmp_path, ("model.bias=false",), trainer=TRAINER + slots).spec
    assert spec.slots == (Slot("bias", "hour", "category"),)
    assert len(spec.tables) == 1


@pytest.mark.parametrize(
    ("joined", "loss"), [(WAIT, "plain"), (FAKE, "fnw"), (ES_DFM, "es_dfm"), (DEFER, "defer")]
)
def test_the_loss_is_that_of_the_policy(tmp_path: Path, joined: str, loss: str) -> None:
    made = config(tmp_path, joined=joined)
    assert made.loss_type == loss
    assert ("dp:click" in made.spec.heads) == (loss in ("es_dfm", "defer"))


def test_a_loss_of_another_policy_whose_rows_are_there_is_taken(tmp_path: Path) -> None:
    assert config(tmp_path, ("loss.type=plain",), DEFER).loss_type == "plain"
    assert config(tmp_path, ("loss.type=es_dfm",), DEFER).loss_type == "es_dfm"


def test_an_exposure_that_is_asked_for_is_predicted(tmp_path: Path) -> None:
    made = config(tmp_path, ("model.actions=['buy','seen']",))
    assert [kind.name for kind in made.actions] == ["buy", "seen"]
    assert made.actions[0].window_ms == 1_800_000


@pytest.mark.parametrize(
    ("joined", "leaves_out"),
    [
        ("", True),  # [exposure] drops what nobody saw
        ("unexposed = 'mark'", False),
        ("unexposed = 'mark'\n[sampling]\nrate = 0.5", True),
        ("unexposed = 'mark'\n[[sampling.rules]]\nrate = 0.5\nnegative = 'unexposed'", True),
    ],
)
def test_whether_impressions_may_have_no_row(tmp_path: Path, joined: str, leaves_out: bool) -> None:
    exposure = '[exposure]\naction = "seen"\n'
    (tmp_path / "p.toml").write_text(PIPELINE.replace(exposure, f"{exposure}{joined}\n"))
    declared = config(tmp_path, ("samples.pipeline=p.toml",)).declared
    assert declared.exposure_action == "seen"
    assert declared.leaves_out == leaves_out


def test_paths_are_relative_to_the_file_that_says_them(tmp_path: Path) -> None:
    (tmp_path / "join").mkdir()
    (tmp_path / "join" / "p.toml").write_text(PIPELINE)
    made = config(tmp_path, ("samples.pipeline=join/p.toml",))
    assert made.folder == tmp_path / "join" / "out"
    assert made.output.path == str(tmp_path / "model")
    assert config(tmp_path, ("samples.path=there",)).folder == tmp_path / "there"
    assert config(tmp_path, ("samples.path=file:///a%20b",)).folder == Path("/a b")


def test_a_batch_for_every_worker_is_in_flight(tmp_path: Path) -> None:
    assert config(tmp_path).max_in_flight == 65_536
    many = ("train.servers=1", "train.workers=20")
    assert config(tmp_path, many).max_in_flight == 20 * 4096
    assert config(tmp_path, ("train.max_in_flight=4096",)).max_in_flight == 4096


def test_samples_are_sliced_by_what_is_not_trained_on_too(tmp_path: Path) -> None:
    assert config(tmp_path).evaluation.by == ["position"]
    assert config(tmp_path, ("evaluation.by=['model','hour']",)).evaluation.by == ["model", "hour"]


# -- what is wrong ---------------------------------------------------------------------------------


def said(folder: Path, *overrides: str, joined: str = WAIT) -> str:
    with pytest.raises(ConfigError) as raised:
        config(folder, overrides, joined)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        # the file itself
        ("model.tipe=lr", "--set model.tipe=lr: model.tipe: there is no such key (there are: type"),
        ("train.epochs=2", "train.epochs: there is no such key (there are: batch, steps, workers"),
        ("model.type=mlp", "model.type: invalid enum value 'mlp'; expected one of lr, fm, deepfm"),
        ("train.consistency=best", "expected one of bsp, ssp, async"),
        ("train.replicas=2", "train.replicas: expected `int` <= 1"),
        ("train.batch=0", "train.batch: expected `int` >= 1"),
        ("samples.poll=2", "samples.poll: expected a duration"),
        ("samples.poll=0s", "samples.poll: must be longer than 0"),
        ("samples.pipeline=none.toml", "samples.pipeline: there is no file"),
        ("samples.path=gs://b/out", "samples.path: gs://b/out is neither a local folder nor on s3"),
        ("output.path=gs://b/out", "output.path: gs://b/out is neither a local folder nor on s3"),
        ("output.export_every=0s", "output.export_every: must be longer than 0"),
        ("output.checkpoint_every=0s", "output.checkpoint_every: must be longer than 0"),
        # model and loss
        ("model.actions=['like']", "there is no action 'like' (there are: seen, click, buy)"),
        ("model.actions=[]", "model.actions: at least one, and each once"),
        ("model.actions=['buy','buy']", "model.actions: at least one, and each once"),
        ("model.hidden=[]", "model.hidden: expected `array` of length >= 1"),
        ("model.scale=0", "model.scale: expected `float` > 0.0"),
        ("loss.type=fnc", "loss.type: invalid enum value 'fnc'; expected one of plain, fnw"),
        # optimizers
        ("optimizer.linear.alpha=1", "optimizer.linear.type: this key is required"),
        ("optimizer.linear={type='sgd'}", "'sgd'; expected one of ftrl, adagrad, adam"),
        ("optimizer.linear={type='ftrl',rate=1}", "(there are: alpha, beta, l1, l2)"),
        (
            "optimizer.linear={type='ftrl',alpha=0}",
            "optimizer.linear.alpha: must be at least 1e-06",
        ),
        ("optimizer.linear={type='ftrl',l1=-1}", "optimizer.linear.l1: must be at least 0"),
        ("optimizer.linear={type='ftrl',l1=nan}", "optimizer.linear.l1: must be at least 0"),
        ("optimizer.linear={type='adagrad',l1=1}", "(there are: rate, initial, beta1"),
        ("optimizer.dense.beta1=1", "optimizer.dense.beta1: must be at least 0, and at most"),
        ("optimizer.dense={type='ftrl'}", "optimizer.dense.type: invalid value 'ftrl'"),
        ("optimizer.embedding={type='ftrl'}", 'optimizer.embedding.type: "ftrl" begins at 0'),
        # slots
        ("slots.colour.admit_after=1", "slots.colour: there is no column 'colour' (there are: use"),
        ("slots.price.column=label_click", "slots.price: there is no column 'label_click'"),
        ("slots.score.admit_after=1", "slots.score: the feature 'score' has role = \"meta\""),
        ("slots.bias.column=hour", "slots.bias: 'bias' is the model's own"),
        ("slots.price.as=log", "slots.price.as: invalid enum value 'log'; expected one of cat"),
        ("slots.price.size=3", "slots.price.size: there is no such key (there are: column, as"),
        ("slots.tags.as=value", "slots.tags.as: \"value\" needs a number, and 'tags' is a list<st"),
        ("slots.user_id.as=buckets", 'slots.user_id.as: "buckets" need a number'),
        ("slots.fresh.as=buckets", 'slots.fresh.as: "buckets" need a number'),
        ("slots.price.as=category", 'slots.price.as: "category" needs few values'),
        ("slots.hour.boundaries=[1]", 'slots.hour.boundaries: are of as = "buckets", and this is'),
        ("slots.price.boundaries=[]", "slots.price.boundaries: must be numbers that ascend"),
        ("slots.price.boundaries=[2,1]", "slots.price.boundaries: must be numbers that ascend"),
        ("slots.price.boundaries=[1,1]", "slots.price.boundaries: must be numbers that ascend"),
        ("slots.price.boundaries=[inf]", "slots.price.boundaries: must be numbers that ascend"),
        ("slots.price.expire_after=1500ms", "slots.price.expire_after: must be a whole number of"),
        ("slots.price.expire_after=0s", "slots.price.expire_after: must be a whole number of"),
        ("slots.price.embedding_optimizer={type='adam'}", 'model.type = "lr" has no embeddings'),
        (
            "slots.price.optimizer={type='adam',rate=0}",
            "slots.price.optimizer.rate: must be at least",
        ),
        # the run, the evaluation
        ("train.workers=2", "train.workers: with train.servers = 0 one process does it all"),
        ("train.max_in_flight=4095", "train.max_in_flight: must hold a batch for every worker"),
        ("evaluation.by=['colour']", "evaluation.by: 'colour' is not a column of strings, boo"),
        ("evaluation.by=['price']", "evaluation.by: 'price' is not a column of strings, boo"),
        ("evaluation.by=['tags']", "evaluation.by: 'tags' is not a column of strings, boo"),
        ("evaluation.by=['hour','hour']", "evaluation.by: each column once"),
        ("evaluation.window=0s", "evaluation.window: must be longer than 0"),
        ("evaluation.slice_share=0", "evaluation.slice_share: must be more than 0, and at most 1"),
        ("evaluation.slice_share=1.5", "evaluation.slice_share: must be more than 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in said(tmp_path, override)


@pytest.mark.parametrize(
    ("joined", "loss", "expected"),
    [
        (WAIT, "fnw", "needs emission.first_emit_after, or set loss.type = 'plain'"),
        (ES_DFM, "fnw", "needs emission.first_emit_after = \"0s\", or set loss.type = 'es_dfm'"),
        (WAIT, "es_dfm", "needs emission.first_emit_after, or set loss.type = 'plain'"),
        (WAIT, "defer", "needs emission.first_emit_after, or set loss.type = 'plain'"),
        (FAKE, "plain", "needs emission.final_emit = \"always\" (it has 'never'), or set loss.ty"),
        (
            ES_DFM,
            "plain",
            "needs emission.final_emit = \"always\" (it has 'never'), or set loss.ty",
        ),
        (
            ES_DFM,
            "defer",
            "needs emission.final_emit = \"always\" (it has 'never'), or set loss.ty",
        ),
        (
            DEFER + '\nfinal_emit = "if_changed"',
            "defer",
            "(it has 'if_changed'), or change join.policy",
        ),
        (
            DEFER + '\nemit_positives = "at_settle"',
            "es_dfm",
            "needs emission.emit_positives = \"on_arrival\", or set loss.type = 'defer'",
        ),
        (
            FAKE + '\n[emission]\nemit_positives = "at_settle"',
            "fnw",
            'needs emission.emit_positives = "on_arrival", or change join.policy',
        ),
    ],
)
def test_a_loss_needs_its_rows(tmp_path: Path, joined: str, loss: str, expected: str) -> None:
    message = said(tmp_path, f"loss.type={loss}", joined=joined)
    assert f"loss.type: '{loss}' learns from" in message
    assert expected in message


def test_a_shift_of_the_log_odds_needs_one_rate(tmp_path: Path) -> None:
    one = "[sampling]\nrate = 0.1"
    rules = '[[sampling.rules]]\nrate = 0.5\nnegative = "unexposed"'
    log_odds = ("loss.sampling=log_odds",)
    assert config(tmp_path, log_odds, one).loss.sampling == "log_odds"
    assert 'set "importance"' in said(tmp_path, *log_odds, joined=rules)
    assert config(tmp_path, joined=rules).loss.sampling == "importance"


def test_a_pipeline_with_nothing_but_exposures_has_nothing_to_predict(tmp_path: Path) -> None:
    alone = PIPELINE[PIPELINE.index("[features.hour]") :]
    (tmp_path / "alone.toml").write_text(
        f'[exposure]\naction = "seen"\n[actions.seen]\nwindow = "1s"\n{alone}'
    )
    assert "model.actions: the pipeline has no action but the exposure" in said(
        tmp_path, "samples.pipeline=alone.toml"
    )


def test_what_is_wrong_in_the_pipeline_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(PIPELINE.replace('"float64"', '"float"'))
    message = said(tmp_path, "samples.pipeline=p.toml")
    assert message.startswith(f"{tmp_path}/p.toml: features.price.type: expected one of bool")


def test_an_output_is_required(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer.toml: output: this key is required"):
        config(tmp_path, trainer="[model]")
