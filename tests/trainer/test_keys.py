"""Keys: XXH3 as the library has it, and their values, which rankers compute as well."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import xxhash

from trainer.features import keys as keys_module
from trainer.features.keys import keys_of, slot_prefix
from trainer.features.xxh3 import PREFIX, hashes

#: Of UTF-8's one, two, three and four bytes.
LETTERS = "aZ0 \x00éßжש中文ꙮ🙂𠜎"


def by_library(prefix: bytes, texts: list[str]) -> list[int]:
    return [xxhash.xxh3_64_intdigest(prefix + text.encode()) for text in texts]


def texts(seed: int, lengths: list[int]) -> list[str]:
    """Texts of so many bytes each, of letters of all widths."""
    made = []
    letters = random.Random(seed)
    for length in lengths:
        text = ""
        while (left := length - len(text.encode())) > 0:
            letter = letters.choice(LETTERS)
            text += letter if len(letter.encode()) <= left else "."
        assert len(text.encode()) == length
        made.append(text)
    return made


@pytest.mark.parametrize("seed", range(3))
def test_all_lengths_are_as_the_library_has_them(seed: int) -> None:
    prefix = random.Random(seed).randbytes(PREFIX)
    several = texts(seed, list(range(301)))
    assert hashes(prefix, pa.array(several)).tolist() == by_library(prefix, several)
    # one after another of very different lengths: nothing is left of the one before
    mixed = texts(seed, [random.Random(n).randrange(301) for n in range(500)])
    assert hashes(prefix, pa.array(mixed)).tolist() == by_library(prefix, mixed)


def test_every_byte_counts_and_each_prefix() -> None:
    """Flips of one bit, in each branch of the algorithm."""
    for length in (1, 16, 17, 48, 49, 80, 81, 112, 113):
        text = "a" * length
        several = [text, *(text[:n] + "c" + text[n + 1 :] for n in range(length))]
        assert len(set(hashes(b"p" * PREFIX, pa.array(several)).tolist())) == length + 1
        prefixes = [bytes([1 if n == at else 0 for n in range(PREFIX)]) for at in range(-1, PREFIX)]
        assert len({int(hashes(p, pa.array([text]))[0]) for p in prefixes}) == PREFIX + 1


@pytest.mark.parametrize(
    "cut",
    [
        lambda array: array[100:],
        lambda array: array[:100],
        lambda array: array[37:211][10:90],
        lambda array: array[250:250],
        lambda array: array.cast(pa.large_string())[60:180],
        lambda array: array.dictionary_encode().dictionary[3:200],
    ],
)
def test_slices_of_arrays(cut: Callable[[pa.Array], pa.Array]) -> None:
    array = cut(pa.array(texts(9, list(range(301)))))
    prefix = slot_prefix("s")
    assert hashes(prefix, array).tolist() == by_library(prefix, array.to_pylist())


@pytest.mark.parametrize("several", [[], [""], ["", ""], ["", "a", ""]])
def test_what_is_empty(several: list[str]) -> None:
    prefix = slot_prefix("s")
    assert hashes(prefix, pa.array(several, pa.string())).tolist() == by_library(prefix, several)


def test_key_0_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 marks a free place in the tables."""

    def of(prefix: bytes, values: pa.Array) -> npt.NDArray[np.uint64]:
        return np.array([0, 1, 2, (1 << 64) - 1], np.uint64)

    monkeypatch.setattr(keys_module, "hashes", of)
    assert keys_of("s", ["a", "b", "c", "d"]).tolist() == [1, 1, 2, (1 << 64) - 1]


def test_a_key_is_the_hash_of_the_slots_hash_and_the_value() -> None:
    several = texts(3, [0, 1, 5, 40, 130])
    prefix = xxhash.xxh3_128_digest("größe".encode())
    assert slot_prefix("größe") == prefix
    assert len(prefix) == PREFIX
    assert keys_of("größe", several).tolist() == by_library(prefix, several)
    assert keys_of("größe", iter(several)).tolist() == by_library(prefix, several)


#: Checkpoints, exports and rankers have these keys: a change of one of them is another format.
PINNED = {
    ("bias", ""): 0xDD4720D873F85C6E,
    ("user_id", "u1"): 0xBDB2992332AA1F31,
    ("user_id", ""): 0x630C09F0D5EE95C7,
    ("item_id", "u1"): 0xD53D734AA59F5322,
    ("age", "42"): 0xF94A6720CAFBF369,
    ("age", "-1"): 0x656085BDDC874E59,
    ("active", "true"): 0x2BF83464DF1CBD56,
    ("active", "false"): 0x245DDD658A870BC1,
    ("price", ""): 0x315224D704523767,
    ("price", "0.5:1.5"): 0x6F1665A43A26C6FF,
    ("price", "-inf:0.5"): 0xBCE0364C0A5F9AEC,
    ("price", "1.5:inf"): 0xE01AC5E0CE63C086,
    ("price", "log0"): 0xB28F3E1B943FC063,
    ("price", "log-17"): 0x65EB136EFBE48427,
    ("city", "München"): 0x4FCEF5189A4D228B,
    ("city", "東京"): 0x417F12CDF9EF6E57,
    ("größe", "🙂"): 0xDE98F97C01BBAEB1,
    ("title", "x" * 112): 0xA122134FC1466178,
    ("title", "x" * 113): 0x488E989E147F6EC8,
}


@pytest.mark.parametrize(("slot", "value"), PINNED)
def test_keys_stay_what_they_are(slot: str, value: str) -> None:
    assert keys_of(slot, [value]).tolist() == [PINNED[slot, value]]
