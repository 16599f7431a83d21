"""Checkpoints: whole or not there, checked when they are read, and for any number of shards."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.trainer import bits
from trainer import checkpoint, disk
from trainer.checkpoint import CheckpointError, Manifest
from trainer.server.resharding import resharded
from trainer.server.ring import arcs_of, owners
from trainer.server.shard import Push, Shard, ShardSnapshot, TablePush
from trainer.server.shard_file import write_shard
from trainer.spec import AdaGrad, Adam, Ftrl, ModelSpec, Segment, Slot, TableSpec
from trainer.table import admission

NODES = 16
#: `fm` with two heads has dense parameters.
SPEC = ModelSpec(
    "fm",
    ("click", "purchase"),
    (Slot("a", "a", "category"), Slot("b", "b", "category", 1)),
    (
        TableSpec("ids", (Segment("linear", 2, Ftrl()), Segment("embedding", 3, AdaGrad()))),
        TableSpec("rare", (Segment("linear", 2, Adam()),), admit_after=3, expire_after_s=50),
    ),
    embedding=3,
)


@pytest.fixture(autouse=True)
def _small_sketches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "empty", lambda: np.zeros((admission.DEPTH, 4096), np.uint16))


def keys_of(numbers: Any) -> Any:
    """Keys over the whole ring; never 0."""
    return np.asarray(numbers, np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def pushes(count: int) -> Iterator[Push]:
    rng = np.random.default_rng(1)
    for sequence in range(count):
        tables = []
        for t, spec in enumerate(SPEC.tables):
            keys = keys_of(rng.choice(400, 120, replace=False) + 1)
            gradients = rng.normal(size=(len(keys), spec.width)).astype(np.float32)
            counts = np.ones(len(keys), np.uint32) if t else None
            tables.append(TablePush(keys, gradients, counts))
        dense = rng.normal(size=6).astype(np.float32)
        yield Push(0, sequence, 0, 10 * sequence, tables, dense)


def trained(count: int, shards: Sequence[int] = (0,)) -> dict[int, Shard]:
    """By that many pushes, each divided by the ring."""
    made = {s: Shard(SPEC, contributions=None, has_dense=s == min(shards)) for s in shards}
    ring = owners(shards, NODES)
    for push in pushes(count):
        for number, shard in made.items():
            tables = []
            for table in push.tables:
                here = ring[arcs_of(table.keys)] == number
                counts = None if table.counts is None else table.counts[here]
                tables.append(TablePush(table.keys[here], table.gradients[here], counts))
            dense = push.dense if shard.dense is not None else None
            shard.push(Push(0, push.sequence, 0, push.now, tables, dense))
    for shard in made.values():
        shard.expire(10 * count)
    return made


@pytest.fixture(scope="module")
def cut() -> list[ShardSnapshot]:
    """Three shards with everything that there may be."""
    with pytest.MonkeyPatch.context() as patch:
        _small_sketches.__wrapped__(patch)  # type: ignore[attr-defined]
        return [shard.snapshot() for shard in trained(20, (0, 1, 2)).values()]


def save(
    root: Path, step: int, shards: Sequence[ShardSnapshot], *, keep: int = 3, note: str = ""
) -> tuple[Path, Manifest]:
    folder = checkpoint.begin(root, step)
    files = [write_shard(folder, n, parts, SPEC) for n, parts in enumerate(shards)]
    manifest = Manifest(step, SPEC, files, "bsp", 4, {"cursor": [1, 2], "note": note})
    return Path(str(checkpoint.finish(folder, manifest, keep))), manifest


def small(value: int) -> list[ShardSnapshot]:
    """Two shards of one row, to be told apart."""
    out = []
    for number in range(2):
        shard = Shard(SPEC, contributions=None, has_dense=False)
        one = [np.full((1, t.width), value, np.float32) for t in SPEC.tables]
        tables = [
            TablePush(keys_of([7 + number]), one[0], None),
            TablePush(keys_of([7]), one[1], np.array([3], np.uint32)),
        ]
        shard.push(Push(0, 0, 0, value, tables, None))
        out.append(shard.snapshot())
    return out


def read(folder: Path) -> list[Any]:
    return [
        bits.of_snapshot(p)
        for p in checkpoint.read_shards(folder, checkpoint.read_manifest(folder))
    ]


# -- written, found, read --------------------------------------------------------------------------


def test_what_is_read_is_what_was_written(tmp_path: Path, cut: list[ShardSnapshot]) -> None:
    folder, manifest = save(tmp_path / "new" / "checkpoints", 1234, cut)
    assert folder.name == "step-000000001234"
    assert checkpoint.find(folder.parent) == [folder]
    assert checkpoint.read_manifest(folder) == manifest
    assert read(folder) == [bits.of_snapshot(parts) for parts in cut]
    assert [f.bytes for f in manifest.shards] == [
        (folder / f"shard-{n}.npz").stat().st_size for n in range(3)
    ]


def test_the_newest_are_kept_and_the_last_is_the_newest(tmp_path: Path) -> None:
    for step in (5, 900, 17, 1000, 2000):
        save(tmp_path, step, small(step), keep=3)
    assert [p.name for p in checkpoint.find(tmp_path)] == [
        f"step-{step:012}" for step in (900, 1000, 2000)
    ]
    assert sorted(tmp_path.iterdir()) == checkpoint.find(tmp_path), "nothing else stays"


def test_the_same_step_again_replaces_what_was_there(tmp_path: Path) -> None:
    save(tmp_path, 3, small(1), note="first")
    folder, _ = save(tmp_path, 3, small(2), note="second")
    assert checkpoint.find(tmp_path) == [folder]
    assert checkpoint.read_manifest(folder).session["note"] == "second"
    assert read(folder) == [bits.of_snapshot(parts) for parts in small(2)]
    assert list(tmp_path.iterdir()) == [folder]


def test_what_is_not_a_checkpoint_is_not_found(tmp_path: Path) -> None:
    assert checkpoint.find(tmp_path / "nowhere") == []
    assert checkpoint.find(tmp_path) == []
    folder, _ = save(tmp_path, 3, small(1))
    shutil.copytree(folder, tmp_path / "step-000000000004")
    (tmp_path / "step-000000000004" / "manifest.json").unlink()
    for name in (".step-000000000005", "step-6", "step-000000000007.bak", "shards"):
        shutil.copytree(folder, tmp_path / name)
    (tmp_path / "step-000000000008").write_text("a file")
    assert checkpoint.find(tmp_path) == [folder]


def test_what_was_left_of_a_killed_one_is_not_in_the_next(tmp_path: Path) -> None:
    folder = checkpoint.begin(tmp_path, 3)
    write_shard(folder, 9, small(1)[0], SPEC)
    final, _ = save(tmp_path, 3, small(2))
    assert not (final / "shard-9.npz").exists()


# -- damaged ---------------------------------------------------------------------------------------

Damage = Callable[[Path], Any]


def _flip_a_bit(folder: Path) -> None:
    path = folder / "shard-1.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _rewrite(**changed: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        told = msgspec.json.decode(path.read_bytes())
        path.write_bytes(msgspec.json.encode(told | changed))

    return damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(_flip_a_bit, r"shard-1.npz: its checksum is not", id="a bit"),
        pytest.param(
            lambda folder: os.truncate(folder / "shard-0.npz", 100),
            r"shard-0.npz: its checksum is not",
            id="a file that was cut off",
        ),
        pytest.param(
            lambda folder: (folder / "shard-1.npz").unlink(), r"shard-1.npz: missing", id="a file"
        ),
        pytest.param(
            lambda folder: (folder / "manifest.json").write_bytes(b'{"step": 3'),
            "the manifest cannot be read",
            id="the manifest",
        ),
        pytest.param(
            lambda folder: (folder / "manifest.json").unlink(),
            "the manifest cannot be read",
            id="no manifest",
        ),
        pytest.param(_rewrite(step="three"), "the manifest cannot be read", id="a wrong type"),
        pytest.param(_rewrite(version=2), r"another release \(format 2\)", id="a newer format"),
        pytest.param(_rewrite(version=0), r"format 0", id="an older format"),
    ],
)
def test_what_is_damaged_says_so_and_which_it_is(tmp_path: Path, damage: Damage, says: str) -> None:
    folder, _ = save(tmp_path, 3, small(1))
    damage(folder)
    with pytest.raises(CheckpointError, match=says) as error:
        read(folder)
    assert folder.name in str(error.value)


def test_what_a_newer_release_adds_is_no_error_in_the_same_format(tmp_path: Path) -> None:
    folder, _ = save(tmp_path, 3, small(1))
    _rewrite(colour="red")(folder)
    assert checkpoint.read_manifest(folder).step == 3


# -- killed in the middle --------------------------------------------------------------------------


class Killed(BaseException):
    """As a process is: nothing catches it."""


#: Whatever changes the disk, or makes a change last.
CALLS = [
    (os, "fsync"),
    (os, "unlink"),
    (os, "rmdir"),
    (os, "mkdir"),
    (os, "rename"),
    (os, "replace"),
    (Path, "open"),
]


class _LastFirst:
    """A folder's entries as some file system may give them: the manifest last."""

    def __init__(self, entries: Any) -> None:
        self._entries = entries

    def __enter__(self) -> Iterator[Any]:
        with self._entries as entries:
            return iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

    def __exit__(self, *_: object) -> None:
        pass


def killed_at(patch: pytest.MonkeyPatch, call: int) -> None:
    """The process ends at the so-many-th of its calls."""
    calls = itertools.count()

    def wrapped(original: Any) -> Any:
        def maybe(*args: Any, **more: Any) -> Any:
            if next(calls) >= call:
                raise Killed
            return original(*args, **more)

        return maybe

    scandir = os.scandir
    patch.setattr(os, "scandir", lambda path: _LastFirst(scandir(path)))
    for owner, name in CALLS:
        patch.setattr(owner, name, wrapped(getattr(owner, name)))


def _the_first(root: Path) -> None:
    save(root, 3, small(3))


def _another(root: Path) -> None:
    save(root, 3, small(3), keep=2)


def _the_same_step_again(root: Path) -> None:
    save(root, 2, small(4), keep=2)


@pytest.mark.parametrize(
    ("before", "work"),
    [
        pytest.param([], _the_first, id="the first"),
        pytest.param([1, 2], _another, id="another, and the oldest goes"),
        pytest.param([1, 2], _the_same_step_again, id="the same step again"),
    ],
)
def test_one_that_was_killed_leaves_what_is_whole(
    tmp_path: Path, before: list[int], work: Callable[[Path], None]
) -> None:
    """At every call: what is found can be read, and there is something if there was."""
    whole = {value: [bits.of_snapshot(parts) for parts in small(value)] for value in range(1, 5)}
    for call in itertools.count():
        root = tmp_path / str(call)
        for step in before:
            save(root, step, small(step))
        ended = False
        with pytest.MonkeyPatch.context() as patch:
            killed_at(patch, call)
            try:
                work(root)
                ended = True
            except Killed:
                pass
        found = checkpoint.find(root)
        for folder in found:
            step = checkpoint.read_manifest(folder).step
            assert read(Path(str(folder))) in (whole[step], whole[4]), f"killed at call {call}"
        assert bool(found) >= bool(before), f"killed at call {call}"
        save(root, 9, small(9))
        assert checkpoint.find(root)[-1].name == "step-000000000009", "the next one is written"
        if ended:
            break
    assert call > 8, "it was killed"


def test_an_error_in_the_middle_leaves_nothing_that_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(disk, "sync", full)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path, 3, small(1))
    assert checkpoint.find(tmp_path) == []


# -- other numbers of shards -----------------------------------------------------------------------


def united(shards: Sequence[ShardSnapshot]) -> Any:
    """All rows of all shards, by key, with everything that is kept of them."""
    rows: dict[tuple[int, int], Any] = {}
    count = 0
    for parts in shards:
        for t, table in enumerate(parts.tables):
            for n, key in enumerate(table.keys.tolist()):
                state = tuple(s[n].tobytes() for s in table.states)
                rows[t, key] = int(table.touched[n]), int(table.dirty[n]), state
                count += 1
    assert len(rows) == count, "each row once"
    removed = [sorted(k for p in shards for k in p.removed[t].tolist()) for t in range(2)]
    dense = [p.dense for p in shards if p.dense]
    assert len(dense) == 1, "the dense parameters are on one shard"
    return rows, removed, [a.tobytes() for a in dense[0]]


@pytest.mark.parametrize("count", range(1, 6))
def test_each_row_goes_whole_to_the_shard_of_its_arc(cut: list[ShardSnapshot], count: int) -> None:
    numbers = range(count)
    ring = owners(numbers, NODES)
    made = resharded(cut, ring, numbers)
    assert list(made) == list(numbers)
    assert united(list(made.values())) == united(cut)
    assert made[0].dense, "and that is the first"
    for number, parts in made.items():
        assert parts.rows > 0
        for keys in [*(table.keys for table in parts.tables), *parts.removed]:
            assert (ring[arcs_of(keys)] == number).all()
        assert (parts.marks, parts.step, parts.pending) == (cut[0].marks, cut[0].step, {})


def test_there_and_back_is_the_same(cut: list[ShardSnapshot]) -> None:
    there: Sequence[ShardSnapshot] = cut
    for count in (5, 1, 4, 2, 3):
        numbers = range(count)
        made = resharded(there, owners(numbers, NODES), numbers)
        there = list(made.values())
    before, after = [bits.of_snapshot(p) for p in cut], [bits.of_snapshot(p) for p in there]
    for one, other in zip(before, after, strict=True):
        # these were put together
        one.pop("sketches")
        other.pop("sketches")
    assert before == after


def test_the_parts_of_shards_are_left_as_they_are(cut: list[ShardSnapshot]) -> None:
    before = [bits.of_snapshot(parts) for parts in cut]
    made = resharded(cut, owners([0, 1], NODES), [0, 1])
    for parts in made.values():
        for sketch in parts.sketches:
            if sketch is not None:
                sketch += 1
        parts.marks.clear()
        parts.step = 99
    assert [bits.of_snapshot(parts) for parts in cut] == before


def test_no_key_has_to_be_seen_again_for_its_admission(cut: list[ShardSnapshot]) -> None:
    """Counted on one of three shards before, and on one of two afterwards."""
    seen: dict[int, int] = {}
    for push in pushes(20):
        for key in push.tables[1].keys.tolist():
            seen[key] = seen.get(key, 0) + 1
    keys = np.array(list(seen), np.uint64)
    ring = owners([0, 1], NODES)
    for number, parts in resharded(cut, ring, [0, 1]).items():
        mine = keys[ring[arcs_of(keys)] == number]
        sketch = parts.sketches[1]
        assert sketch is not None
        known = admission.count(sketch.copy(), mine, np.zeros(len(mine), np.uint32))
        # with a row a key is not counted any more
        due = [min(seen[key], 3) for key in mine.tolist()]
        assert (known >= due).all()
        assert (known <= 6).all(), "nor is it counted far too often"


def test_training_goes_on_as_if_there_had_always_been_so_many_shards() -> None:
    """All that the gradients meet is where they meet it; the sketches aside, see above."""
    before = [shard.snapshot() for shard in trained(12, (0, 1, 2)).values()]
    numbers = [0, 1, 3]
    made = resharded(before, owners(numbers, NODES), numbers)
    whole = [shard.snapshot() for shard in trained(12, numbers).values()]
    for parts, expected in zip(made.values(), whole, strict=True):
        one, other = bits.of_snapshot(parts), bits.of_snapshot(expected)
        assert one["rows"] == other["rows"]
        assert one["removed"] == other["removed"]
        assert one["dense"] == other["dense"]
