"""A backfill that is killed at every step, and what readers see meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from configuration.stores import Folder
from jobs.backfill import command, hours, iceberg, removal, running, work
from jobs.backfill.joining import JoinError, join_apart
from jobs.backfill.margins import HOUR_MS, Margins
from jobs.backfill.work import Slice, Work
from jobs.pipeline import environment
from jobs.pipeline.config import ConfigError, OutputSection, Pipeline
from jobs.pipeline.stopping import Stopped
from schemas import generations
from schemas.generations import hour_of
from schemas.samples import ICEBERG_TABLE
from services import process
from services.waiting import wait_until
from tests.partitions import partition_of

FIRST, END = (hours.read(hour, "") for hour in ("2026-11-01T22", "2026-11-02T00"))
PERIOD = hours.between(FIRST, END)
#: Also an hour before and one after it, which stay as they are.
HOURS = hours.between(FIRST - HOUR_MS, END + HOUR_MS)
TABLES = (*running.TABLES, "corrections")


class KilledError(BaseException):
    """Where a kill -9 ends the process."""


@pytest.fixture(autouse=True)
def without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill loses nothing that was written; only the power would. It takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def put(path: Folder, row: str) -> None:
    """Text, and not Parquet: nothing here looks into the files."""
    if not isinstance(path, Path):
        path.write_bytes(row.encode())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT), "w") as file:
        file.write(row)


def live(output: Folder) -> None:
    """What the join has written: two files an hour."""
    for table, hour in itertools.product(TABLES, HOURS):
        for part in "ab":
            put(
                output / table / partition_of(hour) / f"{part}.parquet",
                f"old {table} {hour} {part}",
            )


def join(piece: Slice, folder: Folder) -> None:
    """A join that is given margins on both sides, as the real one is, and may be killed within."""
    first, end = hours.read(piece.first, ""), hours.read(piece.end, "")
    for hour in hours.between(first - HOUR_MS, end + HOUR_MS):
        for table in running.TABLES:
            put(folder / table / partition_of(hour) / "x.parquet", f"new {table} {hour}")
    put(folder / "rejected/dt=1970-01-01/hr=00/x.parquet", "of no time")


def half_a_join(piece: Slice, folder: Folder) -> None:
    put(folder / "samples" / partition_of(piece.first) / "half.parquet", "of a killed join")


def planned() -> Work:
    return work.plan(FIRST, END, Margins(0, 0), {}, 1)


def rows(output: Folder, table: str, of: generations.Current | None = None) -> Counter[str]:
    return Counter((output / name).read_text() for name in generations.names(output, table, of))


def expected(table: str, *, new: bool) -> Counter[str]:
    found: Counter[str] = Counter()
    for hour in HOURS:
        if not new or hour not in PERIOD:
            found.update(f"old {table} {hour} {part}" for part in "ab")
        elif table != "corrections":
            found[f"new {table} {hour}"] += 1
    return found


def state(output: Folder) -> str:
    """What readers see: `old` or `new` of all tables. A mix fails the test."""
    of = generations.current(output)
    found = {table: rows(output, table, of) for table in TABLES}
    for name in ("old", "new"):
        if found == {table: expected(table, new=name == "new") for table in TABLES}:
            return name
    raise AssertionError(found)


@contextlib.contextmanager
def killed_at(step: int, patch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every change of the file system is a step. The process dies before the given one, or, at half
    numbers of it, when it is half done: a file that is half written, a folder half deleted.
    """
    done = [0]
    real_open, real_replace, real_unlink = Path.open, Path.replace, os.unlink

    def counted(change: Callable[..., Any], half: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            now, done[0] = done[0], done[0] + 2
            if now == step:
                raise KilledError
            if now + 1 == step:
                half(*arguments, **options)
                raise KilledError
            return change(*arguments, **options)

        return changed

    def nothing(*_: Any, **__: Any) -> None:
        pass

    def opened(self: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if "w" not in mode:
            return real_open(self, mode, *rest, **options)

        def half(path: Path, *_: Any, **__: Any) -> None:
            with real_open(path, "wb") as file:
                file.write(b'{"format": 1')

        return counted(real_open, half)(self, mode, *rest, **options)

    patch.setattr(Path, "open", opened)
    patch.setattr(Path, "replace", counted(real_replace, real_replace))
    patch.setattr(os, "unlink", counted(real_unlink, nothing))
    patch.setattr(sys.modules[__name__], "join", counted(join, half_a_join))
    try:
        yield done
    finally:
        patch.undo()
        patch.setattr(os, "fsync", lambda _: None)


def one_run(output: Folder) -> None:
    """What the command does, with the join above."""
    running.to_the_end(output, work.load(output) or planned(), join)


def test_killed_anywhere_it_goes_on_and_readers_see_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(tmp_path / "live")
    seen = []
    for step in itertools.count():
        output = tmp_path / "out"
        shutil.copytree(tmp_path / "live", output)
        try:
            with killed_at(step, monkeypatch):
                one_run(output)
            ended = True
        except KilledError:
            ended = False
        seen.append(state(output))
        if not ended:
            # it is killed once more in the next life, at another place
            with contextlib.suppress(KilledError), killed_at(step // 3, monkeypatch):
                one_run(output)
            assert state(output) in ("old", "new")
            one_run(output)
        assert state(output) == "new"
        assert work.load(output) is None
        assert not list(output.glob("_generations/*/*/samples/*/hr=21"))
        shutil.rmtree(output)
        if ended:
            break
    # the one put of the pointer is between the two
    assert seen == sorted(seen, reverse=True)
    assert len(seen) > 40
    assert {"old", "new"} == set(seen)


def test_a_reader_in_a_loop_never_sees_a_mix(tmp_path: Path) -> None:
    live(tmp_path)
    seen: list[str] = []
    wrong: list[BaseException] = []
    over = threading.Event()

    def look() -> None:
        try:
            while not over.is_set():
                seen.append(state(tmp_path))
        except BaseException as error:  # an assertion of a thread is lost otherwise
            wrong.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        wait_until(lambda: bool(seen) or not reader.is_alive(), 60, "the old rows")
        for _ in range(3):
            running.to_the_end(tmp_path, planned(), join)
        wait_until(lambda: "new" in seen or not reader.is_alive(), 60, "the new rows")
    finally:
        over.set()
        reader.join()
    assert wrong == []
    assert seen == sorted(seen, reverse=True)
    assert {"old", "new"} == set(seen)


def test_what_the_live_job_adds_meanwhile(tmp_path: Path) -> None:
    """Rows of samples are in the archive, and so in the generation. A reject that comes later than
    what was read is not, and is added.
    """
    live(tmp_path)
    at = partition_of(PERIOD[0])

    def late(piece: Slice, folder: Folder) -> None:
        join(piece, folder)
        put(tmp_path / "samples" / at / "during.parquet", "twice")
        put(tmp_path / "rejected" / at / "during.parquet", "is replaced")

    running.to_the_end(tmp_path, planned(), late)
    assert state(tmp_path) == "new"
    put(tmp_path / "samples" / at / "after.parquet", "twice")
    put(tmp_path / "rejected" / at / "after.parquet", "is added")
    assert rows(tmp_path, "samples") == expected("samples", new=True)
    assert rows(tmp_path, "rejected") == expected("rejected", new=True) + Counter(["is added"])
    # joined once more, with what came since among its records
    running.to_the_end(tmp_path, planned(), join)
    assert state(tmp_path) == "new"


def test_what_follows_the_publication_comes_again_after_a_kill(tmp_path: Path) -> None:
    live(tmp_path)
    seen: list[str] = []

    def follows() -> None:
        seen.append(state(tmp_path))
        if len(seen) == 1:
            raise KilledError

    with pytest.raises(KilledError):
        running.to_the_end(tmp_path, planned(), join, published=follows)
    left = work.load(tmp_path)
    assert left is not None
    running.to_the_end(tmp_path, left, half_a_join, published=follows)
    assert seen == ["new", "new"]
    assert work.load(tmp_path) is None


def test_a_table_that_cannot_follow_is_said_before_anything_is_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = OutputSection(path=str(tmp_path), table="iceberg")
    pipeline = cast(Pipeline, SimpleNamespace(output=output))
    monkeypatch.setattr(environment, "_JARS", tmp_path / "none")
    iceberg.check(pipeline, tmp_path)
    (tmp_path / ICEBERG_TABLE / "metadata").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"output\.table: .* run `make setup-iceberg` first"):
        iceberg.check(pipeline, tmp_path)


def test_what_an_iceberg_table_has_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "samples" / "_iceberg").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"--remove-replaced: .* is an Iceberg table of files"):
        command._remove(tmp_path, 0)


def test_what_was_replaced_is_removed_when_it_is_old(tmp_path: Path) -> None:
    live(tmp_path)
    now = datetime.now(timezone.utc)
    running.to_the_end(tmp_path, planned(), join)
    put(tmp_path / "rejected" / partition_of(PERIOD[0]) / "after.parquet", "is added")
    added = Counter(["is added"])

    def check(left: int) -> None:
        assert rows(tmp_path, "samples") == expected("samples", new=True)
        assert rows(tmp_path, "rejected") == expected("rejected", new=True) + added
        assert len(list(tmp_path.glob("samples/*/*/*.parquet"))) == left

    assert removal.remove(tmp_path, now - timedelta(hours=1)).hours == 0
    check(2 * len(HOURS))
    removal.remove(tmp_path, now + timedelta(hours=1))
    check(2 * 2)
    # a whole backfill that another one has replaced, and what a killed one has left
    (before,) = tmp_path.glob("_generations/*")
    put(tmp_path / "_generations/left/000/samples/dt=2026-11-01/hr=22/x.parquet", "of nobody")
    added = Counter()
    running.to_the_end(tmp_path, planned(), join)
    removal.remove(tmp_path, now + timedelta(hours=1))
    check(2 * 2)
    (after,) = tmp_path.glob("_generations/*")
    assert after != before
    assert removal.remove(tmp_path, now + timedelta(hours=1)) == removal.Removed()


def test_a_failed_join_publishes_nothing_and_may_be_discarded(tmp_path: Path) -> None:
    live(tmp_path)

    def fails(piece: Slice, folder: Folder) -> None:
        join(piece, folder)
        if piece.first != PERIOD[0]:
            raise JoinError

    with pytest.raises(JoinError):
        running.to_the_end(tmp_path, planned(), fails)
    assert state(tmp_path) == "old"
    left = work.load(tmp_path)
    assert left is not None
    assert len(left.joined) == 1
    with pytest.raises(ConfigError, match="--discard"):
        work.check(left, FIRST, END + HOUR_MS, {})
    with pytest.raises(ConfigError, match="--discard"):
        work.check(left, FIRST, END, {"other": 1})
    work.check(left, FIRST, END, {})
    running.discard(tmp_path, left)
    assert work.load(tmp_path) is None
    assert list(tmp_path.glob("_generations/*")) == []


def test_slices_cover_the_period_once() -> None:
    for length, margin in itertools.product((None, 1, 5, 100), (0, 40 * HOUR_MS)):
        pieces = work.plan(FIRST, END, Margins(margin, margin), {}, length).slices
        found = [
            hour
            for piece in pieces
            for hour in hours.between(hours.read(piece.first, ""), hours.read(piece.end, ""))
        ]
        assert found == PERIOD
        assert len({piece.folder for piece in pieces}) == len(pieces)


# -- the command -----------------------------------------------------------------------------------

CONFIG = """
[actions.click]
window = "10min"
[sources.features]
type = "files"
path = "in/features.jsonl"
[sources.actions]
type = "files"
path = "in/actions.jsonl"
[output]
path = "out"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in ("features", "actions"):
        (tmp_path / "in" / f"{name}.jsonl").write_text("{}\n")
    (tmp_path / "p.toml").write_text(CONFIG)
    return tmp_path / "p.toml"


def asked(config: Path, *more: str) -> int:
    span = ["--from", hours.text(FIRST), "--to", hours.text(END)]
    return command.main(["--config", str(config), *span, *more])


def test_a_dry_run_says_what_it_would_do_and_does_nothing(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live(config.parent / "out")
    before = sorted((config.parent / "out").rglob("*"))
    assert asked(config, "--dry-run", "--slice", "1") == 0
    out = capsys.readouterr().out
    head, first, second, of_tables, _ = out.splitlines()
    assert "…" not in out
    assert head.split()[:2] == ["replaces", "from"]
    assert first.split()[:2] == ["2026-11-01T22", "2026-11-01T23"]
    assert second.split()[:2] == ["2026-11-01T23", "2026-11-02T00"]
    assert "6 files, 0.0 MB" in first
    assert of_tables.count("4 files") == len(running.TABLES)
    assert sorted((config.parent / "out").rglob("*")) == before


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (("--from", "2026-11-01"), "2026-11-01T00"),
        (("--from", "2026-13-01T00"), "expected an hour"),
        (("--to", "2026-11-01T22"), "must be after"),
        (("--margin", "much"), "--margin: expected a duration"),
        (("--remove-replaced", "much"), "--remove-replaced: expected a duration"),
        (("--set", "output.path=hdfs://b/x"), "neither a local folder nor on s3://"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    config: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], error: str
) -> None:
    assert asked(config, *more) == 2
    said = capsys.readouterr().err
    assert error in said
    assert "Traceback" not in said


def test_two_at_once_are_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = config.parent / "out"
    with command.locked(output):
        assert asked(config) == 2
    assert "another backfill" in capsys.readouterr().err
    assert not (output / work.FILE).exists()


def test_the_hour_of_a_partition() -> None:
    assert [hour_of(partition_of(hour)) for hour in PERIOD] == PERIOD


def test_a_join_that_fails_says_why_and_where_its_log_is(config: Path, tmp_path: Path) -> None:
    into = tmp_path / "000"
    with pytest.raises(JoinError, match=r"exit code 2.*000\.log ends with(?s:.)*no\.such\.key"):
        join_apart(config, ("no.such.key=1",), (FIRST, END), into, lambda: None)


def test_a_join_ends_with_a_backfill_that_is_stopped(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[process.ProcessId] = []
    real = process.start

    def start(*arguments: Any, **options: Any) -> process.ProcessId:
        started.append(real(*arguments, **options))
        return started[0]

    def stopped() -> None:
        assert started[0].is_running()
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(process, "start", start)
    with pytest.raises(Stopped):
        join_apart(config, (), (FIRST, END), tmp_path / "000", stopped)
    wait_until(lambda: not started[0].is_running(), 60, "the end of the join")
