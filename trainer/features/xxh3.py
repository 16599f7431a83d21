"""XXH3-64 of many short strings at once, read from Arrow's buffers.

The algorithm is Collet's (xxhash.com, the xxHash specification, XXH3 with seed 0 and the default
secret). It is written here for inputs of 17 to 128 bytes. Longer inputs go to the `xxhash` library,
one by one. Calling the library for every value took 40 % of the training time.
"""

# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit, uint64
from xxhash import xxh3_64_intdigest

#: Bytes of the prefix in front of every value.
PREFIX = 16
_LONGEST = 128

_PRIME = uint64(0x9E3779B185EBCA87)
_AVALANCHE = uint64(0x165667919E3779F9)
# The first 128 bytes of the default secret, as 64-bit little-endian words.
_SECRET = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
        "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
        "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
        "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    ),
    np.uint64,
)


@njit(cache=True, nogil=True, inline="always")
def _word(data, at):
    word = uint64(0)
    for n in range(8):
        word |= uint64(data[at + n]) << uint64(8 * n)
    return word


@njit(cache=True, nogil=True, inline="always")
def _folded(a, b):
    """The exclusive or of the two halves of the 128-bit product."""
    mask = uint64(0xFFFFFFFF)
    a_low, a_high = a & mask, a >> uint64(32)
    b_low, b_high = b & mask, b >> uint64(32)
    low = a_low * b_low
    cross = a_high * b_low + (low >> uint64(32))
    other = a_low * b_high + (cross & mask)
    high = a_high * b_high + (cross >> uint64(32)) + (other >> uint64(32))
    return (a * b) ^ high


@njit(cache=True, nogil=True, inline="always")
def _mixed(data, at, secret, word):
    return _folded(_word(data, at) ^ secret[word], _word(data, at + 8) ^ secret[word + 1])


@njit(cache=True, nogil=True)
def _hash_all(prefix, offsets, data, secret, out):
    """Hash all strings; 0 stands for an input that is too long for the algorithm here."""
    text = np.zeros(_LONGEST, np.uint8)
    text[:PREFIX] = prefix
    for i in range(len(out)):
        start, size = offsets[i], PREFIX + offsets[i + 1] - offsets[i]
        if size > _LONGEST:
            out[i] = uint64(0)
            continue
        for n in range(size - PREFIX):
            text[PREFIX + n] = data[start + n]
        total = uint64(size) * _PRIME
        if size > 32:
            if size > 64:
                if size > 96:
                    total += _mixed(text, 48, secret, 12) + _mixed(text, size - 64, secret, 14)
                total += _mixed(text, 32, secret, 8) + _mixed(text, size - 48, secret, 10)
            total += _mixed(text, 16, secret, 4) + _mixed(text, size - 32, secret, 6)
        total += _mixed(text, 0, secret, 0) + _mixed(text, size - 16, secret, 2)
        total ^= total >> uint64(37)
        total *= _AVALANCHE
        out[i] = total ^ (total >> uint64(32))


def hashes(prefix: bytes, values: pa.Array) -> npt.NDArray[np.uint64]:
    """XXH3-64 of `prefix` followed by each string.

    `prefix`: PREFIX bytes. `values`: strings without nulls, with offsets of 32 or 64 bits. An empty
    string goes to the library too.
    """
    offset_type = np.int32 if pa.types.is_string(values.type) else np.int64
    out = np.zeros(len(values), np.uint64)
    _, offsets, data = values.buffers()
    if len(values):
        here = slice(values.offset, values.offset + len(values) + 1)
        where = np.frombuffer(offsets, offset_type)[here].astype(np.int64)
        content = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
        _hash_all(np.frombuffer(prefix, np.uint8), where, content, _SECRET, out)
        sizes = where[1:] - where[:-1]
        odd = np.flatnonzero((sizes == 0) | (sizes > _LONGEST - PREFIX))
        for n in odd.tolist():
            out[n] = xxh3_64_intdigest(prefix + values[n].as_py().encode())
    return out
