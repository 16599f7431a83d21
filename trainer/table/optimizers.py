"""How a gradient changes a row, per optimizer: kernels over the state of one segment.

The state of a segment is a float32 array (capacity, floats). A row has everything that its
optimizer keeps, side by side, so value and accumulators share a cache line. Positions below 0 are
skipped. Gradients are sums over the batch (FTRL adds the square of the sum to n).

All arithmetic is float32. Constants are passed as float32, because a Python float would widen the
result. Gradients are cut to `trainer.limits.MAX_GRADIENT`, so their squares stay finite.
"""

# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numba import njit

from trainer.limits import MAX_GRADIENT
from trainer.spec import AdaGrad, Adam, Ftrl, Optimizer, Segment
from trainer.table.hashing import uniform

Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]


class Kernel(Protocol):
    """An optimizer over the state of one segment of one table."""

    #: How many float32 a row has.
    floats: int

    def start(self, state: Floats, positions: Positions, keys: npt.NDArray[np.uint64]) -> None:
        """Give new rows, whose state is 0, their start values."""

    def read(self, state: Floats, positions: Positions, out: Floats, first: int) -> None:
        """Copy the values of rows into the columns of `out`, starting at column `first`."""

    def update(self, state: Floats, positions: Positions, gradients: Floats, first: int) -> None:
        """Do one step per row, by the columns of `gradients` that start at `first`."""


def kernel(segment: Segment, column: int, seed: int) -> Kernel:
    """The kernel of a segment. `column`: its first column in the row (for start values)."""
    made: Kernel = _KERNELS[type(segment.optimizer)](segment, column, seed)
    return made


_LARGEST = np.float32(MAX_GRADIENT)


@njit(cache=True, nogil=True, inline="always")
def _bounded(g):
    """The gradient cut to the bound, and 0 for a NaN.

    A sum of gradients in which infinities have met says nothing.
    """
    if g != g:
        return np.float32(0.0)
    return min(max(g, -_LARGEST), _LARGEST)


# -- FTRL-Proximal -------------------------------------------------------------------------------


@njit(cache=True, nogil=True, inline="always")
def _ftrl_weight(z, n, alpha, beta, l1, l2):
    size = abs(z)
    if size <= l1:
        return np.float32(0.0)
    divisor = (beta + np.sqrt(n)) / alpha + l2
    if divisor <= np.float32(0.0):
        # beta = l2 = 0, and gradients so small that their squares are 0 in float32
        return np.float32(0.0)
    shrunk = (l1 - size) / divisor
    return shrunk if z > 0 else -shrunk


@njit(cache=True, nogil=True)
def _ftrl_read(state, positions, out, first, width, alpha, beta, l1, l2):
    for i in range(len(positions)):
        p = positions[i]
        if p >= 0:
            for j in range(width):
                out[i, first + j] = _ftrl_weight(
                    state[p, j], state[p, width + j], alpha, beta, l1, l2
                )


@njit(cache=True, nogil=True)
def _ftrl_update(state, positions, gradients, first, width, alpha, beta, l1, l2):
    for i in range(len(positions)):
        p = positions[i]
        if p >= 0:
            for j in range(width):
                g = _bounded(gradients[i, first + j])
                z, n = state[p, j], state[p, width + j]
                # computed from the state before this step, as in algorithm 1
                w = _ftrl_weight(z, n, alpha, beta, l1, l2)
                grown = n + g * g
                sigma = (np.sqrt(grown) - np.sqrt(n)) / alpha
                state[p, j] = z + g - sigma * w
                state[p, width + j] = grown


class _Ftrl:
    def __init__(self, segment: Segment, column: int, seed: int) -> None:
        o = segment.optimizer
        assert isinstance(o, Ftrl)
        self.floats = segment.floats
        self._width = segment.width
        self._rates = tuple(np.float32(x) for x in (o.alpha, o.beta, o.l1, o.l2))

    def start(self, state: Floats, positions: Positions, keys: npt.NDArray[np.uint64]) -> None:
        """z = n = 0, so w = 0."""

    def read(self, state: Floats, positions: Positions, out: Floats, first: int) -> None:
        _ftrl_read(state, positions, out, first, self._width, *self._rates)

    def update(self, state: Floats, positions: Positions, gradients: Floats, first: int) -> None:
        _ftrl_update(state, positions, gradients, first, self._width, *self._rates)


# -- with the values in the state ------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _start(state, positions, keys, width, column, seed, scale, fill_from, fill_to, fill):
    for i in range(len(positions)):
        p = positions[i]
        if p >= 0:
            for j in range(width):
                state[p, j] = scale * np.float32(uniform(keys[i], seed, column + j))
            for j in range(fill_from, fill_to):
                state[p, j] = fill


@njit(cache=True, nogil=True)
def _read(state, positions, out, first, width):
    for i in range(len(positions)):
        p = positions[i]
        if p >= 0:
            for j in range(width):
                out[i, first + j] = state[p, j]


@njit(cache=True, nogil=True)
def _adagrad_update(state, positions, gradients, first, width, rate):
    for i in range(len(positions)):
        p = positions[i]
        if p >= 0:
            for j in range(width):
                g = _bounded(gradients[i, first + j])
                n = state[p, width + j] + g * g
                state[p, width + j] = n
                if g != 0:
                    state[p, j] -= rate * g / np.sqrt(n)


@njit(cache=True, nogil=True)
def _adam_update(state, positions, gradients, first, width, rate, beta1, beta2, epsilon):
    one = np.float32(1.0)
    for i in range(len(positions)):
        p = positions[i]
        if p >= 0:
            # counts this row's own steps: a rare feature has its own bias to correct
            steps = state[p, 3 * width] + one
            state[p, 3 * width] = steps
            c1, c2 = one - beta1**steps, one - beta2**steps
            for j in range(width):
                g = _bounded(gradients[i, first + j])
                m = beta1 * state[p, width + j] + (one - beta1) * g
                v = beta2 * state[p, 2 * width + j] + (one - beta2) * g * g
                state[p, width + j], state[p, 2 * width + j] = m, v
                state[p, j] -= rate * (m / c1) / (np.sqrt(v / c2) + epsilon)


class _Stored:
    """What AdaGrad and Adam share: the values are the first columns of the state."""

    floats: int

    def __init__(self, segment: Segment, column: int, seed: int) -> None:
        self._width, self._column = segment.width, column
        self._seed, self._scale = np.uint64(seed), np.float32(segment.scale)
        self._fill: tuple[Any, ...] = (0, 0, np.float32(0))

    def start(self, state: Floats, positions: Positions, keys: npt.NDArray[np.uint64]) -> None:
        head = (self._width, self._column, self._seed, self._scale)
        _start(state, positions, keys, *head, *self._fill)

    def read(self, state: Floats, positions: Positions, out: Floats, first: int) -> None:
        _read(state, positions, out, first, self._width)


class _AdaGrad(_Stored):
    def __init__(self, segment: Segment, column: int, seed: int) -> None:
        super().__init__(segment, column, seed)
        o, width = segment.optimizer, segment.width
        assert isinstance(o, AdaGrad)
        self.floats = segment.floats
        self._rate = np.float32(o.rate)
        self._fill = (width, 2 * width, np.float32(o.initial))

    def update(self, state: Floats, positions: Positions, gradients: Floats, first: int) -> None:
        _adagrad_update(state, positions, gradients, first, self._width, self._rate)


class _Adam(_Stored):
    def __init__(self, segment: Segment, column: int, seed: int) -> None:
        super().__init__(segment, column, seed)
        o = segment.optimizer
        assert isinstance(o, Adam)
        self.floats = segment.floats
        self._rates = tuple(np.float32(x) for x in (o.rate, o.beta1, o.beta2, o.epsilon))

    def update(self, state: Floats, positions: Positions, gradients: Floats, first: int) -> None:
        _adam_update(state, positions, gradients, first, self._width, *self._rates)


_KERNELS: dict[type[Optimizer], Any] = {Ftrl: _Ftrl, AdaGrad: _AdaGrad, Adam: _Adam}
