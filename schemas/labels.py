"""Label aggregates: from the actions of one kind to the label of one impression.

The rule is docs/join-semantics.md 7. The join and the corrections both use this module. The audit
and the test oracle have their own on purpose: they check this one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping

from schemas.actions import ActionKind, Label

#: A label. None where the aggregate has no value.
Value = int | float | None

_WITHOUT: Mapping[Label, Value] = {"any": 0, "count": 0, "sum": 0.0, "max": None, "last": None}

#: The bits below the binary point of the smallest float64, 2**-1074. Every finite float64 is a
#: whole number of such units, so sums of units are exact.
_UNIT_BITS = 1074
_ONE = 1 << _UNIT_BITS


def without_action(kind: ActionKind) -> Value:
    """The label of an impression that no action of the kind was joined to."""
    return _WITHOUT[kind.label]


class Tally:
    """One impression's actions of one kind, added one by one in any order.

    `value` costs the same however many actions there are. Adding the same actions in another order
    gives the same value, bit for bit.
    """

    __slots__ = ("_label", "_time", "_units", "_value", "count", "first_time")

    def __init__(self, label: Label) -> None:
        self._label = label
        self.count = 0
        #: Event time of the earliest action, epoch ms. Only defined after the first `add`.
        self.first_time = 0
        self._value: float | None = None
        self._time = 0
        self._units: int | None = None

    def add(self, time: int, value: float | None) -> None:
        """`time`: epoch ms. `value`: finite; None only for `any` and `count`."""
        if not self.count or time < self.first_time:
            self.first_time = time
        self.count += 1
        label = self._label
        if value is None or label == "any" or label == "count":
            return
        if self._value is None:
            self._value, self._time = value, time
        elif label == "max":
            self._value = max(self._value, value)
        elif label == "last":
            if (time, value) > (self._time, self._value):
                self._value, self._time = value, time
        elif self._units is None:
            self._units = _units(self._value) + _units(value)
        else:
            self._units += _units(value)

    @property
    def value(self) -> Value:
        """The label; as `without_action` when nothing was added."""
        if not self.count:
            return _WITHOUT[self._label]
        if self._label == "any":
            return 1
        if self._label == "count":
            return self.count
        if self._units is not None:
            return _rounded(self._units)
        # Adding 0.0 turns -0.0 into 0.0: a zero has no sign, so the order cannot show in it.
        return None if self._value is None else self._value + 0.0


def exact_sum(values: Iterable[float]) -> float:
    """The sum of finite values, rounded once. Never raises for finite values, and never overflows:
    a sum beyond float64 is the largest float64 of that sign. A sum of zero is 0.0, not -0.0.
    """
    values = list(values)
    try:
        return math.fsum(values) + 0.0
    except OverflowError:
        # fsum also gives up when only a partial sum is too large.
        return _rounded(sum(map(_units, values)))


def _units(value: float) -> int:
    """`value` as a whole number of 2**-1074."""
    numerator, denominator = value.as_integer_ratio()
    return numerator << (_UNIT_BITS + 1 - denominator.bit_length())


def _rounded(units: int) -> float:
    """The float64 nearest to a number of units (ties to even), within the finite ones."""
    try:
        return units / _ONE
    except OverflowError:
        return sys.float_info.max if units > 0 else -sys.float_info.max
