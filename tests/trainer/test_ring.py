"""Which shard has a key, what moves when there is one shard more or less, and how even it is."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from xxhash import xxh3_64_intdigest

from trainer.server import ring
from trainer.server.client import divide

NODES = 128
SHARDS = range(2, 17)

#: With 128 virtual nodes a share differs from the mean by about 1/sqrt(128), 9 %: three of these.
OFF = 0.27


def owner_by_hand(arc: int, shards: Sequence[int], virtual_nodes: int) -> int:
    """The first virtual node at or after the arc's start, around the circle."""
    points = sorted(
        (xxh3_64_intdigest(f"shard {s} node {n}".encode()) >> 48, s)
        for s in shards
        for n in range(virtual_nodes)
    )
    return points[bisect.bisect_left(points, (arc, -1)) % len(points)][1]


def shares(owners: ring.Owners, shards: Sequence[int]) -> npt.NDArray[np.float64]:
    return np.array([(owners == shard).mean() for shard in shards])


def test_an_arc_belongs_to_the_first_virtual_node_at_or_after_it() -> None:
    shards = [0, 3, 8]
    owners = ring.owners(shards, 4)
    arcs = [*np.random.default_rng(1).integers(0, ring.ARCS, 300), 0, ring.ARCS - 1]
    assert [owners[a] for a in arcs] == [owner_by_hand(int(a), shards, 4) for a in arcs]


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(lambda shards: reversed(shards), id="another order"),
        pytest.param(lambda shards: set(shards), id="a set"),
        pytest.param(lambda shards: dict.fromkeys(shards), id="a mapping"),
        pytest.param(lambda shards: shards * 2, id="twice each"),
    ],
)
def test_the_set_of_shards_decides(again: Callable[[list[int]], Any]) -> None:
    shards = [0, 1, 5, 9]
    assert (ring.owners(shards, NODES) == ring.owners(again(shards), NODES)).all()


def test_all_shards_own_arcs_and_no_others_do() -> None:
    owners = ring.owners([2, 7, 11], NODES)
    assert owners.shape == (ring.ARCS,)
    assert set(owners.tolist()) == {2, 7, 11}


def test_one_shard_has_everything() -> None:
    assert (ring.owners([4], 1) == 4).all()


def test_no_shard_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ring.owners([], NODES)


def test_the_arc_is_the_high_bits_of_the_key() -> None:
    arc = 1 << 48
    keys = np.array([1, arc - 1, arc, 2 * arc - 1, 2 * arc, (1 << 64) - 1], np.uint64)
    assert ring.arcs_of(keys).tolist() == [0, 0, 1, 1, 2, ring.ARCS - 1]


@pytest.mark.parametrize("n", SHARDS)
def test_a_shard_that_joins_takes_its_share_and_nothing_else_moves(n: int) -> None:
    before, after = ring.owners(range(n), NODES), ring.owners(range(n + 1), NODES)
    moved = before != after
    assert (after[moved] == n).all()
    assert moved.mean() * (n + 1) == pytest.approx(1, abs=OFF)
    given = np.bincount(before[moved], minlength=n)
    assert given.max() * n < 2.5 * moved.sum(), "by all of them, not by a neighbour"


@pytest.mark.parametrize("n", SHARDS)
def test_a_shard_that_leaves_gives_its_share_and_nothing_else_moves(n: int) -> None:
    everyone = ring.owners(range(n), NODES)
    for gone in range(n):
        left = ring.owners([s for s in range(n) if s != gone], NODES)
        moved = everyone != left
        assert (everyone[moved] == gone).all()
        assert (moved == (everyone == gone)).all(), "all of it, to others"
        assert moved.mean() * n == pytest.approx(1, abs=OFF)


@pytest.mark.parametrize("n", SHARDS)
def test_the_fullest_shard_has_little_more_than_the_mean(n: int) -> None:
    assert shares(ring.owners(range(n), NODES), range(n)).max() * n < 1 + OFF


def test_more_virtual_nodes_are_more_even() -> None:
    fullest = [
        np.mean([shares(ring.owners(range(n), nodes), range(n)).max() * n for n in SHARDS])
        for nodes in (1, 8, 64, 512)
    ]
    assert fullest == sorted(fullest, reverse=True)
    assert fullest[0] > 2, "which is what they are for"
    assert fullest[-1] < 1.1


@pytest.mark.parametrize("count", [0, 1, 3, 1000])
@pytest.mark.parametrize("shards", [[0], [0, 1], [0, 1, 2, 3, 4], [1, 4, 9]])
def test_keys_are_divided_by_their_owners_in_the_callers_order(
    shards: list[int], count: int
) -> None:
    owners = ring.owners(shards, NODES)
    keys = np.random.default_rng(count).integers(1, 1 << 64, count, np.uint64, endpoint=False)
    division = divide(owners, shards, keys)
    by_hand: dict[int, list[int]] = {shard: [] for shard in shards}
    for place, key in enumerate(keys.tolist()):
        by_hand[int(owners[key >> 48])].append(place)
    assert {s: division.order[at].tolist() for s, at in division.bounds.items()} == by_hand
    assert (division.keys == keys[division.order]).all()
