"""What must not change by accident: the sample id, the state's bytes, labels' arithmetic."""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Sequence
from fractions import Fraction
from itertools import permutations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from schemas.actions import ActionKind, Label
from schemas.events import ActionEvent, Origin, unpack_front
from schemas.labels import Tally, exact_sum, without_action
from schemas.sample_id import sample_id, sample_ids
from udfs.core.partitions import partition
from udfs.core.state_codec import (
    VERSION,
    LogChange,
    StateVersionError,
    StoredRequest,
    pack_entry,
    pack_request,
    unpack_body,
    unpack_log,
    unpack_request,
)

#: Bytes as version 1 wrote them: they are read for as long as there may be such state.
REQUEST_V1 = bytes.fromhex("9a01a27231cd03e8cd03f2cd041091a26931c2c4016ea090")
ACTION_V1 = bytes.fromhex("9aa161c0a27531a26931a27231a5636c69636bc0cd03e993a166c000c4027b7d")
#: As version 2 wrote it (the code before version 3 made these): a pending request that had rows, a
#: tombstone that had used two actions, and a held action.
PENDING_V2 = bytes.fromhex(
    "9d02a27231cf0000018bcfe56800cf0000018bcfe58f10cf0000018bcfe5dd3090c2c42696a2753192a26931a26932"
    "91a4686f7572910991a570726963659192cb3ff8000000000000c0a090cf0000018bcfe56fd092020182a5636c6963"
    "6b810101a37061798100cb4004000000000000"
)
TOMBSTONE_V2 = bytes.fromhex(
    "9d02a27232cf0000018bcfe56800cf0000018bcfe58f10cf0000018bcfe5dd3092a26931a26932c3c400a2753192cf"
    "ffffffffffffffff07c09080"
)
ACTION_V2 = bytes.fromhex(
    "9aa161a26531a27531a26931c0a3706179cbbfe0000000000000cf0000018bcfe56be893a17403cf00000100000000"
    "00c4027b7d"
)
#: Version 3 writes requests and actions so, too; its logs also have changes.
CHANGE_V3 = bytes.fromhex("94a1639200cd012c81a2723291cfffffffffffffffff91a27230")


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
    assert unpack_log([ACTION_V1]) == [action]


@pytest.mark.parametrize("version", [2, 3])
def test_requests_of_versions_two_and_three_are_read_and_written_alike(version: int) -> None:
    times = 1_700_000_000_000, 1_700_000_010_000, 1_700_000_030_000
    pending, tombstone = (bytes([b[0], version]) + b[2:] for b in (PENDING_V2, TOMBSTONE_V2))
    request = unpack_request(pending)
    body = request.body
    assert request == StoredRequest(
        *(version, "r1", *times, [], False, body, "", [], times[0] + 2_000, [2, 1]),
        {"click": {1: 1}, "pay": {0: 2.5}},
    )
    assert body is not None
    read = unpack_body(body)
    assert (read.user_id, read.items, read.context, read.columns) == (
        *("u1", ["i1", "i2"], [9], [[1.5, None]]),
    )
    names = msgspec.msgpack.decode(read.context_names), msgspec.msgpack.decode(read.column_names)
    assert names == (["hour"], ["price"])
    assert (unpack_front(body).user_id, unpack_front(body).items) == ("u1", ["i1", "i2"])
    settled = unpack_request(tombstone)
    assert settled == StoredRequest(
        *(version, "r2", *times, ["i1", "i2"], True, b"", "u1", [2**64 - 1, 7])
    )
    end = b"\xd3" + times[2].to_bytes(8, "big")
    assert (pack_request(request), pack_request(settled)) == (pending, end + tombstone)
    assert unpack_request(end + tombstone) == settled


def test_logs_of_versions_two_and_three_are_read_and_written_alike() -> None:
    action = ActionEvent(
        *("e1", "u1", "i1", None, "pay", -0.5, 1_700_000_001_000, Origin("t", 3, 2**40), b"{}")
    )
    change = LogChange([0, 300], {"r2": [2**64 - 1]}, ["r0"])
    assert unpack_log([ACTION_V2, CHANGE_V3]) == [action, change]
    assert [pack_entry(action), pack_entry(change)] == [ACTION_V2, CHANGE_V3]


def test_state_of_a_later_version_is_refused() -> None:
    later = StoredRequest(VERSION + 1, "r", 0, 0, 0, [], False, b"")
    with pytest.raises(StateVersionError, match="this release reads up to"):
        unpack_request(msgspec.msgpack.encode(later))


def tally(label: Label, values: Sequence[float], start: int = 100) -> Tally:
    made = Tally(label)
    for i, value in enumerate(values):
        made.add(start + i, value)
    return made


def test_a_sum_is_exact_in_every_order() -> None:
    for values in permutations((1e16, 1.0, -1e16)):
        assert tally("sum", values).value == exact_sum(values) == 1.0


def test_a_sum_beyond_float64_is_the_largest_float64() -> None:
    largest = sys.float_info.max
    for values in permutations((1e308, 1e308, 1e308, -1e308)):
        assert tally("sum", values).value == exact_sum(values) == largest
    assert tally("sum", [-1e308, -1e308]).value == exact_sum([-1e308, -1e308]) == -largest
    # a partial sum that is too large does not matter
    assert tally("sum", [1e308, 1e308, -1e308]).value == 1e308


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.randoms())
def test_sums_are_what_fractions_say(values: list[float], order: random.Random) -> None:
    exact, largest = sum(map(Fraction, values)), Fraction(sys.float_info.max)
    expected = float(min(max(exact, -largest), largest))
    order.shuffle(values)
    assert tally("sum", values).value == exact_sum(values) == expected


@given(st.permutations([0.0, -0.0, 5e-324, -5e-324]), st.sampled_from(["sum", "max", "last"]))
def test_the_sign_of_a_zero_does_not_show_the_order(values: list[float], label: Label) -> None:
    same_time = Tally(label)
    for value in values:
        same_time.add(100, value)
    assert str(same_time.value) == {"sum": "0.0", "max": "5e-324", "last": "5e-324"}[label]
    zeros = [value for value in values if value == 0]
    assert str(tally(label, zeros).value) == "0.0"


def test_aggregates() -> None:
    labels: tuple[Label, ...] = ("any", "count", "sum", "max", "last")
    made = {label: tally(label, (3.0, 5.0, 4.0)).value for label in labels}
    assert made == {"any": 1, "count": 3, "sum": 12.0, "max": 5.0, "last": 4.0}
    nothing = {label: Tally(label).value for label in labels}
    assert nothing == {"any": 0, "count": 0, "sum": 0.0, "max": None, "last": None}
    assert nothing == {label: without_action(ActionKind("k", 1, label)) for label in labels}


def test_the_earliest_action_gives_the_delay() -> None:
    made = Tally("any")
    for time in (7, 3, 5):
        made.add(time, None)
    assert (made.first_time, made.count) == (3, 3)


def test_partitions_are_hours_utc() -> None:
    assert partition(1_700_000_000_000) == ("2023-11-14", "22")
    assert partition(None) == partition(3_599_999) == ("1970-01-01", "00")
