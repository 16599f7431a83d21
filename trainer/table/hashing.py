"""Numbers that are computed from a key: its place in the table, and its start values."""

# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from numba import njit, uint64

# The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
_GAMMA = uint64(0x9E3779B97F4A7C15)
_MIX1 = uint64(0xBF58476D1CE4E5B9)
_MIX2 = uint64(0x94D049BB133111EB)


@njit(cache=True, nogil=True, inline="always")
def mix(x):
    """64 well-mixed bits of 64 bits."""
    x = uint64(x) + _GAMMA
    x = (x ^ (x >> uint64(30))) * _MIX1
    x = (x ^ (x >> uint64(27))) * _MIX2
    return x ^ (x >> uint64(31))


@njit(cache=True, nogil=True, inline="always")
def home(key, capacity):
    """The first place to look for a key: 0 <= home < capacity.

    It is computed from the low half of the key, because the high bits have chosen the shard already
    (`server.ring`). Multiplying instead of masking (Lemire 2019) allows capacities that are not
    powers of two.
    """
    return ((key & uint64(0xFFFFFFFF)) * uint64(capacity)) >> uint64(32)


@njit(cache=True, nogil=True, inline="always")
def uniform(key, seed, column):
    """The start value of one column of a new row, in [-1, 1)."""
    bits = mix(key ^ mix(uint64(seed) + (uint64(column) << uint64(32))))
    return float(bits >> uint64(11)) * (2.0 / 9007199254740992.0) - 1.0
