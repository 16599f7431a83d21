"""The steps of a backfill in an object store, with joins that only put objects there: killed before
changes, seen by readers, and removed.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from configuration.store_requests import ObjectStorageSection
from configuration.stores import StorePath
from jobs.backfill import command, removal, running, work
from jobs.pipeline.config import ConfigError
from schemas import generations
from tests.objects import serving
from tests.unit import test_backfill
from tests.unit.test_backfill import PERIOD, KilledError, live, one_run, planned, rows, state
from tools.list_files.command import main as list_files

#: Of all changes of a run, one in so many is where it is killed.
EVERY = 9


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorePath]:
    with serving(tmp_path_factory.mktemp("store")) as server:
        yield StorePath("s3://stitch", ObjectStorageSection(endpoint=server.endpoint))


@contextlib.contextmanager
def killed_at(step: int) -> Iterator[list[int]]:
    """Every put and every deletion is a step, and the process dies before the given one."""
    done = [0]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_from", "unlink"):
            change = getattr(StorePath, name)

            def counted(*arguments: Any, change: Any = change, **options: Any) -> Any:
                done[0] += 1
                if done[0] > step:
                    raise KilledError
                return change(*arguments, **options)

            patch.setattr(StorePath, name, counted)
        yield done


def test_killed_anywhere_it_goes_on_and_readers_see_the_old_or_the_new(root: StorePath) -> None:
    seen = []
    for step in itertools.count(0, EVERY):
        output = root / f"killed-{step}"
        live(output)
        ended = False
        with contextlib.suppress(KilledError), killed_at(step):
            one_run(output)
            ended = True
        seen.append(state(output))
        if not ended:
            one_run(output)
        assert state(output) == "new"
        assert work.load(output) is None
        assert not any("/hr=21/" in name for name, _ in (output / "_generations").walk())
        if ended:
            break
    assert seen == sorted(seen, reverse=True)
    assert len(seen) > 4
    assert {"old", "new"} == set(seen)


def test_what_was_replaced_is_removed_when_it_is_old(
    root: StorePath, capsys: pytest.CaptureFixture[str]
) -> None:
    output, now = root / "removed", datetime.now(timezone.utc)
    live(output)
    one_run(output)
    assert removal.remove(output, now - timedelta(hours=1)) == removal.Removed()
    for _ in range(2):
        one_run(output)
        removal.remove(output, now + timedelta(hours=1))
        assert state(output) == "new"
        assert removal.remove(output, now + timedelta(hours=1)) == removal.Removed()
    left = {
        generations.hour_of(generations.partition_in(n)) for n, _ in (output / "samples").walk()
    }
    assert left.isdisjoint(PERIOD)
    assert sum(rows(output, "samples").values()) == 2 * 2 + len(PERIOD)
    assert list_files([str(output), "rejected", "--endpoint", str(output.section.endpoint)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed == [f"{output}/{name}" for name in generations.names(output, "rejected")]
    assert len(listed) == 2 * 2 + len(PERIOD)


def test_what_is_left_of_a_backfill_is_discarded(root: StorePath) -> None:
    output = root / "discarded"
    live(output)
    with contextlib.suppress(KilledError), killed_at(20):
        running.to_the_end(output, planned(), test_backfill.join)
    left = work.load(output)
    assert left is not None
    running.discard(output, left)
    assert work.load(output) is None
    assert not (output / "_generations").is_dir()
    assert state(output) == "old"


def test_two_at_once_are_refused(root: StorePath) -> None:
    with (
        command.locked(root / "locked"),
        pytest.raises(ConfigError, match="another backfill of s3://stitch/locked is at work"),
        command.locked(root / "locked"),
    ):
        pass


def test_a_dry_run_counts_what_is_there(
    root: StorePath, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live(root / "dry")
    config = tmp_path / "p.toml"
    config.write_text(test_backfill.CONFIG)
    (tmp_path / "in").mkdir()
    for name in ("features", "actions"):
        (tmp_path / "in" / f"{name}.jsonl").write_text("{}\n")
    where = [f"output.path={root / 'dry'}", f"object_storage.endpoint={root.section.endpoint}"]
    sets = [word for one in where for word in ("--set", one)]
    assert test_backfill.asked(config, "--dry-run", *sets) == 0
    assert capsys.readouterr().out.count("4 files") == len(running.TABLES)
    assert work.load(root / "dry") is None
