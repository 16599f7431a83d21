"""Whole runs in one process: what they learn, and that stopping and going on changes nothing."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.trainer.data import HOUR_MS, START_MS, Traffic, files, write
from schemas.actions import ActionKind
from tests.trainer import runs
from tests.trainer.runs import Joined, Run
from trainer import checkpoint
from trainer.checkpoint import CheckpointError
from trainer.features.keys import keys_of
from trainer.run.session import Session
from trainer.serving.model import ServedModel

CLICK = ActionKind("click", 60_000)
BOTH = (ActionKind("click", 10_000), ActionKind("purchase", 60_000))
#: 16 batches of 1,024, in four files of an hour each.
TRAFFIC = Traffic(rows=16_384, files=4, hours=4, users=400, catalogue=300)
STEPS = 16
ALPHA = "optimizer.linear.alpha=0.3"
DEEPFM = ("model.type=deepfm", "model.embedding=4", "model.hidden=[8]")
MODELS = {"lr": ("model.type=lr",), "fm": ("model.type=fm", "model.embedding=4"), "deepfm": DEEPFM}
#: Keys of items come late, and those of users go.
COME_AND_GO = ("slots.item_id.admit_after=3", "slots.user_id.expire_after=30min")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("samples")
    write(TRAFFIC, root)
    return root


def key(slot: str, value: str) -> int:
    return int(keys_of(slot, [value])[0])


def number_of(run: Run, value: str, slot: str = "ad") -> float:
    """Of a key, the first action: FTRL's sum of squared gradients; 0 where it has no row."""
    (place,) = (s.table for s in run.session.runner.job.spec.slots if s.name == slot)
    rows = run.parts.tables[place]
    at = np.flatnonzero(rows.keys == np.uint64(key(slot, value)))
    heads = len(run.session.runner.job.spec.heads)
    return float(rows.states[0][at, heads].sum())


# -- stopping and going on -------------------------------------------------------------------------


def assert_at_the_same_point(one: Run, other: Run) -> None:
    """Everything that a run is: parameters and all beside them, to the bit; metrics; the cursor."""
    runs.assert_equal(one.parts, other.parts)
    for sketch, another in zip(one.parts.sketches, other.parts.sketches, strict=True):
        np.testing.assert_array_equal(sketch, another)
    a, b = one.session, other.session
    assert (a.step, a.rows, a.newest, a.expired_at) == (b.step, b.rows, b.newest, b.expired_at)
    assert a.planner.cursor == b.planner.cursor
    assert [e.path for e in a.ledger.entries] == [e.path for e in b.ledger.entries]
    assert a.names.names == b.names.names


@pytest.mark.parametrize("kind", MODELS)
def test_a_run_that_is_stopped_again_and_again_is_one_that_was_not(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    settings = (*MODELS[kind], *COME_AND_GO, "output.resume=true")
    often = ("output.checkpoint_every=1ms", "output.export_every=1ms", "output.base_every=3")

    def going_on(output: str, *more: str, stop_after: int | None = None) -> Run:
        config = runs.configured(folder, tmp_path / output, *settings, *more)
        return runs.train_here(config, stop_after=stop_after, by_batches=True)

    whole = going_on("whole", *often)
    assert whole.session.progress.checkpoints == whole.session.progress.exports == STEPS
    assert whole.session.progress.expired > 100
    assert sum(sketch is not None for sketch in whole.parts.sketches) == 1
    expired = 0
    for steps in (1, 6, 1, 3):  # 1, 7, 8 (the end of a file), 11
        part = going_on("stopped", *often, stop_after=steps)
        assert part.session.progress.steps == steps
        expired += part.session.progress.expired
    assert part.session.step == 11
    last = going_on("stopped", *often)
    assert last.session.progress.steps == STEPS - 11
    assert expired + last.session.progress.expired == whole.session.progress.expired
    assert_at_the_same_point(last, whole)
    assert last.session.tally.encode() == whole.session.tally.encode()

    # with all the checkpoints and exports it is the run that makes none on its way
    quiet = going_on("quiet")
    assert quiet.session.progress.checkpoints == quiet.session.progress.exports == 1
    assert_at_the_same_point(quiet, whole)
    # its metrics were summed up in another order
    assert quiet.metric("rows") == whole.metric("rows") == TRAFFIC.rows
    assert quiet.log_loss == pytest.approx(whole.log_loss, rel=1e-12)
    # nothing is left to be learned
    nothing = going_on("quiet")
    assert (nothing.session.progress.steps, nothing.session.progress.checkpoints) == (0, 0)
    assert_at_the_same_point(nothing, whole)


def test_a_run_that_crashed_goes_on_from_its_last_checkpoint(folder: Path, tmp_path: Path) -> None:
    settings = (*MODELS["deepfm"], *COME_AND_GO, "output.resume=true")
    often = ("output.checkpoint_every=1ms", "output.export_every=1ms")

    def crash(session: Session) -> None:
        if session.step == 7:
            raise OSError("a disk is full")

    config = runs.configured(folder, tmp_path / "crashed", *settings, *often)
    with pytest.raises(OSError, match="a disk is full"):
        runs.run(runs.session_of(config, watch=crash, by_batches=True))
    (*_, last) = checkpoint.find(tmp_path / "crashed" / "checkpoints")
    saved = checkpoint.read_manifest(last).step
    # the files of the newest may still have been on their way
    assert 0 < saved < 7
    again = runs.train_here(config, by_batches=True)
    assert again.session.progress.steps == STEPS - saved
    straight = runs.configured(folder, tmp_path / "straight", *settings, *often)
    assert_at_the_same_point(again, runs.train_here(straight, by_batches=True))


def test_another_size_of_batches_from_a_checkpoint_on_misses_no_row(
    folder: Path, tmp_path: Path
) -> None:
    def going_on(batch: int, stop_after: int | None = None) -> Run:
        ours = ("output.resume=true", f"train.batch={batch}")
        config = runs.configured(folder, tmp_path / "run", *ours)
        return runs.train_here(config, stop_after=stop_after)

    going_on(300, stop_after=3)
    going_on(1000, stop_after=2)
    last = going_on(777)
    assert last.session.rows == last.metric("rows") == TRAFFIC.rows


@pytest.mark.parametrize(("before", "after"), [("batch", "sample"), ("sample", "batch")])
def test_a_run_that_goes_on_in_other_steps_says_so_and_keeps_what_it_has(
    before: str, after: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def going_on(steps: str, stop_after: int) -> Run:
        ours = ("output.resume=true", f"train.steps={steps}")
        caplog.clear()
        return runs.train_here(
            runs.configured(folder, tmp_path / "run", *ours), stop_after=stop_after
        )

    going_on(before, 3)
    (saved,) = checkpoint.find(tmp_path / "run" / "checkpoints")
    assert checkpoint.read_manifest(saved).steps == before
    taken = going_on(after, 0)
    (told,) = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert f"until step-000000000003 a key took a step per {before}" in told
    assert f"one per {after}" in told
    assert f'set train.steps = "{before}"' in told
    runs.assert_equal(
        taken.parts, runs.one(checkpoint.read_shards(saved, checkpoint.read_manifest(saved)))
    )
    going_on(after, 2)
    assert "until step" in caplog.text
    # its newest checkpoint is of the other steps
    assert going_on(after, 1).session.step == 6
    assert "until step" not in caplog.text


def test_a_checkpoint_that_does_not_say_it_took_a_step_per_batch(
    folder: Path, tmp_path: Path
) -> None:
    stopped_at(folder, tmp_path, 1)
    (saved,) = checkpoint.find(tmp_path / "checkpoints")
    manifest = json.loads((saved / "manifest.json").read_text())
    assert manifest.pop("steps") == "sample", "the default of this model"
    (saved / "manifest.json").write_bytes(json.dumps(manifest).encode())
    assert checkpoint.read_manifest(saved).steps == "batch"


def stopped_at(folder: Path, output: Path, *steps: int) -> None:
    """Checkpoints at these steps."""
    for before, after in zip((0, *steps), steps, strict=False):
        config = runs.configured(folder, output, "output.resume=true")
        runs.train_here(config, stop_after=after - before)
    found = [path.name for path in checkpoint.find(output / "checkpoints")]
    assert found == [f"step-{step:012}" for step in steps]


@pytest.mark.parametrize(
    "other",
    [
        ("model.type=fm",),
        ("slots.hour.admit_after=2",),
        ("optimizer.linear={type='adagrad'}",),
        ("optimizer.linear={type='adam', rate=0.5}",),
        ("model.seed=1",),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    other: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    stopped_at(folder, output, 2)
    with pytest.raises(CheckpointError, match="step-000000000002 is of another model"):
        runs.train_here(runs.configured(folder, output, "output.resume=true", *other))
    # it stays, for the model that it is of
    going_on = runs.configured(folder, output, "output.resume=true")
    assert runs.train_here(going_on, stop_after=1).session.step == 3


def damaged(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        ("shard-0.npz", damaged, "shard-0.npz: its checksum is not the manifest's; remove step-"),
        ("shard-0.npz", cut_off, "shard-0.npz: its checksum is not the manifest's; remove step-"),
        ("shard-0.npz", Path.unlink, "shard-0.npz: missing"),
        ("manifest.json", cut_off, "step-000000000004: the manifest cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_goes_on(
    file: str, harm: Any, message: str, folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    stopped_at(folder, output, 2, 4)
    newest = output / "checkpoints" / "step-000000000004"
    harm(newest / file)
    config = runs.configured(folder, output, "output.resume=true")
    with pytest.raises(CheckpointError, match=message):
        runs.train_here(config)
    shutil.rmtree(newest)
    again = runs.train_here(config, stop_after=2)
    assert again.session.step == 4
    straight = runs.train_here(runs.configured(folder, tmp_path / "straight"), stop_after=4)
    assert_at_the_same_point(again, straight)


def test_what_a_checkpoint_was_being_written_to_is_none(folder: Path, tmp_path: Path) -> None:
    """It has its name when it is complete; a crash before that leaves something else."""
    output = tmp_path / "run"
    stopped_at(folder, output, 2)
    checkpoints = output / "checkpoints"
    shutil.copytree(checkpoints / "step-000000000002", checkpoints / ".step-000000000003")
    (checkpoints / "step-000000000009").mkdir()
    config = runs.configured(folder, output, "output.resume=true")
    run = runs.train_here(config, stop_after=1)
    assert run.session.step == 3
    assert not (checkpoints / ".step-000000000003").exists()


def test_without_resume_it_begins_anew_and_goes_on_from_there(folder: Path, tmp_path: Path) -> None:
    def trained(*more: str, stop_after: int) -> Run:
        config = runs.configured(folder, tmp_path / "run", "output.keep_checkpoints=2", *more)
        return runs.train_here(config, stop_after=stop_after)

    for steps in (4, 5):
        trained("output.resume=true", stop_after=steps)
    anew = trained("output.resume=false", stop_after=3)
    assert anew.session.step == 3
    assert trained("output.resume=true", stop_after=1).session.step == 4


def test_metrics_begin_anew_where_what_is_evaluated_has_changed(
    folder: Path, tmp_path: Path
) -> None:
    """The model goes on: it is no other one."""
    stopped_at(folder, tmp_path, 2)
    otherwise = ("output.resume=true", "evaluation.by=[]", "evaluation.window=2h")
    run = runs.train_here(runs.configured(folder, tmp_path, *otherwise), stop_after=1)
    assert (run.session.step, run.session.rows) == (3, 3 * runs.BATCH)
    assert run.metric("rows") == runs.BATCH
    whole = runs.train_here(runs.configured(folder, tmp_path / "whole"), stop_after=3)
    runs.assert_equal(run.parts, whole.parts)


# -- files that come -------------------------------------------------------------------------------


def test_files_that_appear_while_it_runs_are_learned(folder: Path, tmp_path: Path) -> None:
    """In the order in which they come; and what is still written to, never."""
    root = tmp_path / "samples"
    root.mkdir()
    for name in ("pipeline.toml", "trainer.toml"):
        shutil.copy(folder / name, root / name)
    coming = files(folder)
    deadline = time.monotonic() + 60

    def watch(session: Session) -> None:
        """When all is learned that is there: the next file, under a name of one that is written."""
        assert time.monotonic() < deadline
        if session.planner.rows_left or not coming:
            return
        there = coming.pop(0)
        path = root / there.relative_to(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        # of other files, to which it is written for good
        path.with_name(f".{path.name}.inprogress.3").write_bytes(there.read_bytes()[:999])
        shutil.copy(there, path.with_name(f"_{path.name}"))
        written = path.with_name(f".{path.name}.inprogress.4")
        shutil.copy(there, written)
        written.rename(path)

    # there are no samples yet whose rates the model could begin with
    following = ("samples.follow=true", "samples.poll=1ms", "model.start=zero")
    config = runs.configured(root, tmp_path / "followed", *following)
    session = runs.session_of(
        config,
        watch=watch,
        stopping=lambda: session.rows >= TRAFFIC.rows or time.monotonic() > deadline,
    )
    followed = runs.run(session)
    assert [e.path for e in session.ledger.entries] == [
        str(path.relative_to(folder / "out")) for path in files(folder)
    ]
    at_once = runs.train_here(runs.configured(folder, tmp_path / "at-once", "model.start=zero"))
    assert_at_the_same_point(followed, at_once)


def test_it_follows_until_it_is_told_to_stop_and_saves(tmp_path: Path) -> None:
    joined = Joined(tmp_path, (CLICK,))
    joined.samples({"ad": ["a"] * 10})
    looks = 0

    def watch(session: Session) -> None:
        nonlocal looks
        looks += session.planner.rows_left == 0

    config = joined.configured("model", "samples.follow=true", "samples.poll=1ms")
    session = runs.session_of(config, watch=watch, stopping=lambda: looks > 3)
    runs.run(session)
    assert session.rows == 10
    assert [p.name for p in checkpoint.find(tmp_path / "model/checkpoints")] == [
        "step-000000000001"
    ]


# -- late actions ----------------------------------------------------------------------------------


def test_a_late_click_is_learned_once_also_over_a_stop(tmp_path: Path) -> None:
    def looks(output: str, *more: str) -> tuple[Run, Run, Run]:
        """With the samples; with the late click, too; and once more."""
        joined = Joined(tmp_path / output, (CLICK,))
        config = joined.configured("model", *more)
        joined.samples({"ad": ["a", "b"]}, name="part-0")
        before = runs.train_here(config)
        joined.late({})
        after = runs.train_here(config)
        again = runs.train_here(config)
        return before, after, again

    before, after, again = looks("train")
    assert after.session.step == before.session.step + 1
    assert again.session.step == after.session.step
    assert number_of(after, "a") > number_of(before, "a")
    assert number_of(after, "b") == number_of(before, "b")
    assert number_of(again, "a") == number_of(after, "a")
    # the negative that it was, and the positive
    assert before.metric("rows") == 2
    assert again.metric("rows") == 3
    assert again.metric("ctr") == pytest.approx(1 / 3)

    before, after, again = looks("ignore", "samples.late_actions=ignore")
    assert again.session.step == after.session.step == before.session.step
    assert again.metric("rows") == 2
    assert number_of(again, "a") == number_of(before, "a")


def test_late_files_are_the_same_over_stops(tmp_path: Path) -> None:
    """A ledger of samples and late actions, with a stop before and after each of its entries."""
    joined = Joined(tmp_path, (CLICK,))
    ads = {"ad": [f"a{n % 3}" for n in range(20)]}
    for hour in range(3):
        joined.samples(ads, hour=hour)
        late = [{"sample_id": n, "request_id": f"r{n}"} for n in range(0, 20, 3)]
        joined.late(*late[:4], hour=hour, name="late-0")
        # some of them once more: the label says it already
        joined.late(*late[2:], hour=hour, name="late-1")
    settings = ("train.batch=8",)
    whole = runs.train_here(joined.configured("whole", *settings), by_batches=True)
    entries = whole.session.ledger.entries
    assert [e.stream for e in entries] == ["samples", "late_actions", "late_actions"] * 3
    assert whole.metric("rows") == 3 * (20 + 7)
    steps = whole.session.step
    assert steps == 3 * (3 + 2)
    for _ in range(steps):
        last = runs.train_here(
            joined.configured("stopped", *settings), stop_after=1, by_batches=True
        )
    assert last.session.step == steps
    assert_at_the_same_point(last, whole)
    assert last.metric("rows") == whole.metric("rows")


def test_a_late_action_does_not_make_its_keys_older(tmp_path: Path) -> None:
    """It is of an old request; its ad has been in newer ones since."""
    joined = Joined(tmp_path, (CLICK,))
    config = joined.configured("model", "slots.ad.expire_after=2h")
    joined.samples({"ad": ["a", "gone"]}, hour=0)
    joined.samples({"ad": ["a"]}, hour=3)
    runs.train_here(config)
    joined.late({}, hour=0)
    runs.train_here(config)
    joined.samples({"ad": ["b"]}, hour=4)
    run = runs.train_here(config)
    assert run.session.progress.expired == 0  # "gone" went with the samples of hour 3
    assert number_of(run, "gone") == 0
    assert number_of(run, "a") > 0


# -- policies: rows by hand ------------------------------------------------------------------------

#: The impression of docs/emission-policies.md (a click after 4 s, a purchase after 40 s; first rows
#: at once or after 5 s), and one that nobody touches: kind, observed_ms, and the delays known then.
BY_HAND: Mapping[str, list[tuple[str, str, int, int | None, int | None]]] = {
    "fake_negative": [
        ("touched", "provisional", 0, None, None),
        ("touched", "positive", 4_000, 4_000, None),
        ("touched", "positive", 40_000, 4_000, 40_000),
        ("not", "provisional", 0, None, None),
    ],
    "es_dfm": [
        ("touched", "provisional", 5_000, 4_000, None),
        ("touched", "positive", 40_000, 4_000, 40_000),
        ("not", "provisional", 5_000, None, None),
    ],
    "defer": [
        ("touched", "provisional", 5_000, 4_000, None),
        ("touched", "positive", 40_000, 4_000, 40_000),
        ("touched", "final", 60_000, 4_000, 40_000),
        ("not", "provisional", 5_000, None, None),
        ("not", "final", 60_000, None, None),
    ],
}
#: Rows that each loss takes, by action.
TAKEN = {
    "fake_negative": {"click": 3, "purchase": 3},
    "es_dfm": {"click": 2, "purchase": 3},
    # the click was right at once, and is so in the final row again
    "defer": {"click": 4, "purchase": 4},
}
LOSS_OF = {"fake_negative": "fnw", "es_dfm": "es_dfm", "defer": "defer"}


@pytest.mark.parametrize("policy", BY_HAND)
def test_a_loss_takes_its_rows(policy: str, tmp_path: Path) -> None:
    waits = None if policy == "fake_negative" else "5s"
    joined = Joined(tmp_path, BOTH, policy=policy, first_emit_after=waits)
    impressions, kinds, observed, clicks, purchases = zip(*BY_HAND[policy], strict=True)
    joined.samples(
        {
            "ad": impressions,
            "kind": kinds,
            "observed_ms": observed,
            "revision": [impressions[:n].count(of) for n, of in enumerate(impressions)],
            "delay_click_ms": clicks,
            "delay_purchase_ms": purchases,
            "mature_click": [at >= 10_000 for at in observed],
            "mature_purchase": [at >= 60_000 for at in observed],
        }
    )
    run = runs.train_here(joined.configured("model"))
    assert run.session.runner.job.rules.loss == LOSS_OF[policy]
    measured = runs.of_each_action(run)
    assert {action: m.rows for action, m in measured.items()} == TAKEN[policy]
    assert all(0 < m.ctr < 1 and np.isfinite(m.log_loss) for m in measured.values())
    assert number_of(run, "touched") > 0
    assert number_of(run, "not") > 0


# -- policies: a population whose probabilities are known ------------------------------------------

#: Of each ad: the probability of a click, and that a click is later than the first row at 10 s.
ADS = {"a": (0.6, 0.7), "b": (0.4, 0.5), "c": (0.2, 0.9), "d": (0.05, 0.5)}
CHANCES = np.array([p for p, _ in ADS.values()])
FIRST_MS = 10_000
IMPRESSIONS = 20_000
SETTINGS = ("train.batch=64", "optimizer.linear.alpha=0.2")


def impressions_of(policy: str) -> dict[str, Any]:
    """The rows of many impressions under a policy, in the order in which they come out.

    The stream is so long that the rows which are cut off at its ends do not matter.
    """
    rng = np.random.default_rng(1)
    ad = rng.integers(0, len(ADS), IMPRESSIONS)
    acts = rng.random(IMPRESSIONS) < CHANCES[ad]
    late = rng.random(IMPRESSIONS) < np.array([late for _, late in ADS.values()])[ad]
    quick, slow = rng.integers(1, FIRST_MS, IMPRESSIONS), rng.integers(FIRST_MS + 1, 60_000)
    delay = np.where(late, slow, quick)
    times = START_MS + np.sort(rng.integers(0, 100 * HOUR_MS, IMPRESSIONS))
    first = 0 if policy == "fake_negative" else FIRST_MS
    everyone = np.arange(IMPRESSIONS)
    versions = [
        ("provisional", 0, everyone, np.full(IMPRESSIONS, first)),
        ("positive", 1, np.flatnonzero(acts & (delay > first)), delay),
    ]
    if policy == "defer":
        versions.append(("final", 2, everyone, np.full(IMPRESSIONS, CLICK.window_ms)))
    of = np.concatenate([which for _, _, which, _ in versions])
    observed = np.concatenate([at[which] for _, _, which, at in versions])
    kind = np.repeat([kind for kind, *_ in versions], [len(v[2]) for v in versions])
    revision = np.repeat([n for _, n, *_ in versions], [len(v[2]) for v in versions])
    order = np.argsort(times[of] + observed, kind="stable")
    of, observed = of[order], observed[order]
    known = acts[of] & (delay[of] <= observed)
    return {
        "ad": np.array(list(ADS))[ad[of]],
        "event_time": times[of],
        "kind": kind[order],
        "revision": revision[order],
        "observed_ms": observed,
        "delay_click_ms": pa.array(delay[of], mask=~known),
        "mature_click": observed >= CLICK.window_ms,
    }


def learned(joined: Joined) -> Any:
    """The probability of a click that was learned for each ad, (ads,)."""
    runs.train_here(joined.configured("model", *SETTINGS))
    model = ServedModel.open(joined.root / "model" / "serving")
    return model.predict(pa.table({"ad": list(ADS)}))[:, 0]


@pytest.mark.parametrize("policy", LOSS_OF)
def test_rows_with_delayed_labels_give_the_true_probabilities(policy: str, tmp_path: Path) -> None:
    rows = impressions_of(policy)
    waits = None if policy == "fake_negative" else "10s"
    joined = Joined(tmp_path / "own", (CLICK,), policy=policy, first_emit_after=waits)
    joined.samples(rows)
    np.testing.assert_allclose(learned(joined), CHANCES, atol=0.035)

    # who takes every row as it is learns the share of rows that are positive
    p, d = CHANCES, CHANCES * [late for _, late in ADS.values()]
    shares = {"fake_negative": p / (1 + p), "es_dfm": p / (1 + d), "defer": 2 * p / (2 + d)}[policy]
    naive = Joined(tmp_path / "naive", (CLICK,))
    count = len(rows["kind"])
    naive.samples(rows | {"kind": ["final"] * count, "mature_click": [True] * count})
    as_it_is = learned(naive)
    np.testing.assert_allclose(as_it_is, shares, atol=0.035)
    assert as_it_is[0] < CHANCES[0] - 0.07


# -- sampled negatives -----------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["importance", "log_odds", "none"])
def test_negatives_that_were_sampled(sampling: str, tmp_path: Path) -> None:
    """One negative of ten is written; predictions are of all the traffic, but with "none"."""
    rng = np.random.default_rng(1)
    ad = rng.integers(0, len(ADS), 4 * IMPRESSIONS)
    acts = rng.random(len(ad)) < CHANCES[ad]
    kept = acts | (rng.random(len(ad)) < 0.1)
    ad, acts = ad[kept], acts[kept]
    joined = Joined(tmp_path, (CLICK,), more="[sampling]\nrate = 0.1")
    joined.samples(
        {
            "ad": np.array(list(ADS))[ad],
            "delay_click_ms": pa.array(np.full(len(ad), 1_000), mask=~acts),
            "sampling_rate": np.where(acts, 1.0, 0.1),
        }
    )
    config = joined.configured("model", f"loss.sampling={sampling}", *SETTINGS)
    run = runs.train_here(config)
    assert run.metric("rows") == kept.sum()
    model = ServedModel.open(tmp_path / "model" / "serving")
    predicted = model.predict(pa.table({"ad": list(ADS)}))[:, 0]
    odds = CHANCES / (1 - CHANCES)
    if sampling == "none":
        np.testing.assert_allclose(predicted, 10 * odds / (1 + 10 * odds), atol=0.035)
        assert run.metric("ctr") == pytest.approx(acts.mean())
    else:
        np.testing.assert_allclose(predicted, CHANCES, atol=0.035)
        assert run.metric("ctr") == pytest.approx(CHANCES.mean(), abs=0.01)
    assert run.metric("calibration") == pytest.approx(1, abs=0.06)


# -- models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_every_model_beats_the_one_that_predicts_the_mean(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    settings = (*MODELS[kind], "train.batch=256", "optimizer.linear.alpha=0.3")
    run = runs.train_here(runs.configured(folder, tmp_path, *settings))
    assert run.metric("rows") == TRAFFIC.rows
    assert run.metric("normalized_entropy") < 0.95
    assert run.metric("auc") > 0.7
    # by the end it predicts as much as there is
    last = [m for m in run.session.tally.metrics() if m.slice == "all"][-1].measures
    assert last.calibration == pytest.approx(1, abs=0.1)


def test_several_actions_share_embeddings_and_have_metrics_of_their_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = 4_000
    users, ads = rng.integers(0, 8, rows), rng.integers(0, 8, rows)
    # who clicks what is of the pair, and not of the user or the ad
    clicks = rng.random(rows) < np.where((users + ads) % 2 == 0, 0.9, 0.1)
    buys = rng.random(rows) < 0.02
    joined = Joined(tmp_path, BOTH, features=("who", "ad"))
    columns = {
        "who": [f"u{n}" for n in users],
        "ad": [f"a{n}" for n in ads],
        "delay_click_ms": pa.array(np.full(rows, 1_000), mask=~clicks),
        "delay_purchase_ms": pa.array(np.full(rows, 2_000), mask=~buys),
    }
    joined.samples(columns)
    fm = ("model.type=fm", "model.embedding=4", "model.scale=0.1", "train.batch=64")
    run = runs.train_here(joined.configured("both", *fm))
    measured = runs.of_each_action(run)
    assert [m.rows for m in measured.values()] == [rows, rows]
    assert measured["click"].ctr == pytest.approx(clicks.mean())
    assert measured["purchase"].ctr == pytest.approx(buys.mean())
    assert measured["click"].auc is not None
    assert measured["click"].auc > 0.8
    # a weight for each action, and one embedding for both
    assert [s.shape[1] for s in run.parts.tables[0].states] == [2 * 2, 2 * 4]

    # what no row says anything of has learned nothing of its own, and yet has the embeddings
    silent = Joined(tmp_path / "silent", BOTH, features=("who", "ad"))
    silent.samples(columns | {"mature_purchase": [False] * rows})
    run = runs.train_here(silent.configured("model", *fm))
    assert list(runs.of_each_action(run)) == ["click"]
    assert not run.parts.tables[0].states[0][:, [1, 3]].any()
    assert run.parts.tables[0].states[0][:, [0, 2]].all()
    model = ServedModel.open(tmp_path / "silent/model/serving")
    assert model.actions == ("click", "purchase")
    predicted = model.predict(pa.table({"who": ["u0", "u0"], "ad": ["a0", "a1"]}))
    assert predicted[0, 0] > 0.7
    assert predicted[1, 0] < 0.3
    assert abs(predicted[0, 1] - predicted[1, 1]) > 0.2


# -- keys that go ----------------------------------------------------------------------------------


def test_keys_go_by_event_time_and_the_next_delta_says_so(tmp_path: Path) -> None:
    """Looked for once in an hour of event time, which goes by what was learned."""
    joined = Joined(tmp_path, (CLICK,))
    for hour, ads in enumerate((["old", "a"], ["a"], ["a", "b"], ["a", "b"], ["old"])):
        joined.samples({"ad": ads}, hour=hour)
    often = ("output.export_every=1ms", "output.base_every=100")
    config = joined.configured("model", "slots.ad.expire_after=90min", *often)
    run = runs.train_here(config, by_batches=True)
    assert run.session.progress.expired == 1
    serving = tmp_path / "model" / "serving" / run.session.run_id
    there, gone = {}, {}
    for number in range(5):
        part = pa.ipc.open_file(serving / f"part-{number:06d}-t0-0000.arrow").read_all()
        there[number] = set(part.filter(part["values"].is_valid())["key"].to_pylist())
        gone[number] = part.filter(part["values"].is_null())["key"].to_pylist()
    old, a, b = (key("ad", name) for name in ("old", "a", "b"))
    # in the second hour it is an hour old, in the third two
    assert gone == {0: [], 1: [], 2: [old], 3: [], 4: []}
    assert there == {0: {old, a}, 1: {a}, 2: {a, b}, 3: {a, b}, 4: {old}}
    # it came again, and began anew
    assert number_of(run, "old") == pytest.approx(number_of(run, "b") / 2, rel=0.3)
    assert 0 < number_of(run, "old") < number_of(run, "a") / 2
