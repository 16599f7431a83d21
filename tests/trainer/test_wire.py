"""Messages: what goes in comes out, whatever is empty or missing."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from trainer.server import shard_file, wire
from trainer.server.shard import Pulled, Push, ShardSnapshot, TablePush
from trainer.spec import AdaGrad, Ftrl, ModelSpec, Segment, Slot, TableSpec
from trainer.table.table import Rows

SPEC = ModelSpec(
    "fm",
    ("click",),
    (Slot("a", "a", "category"), Slot("b", "b", "category", 1)),
    (
        TableSpec("ids", (Segment("linear", 1, Ftrl()), Segment("embedding", 4, AdaGrad()))),
        TableSpec("wide", (Segment("linear", 1, Ftrl()),)),
    ),
    embedding=4,
)

#: The largest of what a header has: keys are not in it.
GREAT = (1 << 63) - 1


def over_the_wire(frames: Sequence[Any]) -> list[memoryview]:
    """Frames as a socket gives them: read-only bytes."""
    return [memoryview(bytes(frame)) for frame in frames]


@pytest.mark.parametrize(
    "request_",
    [
        wire.PullRequest(1, 2, 3, 4, True),
        wire.PullRequest(GREAT, GREAT, 0, 0, False),
        wire.PushRequest(1, 2, 3, 4, 5, 6, 7, (True, False), True),
        wire.PushRequest(0, 0, 0, 0, 0, GREAT, GREAT, (), False, forwarded=GREAT),
        wire.Command(1, -1, "route", wire.pack_arguments(epoch=3, backups={0: 1, 1: None})),
        wire.Command(1, 2, "parts", b""),
    ],
    ids=lambda request: type(request).__name__,
)
def test_a_request_comes_out_as_it_went_in(request_: wire.Request) -> None:
    got = wire.unpack_request(over_the_wire(wire.pack(request_, [b"more", b""])))
    assert got == request_
    assert type(got) is type(request_)


@pytest.mark.parametrize(
    "reply",
    [
        wire.Reply(1, 2, 3),
        wire.Reply(GREAT, -1, 0, "ValueError: größer", b""),
        wire.Reply(1, 2, 3, wire.OTHER_EPOCH, wire.pack_arguments(of=[1, 2])),
    ],
)
def test_a_reply_comes_out_as_it_went_in(reply: wire.Reply) -> None:
    assert wire.unpack_reply(over_the_wire(wire.pack(reply, [b"x"]))) == reply


def test_what_a_command_is_told_keeps_its_numbers() -> None:
    told = {"epoch": 3, "backups": {0: 1, 7: None}, "folder": "/tmp/ü", "everything": True}
    assert wire.unpack_arguments(wire.pack_arguments(**told)) == told


def push_of(
    sizes: tuple[int, int],
    counted: tuple[bool, bool],
    dense: int | None,
    *,
    strided: bool = False,
    changes: bool = False,
) -> Push:
    rng = np.random.default_rng(1)
    tables = []
    for spec, size, with_counts in zip(SPEC.tables, sizes, counted, strict=True):
        keys = rng.integers(1, 1 << 64, size, np.uint64)
        columns = spec.floats if changes else spec.width
        gradients = rng.normal(size=(size, columns)).astype(np.float32)
        if strided:
            gradients = np.asfortranarray(np.repeat(gradients, 2, axis=0))[::2]
        counts = rng.integers(0, 1 << 32, size).astype(np.uint32) if with_counts else None
        tables.append(TablePush(keys, gradients, counts))
    vector = None if dense is None else rng.normal(size=dense).astype(np.float32)
    return Push(3, 14, 15, 1_700_000_000, tables, vector, changes)


def same(one: Any, other: Any) -> bool:
    """Arrays with their types and shapes, and the places where there is none."""
    if one is None or other is None:
        return one is other
    return bool(one.dtype == other.dtype and one.shape == other.shape and (one == other).all())


def assert_same_push(one: Push, other: Push) -> None:
    assert (one.worker, one.sequence, one.step, one.now) == (
        other.worker,
        other.sequence,
        other.step,
        other.now,
    )
    for a, b in zip(one.tables, other.tables, strict=True):
        assert same(a.keys, b.keys)
        assert same(a.gradients, b.gradients)
        assert same(a.counts, b.counts)
    assert same(one.dense, other.dense)
    assert one.changes == other.changes


SIZES = [(0, 0), (3, 0), (0, 2), (5, 1), (1000, 300)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("counted", list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize("dense", [None, 6])
@pytest.mark.parametrize("changes", [False, True])
def test_a_push_comes_out_as_it_went_in(
    sizes: tuple[int, int], counted: tuple[bool, bool], dense: int | None, changes: bool
) -> None:
    push = push_of(sizes, counted, dense, changes=changes)
    marks = push.worker, push.sequence, push.step, push.now
    head = wire.PushRequest(1, 2, 0, *marks, counted, dense is not None, changes=changes)
    frames = over_the_wire(wire.pack(head, wire.push_frames(push.tables, push.dense)))
    got = wire.unpack_request(frames)
    assert isinstance(got, wire.PushRequest)
    assert_same_push(wire.read_push(got, frames, SPEC), push)


def test_what_does_not_lie_in_one_piece_is_sent_as_if_it_did() -> None:
    push = push_of((5, 2), (False, False), None, strided=True)
    assert not push.tables[0].gradients.flags.c_contiguous
    head = wire.PushRequest(1, 2, 0, 3, 14, 15, 1_700_000_000, (False, False), False)
    frames = over_the_wire(wire.pack(head, wire.push_frames(push.tables, None)))
    assert_same_push(wire.read_push(head, frames, SPEC), push)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_keys_of_a_pull_come_out_as_they_went_in(sizes: tuple[int, int]) -> None:
    keys = [table.keys for table in push_of(sizes, (False, False), None).tables]
    head = wire.PullRequest(1, 2, 3, 4, True)
    got, _ = wire.read_pull(over_the_wire(wire.pack(head, wire.pull_frames(keys))))
    assert all(same(a, b) for a, b in zip(got, keys, strict=True))


@pytest.mark.parametrize("sizes", SIZES)
def test_samples_and_divisors_come_out_as_they_went_in(sizes: tuple[int, int]) -> None:
    push = push_of(sizes, (True, True), None)
    keys, samples = [table.keys for table in push.tables], [table.counts for table in push.tables]
    asked = wire.pull_frames(keys, [s for s in samples if s is not None])
    head = wire.PullRequest(1, 2, 3, 4, True, True, 5)
    got, counts = wire.read_pull(over_the_wire(wire.pack(head, asked)), samples=True)
    assert counts is not None
    for mine, theirs in ((got, keys), (counts, samples)):
        assert all(same(a, b) for a, b in zip(mine, theirs, strict=True))
    known = [np.ones(size, np.uint8) for size in sizes]
    values = [np.zeros((n, t.width), np.float32) for n, t in zip(sizes, SPEC.tables, strict=True)]
    divisors = [np.linspace(1, 4, size, dtype=np.float32) for size in sizes]
    pulled = Pulled(list(zip(values, known, strict=True)), None, divisors)
    frames = over_the_wire(wire.pack(wire.Reply(1, 2, 3), wire.pulled_frames(pulled)))
    found = wire.read_pulled(frames, SPEC, divisors=True).divisors
    assert found is not None
    assert all(same(a, b) for a, b in zip(found, divisors, strict=True))


def test_a_pull_with_fewer_samples_than_keys_is_refused() -> None:
    frames = wire.pull_frames([np.arange(3, dtype=np.uint64)], [np.ones(2, np.uint32)])
    with pytest.raises(ValueError, match="as many samples as keys"):
        wire.read_pull(["head", *frames], samples=True)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dense", [None, 6])
def test_values_come_out_as_they_went_in(sizes: tuple[int, int], dense: int | None) -> None:
    push = push_of(sizes, (False, False), dense)
    known = [np.arange(size, dtype=np.uint8) % 2 for size in sizes]
    values = [table.gradients for table in push.tables]
    pulled = Pulled(list(zip(values, known, strict=True)), push.dense)
    frames = over_the_wire(wire.pack(wire.Reply(1, 2, 3), wire.pulled_frames(pulled)))
    got = wire.read_pulled(frames, SPEC)
    for pair, expected in zip(got.tables, pulled.tables, strict=True):
        assert all(same(a, b) for a, b in zip(pair, expected, strict=True))
    assert same(got.dense, push.dense)


def rows_of(size: int, *floats: int) -> Rows:
    rng = np.random.default_rng(size)
    return Rows(
        rng.integers(1, 1 << 64, size, np.uint64),
        rng.integers(0, 1 << 32, size).astype(np.uint32),
        rng.integers(0, 2, size).astype(np.uint8),
        [rng.normal(size=(size, n)).astype(np.float32) for n in floats],
    )


def parts_of(sizes: Sequence[int], *, full: bool) -> ShardSnapshot:
    """`full`: with everything that a shard may have, and without it."""
    rng = np.random.default_rng(2)
    widths = [(2, 8), (2,)]
    tables: list[Rows] = [rows_of(size, *widths[t % 2]) for t, size in enumerate(sizes)]
    sketches: list[npt.NDArray[np.uint16] | None] = [None for _ in sizes]
    if full:
        sketches[1] = rng.integers(0, 99, (4, 64)).astype(np.uint16)
    return ShardSnapshot(
        tables=tables,
        removed=[rng.integers(1, 1 << 64, 4 * full, np.uint64) for _ in sizes],
        sketches=sketches,
        dense=[np.ones(6, np.float32), np.array(7, np.int32), np.zeros(6, np.float32)] * full,
        marks={0: (12, []), 3: (0, [2, 5])} if full else {},
        step=15 * full,
        pending={
            3: push_of((5, 0), (False, True), 6),
            11: push_of((0, 2), (True, False), None),
        }
        if full
        else {},
    )


def assert_same_parts(one: ShardSnapshot, other: ShardSnapshot) -> None:
    for a, b in zip(one.tables, other.tables, strict=True):
        assert same(a.keys, b.keys)
        assert same(a.touched, b.touched)
        assert same(a.dirty, b.dirty)
        assert all(same(x, y) for x, y in zip(a.states, b.states, strict=True))
    for arrays in ((one.removed, other.removed), (one.sketches, other.sketches)):
        assert all(same(a, b) for a, b in zip(*arrays, strict=True))
    assert all(same(a, b) for a, b in zip(one.dense, other.dense, strict=True))
    plain = [{w: (m, list(a)) for w, (m, a) in p.marks.items()} for p in (one, other)]
    assert plain[0] == plain[1]
    assert one.step == other.step
    assert list(one.pending) == list(other.pending)
    for worker, push in one.pending.items():
        assert (push.sequence, push.step, push.now) == (14, 15, 1_700_000_000)
        there = other.pending[worker]
        for x, y in zip(push.tables, there.tables, strict=True):
            assert same(x.keys, y.keys)
            assert same(x.gradients, y.gradients)
            assert same(x.counts, y.counts)
        assert same(push.dense, there.dense)


@pytest.mark.parametrize("sizes", [(0, 0), (40, 0), (1, 1000)])
@pytest.mark.parametrize("full", [False, True])
def test_a_shard_comes_out_as_it_went_in(sizes: tuple[int, int], full: bool) -> None:
    parts = parts_of(sizes, full=full)
    assert_same_parts(shard_file.snapshot_from_bytes(shard_file.snapshot_to_bytes(parts)), parts)
    again = shard_file.snapshot_from_bytes(memoryview(shard_file.snapshot_to_bytes(parts)))
    assert_same_parts(again, parts)
    assert again.rows == sum(sizes)


def test_tables_of_two_digits_are_not_taken_for_those_of_one() -> None:
    parts = parts_of(range(12), full=False)
    parts.tables[1] = rows_of(3, *range(1, 13))
    assert_same_parts(shard_file.snapshot_from_bytes(shard_file.snapshot_to_bytes(parts)), parts)


@pytest.mark.parametrize(
    "wrong", [pytest.param(b"", id="nothing"), pytest.param(b"PK\x03\x04 no", id="something else")]
)
def test_what_is_no_shard_is_an_error(wrong: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        shard_file.snapshot_from_bytes(wrong)


def test_a_shard_that_was_cut_off_is_an_error() -> None:
    whole = shard_file.snapshot_to_bytes(parts_of((10, 10), full=True))
    for length in range(100, len(whole) - 1, 997):
        with pytest.raises(ValueError, match=r"."):
            shard_file.read_snapshot(io.BytesIO(whole[:length]))
