"""The same samples as the peers read them, made from the Parquet once.

Every key is a number: 0 is the bias, and each slot has a range of its own after that. So nothing is
hashed, nothing collides, and tables of the peers can be dense. `strings` is the text with names
instead, as someone without such numbers would have it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.trainer.data import NAMES, SLOTS, WORDS, Traffic, tables

NUMBERS, STRINGS = "numbers.vw", "strings.vw"
_IDS, _VALUES, _LABELS = "ids.npy", "values.npy", "labels.npy"
_MISSING = -1
#: Of f02 and of the positions and hours: far more than there are.
_SMALL = 4_096


def first_ids(traffic: Traffic) -> dict[str, int]:
    """The first id of each slot; a value has no other. The bias has 0."""
    sizes = {
        "user_id": traffic.users,
        "item_id": traffic.catalogue,
        "position": _SMALL,
        "hour": 24,
        "f02": _SMALL,
        "f03": len(WORDS),
        "f05": NAMES,
        "f06": 2,
    }
    first, at = {}, 1
    for name in SLOTS:
        first[name] = at
        at += sizes.get(name, 1)
    return first


def ids_needed(traffic: Traffic) -> int:
    """More than any id."""
    return max(first_ids(traffic).values()) + 2


def make(traffic: Traffic, folder: Path) -> None:
    """The texts and the matrices beside the samples, if they are not there yet."""
    if (folder / _LABELS).exists():
        return
    first = first_ids(traffic)
    ids, values, labels = [], [], []
    with (folder / NUMBERS).open("wb") as numbers, (folder / STRINGS).open("wb") as strings:
        for table in tables(folder):
            of_slots = {name: _ids(table[name], name, first[name]) for name in SLOTS}
            numbers.write(_text(table, {n: pc.cast(i, pa.string()) for n, i in of_slots.items()}))
            strings.write(_text(table, {name: _names(table[name], name) for name in SLOTS}))
            ids.append(_matrix(list(of_slots.values()), _MISSING, np.int32, 0))
            given = [_values(table[name], is_value) for name, is_value in SLOTS.items()]
            values.append(_matrix(given, 0.0, np.float32, 1))
            labels.append(table["label_click"].to_numpy())
    np.save(folder / _IDS, np.concatenate(ids))
    np.save(folder / _VALUES, np.concatenate(values))
    np.save(folder / _LABELS, np.concatenate(labels))


def read(
    folder: Path, rows: int | None = None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.int8]]:
    """Ids (-1: missing) and values, (rows, slots + 1) with the bias first, and labels (rows,)."""
    arrays = (np.load(folder / name, mmap_mode="r")[:rows] for name in (_IDS, _VALUES, _LABELS))
    ids, values, labels = (np.array(array) for array in arrays)
    return ids, values, labels


def _ids(column: Any, name: str, first: int) -> Any:
    """int64, null where the value is missing."""
    if SLOTS[name]:
        index = pc.if_else(pc.is_valid(column), 0, None)
    elif name == "f03":
        index = pc.index_in(column, pa.array(WORDS))
    elif pa.types.is_string(column.type):
        # one letter, and a number
        index = pc.cast(pc.utf8_slice_codeunits(column, 1), pa.int64())
    else:
        index = pc.cast(column, pa.int64())
    return pc.add(pc.cast(index, pa.int64()), first)


def _names(column: Any, name: str) -> Any:
    if SLOTS[name]:
        return pc.if_else(pc.is_valid(column), name, None)
    return pc.binary_join_element_wise(name, pc.cast(column, pa.string()), "=")


def _values(column: Any, is_value: bool) -> Any:
    return pc.cast(column, pa.float32()) if is_value else pa.array(np.ones(len(column), np.float32))


def _matrix(columns: list[Any], missing: float, dtype: Any, bias: float) -> npt.NDArray[Any]:
    arrays = [pc.fill_null(column, missing).to_numpy() for column in columns]
    return np.stack([np.full(len(arrays[0]), bias), *arrays], axis=1).astype(dtype)


def _text(table: pa.Table, keys: dict[str, Any]) -> bytes:
    """A line a sample: `1 | 0 5:0.25 17 3012`; what is missing is left out."""
    click = pc.equal(table["label_click"], 1)
    parts = [pc.if_else(click, "1 | 0", "-1 | 0")]
    for name, is_value in SLOTS.items():
        if is_value:
            number = pc.cast(table[name], pa.string())
            parts.append(pc.binary_join_element_wise(keys[name], number, ":"))
        else:
            parts.append(keys[name])
    lines = pc.binary_join_element_wise(*parts, " ", null_handling="skip")
    return ("\n".join(lines.to_pylist()) + "\n").encode()
