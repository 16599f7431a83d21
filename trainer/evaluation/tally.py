"""Progressive validation: sums over rows, each of which was predicted before it was learned.

Every row is a test row first and a training row then (Blum, Kalai and Langford, Beating the
hold-out, COLT 1999; McMahan et al., Ad click prediction, KDD 2013, section 5.1). A `Tally` has sums
only, so those of several workers can be added up, and all metrics follow from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from trainer.evaluation import counting
from trainer.evaluation.cells import Cells, PackedCells
from trainer.evaluation.counting import BINS
from trainer.evaluation.measures import Doubles, Measures, measures
from trainer.evaluation.sampling import Factors
from trainer.features.batch import Clipped

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Flags = npt.NDArray[np.uint8] | npt.NDArray[np.bool_]

#: For each slice column: the names of its values 0, 1, …
Labels = Mapping[str, Sequence[str]]

#: The slice that contains every row. Its only value is "".
ALL = "all"
#: The values of a slice column that are not counted separately.
MISSING, OTHER = "(missing)", "(other)"
#: How a row counts for a slot: it has a key; it has a key that had no parameters yet.
PRESENT, UNSEEN = "present", "unseen"

_FORMAT = 1
_NO_FACTORS: Factors = np.empty(0)


class Layout(msgspec.Struct, frozen=True):
    """What a tally distinguishes. Only tallies of equal layout can be added up.

    `window_ms`: the width of a window of event time. `columns`: the columns to slice by. The first
    `cap` values of each (0, 1, …) are counted separately, the others together. `slots`: names of
    the slots to follow.
    """

    actions: tuple[str, ...]
    window_ms: int
    columns: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    cap: int = 32

    def __post_init__(self) -> None:
        if self.window_ms < 1 or self.cap < 1:
            raise ValueError("window_ms and cap must be at least 1")
        slices = [ALL, *self.columns, *(slot_slice(slot) for slot in self.slots)]
        for names in (self.actions, slices):
            if len(set(names)) < len(names):
                raise ValueError(f"not distinct: {', '.join(names)}")


class Metric(msgspec.Struct, frozen=True):
    """The measures for one window, action, and value of a slice.

    `window`: its start, epoch ms; None: the whole run. `slice` and `value`: ("all", ""); or a
    column and the name of a value; or "slot:" with the slot's name, and "present" or "unseen".
    """

    window: int | None
    action: str
    slice: str
    value: str
    measures: Measures


class Sums(msgspec.Struct, frozen=True):
    """Sums over the evaluated rows of an action, each times its weight: of 1, the log loss (nats),
    the prediction and the label.
    """

    weight: float
    loss: float
    predicted: float
    positive: float


class Limited(msgspec.Struct, array_like=True):
    """What was changed or left out so that the model stays finite.

    `clipped`: by slot, how many numbers were beyond the slot's bound, and the one furthest from 0.
    `refused`: how many rows were left out because their prediction or gradient was not finite.
    """

    clipped: dict[str, tuple[int, float]] = {}
    refused: int = 0

    def __bool__(self) -> bool:
        return bool(self.clipped or self.refused)

    def note(self, slot: str, values: int, largest: float) -> None:
        """Count clipped numbers of a slot."""
        before, furthest = self.clipped.get(slot, (0, 0.0))
        if abs(largest) > abs(furthest):
            furthest = largest
        self.clipped[slot] = before + values, furthest

    def add(self, other: Limited) -> None:
        """Add the counts of another."""
        for slot, (values, largest) in other.clipped.items():
            self.note(slot, values, largest)
        self.refused += other.refused


class _Encoded(msgspec.Struct, frozen=True, array_like=True):
    format: int
    layout: Layout
    sliced: PackedCells
    slots: PackedCells
    limited: Limited | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Encoded)


class Tally:
    """The sums per window, action, slice and value. Each takes 8 KiB, because of its histogram.

    The sums per slot have no histogram, and so no AUC.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        actions = len(layout.actions)
        self._sliced = Cells(actions, 1 + len(layout.columns) * (layout.cap + 2), BINS)
        self._slots = Cells(actions, 2 * len(layout.slots), 0)
        self.limited = Limited()

    @property
    def windows(self) -> list[int]:
        """The starts of the windows that have rows, epoch ms, ascending."""
        return sorted(self._sliced.places)

    def add(
        self,
        logits: Floats,
        labels: Floats,
        weights: Floats,
        times: npt.NDArray[np.int64],
        slices: Ints,
        present: Flags | None = None,
        unseen: Flags | None = None,
        factors: Factors | None = None,
    ) -> None:
        """Count the rows of a batch.

        `logits`, `labels` (0 to 1) and `weights` (0: not evaluated): (rows, actions). `times`:
        event times, epoch ms, (rows,). `slices`: (rows, columns), -1 where the value is missing.
        `present`: whether the slot has a key in the row; `unseen`: whether it has one without
        parameters when the row was predicted; (rows, slots) each. None: nothing is counted per
        slot. `factors`: for how many rows each counts in slices and slots, (rows,); None: as
        itself. (A factor of 0 is allowed; its row needs neither `present` nor `unseen`.)

        Raises ValueError, and counts nothing, if a shape does not fit, or if an evaluated row has a
        logit that is not finite, a label outside of 0 to 1, or a weight that is negative or not
        finite.
        """
        layout = self.layout
        rows, actions = len(times), len(layout.actions)
        logits = _array("logits", logits, np.float32, rows, actions)
        labels = _array("labels", labels, np.float32, rows, actions)
        weights = _array("weights", weights, np.float32, rows, actions)
        times = _array("times", times, np.int64, rows)
        slices = _array("slices", slices, np.int32, rows, len(layout.columns))
        if (present is None) != (unseen is None):
            raise ValueError("present and unseen go together")
        if present is not None:
            present = _array("present", present, np.uint8, rows, len(layout.slots))
            unseen = _array("unseen", unseen, np.uint8, rows, len(layout.slots))
        given = _NO_FACTORS if factors is None else _array("factors", factors, np.float64, rows)
        fault = counting.first_fault(logits, labels, weights)
        if fault >= 0:
            at = divmod(fault, actions)
            raise ValueError(
                f"row {at[0]} cannot be evaluated for {layout.actions[at[1]]}: logit {logits[at]},"
                f" label {labels[at]}, weight {weights[at]}"
            )

        number, starts = counting.windows_of(times, layout.window_ms)
        starts = starts.tolist()
        predicted = counting.predictions_and_losses(logits, labels, weights)
        cells, cap = self._sliced, layout.cap
        places = cells.stacked(starts)
        used = counting.claim(weights, number, slices, given, cap, places, cells.used)
        cells.keep(starts, places, used)
        counting.count(
            *(logits, labels, weights, predicted, number, slices, given, cap),
            *(places, cells.sums, cells.histogram),
        )
        if present is not None:
            cells = self._slots
            places = cells.stacked(starts)
            cells.make_room(cells.used + int(np.count_nonzero(places < 0)))
            used = counting.count_slots(
                *(labels, weights, predicted, number, present, unseen, given),
                *(places, cells.sums, cells.used),
            )
            cells.keep(starts, places, used)

    def note(self, clipped: Sequence[Clipped], refused: int) -> None:
        """Count values that were clipped, and rows that were refused."""
        for found in clipped:
            self.limited.note(found.slot, found.values, found.largest)
        self.limited.refused += refused

    def merge(self, other: Tally) -> None:
        """Add the sums of another. Raises ValueError where the layouts differ."""
        self._must_fit(other.layout)
        self._sliced.add(other._sliced)
        self._slots.add(other._slots)
        self.limited.add(other.limited)

    def merge_encoded(self, data: bytes) -> None:
        """As `merge`, with another that was encoded. Raises as `decode` does."""
        encoded = _decoded(data)
        self._must_fit(encoded.layout)
        self._sliced.add_packed(encoded.sliced)
        self._slots.add_packed(encoded.slots)
        if encoded.limited is not None:
            self.limited.add(encoded.limited)

    def encode(self) -> bytes:
        """As bytes: only touched cells, and of histograms only the entries that are not 0."""
        packed = self._sliced.packed(), self._slots.packed()
        return _encoder.encode(_Encoded(_FORMAT, self.layout, *packed, self.limited))

    @classmethod
    def decode(cls, data: bytes) -> Tally:
        """A tally from bytes. Raises ValueError for other bytes, or those of another version."""
        tally = cls(_decoded(data).layout)
        tally.merge_encoded(data)
        return tally

    def metrics(self, labels: Labels | None = None) -> list[Metric]:
        """The metrics of each window, in the order of windows, actions, slices, values.

        A value that has no name in `labels` is named by its number.
        """
        return self._metrics(labels or {}, (self._sliced, self._slots))

    def whole(self, labels: Labels | None = None) -> list[Metric]:
        """As `metrics`, for all windows merged."""
        parts = (self._sliced.as_one_window(), self._slots.as_one_window())
        found = self._metrics(labels or {}, parts)
        return [msgspec.structs.replace(metric, window=None) for metric in found]

    def sums(self) -> list[Sums]:
        """The sums of all rows, for each action of the layout."""
        found = []
        for action in range(len(self.layout.actions)):
            places = [int(of[action, 0]) for of in self._sliced.places.values()]
            total = self._sliced.sums[[place for place in places if place >= 0]].sum(axis=0)
            each = (counting.WEIGHT, counting.LOSS, counting.PREDICTION, counting.LABEL)
            found.append(Sums(*(float(total[column]) for column in each)))
        return found

    def histogram(self, action: str) -> Doubles:
        """The logits of an action in the whole run, (2, BINS): negatives, then positives."""
        place = self.layout.actions.index(action)
        total = np.zeros((2, BINS))
        for places in self._sliced.places.values():
            if places[place, 0] >= 0:
                total += self._sliced.histogram[places[place, 0]]
        return total

    def _metrics(self, labels: Labels, parts: tuple[Cells, Cells]) -> list[Metric]:
        found: list[tuple[tuple[int, ...], Metric]] = []
        for part, (cells, names) in enumerate(
            zip(parts, (self._value_names(labels), self._slot_names()), strict=True)
        ):
            starts, number, cell, row = cells.touched()
            each = measures(cells.sums[row], cells.histogram[row])
            for window, flat, of_key in zip(number.tolist(), cell.tolist(), each, strict=True):
                action, at = divmod(flat, cells.shape[1])
                name = self.layout.actions[action]
                metric = Metric(starts[window], name, names[at][0], names[at][1], of_key)
                found.append(((window, action, part, at), metric))
        # slots may lack windows that slices have, so the numbers of windows do not correspond
        found.sort(key=lambda pair: (pair[1].window or 0, *pair[0][1:]))
        return [metric for _, metric in found]

    def _value_names(self, labels: Labels) -> list[tuple[str, str]]:
        names = [(ALL, "")]
        for column in self.layout.columns:
            known = labels.get(column, ())[: self.layout.cap]
            unnamed = map(str, range(len(known), self.layout.cap))
            names += [(column, name) for name in (MISSING, *known, *unnamed, OTHER)]
        return names

    def _slot_names(self) -> list[tuple[str, str]]:
        slots = self.layout.slots
        return [(slot_slice(slot), what) for slot in slots for what in (PRESENT, UNSEEN)]

    def _must_fit(self, layout: Layout) -> None:
        if layout != self.layout:
            raise ValueError(f"cannot add up tallies of {layout} and {self.layout}")


def slot_slice(slot: str) -> str:
    """The name of the slice for a slot."""
    return f"slot:{slot}"


def _decoded(data: bytes) -> _Encoded:
    encoded = _decoder.decode(data)
    if encoded.format != _FORMAT:
        raise ValueError(f"a tally of format {encoded.format}, and not of {_FORMAT}")
    return encoded


def _array(name: str, values: Any, dtype: Any, *shape: int) -> Any:
    # writable and contiguous: one compiled form of the loops, whoever made the array
    array = np.require(values, dtype, ("C", "W"))
    if array.shape != shape:
        raise ValueError(f"{name}: {shape} expected, and not {array.shape}")
    return array
