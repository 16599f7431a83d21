"""What must not change by accident: the sample id, the state's bytes, labels' arithmetic."""

from __future__ import annotations

import math
import struct
from itertools import permutations

import msgspec
import pytest
from xxhash import xxh3_64_intdigest

from schemas.actions import ActionKind
from schemas.events import ActionEvent, Origin
from schemas.sample_id import sample_id, sample_ids
from udfs.core import labels
from udfs.core.partitions import partition
from udfs.core.state_codec import (
    VERSION,
    StateVersionError,
    StoredRequest,
    unpack_action,
    unpack_request,
)

#: Bytes as version 1 wrote them: they are read for as long as there may be such state.
REQUEST_V1 = bytes.fromhex("9a01a27231cd03e8cd03f2cd041091a26931c2c4016ea090")
ACTION_V1 = bytes.fromhex("9aa161c0a27531a26931a27231a5636c69636bc0cd03e993a166c000c4027b7d")


def test_sample_ids_are_the_documented_hash() -> None:
    request = xxh3_64_intdigest(b"r1")
    expected = xxh3_64_intdigest(struct.pack("<QQ", request, 1) + b"i2")
    signed = expected - 2**64 if expected >= 2**63 else expected
    assert sample_ids("r1", ["i1", "i2"])[1] == signed == sample_id("r1", "i2", 1)
    assert sample_ids("r1", ["i1", "i2"]) == [4575986460893235493, -9053308099462910173]


def test_short_ids_do_not_collide() -> None:
    items = [f"i{n}" for n in range(100)]
    pairs = [sample_ids(f"r{r}", items[k:] + items[:k]) for r in range(20) for k in range(100)]
    ids = {i for ids in pairs for i in ids}
    assert len(ids) == 20 * 100 * 100


def test_repeated_items_and_moved_separators_have_ids_of_their_own() -> None:
    ids = sample_ids("r", ["i", "i"]) + sample_ids("r:", ["i"]) + sample_ids("", [":i"])
    assert len(set(ids)) == 4


def test_state_of_version_one_is_read() -> None:
    request = unpack_request(REQUEST_V1)
    assert request == StoredRequest(1, "r1", 1000, 1010, 1040, ["i1"], False, b"n")
    action = ActionEvent(None, "u1", "i1", "r1", "click", None, 1001, Origin("f", None, 0), b"{}")
    assert unpack_action(ACTION_V1) == action


def test_state_of_a_later_version_is_refused() -> None:
    later = StoredRequest(VERSION + 1, "r", 0, 0, 0, [], False, b"")
    with pytest.raises(StateVersionError, match="this release reads up to"):
        unpack_request(msgspec.msgpack.encode(later))


def actions(*values: float) -> list[ActionEvent]:
    origin = Origin("f", None, 0)
    return [
        ActionEvent(str(i), "u", "i", "r", "pay", v, 100 + i, origin, b"")
        for i, v in enumerate(values)
    ]


def test_a_sum_is_exact_in_every_order() -> None:
    kind = ActionKind("pay", 10, "sum")
    three = actions(1e16, 1.0, -1e16)
    assert {labels.label(kind, list(p), 90) for p in permutations(three)} == {(1.0, 10)}


def test_aggregates() -> None:
    made = {
        label: labels.label(ActionKind("k", 10, label), actions(3.0, 5.0, 4.0), 100)[0]
        for label in ("any", "count", "sum", "max", "last")
    }
    assert made == {"any": 1, "count": 3, "sum": 12.0, "max": 5.0, "last": 4.0}
    nothing = {k: labels.without_action(ActionKind("k", 1, k)) for k in ("any", "sum", "last")}
    assert nothing == {"any": 0, "sum": 0.0, "last": None}
    assert not math.isnan(made["sum"] or 0)


def test_partitions_are_hours_utc() -> None:
    assert partition(1_700_000_000_000) == ("2023-11-14", "22")
    assert partition(None) == partition(3_599_999) == ("1970-01-01", "00")
