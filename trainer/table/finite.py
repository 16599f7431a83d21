"""The last check before parameters leave a trainer: every one must be a finite number.

The bounds on values, sums and gradients (`trainer.limits`) should keep them finite. If this check
fails, there is a fault, or a checkpoint comes from a release that had no bounds. Nothing is written
then.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trainer.features.keys import keys_of
from trainer.spec import ModelSpec

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]

#: What to do, for every message.
_ADVICE = (
    "Nothing was written; the checkpoint before is whole. Bound the numbers of its `value` slots"
    " (slots.<name>.clip, .scale or .log1p) or lower the learning rate, and go on from there"
)


class NotFiniteError(Exception):
    """A parameter is infinite or not a number; the message names the slot, key and value."""


def check_rows(
    what: str, table: str, keys: Keys, states: Sequence[Floats], spec: ModelSpec | None = None
) -> None:
    """Raise NotFiniteError for the first row with a value or optimizer state that is not finite.

    `what`: what was about to be written. `keys`: (rows,). `states`: (rows, floats) each. With a
    `spec`, the message says which slots of the table may have the key.
    """
    for state in states:
        # the sum is not finite if a part is not; this needs no array of flags
        if np.isfinite(state.sum(dtype=np.float64)):
            continue
        bad = ~np.isfinite(state).all(axis=1)
        if bad.any():
            at = int(np.argmax(bad))
            row = state[at]
            value = row[np.argmax(~np.isfinite(row))]
            raise NotFiniteError(
                f"{what}: {_slots(table, int(keys[at]), spec)}, key {int(keys[at]):#018x} has the"
                f" parameter {value} ({int(bad.sum()):,} of {len(keys):,} rows). {_ADVICE}"
            )


def check_vector(what: str, vector: Floats) -> None:
    """As `check_rows`, for the dense parameters or the state of their optimizer, of any shape."""
    bad = ~np.isfinite(vector)
    if bad.any():
        at = int(np.argmax(bad.ravel()))
        raise NotFiniteError(
            f"{what}: dense parameter {at} is {vector.ravel()[at]} ({int(bad.sum()):,} of"
            f" {vector.size:,}). {_ADVICE}"
        )


def _slots(table: str, key: int, spec: ModelSpec | None) -> str:
    """Where the key is, for a message: its slot if that is certain, else the table and its slots.

    Only a slot that is used as a value is certain: it has one key.
    """
    if spec is None:
        return f"table {table}"
    slots = [slot for slot in spec.slots if spec.tables[slot.table].name == table]
    for slot in slots:
        if slot.encoding == "value" and int(keys_of(slot.name, [""])[0]) == key:
            return f"slot {slot.name}"
    return f"table {table} (slots {', '.join(slot.name for slot in slots)})"
