"""The last check before parameters leave a trainer: every one is a finite number.

Bounds on values, sums and gradients (`trainer.limits`) are to keep them so. What this finds is a
fault, or a checkpoint of a release that had no bounds; it is never written.
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
    """Raises NotFiniteError for the first row whose values or optimizer state are not finite.

    `what`: what was about to be written. `keys`: (rows,); `states`: (rows, floats) each. With a
    `spec`, the message says which slots of the table may have the key.
    """
    for state in states:
        # a sum is not finite where a part is not, and takes no array of flags
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
    """The same for the dense parameters, or the state of their optimizer: any shape."""
    bad = ~np.isfinite(vector)
    if bad.any():
        at = int(np.argmax(bad.ravel()))
        raise NotFiniteError(
            f"{what}: dense parameter {at} is {vector.ravel()[at]} ({int(bad.sum()):,} of"
            f" {vector.size:,}). {_ADVICE}"
        )


def _slots(table: str, key: int, spec: ModelSpec | None) -> str:
    """A slot that is used as a value has one key, so its name is known; of others, the table's."""
    if spec is None:
        return f"table {table}"
    slots = [slot for slot in spec.slots if spec.tables[slot.table].name == table]
    for slot in slots:
        if slot.encoding == "value" and int(keys_of(slot.name, [""])[0]) == key:
            return f"slot {slot.name}"
    return f"table {table} (slots {', '.join(slot.name for slot in slots)})"
