"""The trainer in an object store: samples, checkpoints and the served model are on `s3://`, some
requests fail, and what is learned is what it is from a disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.trainer.data import Traffic, write
from configuration import store_lock
from configuration.output_lock import HeldError
from configuration.store_requests import AlreadyThereError, ObjectStorageSection, StoreError
from configuration.stores import StorePath, address_of, from_address
from services.object_store import ObjectStore
from services.waiting import wait_until
from tests.faulty_proxy import FaultyProxy
from tests.objects import serving, upload
from tests.trainer.runs import train
from trainer import checkpoint
from trainer.config import load
from trainer.reading.ledger import Ledger, has_samples
from trainer.run.job import job_of
from trainer.serving.format import read_current
from trainer.serving.model import ServedModel
from trainer.train import main

TRAFFIC = Traffic(rows=16_384, files=4, hours=2, users=400, catalogue=300)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with serving(tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, store: ObjectStore) -> Path:
    """On this disk, and copied to s3://stitch/joined, with what a reader must not take."""
    root = tmp_path_factory.mktemp("samples")
    write(TRAFFIC, root)
    output = root / "out"
    upload(output, place(store, "joined"))
    hour = max(output.rglob("*.parquet")).relative_to(output).parent
    place(store, f"joined/{hour}/.uncompacted-part-0").write_bytes(b"not Parquet")
    place(store, f"joined/{hour}/_SUCCESS").write_bytes(b"")
    return root


def place(store: ObjectStore, key: str, endpoint: str | None = None) -> StorePath:
    return StorePath(
        f"s3://stitch/{key}", ObjectStorageSection(endpoint=endpoint or store.endpoint)
    )


def settings(endpoint: str, output: str) -> list[str]:
    """Of a run that reads and writes in the store, and saves often."""
    return [
        "samples.path=s3://stitch/joined",
        f"object_storage.endpoint={endpoint}",
        f"output.path={output}",
        "output.checkpoint_every=200ms",
        "output.export_every=100ms",
        "output.keep_checkpoints=2",
        "output.resume=true",
        "train.batch=64",
    ]


class TestPaths:
    def test_what_is_written_is_found(self, store: ObjectStore) -> None:
        root = place(store, "paths/a folder/50%/é#?&")
        (root / "x/one").write_bytes(b"1")
        (root / "two").write_bytes(b"22")
        assert sorted(path.name for path in root.iterdir()) == ["two", "x"]
        assert sorted(name for name, _ in root.walk()) == ["two", "x/one"]
        assert (root / "two").stat().st_size == 2
        assert (root.is_dir(), root.is_file(), root.exists()) == (True, False, True)
        assert from_address(address_of(root)) == root
        assert from_address(address_of(root / "two")).read_bytes() == b"22"
        root.remove_all()
        assert not root.exists()
        assert list(root.iterdir()) == []

    def test_a_large_object_is_read_in_pieces(self, store: ObjectStore) -> None:
        path, data = place(store, "large"), os.urandom(11_000_000)
        path.write_bytes(data)
        with path.open() as file:
            assert file.seek(5_000_000) == 5_000_000
            assert file.read(1_000) == data[5_000_000:5_001_000]
            file.seek(-10, os.SEEK_END)
            assert file.read() == data[-10:]
        assert path.read_bytes() == data

    def test_errors_name_the_object(self, store: ObjectStore) -> None:
        with pytest.raises(FileNotFoundError, match="s3://stitch/nothing: there is no such object"):
            place(store, "nothing").read_bytes()
        with pytest.raises(FileNotFoundError):
            place(store, "nothing").open()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_SECRET_ACCESS_KEY", "another")
            section = ObjectStorageSection(endpoint=store.endpoint, region="another-1")
            with pytest.raises(StoreError, match="s3://stitch/one: "):
                StorePath("s3://stitch/one", section).read_bytes()

    def test_one_of_two_writers_is_refused(self, store: ObjectStore) -> None:
        path = place(store, "once")
        tag = path.create(b"1")
        assert tag is not None
        with pytest.raises(AlreadyThereError):
            path.create(b"2")
        path.replace_if(tag, b"3")
        with pytest.raises(AlreadyThereError):
            path.replace_if(tag, b"4")
        assert path.read_bytes() == b"3"


class TestLock:
    def test_a_second_process_is_refused(self, store: ObjectStore) -> None:
        path = place(store, "locked/.lock")
        held = f"process {os.getpid()} on "
        with store_lock.take(path, 3.0), pytest.raises(HeldError, match=held):
            store_lock.take(path, 3.0)
        with store_lock.take(path, 3.0):
            pass
        assert not path.is_file()

    def test_that_of_a_dead_process_is_taken_over(self, store: ObjectStore) -> None:
        path = place(store, "left/.lock")
        path.write_bytes(b"process 1 on another (0) 0\n")
        with store_lock.take(path, 1.0):
            assert path.read_bytes().startswith(b"process %d on " % os.getpid())

    def test_who_loses_it_is_told(self, store: ObjectStore) -> None:
        path, told = place(store, "lost/.lock"), []
        with store_lock.take(path, 1.0, lambda: told.append("lost")):
            path.write_bytes(b"process 1 on another (0) 0\n")
            wait_until(lambda: told, 30, "the holder to see it")
        assert path.is_file(), "that of the other one stays"


def test_only_data_files_are_read(store: ObjectStore, samples: Path) -> None:
    config = load(samples / "trainer.toml", settings(store.endpoint, "s3://stitch/none"))
    layout = job_of(config).samples
    stored, local = Ledger(layout), Ledger(layout)
    stored.discover(config.folder)
    local.discover(samples / "out")
    assert has_samples(config.folder)
    assert {e.path for e in stored.entries} == {e.path for e in local.entries}
    assert sum(e.rows for e in stored.entries) == TRAFFIC.rows
    assert stored.discover(config.folder) == []


@pytest.mark.thorough
def test_a_run_in_a_faulty_store_learns_what_one_on_a_disk_does(
    store: ObjectStore, samples: Path, tmp_path: Path
) -> None:
    local = train(load(samples / "trainer.toml", [f"output.path={tmp_path}/m", "train.batch=64"]))
    with FaultyProxy(store.endpoint, seed=1, share=0.1) as proxy:
        ours = settings(proxy.endpoint, "s3://stitch/model")
        train(load(samples / "trainer.toml", ours), stop_after=60)
        # another process goes on from the checkpoint
        stored = train(load(samples / "trainer.toml", ours))
        assert stored.session.progress.rows < TRAFFIC.rows
        assert len(proxy.injected) > 3, proxy.injected
        model = place(store, "model", proxy.endpoint)
        served = ServedModel.open(model / "serving")
    mine, theirs = stored.parts.tables, local.parts.tables
    for one, other in zip(mine, theirs, strict=True):
        assert np.array_equal(one.keys, other.keys)
        for a, b in zip(one.states, other.states, strict=True):
            assert np.array_equal(a, b)
    assert served.version == (
        stored.session.run_id,
        read_current(place(store, "model/serving")).number,  # type: ignore[union-attr]
    )
    on_disk = ServedModel.open(tmp_path / "m" / "serving")
    for table in on_disk.spec.tables:
        keys = on_disk.view.keys(table.name)
        assert np.array_equal(served.view.keys(table.name), keys)
        values = served.view.lookup(table.name, keys)[0]
        assert np.array_equal(values, on_disk.view.lookup(table.name, keys)[0])
    found = checkpoint.find(place(store, "model/checkpoints"))
    assert len(found) == 2
    named = {
        f"{f.name}/{n}"
        for f in found
        for n in ("manifest.json", *(s.name for s in checkpoint.read_manifest(f).shards))
    }
    assert {name for name, _ in place(store, "model/checkpoints").walk()} == named


def test_a_checkpoint_that_was_not_finished_is_none(store: ObjectStore, samples: Path) -> None:
    root = place(store, "unfinished/checkpoints")
    run = train(load(samples / "trainer.toml", settings(store.endpoint, "s3://stitch/unfinished")))
    (last,) = checkpoint.find(root)[-1:]
    manifest = checkpoint.read_manifest(last)
    # the same step again, by a run that dies before its manifest
    attempt = checkpoint.begin(root, manifest.step)
    (attempt / "shard-0.npz").write_bytes(b"half of it")
    assert checkpoint.find(root)[-1] == last
    assert checkpoint.read_manifest(last) == manifest
    checkpoint.read_shards(last, manifest)
    checkpoint.clear(root)
    assert not (attempt / "shard-0.npz").is_file()
    (last / "manifest.json").unlink()
    assert last not in checkpoint.find(root)
    assert run.session.step == manifest.step


def test_the_command(store: ObjectStore, samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = settings(store.endpoint, "s3://stitch/command")
    code = main(
        ["--config", str(samples / "trainer.toml"), *(a for s in overrides for a in ("--set", s))]
    )
    out = capsys.readouterr()
    assert code == 0, out.err
    assert "s3://stitch/command/evaluation/metrics.parquet" in out.out
    assert place(store, "command/evaluation/metrics.parquet").is_file()
    assert not place(store, "command/.lock").is_file(), "given back"
