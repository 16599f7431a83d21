"""The join on `s3://`: output and checkpoints in a store whose requests fail, and a SIGKILL in the
middle. Every row is there once, and nothing that a reader would take by mistake.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configuration.store_requests import ObjectStorageSection
from configuration.stores import StorePath
from services.object_store import ObjectStore
from tests.e2e.test_kills import check, go_on, killed, names, story
from tests.e2e.test_time import hours
from tests.faulty_proxy import FaultyProxy

BUCKET = "stitch"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path / "store") as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        server.make_bucket(BUCKET)
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
    output = StorePath(f"s3://{BUCKET}/out", ObjectStorageSection(endpoint=store.endpoint))
    read = 0
    for name, _ in (output / "samples").walk():
        if name.endswith(".parquet"):
            with (output / "samples" / name).open() as file:
                read += pq.read_table(file).num_rows
    assert read == len(due.rows) + 1, "and the far one"
    assert not (output / "_lock").is_file(), "given back"
