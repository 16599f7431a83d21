"""Training on processes that are really there, and really killed.

Each run starts its servers and workers anew, on one Ray that lasts for the module; so there are few
runs, and each is looked at from several sides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from tests.trainer import runs
from tests.trainer.runs import BATCH, ROWS, TRAFFIC, Run, snapshots_of
from trainer import checkpoint
from trainer.run.cluster import Cluster
from trainer.run.coordinator import Coordinator, coordinator_of
from trainer.run.job import job_of
from trainer.run.session import Session

pytestmark = pytest.mark.timeout(240)

STEPS = ROWS // BATCH
TWO = ("train.workers=2", "train.servers=2")
#: What is to be equal to the bit, whatever fails.
BSP = ("train.consistency=bsp", "train.steps=sample")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    started = Cluster(None, processes=32)
    yield
    started.stop()
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module")
def fault_free(folder: Path, notes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """BSP on two workers and two servers: what the runs with faults are to equal."""
    output = tmp_path_factory.mktemp("fault-free")
    return runs.train(runs.configured(folder, output, *TWO, *BSP), faults=("NotesDecoding", notes))


def test_two_workers_decode_each_file_once(fault_free: Run, notes: Path) -> None:
    decoded = (notes / "decoded").read_text().splitlines()
    assert len(decoded) == len(set(decoded)) == TRAFFIC.files
    assert fault_free.metric("rows") == ROWS
    # what they shared by is gone with the run
    assert not (Path(tempfile.gettempdir()) / fault_free.runner.cluster.shared).exists()


@pytest.mark.thorough
def test_bsp_with_four_workers_is_one_worker(folder: Path, tmp_path: Path) -> None:
    """Of a step per batch; that of one per sample is an average over the workers."""
    one = runs.train(runs.configured(folder, tmp_path / "one", "train.steps=batch"))
    config = runs.configured(
        folder,
        tmp_path / "four",
        *("train.workers=4", "train.servers=2", "train.consistency=bsp", "train.steps=batch"),
    )
    four = runs.train(config)
    runs.assert_equal(four.parts, one.parts, rtol=2e-4, atol=2e-5)
    assert four.log_loss == pytest.approx(one.log_loss, abs=1e-6)
    assert four.metric("rows") == one.metric("rows") == ROWS
    auc = one.metric("auc")
    assert auc > 0.6  # it has learned something


def test_backups_equal_their_primaries(fault_free: Run) -> None:
    assert set(fault_free.backups) == set(fault_free.primaries) == {0, 1}
    for shard, primary in fault_free.primaries.items():
        assert primary.rows > 1_000
        runs.assert_equal(runs.one([fault_free.backups[shard]]), runs.one([primary]))
        assert fault_free.backups[shard].marks == primary.marks


@pytest.mark.parametrize(
    ("fault", "happened"),
    [
        ("TwiceAndOutOfOrder", "an old push was sent again"),
        ("WorkerDies", "a worker died"),
        ("ServerDies", "a server died"),
    ],
)
def test_faults_under_bsp_change_nothing(
    fault: str, happened: str, folder: Path, fault_free: Run, tmp_path: Path
) -> None:
    signs = tmp_path / "signs"
    signs.mkdir()
    config = runs.configured(folder, tmp_path / "run", *TWO, *BSP)
    run = runs.train(config, faults=(fault, signs))
    assert (signs / happened).exists()
    runs.assert_equal(run.parts, fault_free.parts)
    assert run.session.progress.rollbacks == 0
    assert run.session.rows == ROWS
    # a dead server's shards have copies again, which are equal
    assert set(run.backups) == {0, 1}
    for shard, primary in run.primaries.items():
        runs.assert_equal(runs.one([run.backups[shard]]), runs.one([primary]))
    if fault == "ServerDies":
        assert len(run.runner.recoveries) == 1


def test_without_a_copy_everything_goes_back_to_the_checkpoint(
    folder: Path, fault_free: Run, tmp_path: Path
) -> None:
    signs = tmp_path / "signs"
    signs.mkdir()
    config = runs.configured(
        folder,
        tmp_path / "run",
        *(*TWO, *BSP, "train.replicas=0", "output.checkpoint_every=1ms"),
    )
    run = runs.train(config, faults=("ServerDies", signs))
    assert (signs / "a server died").exists()
    assert run.session.progress.rollbacks == 1
    runs.assert_equal(run.parts, fault_free.parts)
    # each sample counts once, in the metrics as well
    assert run.metric("rows") == ROWS
    assert run.log_loss == pytest.approx(fault_free.log_loss, abs=1e-9)


def test_staleness_stays_within_its_bound(folder: Path, tmp_path: Path) -> None:
    config = runs.configured(
        folder,
        tmp_path / "run",
        *("train.workers=3", "train.servers=2", "train.staleness=2", "train.batch=256"),
        "output.checkpoint_every=200ms",
    )
    run = runs.train(config, slow={0: 0.05})
    clocks = run.runner.dispatcher.clocks
    assert clocks.widest == 2  # the bound, which the straggler makes the others reach
    assert clocks.held > 0
    assert run.metric("rows") == ROWS
    # every push was taken by every shard, once
    for parts in (*run.primaries.values(), *run.backups.values()):
        assert {w: below for w, (below, _) in parts.marks.items()} == dict(enumerate(clocks.clocks))
        assert all(not above for _, above in parts.marks.values())
    assert sum(clocks.clocks) == ROWS // 256

    saved = checkpoint.find(tmp_path / "run" / "checkpoints")
    assert run.session.progress.checkpoints > 2
    for folder_of_one in saved:
        manifest = checkpoint.read_manifest(folder_of_one)
        for parts in checkpoint.read_shards(folder_of_one, manifest):
            # one cut: w and n of one moment, so a row that has a gradient has both (the second
            # table has the bias alone, on one of the shards)
            rows = parts.tables[0]
            z, n = rows.states[0][:, 0], rows.states[0][:, 1]
            assert len(z) == len(n) == len(rows.keys) > 0
            assert ((n > 0) | (z == 0)).all()
            assert sum(below for below, _ in parts.marks.values()) == manifest.step


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    folder: Path, fault_free: Run, tmp_path: Path
) -> None:
    resuming = (*BSP, "output.resume=true")
    config = runs.configured(folder, tmp_path / "run", *TWO, *resuming)
    first = runs.train(config, stop_after=STEPS // 2)
    assert 0 < first.session.rows < ROWS
    # on another number of servers, too
    again = runs.configured(
        folder,
        tmp_path / "run",
        *("train.workers=2", "train.servers=3"),
        *resuming,
    )
    second = runs.train(again)
    assert second.session.rows == ROWS
    assert second.session.progress.rows == ROWS - first.session.rows
    runs.assert_equal(second.parts, fault_free.parts)
    assert second.metric("rows") == ROWS
    assert second.log_loss == pytest.approx(fault_free.log_loss, abs=1e-9)


def test_servers_join_and_leave(folder: Path, tmp_path: Path) -> None:
    config = runs.configured(folder, tmp_path / "run", *TWO)
    session = Session(
        config,
        lambda names: coordinator_of(config, job_of(config), names),
        stopping=lambda: session.progress.steps >= STEPS // 2,
    )
    runner = session.runner
    assert isinstance(runner, Coordinator)
    try:
        session.run()
        before = runs.one(list(snapshots_of(runner).values()))
        joined = runner.resize(3)
        assert 0.2 < joined < 0.45  # a third, ideally
        runs.assert_equal(runs.one(list(snapshots_of(runner).values())), before)
        assert {len(p.tables[0]) > 100 for p in snapshots_of(runner).values()} == {True}
        left = runner.resize(2)
        assert 0.2 < left < 0.45
        runs.assert_equal(runs.one(list(snapshots_of(runner).values())), before)
        assert runner.resize(2) == 0
        np.testing.assert_array_equal(
            runs.one(list(snapshots_of(runner, backups=True).values())).tables[0].keys,
            before.tables[0].keys,
        )
    finally:
        runner.stop()
