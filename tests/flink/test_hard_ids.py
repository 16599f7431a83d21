"""Ids that hashes, encodings or comparisons may take for each other, as every kind of id at once.

Where a key belongs is Java's to say (the hash of a text), what a sample is called is Python's, and
each of them reads and writes the ids in encodings of its own.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path

import pytest
from pyflink.java_gateway import get_gateway

from tests import oracle
from tests.e2e.outcomes import written
from tests.e2e.test_kills import story, without_far
from tests.e2e.test_time import RULES, SECOND, START, WINDOW, Event
from tests.flink import running
from tests.timeline import Action, Key, Request

_32 = 2**32
#: Of a 32-bit number: least, greatest, and about zero.
LIMITS = (2**31, 2**31 - 1, 0, 1, _32 - 1)


def with_java_hash(wanted: int) -> str:
    """A text of seven letters whose `hashCode` it is, modulo 2^32: a number in base 31."""
    rest = (wanted - ord("@") * sum(31**n for n in range(7))) % _32
    letters = []
    for _ in range(7):
        rest, digit = divmod(rest, 31)
        letters.append(chr(ord("@") + digit))
    return "".join(reversed(letters))


def before_murmur(mixed: int) -> int:
    """What Flink's MathUtils.murmurHash mixes to this number, before it takes away the sign."""

    def rotated(n: int, by: int) -> int:
        return (n << by | n >> (32 - by)) % _32

    def unmixed(n: int, factor: int) -> int:
        return n * pow(factor, -1, _32) % _32

    n = mixed ^ mixed >> 16
    n = unmixed(n, 0xC2B2AE35)
    n ^= n >> 13 ^ n >> 26
    n = unmixed(n, 0x85EBCA6B)
    n ^= n >> 16
    n = unmixed((n ^ 4) - 0xE6546B64, 5)
    n = unmixed(rotated(n, 32 - 13), 0x1B873593)
    return unmixed(rotated(n, 32 - 15), 0xCC9E2D51)


#: The key is a row of one text; its hash is so much greater than the text's.
OF_A_ROW = 62
AT_LIMITS_OF_JAVA = [
    *(with_java_hash(limit - OF_A_ROW) for limit in LIMITS),
    *(with_java_hash(before_murmur(limit) - OF_A_ROW) for limit in LIMITS),
]
#: All of one hash, so of one key group.
COLLIDING = ["".join(pairs) for pairs in itertools.product(("Aa", "BB"), repeat=5)]
ALIKE = (
    *(
        "é",
        "e\u0301",
        "\u212b",
        "\u00c5",
        "A\u030a",
        "fi",
        "\ufb01",
        "ss",
        "ß",
        "ẞ",
        "I",
        "i",
        "\u0131",
    ),
    *("İ", "i\u0307", "K", "\u212a", "k", "\uff41", "a", "A", "a ", " a", "a\u00a0", "a\u200b"),
    *("\ufeffa", "a\u00ad", "\u200ea", "가", "\u1100\u1161"),
)
AT_LIMITS_OF_UTF = (
    *("\x7f", "\x80", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\ufffd", "\ufffe", "\uffff"),
    *("\U00010000", "\U0001f600", "\U0010ffff", "\U0001f468\u200d\U0001f469\u200d\U0001f467"),
)
NUMBERS = (
    *(str(n) for n in (0, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**400)),
    *("-0", "00", "0.0", "1e3", "1000", "NaN", "null", "None", "true", "\\u0061", "\\x00", "\\"),
    *('"', "'", "/", "..", "a/b", "a=b", "%2F", "progress-0", "__HIVE_DEFAULT_PARTITION__"),
)
LONG = (
    *("x" * n for n in (31, 32, 33, 240, 241, 255, 256, 257, 1023, 1024)),
    *("y" * 1023 + last for last in "ab"),
    *(letter * 1024 for letter in ("é", "価", "\U0001f600")),
    *("\U0001f600" * 1023 + last for last in "a\U0001f601"),
)
IDS = [*AT_LIMITS_OF_JAVA, *COLLIDING, *ALIKE, *AT_LIMITS_OF_UTF, *NUMBERS, *LONG]


def events() -> list[Event]:
    """A request of each id, by a user and with items of ids that are near it in the list above; an
    action in time, one that is late, and one on an item that was not shown, which is like one.
    """
    users, count = IDS.copy(), len(IDS)
    random.Random(1).shuffle(users)
    found: list[Event] = []
    for n, (name, user) in enumerate(zip(IDS, users, strict=True)):
        at = START + n * SECOND
        first, second, third, other, one, two, three = (IDS[(n + i) % count] for i in range(7))
        found.append(Request(name, user, at, (first, second, third)))
        for event, item, after in (
            (one, first, 1),
            (two, second, WINDOW + 1),
            (three, other, 2),
        ):
            found.append(Action(event, user, item, name, "click", None, at + after))
    return sorted(found, key=lambda event: event.event_time)


def test_the_ids_are_what_they_are_said_to_be() -> None:
    jvm = get_gateway().jvm
    mix = jvm.org.apache.flink.util.MathUtils.murmurHash
    hashes = []
    for name in AT_LIMITS_OF_JAVA:
        row = jvm.org.apache.flink.types.Row.withPositions(1)
        row.setField(0, name)
        hashes.append(row.hashCode())
    assert [h % _32 for h in hashes[: len(LIMITS)]] == list(LIMITS)
    # Flink takes away the sign, and has 0 for the number that has no positive one
    greatest = 2**31 - 1
    assert list(map(mix, hashes[len(LIMITS) :])) == [0, greatest, 0, 1, 1]
    assert len({jvm.java.util.Objects.hashCode(name) for name in COLLIDING}) == 1
    assert len(set(IDS)) == len(IDS)


@pytest.mark.parametrize(
    ("key", "backend"),
    [
        ("user_id", "rocksdb"),
        pytest.param("request_id", "hashmap", marks=pytest.mark.thorough),
        pytest.param("user_id", "hashmap", marks=pytest.mark.thorough),
    ],
)
def test_no_id_is_taken_for_another(tmp_path: Path, key: Key, backend: str) -> None:
    rules = replace(RULES, key=key)
    due = story(tmp_path, events(), compact=False, parallelism=2, interval="1s", rules=rules)
    output = tmp_path / "out"
    running.join(tmp_path / "pipeline.toml", output, f"runtime.state_backend={backend}")
    assert without_far(written(output, rules)) == due
    assert len(due.rows) == 3 * len(IDS)
    assert len(due.late) == len(due.rejected) == len(IDS)

    columns = ["sample_id", "request_id", "position", "item_id", "user_id", "event_time"]
    names = {}
    for row in running.rows(output, "samples", columns):
        items = ("",) * row["position"] + (row["item_id"],)
        request = Request(row["request_id"], row["user_id"], row["event_time"], items)
        assert row["sample_id"] == oracle.sample_id(request, row["position"])
        names[row["sample_id"]] = row
    assert len(names) == len(due.rows) + 1, "two samples have one name"
