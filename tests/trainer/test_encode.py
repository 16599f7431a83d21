"""Samples to keys, against a slow reading of the same columns as Python lists."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from trainer.features.batch import Batch, Occurrences, Targets
from trainer.features.chunk import Chunk
from trainer.features.encode import MOST_SLICES, Encoder, SliceNames
from trainer.reading.tables import dictionary_encoded
from trainer.spec import Ftrl, ModelSpec, Segment, Slot, TableSpec

BOUNDARIES = (-1.5, 0.0, 0.1, 1.0, 1e6)
#: Every encoding that the configuration allows for a type.
SCALARS = {
    "bool": ("category", "value"),
    "int64": ("category", "value", "buckets", "log"),
    "float32": ("value", "buckets", "log"),
    "float64": ("value", "buckets", "log"),
    "string": ("category",),
}
TYPES = {
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
}


def spec_of(slots: Sequence[Slot], tables: int = 3) -> ModelSpec:
    table = (Segment("linear", 1, Ftrl()),)
    return ModelSpec(
        "lr", ("click",), tuple(slots), tuple(TableSpec(f"t{n}", table) for n in range(tables))
    )


def all_slots() -> list[Slot]:
    """Each column under each encoding, spread over three tables, and the bias."""
    slots: list[Slot] = []
    for scalar, encodings in SCALARS.items():
        for column in (scalar, f"list_{scalar}"):
            for encoding in encodings:
                name, table = f"{column}_{encoding}", len(slots) % 2
                match encoding:
                    case "category":
                        slots.append(Slot(name, column, "category", table))
                    case "value":
                        slots.append(Slot(name, column, "value", table))
                    case "buckets":
                        slots.append(Slot(name, column, "buckets", table, BOUNDARIES))
                    case "log":
                        slots.append(Slot(name, column, "buckets", table))
    return [*slots, Slot("bias", None, "value", 2)]


# -- samples ---------------------------------------------------------------------------------------


def scalar(random: np.random.Generator, type_: str) -> Any:
    match type_:
        case "bool":
            return bool(random.random() < 0.5)
        case "int64":
            edge = random.choice([0, 1, -1, 2**63 - 1, -(2**63), 10**6])
            return int(edge if random.random() < 0.3 else random.integers(-30, 30))
        case "float32" | "float64":
            edge = random.choice([*BOUNDARIES, -0.0, 1e-300, -3.0, 7.0, 3e38])
            at_edge = float(edge if random.random() < 0.4 else random.normal(0, 3))
            return float(np.float32(at_edge)) if type_ == "float32" else at_edge
        case _:
            words = ["", "a", "é", "true", "0", "中文", "x" * 200]
            return str(random.choice([*words, *(f"w{n}" for n in range(40))]))


def samples(seed: int, rows: int) -> pa.Table:
    random = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "event_time": pa.array(random.integers(0, 10**12, rows), pa.int64()),
    }
    for name, type_ in TYPES.items():
        columns[name] = pa.array(
            [None if random.random() < 0.15 else scalar(random, name) for _ in range(rows)], type_
        )
        lists = [
            None
            if random.random() < 0.1
            else [
                None if random.random() < 0.1 else scalar(random, name)
                for _ in range(int(random.integers(0, 4)))
            ]
            for _ in range(rows)
        ]
        columns[f"list_{name}"] = pa.array(lists, pa.list_(type_))
    return pa.table(columns)


def in_pieces(table: pa.Table) -> pa.Table:
    """Each of which has a dictionary of its own, where it has one."""
    cuts = [0, 1, table.num_rows // 3, table.num_rows // 3, table.num_rows]
    return pa.concat_tables([table.slice(a, b - a) for a, b in pairwise(cuts)])


def dictionaries_in_pieces(table: pa.Table) -> pa.Table:
    plain = in_pieces(table)
    columns = {}
    for name in plain.column_names:
        column = plain[name]
        if pa.types.is_string(column.type):
            column = pa.chunked_array([chunk.dictionary_encode() for chunk in column.chunks])
        columns[name] = column
    return pa.table(columns)


FORMS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "plain": lambda table: table,
    "dictionaries": dictionary_encoded,
    "pieces": in_pieces,
    "dictionaries in pieces": dictionaries_in_pieces,
    "slice": lambda table: table.slice(17, 61),
    "slice of dictionaries": lambda table: dictionary_encoded(table).slice(17, 61),
    "slice of pieces": lambda table: in_pieces(table).slice(3, 80),
    "no rows": lambda table: table.slice(40, 0),
    "no pieces": lambda table: table.schema.empty_table(),
    "no rows of dictionaries": lambda table: dictionary_encoded(table).slice(5, 0),
    "nothing but nulls": lambda table: pa.table(
        {
            name: table[name] if name == "event_time" else pa.nulls(len(table), table[name].type)
            for name in table.column_names
        }
    ),
}


def no_targets(rows: int) -> Targets:
    """The labels are the row's number."""
    labels = np.arange(rows, dtype=np.float32).reshape(rows, 1)
    return Targets(labels, labels + 0.25, labels + 0.5, labels + 0.75)


def chunk_of(spec: ModelSpec, table: pa.Table) -> Chunk:
    return Encoder(spec).chunk(table, no_targets(table.num_rows))


# -- the slow reading ------------------------------------------------------------------------------


def key_of(slot: str, text: str) -> int:
    prefix = xxhash.xxh3_128_digest(slot.encode())
    return max(1, xxhash.xxh3_64_intdigest(prefix + text.encode()))


def text_of(slot: Slot, value: Any) -> str:
    if slot.encoding == "value":
        return ""
    if slot.encoding == "category":
        return str(value).lower() if isinstance(value, bool) else str(value)
    if not slot.boundaries:
        size = int(4 * math.log2(1 + abs(value)))
        return f"log{size if value > 0 else -size}"
    for low, high in pairwise([-math.inf, *slot.boundaries, math.inf]):
        if low <= value < high:
            return f"{low!r}:{high!r}"
    raise AssertionError(value)


def occurrences(slot: Slot, table: pa.Table) -> list[tuple[int, int, float]]:
    """Row, key and value of each, in order."""
    if slot.column is None:
        return [(row, key_of(slot.name, ""), 1.0) for row in range(table.num_rows)]
    found = []
    for row, cell in enumerate(table[slot.column].to_pylist()):
        for value in cell if isinstance(cell, list) else [cell]:
            if value is not None:
                number = 1.0
                if slot.encoding == "value":
                    # not beyond the slot's bound
                    number = float(np.float32(min(max(value, -slot.clip), slot.clip)))
                found.append((row, key_of(slot.name, text_of(slot, value)), number))
    return found


def by_slot(bag: Occurrences) -> list[list[tuple[int, int, float]]]:
    """What the batch has, written in the same way."""
    keys = bag.keys[bag.index]
    every = list(zip(bag.row.tolist(), keys.tolist(), bag.value.tolist(), strict=True))
    return [every[a:b] for a, b in pairwise(bag.starts.tolist())]


def is_right(batch: Batch, spec: ModelSpec, table: pa.Table) -> None:
    assert batch.rows == table.num_rows
    assert batch.times.tolist() == table["event_time"].to_pylist()
    assert len(batch.tables) == len(spec.tables)
    for number, bag in enumerate(batch.tables):
        slots = [n for n, slot in enumerate(spec.slots) if slot.table == number]
        assert list(bag.slots) == slots
        expected = [occurrences(spec.slots[n], table) for n in slots]
        assert by_slot(bag) == expected
        keys = {key for found in expected for _, key, _ in found}
        assert len(bag.keys) == len(set(bag.keys.tolist()))
        assert set(bag.keys.tolist()) == keys
        times: dict[int, int] = defaultdict(int)
        for found in expected:
            for _, key, _ in found:
                times[key] += 1
        rows = samples_with(expected)
        for key, count in zip(bag.keys.tolist(), bag.counts.tolist(), strict=True):
            # the same where no list has a key twice, see below
            assert rows[key] <= count <= times[key]
        arrays = (bag.keys, bag.counts, bag.index, bag.row, bag.value)
        assert [str(a.dtype) for a in arrays] == ["uint64", "uint32", "int32", "int32", "float32"]


def samples_with(found: list[list[tuple[int, int, float]]]) -> dict[int, int]:
    rows = defaultdict(set)
    for slot in found:
        for row, key, _ in slot:
            rows[key].add(row)
    return {key: len(of) for key, of in rows.items()}


def rows_are_those_of_slots(arranged: Batch, batch: Batch) -> None:
    """The batch by row has the keys and occurrences of the one by slot, and lists summed up."""
    for one, other in zip(arranged.tables, batch.tables, strict=True):
        np.testing.assert_array_equal(one.keys, other.keys)
        np.testing.assert_array_equal(one.counts, other.counts)
    expected: list[dict[tuple[int, int], float]] = [defaultdict(float) for _ in range(batch.rows)]
    for bag in batch.tables:
        for slot, index, row, value in bag.by_slot():
            keys = bag.keys[index].tolist()
            for r, key, x in zip(row.tolist(), keys, value.tolist(), strict=True):
                expected[r][slot, key] += x
    rows = arranged.by_row
    assert rows is not None
    keys = np.concatenate([bag.keys for bag in arranged.tables])
    for r, of_row in enumerate(expected):
        at = slice(int(rows.starts[r]), int(rows.ends[r]))
        names = zip(rows.slot[at].tolist(), keys[rows.key[at]].tolist(), strict=True)
        found = list(zip(names, rows.value[at].tolist(), strict=True))
        assert found == list(of_row.items())


# -- tests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_type_under_every_encoding(form: str) -> None:
    spec = spec_of(all_slots())
    table = FORMS[form](samples(1, 100))
    is_right(chunk_of(spec, table).batch(0, table.num_rows), spec, table)


@pytest.mark.parametrize("form", ["plain", "dictionaries", "slice of pieces"])
def test_batches_of_a_chunk_are_those_rows_alone(form: str) -> None:
    spec = spec_of(all_slots())
    table = FORMS[form](samples(2, 150))
    chunk = chunk_of(spec, table)
    assert chunk.rows == table.num_rows
    random = np.random.default_rng(3)
    for turn in range(25):
        start = int(random.integers(0, table.num_rows + 1))
        rows = int(random.integers(0, table.num_rows - start + 1))
        if turn % 3:
            rows = min(rows, 5)
        batch, part = chunk.batch(start, rows), table.slice(start, rows)
        is_right(batch, spec, part)
        rows_are_those_of_slots(chunk.batch(start, rows, by_row=True), batch)
        alone = chunk_of(spec, part).batch(0, rows)
        for one, other in zip(batch.tables, alone.tables, strict=True):
            assert by_slot(one) == by_slot(other)
        labels = batch.targets.labels
        assert labels[:, 0].tolist() == list(range(start, start + rows))
        # all four are cut alike
        targets = batch.targets
        for n, cut in enumerate((targets.weights, targets.delayed, targets.delayed_weights), 1):
            np.testing.assert_array_equal(cut, labels + 0.25 * n)


def test_the_same_batch_twice_is_the_same() -> None:
    """Marks that a batch left in the chunk are not those of another."""
    spec, table = spec_of(all_slots()), samples(4, 40)
    chunk = chunk_of(spec, table)
    first, again = chunk.batch(5, 30), chunk.batch(5, 30)
    for one, other in zip(first.tables, again.tables, strict=True):
        np.testing.assert_array_equal(one.keys, other.keys)
        np.testing.assert_array_equal(one.counts, other.counts)
        np.testing.assert_array_equal(one.index, other.index)


def test_a_batch_without_rows() -> None:
    spec, table = spec_of(all_slots()), samples(5, 20)
    batch = chunk_of(spec, table).batch(7, 0)
    is_right(batch, spec, table.slice(7, 0))
    assert all(len(bag.keys) == 0 for bag in batch.tables)
    assert batch.targets.labels.shape == (0, 1)
    assert batch.slices.shape == (0, 0)


def encoded(slot: Slot, column: pa.Array) -> Occurrences:
    rows = len(column)
    table = pa.table({slot.column or "-": column, "event_time": np.zeros(rows, np.int64)})
    return chunk_of(spec_of([slot], tables=1), table).batch(0, rows).tables[0]


def test_values_of_different_slots_have_different_keys() -> None:
    slots = [Slot("one", "x", "category"), Slot("two", "x", "category")]
    table = pa.table({"x": ["a", "b"], "event_time": [0, 0]})
    bag = chunk_of(spec_of(slots, tables=1), table).batch(0, 2).tables[0]
    assert len(bag.keys) == 4
    assert bag.starts.tolist() == [0, 2, 4]


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_boundary_is_the_first_number_of_its_bucket(boundary: float) -> None:
    slot = Slot("s", "x", "buckets", 0, BOUNDARIES)
    below, above = np.nextafter(boundary, -math.inf), np.nextafter(boundary, math.inf)
    bag = encoded(slot, pa.array([below, boundary, above]))
    at = BOUNDARIES.index(boundary)
    ends = ["-inf", *map(repr, BOUNDARIES), "inf"]
    expected = [key_of("s", f"{ends[n]}:{ends[n + 1]}") for n in (at, at + 1, at + 1)]
    assert bag.keys[bag.index].tolist() == expected


def test_logarithmic_buckets_have_four_to_a_doubling_on_both_sides() -> None:
    """Of 1 + |x|: what is near 0 is one bucket, and the ends of float64 have theirs."""
    largest = 1.7976931348623157e308
    near_0 = [(0.0, 0), (-0.0, 0), (5e-324, 0), (0.18, 0), (-0.18, 0)]
    further = [(0.19, 1), (-0.19, -1), (1.0, 4), (-1.0, -4), (2.999, 7), (3.0, 8), (1023.0, 40)]
    buckets = [*near_0, *further, (-1023.0, -40), (largest, 4096), (-largest, -4096)]
    bag = encoded(Slot("s", "x", "buckets"), pa.array([x for x, _ in buckets]))
    expected = [key_of("s", f"log{n}") for _, n in buckets]
    assert bag.keys[bag.index].tolist() == expected


def test_values_of_a_list_have_one_key() -> None:
    bag = encoded(Slot("s", "x", "value"), pa.array([[1.5, -2.0], None, [0.25]]))
    assert bag.keys.tolist() == [key_of("s", "")]
    assert bag.row.tolist() == [0, 0, 2]
    assert bag.value.tolist() == [1.5, -2.0, 0.25]


def test_values_of_a_dictionary_that_do_not_occur_make_no_keys() -> None:
    indices = pa.array([2, None, 2], pa.int32())
    column = pa.DictionaryArray.from_arrays(indices, pa.array(["a", "b", "c"]))
    bag = encoded(Slot("s", "x", "category"), column)
    assert bag.keys.tolist() == [key_of("s", "c")]
    assert bag.counts.tolist() == [2]
    assert bag.row.tolist() == [0, 2]


def test_lists_that_are_null_over_values() -> None:
    """Arrow allows a null to have elements beneath it, which are not there."""
    offsets, elements = pa.array([0, 2, 4, 5], pa.int32()), pa.array(["a", "b", "c", "d", "e"])
    column = pa.ListArray.from_arrays(offsets, elements, mask=pa.array([False, True, False]))
    bag = encoded(Slot("s", "x", "category"), column)
    assert bag.row.tolist() == [0, 0, 2]
    assert bag.keys.tolist() == [key_of("s", text) for text in "abe"]


@pytest.mark.parametrize(
    ("slot", "column", "counts"),
    [
        (Slot("s", "x", "category"), pa.array(["a", "b", None, "a"]), [2, 1]),
        (Slot("s", "x", "category"), pa.array([["a", "b"], ["a"], []]), [2, 1]),
        (Slot("s", "x", "category"), pa.array([["a", "b", "a"], ["a"], []]), [2, 1]),
        (Slot("s", "x", "value"), pa.array([[1.0, 2.0, 3.0], [4.0]]), [2]),
        (Slot("s", "x", "buckets", 0, (0.0,)), pa.array([[1.0, 2.0, -3.0], [4.0]]), [2, 1]),
        (Slot("s", None, "value"), pa.array([1, 2, 3]), [3]),
    ],
)
def test_counts_are_of_samples(slot: Slot, column: pa.Array, counts: list[int]) -> None:
    """Which `admit_after` is in: a sample with a value twice is one."""
    assert encoded(slot, column).counts.tolist() == counts


def test_columns_that_are_read() -> None:
    slots = [
        Slot("a", "x", "category"),
        Slot("b", "x", "category", 1),
        Slot("c", "y", "value"),
        Slot("bias", None, "value", 2),
    ]
    encoder = Encoder(spec_of(slots), slice_by=["position", "y"])
    assert encoder.columns == ["x", "y", "position"]


# -- slices ----------------------------------------------------------------------------------------


def slices_of(
    table: dict[str, Any], by: Sequence[str], names: SliceNames | None = None
) -> list[list[int]]:
    """Of all rows, in batches of 7."""
    rows = len(next(iter(table.values())))
    whole = pa.table({**table, "event_time": np.zeros(rows, np.int64)})
    number = None if names is None else names.number
    encoder = Encoder(spec_of([Slot("bias", None, "value")], 1), by, number)
    chunk = encoder.chunk(whole, no_targets(rows))
    found: list[list[int]] = []
    for start in range(0, rows, 7):
        found += chunk.batch(start, min(7, rows - start)).slices.tolist()
    return found


def test_slices_are_numbered_as_they_come() -> None:
    names = SliceNames()
    table = {
        "device": pa.array(["ios", None, "web", "ios", ""]),
        "position": pa.array([3, 1, None, 1, 3], pa.int32()),
        "flag": pa.array([True, None, False, True, False]),
        "nothing": pa.nulls(5, pa.string()),
    }
    by = ["device", "position", "flag", "nothing"]
    assert slices_of(table, by, names) == [
        [0, 0, 0, -1],
        [-1, 1, -1, -1],
        [1, -1, 1, -1],
        [0, 1, 0, -1],
        [2, 0, 1, -1],
    ]
    assert names.names == {
        "device": ["ios", "web", ""],
        "position": ["3", "1"],
        "flag": ["true", "false"],
    }
    # the next chunk goes on with these
    later = {**table, "device": pa.array(["tv", "web", "ios", None, "tv"])}
    assert [row[0] for row in slices_of(later, by, names)] == [3, 1, 0, -1, 3]


@pytest.mark.parametrize("dictionaries", [False, True])
def test_after_so_many_values_the_rest_is_one(dictionaries: bool) -> None:
    texts = [f"v{n}" for n in range(MOST_SLICES + 9)]
    column = pa.array([*texts, None, texts[0], texts[-1], texts[MOST_SLICES - 1]])
    names = SliceNames()
    table = {"x": column.dictionary_encode() if dictionaries else column}
    expected = [
        *range(MOST_SLICES),
        *[MOST_SLICES] * 9,
        *(-1, 0, MOST_SLICES, MOST_SLICES - 1),
    ]
    assert slices_of(table, ["x"], names) == [[n] for n in expected]
    assert names.names == {"x": texts[:MOST_SLICES]}
    # what came too late stays without a number
    assert slices_of({"x": pa.array([texts[-1], "v1"])}, ["x"], names) == [[MOST_SLICES], [1]]


def test_names_are_those_of_an_earlier_run() -> None:
    earlier = {"x": ["a", "b"]}
    names = SliceNames(earlier)
    assert slices_of({"x": pa.array(["c", "b", "a"])}, ["x"], names) == [[2], [1], [0]]
    # which keeps its own
    assert earlier == {"x": ["a", "b"]}


def test_only_what_occurs_is_numbered() -> None:
    """A dictionary may have values of other chunks, as `SampleReader` gives it."""
    names = SliceNames()
    indices = pa.array([2, 0, 2], pa.int32())
    column = pa.DictionaryArray.from_arrays(indices, pa.array(["a", "b", "c"]))
    slices = slices_of({"x": column}, ["x"], names)
    assert "b" not in names.names["x"]
    assert slices[0] == slices[2] != slices[1]
