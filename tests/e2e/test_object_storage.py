"""The join on `s3://`: output and checkpoints in a store whose requests fail, and a SIGKILL in the
middle. Every row is there once, and nothing that a reader would take by mistake. An archive is
joined again from there, with the same rows.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configuration.store_requests import ObjectStorageSection
from configuration.stores import StorePath
from jobs.pipeline import archive_plan, object_storage
from jobs.pipeline.config import ArchiveSource, ConfigError, SourcesSection
from schemas.events import STREAMS
from services.flink_cluster import FlinkCluster
from services.object_store import ObjectStore
from tests import oracle
from tests.e2e import outcomes, trained
from tests.e2e.test_kills import check, go_on, killed, names, story
from tests.e2e.test_time import hours
from tests.faulty_proxy import FaultyProxy
from tests.flink import running, test_archive_source
from tests.objects import BUCKET, serving, upload
from tools.audit import source


def place(store: ObjectStore, key: str) -> StorePath:
    return StorePath(f"s3://{BUCKET}/{key}", ObjectStorageSection(endpoint=store.endpoint))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    with serving(tmp_path / "store") as server:
        yield server


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_killed_while_requests_fail(store: ObjectStore, tmp_path: Path) -> None:
    # the objects are files here, so the output is looked at as if it were local
    folder = store.data / BUCKET
    due = story(folder, hours(5), compact=True, parallelism=2, interval="500ms")
    rng = random.Random(5)
    with FaultyProxy(store.endpoint, seed=5, share=0.05) as proxy:
        on_s3 = (
            *("--set", f"output.path=s3://{BUCKET}/out"),
            *("--set", f"object_storage.endpoint={proxy.endpoint}"),
            # state of any size is a file of its own, which the checkpoint names by its folder
            *("--set", 'flink."execution.checkpointing.data-inline-threshold"=0b'),
        )
        log = tmp_path / "first.log"
        number = len(names(folder)) + rng.randrange(10, 40)
        code = killed(folder, log, lambda seen: len(seen) >= number, *on_s3)
        assert code is None, log.read_text()
        check(folder, due, whole=False)
        # its lock is of a process that is known to be dead
        (folder / "out" / "_lock").unlink()
        log = tmp_path / "second.log"
        code = killed(folder, log, lambda seen: False, *on_s3, *go_on(folder))
        assert code == 0, log.read_text()
        assert len(proxy.injected) > 3, proxy.injected
    check(folder, due, whole=True)
    output = place(store, "out")
    read = 0
    for name, _ in (output / "samples").walk():
        if name.endswith(".parquet"):
            with (output / "samples" / name).open() as file:
                read += pq.read_table(file).num_rows
    assert read == len(due.rows) + 1, "and the far one"
    assert not (output / "_lock").is_file(), "given back"


def archived(path: str) -> SourcesSection:
    """Both streams in the archive at a path."""
    one = ArchiveSource(path=path)
    return SourcesSection(one_of_features=one, one_of_actions=one)


def test_an_archive_has_the_same_plan_there(store: ObjectStore, tmp_path: Path) -> None:
    test_archive_source.keep(tmp_path / "archive", test_archive_source.story(5), seed=5)
    upload(tmp_path / "archive", place(store, "archive"))
    # what Flink's file system leaves for a folder, and what is not finished
    (store.data / BUCKET / "archive" / "actions" / "dt=2023-11-14" / "hr=01").mkdir()
    place(store, "archive/features/dt=2023-11-14/hr=22/.part-1.parquet").write_bytes(b"half")
    on_disk, stored = map(archived, (f"{tmp_path}/archive", f"s3://{BUCKET}/archive"))
    section = ObjectStorageSection(endpoint=store.endpoint)
    with FaultyProxy(store.endpoint, seed=1, share=0.2) as proxy:
        faulty = ObjectStorageSection(endpoint=proxy.endpoint)
        assert archive_plan.plan(stored, faulty) == archive_plan.plan(on_disk)
        for there, here in zip(stored.each, on_disk.each, strict=True):
            read = list(source.records(there, [], faulty))
            assert read == list(source.records(here, []))
        assert proxy.injected
    with pytest.raises(ConfigError, match="no archived records in s3://stitch/none/features"):
        archive_plan.plan(archived(f"s3://{BUCKET}/none"), section)


@pytest.mark.thorough
def test_an_archive_is_joined_again_while_requests_fail(store: ObjectStore, tmp_path: Path) -> None:
    arrivals, rules = test_archive_source.story(5), test_archive_source.rules("request_id")
    test_archive_source.keep(tmp_path / "archive", arrivals, seed=5)
    upload(tmp_path / "archive", place(store, "archive"))
    config = tmp_path / "pipeline.toml"
    config.write_text(test_archive_source.configuration(rules))
    with FaultyProxy(store.endpoint, seed=5, share=0.05) as proxy:
        archive = [f"sources.{stream}.path=s3://{BUCKET}/archive" for stream in STREAMS]
        service = f"object_storage.endpoint={proxy.endpoint}"
        running.join(config, tmp_path / "out", "runtime.parallelism=2", service, *archive)
        assert len(proxy.injected) > 1, proxy.injected
    expected = oracle.expected(test_archive_source.timeline(arrivals), rules)
    outcomes.check_written(tmp_path / "out", rules, expected)


@pytest.mark.thorough
@pytest.mark.timeout(900)
@trained.needed
def test_from_a_cluster_to_a_model_while_requests_fail(store: ObjectStore, tmp_path: Path) -> None:
    """Two task managers write samples and checkpoints there, and a trainer reads the samples and
    writes its model there. It has the parameters of one that reads the same files from a disk.
    """
    folder, run = store.data / BUCKET, tmp_path / "run"
    run.mkdir()
    due = story(folder, hours(5), compact=True, parallelism=2, interval="500ms")
    config = folder / "pipeline.toml"
    with FaultyProxy(store.endpoint, seed=5, share=0.03) as proxy:
        there = f"object_storage.endpoint={proxy.endpoint}"
        of_flink = object_storage.options(ObjectStorageSection(endpoint=proxy.endpoint), {})
        with FlinkCluster(tmp_path / "cluster", task_managers=2, settings=of_flink) as cluster:
            words = ["--config", str(config), "--set", f"output.path=s3://{BUCKET}/out"]
            submission = cluster.run(
                running.ROOT / "jobs" / "join_samples.py",
                [*words, "--set", there],
                parallelism=2,
            )
            cluster.wait_for_job(submission.job_id, "FINISHED", trained.DEADLINE_S)
        check(folder, due, whole=True)
        shutil.copy(config, run)
        shutil.copytree(folder / "out", run / "out", ignore=lambda *_: ["_checkpoints"])
        here = trained.started(run, "here")
        stored = (f"samples.path=s3://{BUCKET}/out", f"output.path=s3://{BUCKET}/model", there)
        assert trained.started(run, "there", *stored).wait(trained.DEADLINE_S) == 0, (
            run / "there.log"
        ).read_text()
        assert here.wait(trained.DEADLINE_S) == 0, (run / "here.log").read_text()
        assert len(proxy.injected) > 3, proxy.injected
    expected = trained.digest(run / "model" / "checkpoints")
    assert int(expected[1]) > len(due.rows), "the far one, too"
    assert trained.digest(folder / "model" / "checkpoints") == expected
