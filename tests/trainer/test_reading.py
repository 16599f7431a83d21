"""Which files are found, in which order; batches of them, and their rows."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import generations
from schemas.actions import ActionKind
from schemas.features import Feature, FeatureSchema, FeatureType
from schemas.generations import Generation
from schemas.samples import LATE_ACTIONS, samples
from trainer.reading.files import ReadError
from trainer.reading.ledger import SETTLED_NS, Entry, Ledger, Wanted
from trainer.reading.planner import ALL, Cursor, Planner, Ticket
from trainer.reading.tables import SampleReader, dictionary_encoded

FEATURES = FeatureSchema.of(
    [
        Feature("price", FeatureType.parse("float32")),
        Feature("tags", FeatureType.parse("list<string>")),
    ]
)
LAYOUT = samples(FEATURES, [ActionKind("click", 10_000)])
HOUR = "dt=2024-05-01/hr=07"
NOW = 1_714_550_400 * 10**9


def write(
    root: Path,
    path: str,
    rows: int = 3,
    *,
    modified: int = 0,
    schema: pa.Schema | None = None,
    group: int = 1000,
) -> None:
    """A file of so many rows that say nothing, `modified` seconds after the others."""
    of_samples = "samples/" in path
    schema = schema or (LAYOUT if of_samples else LATE_ACTIONS)
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table([pa.nulls(rows, field.type) for field in schema], schema=schema)
    pq.write_table(table, file, row_group_size=group)
    os.utime(file, ns=(NOW, NOW + modified * 10**9))


def ledger(*entries: Entry, clock: Callable[[], int] = lambda: NOW) -> Ledger:
    return Ledger(LAYOUT, entries, clock)


def found(root: Path, of: Ledger | None = None) -> list[str]:
    return [entry.path for entry in (of or ledger()).discover(root)]


# -- what is found ---------------------------------------------------------------------------------


def test_nothing_is_there_yet(tmp_path: Path) -> None:
    assert found(tmp_path) == []
    (tmp_path / "samples").mkdir()
    assert found(tmp_path) == []


def test_only_committed_files_of_partitions_are_found(tmp_path: Path) -> None:
    write(tmp_path, f"samples/{HOUR}/part-0-0")
    for name in (
        f"samples/{HOUR}/.part-0-1.inprogress.5a",
        f"samples/{HOUR}/_SUCCESS",
        f"samples/{HOUR}/nested/part-0-2",
        "samples/dt=2024-05-01/.hr=08/part-0-3",
        "samples/dt=2024-05-01/hour=08/part-0-4",
        "samples/_dt=2024-05-01/hr=07/part-0-5",
        "samples/part-0-6",
        "samples/dt=2024-05-01/part-0-7",
        f"corrections/{HOUR}/corrections.parquet",
        f"rejected/{HOUR}/part-0-8",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"not Parquet, so it must not be looked at")
    assert found(tmp_path) == [f"samples/{HOUR}/part-0-0"]


def test_order_of_one_look(tmp_path: Path) -> None:
    in_order = [
        ("samples/dt=2024-04-30/hr=23/part-9", 9),
        ("samples/dt=2024-05-01/hr=07/part-b-2", 1),
        ("samples/dt=2024-05-01/hr=07/part-b-10", 1),
        ("samples/dt=2024-05-01/hr=07/part-b-010", 1 + 1),
        ("samples/dt=2024-05-01/hr=07/part-a-0", 3),
        ("late_actions/dt=2024-05-01/hr=07/part-1", 0),
        ("samples/dt=2024-05-01/hr=08/part-0", 0),
        ("late_actions/dt=2024-05-02/hr=00/part-0", 0),
    ]
    for path, modified in random.Random(1).sample(in_order, len(in_order)):
        write(tmp_path, path, modified=modified)
    assert found(tmp_path) == [path for path, _ in in_order]


def test_an_entry_says_what_is_in_the_file(tmp_path: Path) -> None:
    path = f"samples/{HOUR}/part-0-0"
    write(tmp_path, path, 25, group=10)
    write(tmp_path, f"samples/{HOUR}/part-0-1", 0)
    first, empty = ledger().discover(tmp_path)
    size = (tmp_path / path).stat().st_size
    assert first == Entry("samples", path, size, 25, (10, 10, 5))
    assert first.partition == ("", HOUR)
    assert (empty.rows, sum(empty.row_groups)) == (0, 0)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode([first]), type=list[Entry]) == [first]


def test_what_comes_between_looks_is_appended(tmp_path: Path) -> None:
    """Also to an hour that comes before what is known, and by a ledger of an earlier run."""
    of = ledger()
    write(tmp_path, "samples/dt=2024-05-01/hr=08/part-0")
    assert found(tmp_path, of) == ["samples/dt=2024-05-01/hr=08/part-0"]
    assert found(tmp_path, of) == []
    write(tmp_path, "samples/dt=2024-05-01/hr=07/part-0")
    write(tmp_path, "late_actions/dt=2024-05-01/hr=07/part-0", 2)
    of = ledger(*of.entries)
    assert found(tmp_path, of) == [
        "samples/dt=2024-05-01/hr=07/part-0",
        "late_actions/dt=2024-05-01/hr=07/part-0",
    ]
    assert [entry.rows for entry in of.entries] == [3, 3, 2]
    assert of.rows == 8


@pytest.mark.parametrize(("age", "looks"), [(SETTLED_NS, True), (SETTLED_NS + 1, False)])
def test_a_folder_that_has_not_changed_is_not_listed_again(
    tmp_path: Path, age: int, looks: bool
) -> None:
    """Unless it changed so shortly before the last look that its time may not show a change."""
    folder = tmp_path / "samples" / HOUR
    write(tmp_path, f"samples/{HOUR}/part-0")
    os.utime(folder, ns=(NOW, NOW))
    of = ledger(clock=lambda: NOW + age)
    assert len(of.discover(tmp_path)) == 1
    write(tmp_path, f"samples/{HOUR}/part-1")
    os.utime(folder, ns=(NOW, NOW))
    assert len(of.discover(tmp_path)) == looks
    os.utime(folder, ns=(NOW, NOW + 1))
    assert len(of.discover(tmp_path)) == (not looks)


# -- what is not as it should be -------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b"PAR1 and no more"])
def test_a_damaged_file_is_named_and_the_ledger_stays(tmp_path: Path, damage: bytes) -> None:
    write(tmp_path, f"samples/{HOUR}/part-0")
    bad = tmp_path / f"samples/{HOUR}/part-1"
    bad.write_bytes(damage)
    for path in (tmp_path / "samples" / HOUR, tmp_path / "samples"):
        os.utime(path, ns=(0, 0))
    of = ledger()
    with pytest.raises(ReadError, match=f"samples/{HOUR}/part-1: cannot be read.*restore it"):
        of.discover(tmp_path)
    assert (of.entries, of.rows) == ([], 0)
    bad.unlink()
    os.utime(bad.parent, ns=(0, 0))
    assert found(tmp_path, of) == [f"samples/{HOUR}/part-0"]


def test_columns_are_those_of_the_declaration_or_of_an_earlier_one(tmp_path: Path) -> None:
    path = f"samples/{HOUR}/part-0"
    lists = pa.list_(pa.field("element", pa.string()))
    more = LAYOUT.set(LAYOUT.get_field_index("tags"), pa.field("tags", lists))
    write(tmp_path, path, schema=more.append(pa.field("new", pa.int64())))
    assert found(tmp_path) == [path]
    write(tmp_path, path, schema=LAYOUT.remove(LAYOUT.get_field_index("price")))
    before = ledger()
    assert [e.absent for e in before.discover(tmp_path)] == [("price",)]
    write(tmp_path, path, schema=LAYOUT.remove(LAYOUT.get_field_index("user_id")))
    with pytest.raises(ReadError, match=f"{path}: has no column 'user_id', which every sample"):
        found(tmp_path)
    at = LAYOUT.get_field_index("price")
    write(tmp_path, path, schema=LAYOUT.set(at, pa.field("price", pa.float64())))
    with pytest.raises(ReadError, match="'price' is double, and declared as float now"):
        found(tmp_path)
    write(tmp_path, path)
    late = f"late_actions/{HOUR}/part-0"
    write(tmp_path, late, schema=LATE_ACTIONS.remove(0))
    with pytest.raises(ReadError, match=f"{late}: has no column 'sample_id'"):
        found(tmp_path)


# -- batches ---------------------------------------------------------------------------------------


def entry(rows: int, group: int = 4, stream: Any = "samples", name: str = "part") -> Entry:
    groups = tuple(min(group, rows - n) for n in range(0, rows, group))
    return Entry(stream, f"{stream}/{HOUR}/{name}", 1, rows, groups)


ENTRIES = (
    entry(0),
    entry(10),
    entry(0),
    entry(3, stream="late_actions"),
    entry(4),
    entry(0, stream="late_actions"),
    Entry("samples", f"samples/{HOUR}/x", 1, 9, (0, 4, 0, 5, 0)),
    entry(0),
)
TICKETS = [
    Ticket(1, 0, 4),
    Ticket(1, 4, 4),
    Ticket(1, 8, 2),
    Ticket(3, 0, ALL),
    Ticket(4, 0, 4),
    Ticket(6, 0, 4),
    Ticket(6, 4, 4),
    Ticket(6, 8, 1),
]


def all_of(planner: Planner) -> list[Ticket]:
    return list(iter(planner.next, None))


def test_a_batch_never_crosses_a_file_and_a_late_file_is_one() -> None:
    planner = Planner(ledger(*ENTRIES), Cursor(), 4)
    assert all_of(planner) == TICKETS
    assert planner.next() is None


def test_rows_left() -> None:
    planner = Planner(ledger(*ENTRIES), Cursor(), 4)
    left = [planner.rows_left]
    while planner.next():
        left.append(planner.rows_left)
    assert left == [26, 22, 18, 16, 13, 9, 5, 1, 0]


@pytest.mark.parametrize("batch_rows", [1, 3, 4, 100])
def test_resumed_anywhere_it_goes_on_the_same(batch_rows: int) -> None:
    of = ledger(*ENTRIES)
    whole = all_of(Planner(of, Cursor(), batch_rows))
    assert sum(t.rows for t in whole if t.rows != ALL) == 23
    planner = Planner(of, Cursor(), batch_rows)
    for done in range(len(whole) + 1):
        kept = msgspec.json.encode(planner.cursor)
        again = Planner(of, msgspec.json.decode(kept, type=Cursor), batch_rows)
        assert again.rows_left == planner.rows_left
        assert all_of(again) == whole[done:]
        planner.next()


def test_a_cursor_points_to_the_next_row_in_its_row_group() -> None:
    planner = Planner(ledger(*ENTRIES), Cursor(), 3)
    cursors = [planner.cursor]
    while planner.next():
        cursors.append(planner.cursor)
    assert cursors == [
        Cursor(0, 0, 0),
        Cursor(1, 0, 3),
        Cursor(1, 1, 2),
        Cursor(1, 2, 1),
        Cursor(2, 0, 0),  # after the last row of the file, not in it
        Cursor(4, 0, 0),
        Cursor(4, 0, 3),
        Cursor(5, 0, 0),
        Cursor(6, 1, 3),
        Cursor(6, 3, 2),
        Cursor(7, 0, 0),
    ]


def test_files_that_come_later_are_read_in_their_turn(tmp_path: Path) -> None:
    """And a planner that starts at the end of what there was gives only these."""
    write(tmp_path, f"samples/{HOUR}/part-0", 5)
    of = ledger()
    of.discover(tmp_path)
    planner = Planner(of, Cursor(), 4)
    assert all_of(planner) == [Ticket(0, 0, 4), Ticket(0, 4, 1)]
    at_end = planner.cursor
    write(tmp_path, f"samples/{HOUR}/part-1", 2)
    of.discover(tmp_path)
    assert planner.rows_left == 2
    assert all_of(planner) == all_of(Planner(of, at_end, 4)) == [Ticket(1, 0, 2)]


# -- rows ------------------------------------------------------------------------------------------

COLUMNS = ["time", "user", "tags", "price", "words"]


def rows_of(count: int) -> pa.Table:
    """All kinds of columns, with nulls, empty lists, and strings with few and with many values."""
    rng = random.Random(count)
    rows: list[Mapping[str, Any]] = [
        {
            "time": n,
            "other": "not read",
            "user": None if rng.random() < 0.1 else f"user {rng.randrange(count)}",
            "tags": rng.choice([None, [], ["a"], ["b", None, "a"], [f"t{n}", "a"]]),
            "price": rng.choice([None, rng.random()]),
            "words": rng.choice(["x", "y"]),
        }
        for n in range(count)
    ]
    types = {"time": pa.int64(), "other": pa.string(), "user": pa.string()}
    types |= {"tags": pa.list_(pa.string()), "price": pa.float64(), "words": pa.string()}
    return pa.Table.from_pylist(rows, schema=pa.schema(list(types.items())))


@pytest.fixture
def file(tmp_path: Path) -> tuple[Path, Entry, pa.Table]:
    table = rows_of(237)
    path = tmp_path / "samples" / HOUR / "part"
    path.parent.mkdir(parents=True)
    pq.write_table(table, path, row_group_size=31, data_page_size=64, dictionary_pagesize_limit=99)
    groups = (31,) * 7 + (20,)
    of = Entry("samples", f"samples/{HOUR}/part", path.stat().st_size, 237, groups)
    return tmp_path, of, table.select(COLUMNS)


def values(table: pa.Table) -> list[dict[str, Any]]:
    return [dict(row) for row in table.to_pylist()]


@pytest.mark.parametrize("chunk_rows", [1, 10, 31, 64, 1000])
def test_chunks_are_the_file(file: tuple[Path, Entry, pa.Table], chunk_rows: int) -> None:
    root, of, expected = file
    reader = SampleReader(root, COLUMNS, chunk_rows)
    count = -(-237 // chunk_rows)
    chunks = [reader.chunk(of, n) for n in range(count)]
    assert [chunk.num_rows for chunk in chunks[:-1]] == [chunk_rows] * (count - 1)
    assert [row for chunk in chunks for row in values(chunk)] == values(expected)
    for chunk in chunks:
        assert chunk.column_names == COLUMNS
        assert {column.num_chunks for column in chunk.columns} == {1}
        assert pa.types.is_dictionary(chunk["user"].type)
        assert pa.types.is_dictionary(chunk["words"].type)
        assert pa.types.is_dictionary(chunk["tags"].type.value_type)
        assert len(chunk["user"].chunk(0).dictionary) <= chunk.num_rows
    for beyond in (-1, count):
        with pytest.raises(IndexError):
            reader.chunk(of, beyond)


def test_any_rows_at_any_time(file: tuple[Path, Entry, pa.Table]) -> None:
    root, of, expected = file
    reader = SampleReader(root, COLUMNS, 20)
    rng = random.Random(3)
    starts = [*range(0, 237, 7), *(rng.randrange(237) for _ in range(60))]
    for start in starts:
        rows = min(rng.choice([0, 1, 7, 50]), 237 - start)
        got = reader.read(of, start, rows)
        assert values(got) == values(expected.slice(start, rows))
        assert {column.num_chunks for column in got.columns} == {1}
    for start, rows in ((-1, 2), (230, 8), (0, -1)):
        with pytest.raises(ValueError, match="no rows"):
            reader.read(of, start, rows)


def test_two_files_in_turn(file: tuple[Path, Entry, pa.Table]) -> None:
    root, of, expected = file
    other = rows_of(50)
    path = root / "samples" / HOUR / "other"
    pq.write_table(other, path)
    second = Entry("samples", f"samples/{HOUR}/other", path.stat().st_size, 50, (50,))
    reader = SampleReader(root, COLUMNS, 20)
    for start in range(0, 50, 5):
        assert values(reader.read(of, start, 5)) == values(expected.slice(start, 5))
        assert values(reader.read(second, start, 5)) == values(
            other.select(COLUMNS).slice(start, 5)
        )
    reader.close()
    assert values(reader.read(of, 40, 5)) == values(expected.slice(40, 5))


def test_no_rows_have_the_types_of_some(file: tuple[Path, Entry, pa.Table]) -> None:
    root, of, _ = file
    reader = SampleReader(root, COLUMNS, 20)
    none, some = reader.read(of, 0, 0), reader.read(of, 0, 5)
    assert (none.num_rows, none.column_names) == (0, COLUMNS)
    assert [f.type for f in none.schema] == [f.type for f in some.schema]


def test_a_file_that_is_another_now_is_not_read(file: tuple[Path, Entry, pa.Table]) -> None:
    root, of, _ = file
    path = root / of.path
    content = path.read_bytes()
    path.write_bytes(content + b"PAR1")
    with pytest.raises(ReadError, match=r"has [\d,]+ bytes, and had [\d,]+ when"):
        SampleReader(root, COLUMNS).chunk(of, 0)
    path.write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])
    with pytest.raises(ReadError, match=f"{of.path}: cannot be read"):
        SampleReader(root, COLUMNS).read(of, 0, of.rows)
    path.unlink()
    with pytest.raises(ReadError, match=f"{of.path}: is not there any more"):
        SampleReader(root, COLUMNS).chunk(of, 0)


def test_a_column_that_the_file_has_not(file: tuple[Path, Entry, pa.Table]) -> None:
    root, of, _ = file
    with pytest.raises(ReadError, match="has no column 'colour'"):
        SampleReader(root, ["time", "colour"]).chunk(of, 0)


def test_tables_in_memory_are_encoded_alike() -> None:
    table = rows_of(60).select(COLUMNS)
    in_pieces = pa.concat_tables([table.slice(0, 13), table.slice(13)])
    for plain in (table, in_pieces, table.slice(5, 20), table.slice(0, 0)):
        made = dictionary_encoded(plain)
        assert values(made) == values(plain)
        assert pa.types.is_dictionary(made["user"].type)
        assert pa.types.is_dictionary(made["tags"].type.value_type)
        assert made["time"].type == pa.int64()
        assert values(dictionary_encoded(made)) == values(plain)


# -- partitions that were joined again -------------------------------------------------------------

NEXT = "dt=2024-05-01/hr=08"
MADE = "_generations/g"


def replaced(root: Path, folder: str = MADE, first: str = "2024-05-01T07") -> None:
    """Publish a generation of one hour after those that are there."""
    made = Generation(folder=folder, first=first, end=first[:-1] + "9", published="")
    others = generations.current(root).generations
    (root / generations.POINTER).write_bytes(generations.encode([*others, made]))


def test_a_partition_that_is_replaced_is_not_read_twice(tmp_path: Path) -> None:
    """Also not by a run that goes on, and also not when late actions come to it afterwards."""
    write(tmp_path, f"samples/{HOUR}/part-0")
    write(tmp_path, f"{MADE}/samples/{HOUR}/part-0")
    write(tmp_path, f"{MADE}/late_actions/{HOUR}/part-0")
    of = ledger()
    assert found(tmp_path, of) == [f"samples/{HOUR}/part-0"]
    replaced(tmp_path)
    assert found(tmp_path, of) == []
    resumed = ledger(*of.entries)
    assert found(tmp_path, resumed) == []
    # what belongs to the samples that it has read
    write(tmp_path, f"late_actions/{HOUR}/part-1", modified=1)
    assert found(tmp_path, resumed) == [f"late_actions/{HOUR}/part-1"]
    # an hour of which it has read nothing
    write(tmp_path, f"samples/{NEXT}/part-0", modified=2)
    write(tmp_path, f"{MADE}/samples/{NEXT}/part-0", modified=2)
    assert found(tmp_path, resumed) == [f"{MADE}/samples/{NEXT}/part-0"]


def test_a_new_run_reads_what_holds_the_partition(tmp_path: Path) -> None:
    write(tmp_path, f"samples/{HOUR}/part-0")
    write(tmp_path, f"{MADE}/samples/{HOUR}/part-0")
    write(tmp_path, f"{MADE}/late_actions/{HOUR}/part-0")
    replaced(tmp_path)
    of = ledger()
    found_now = found(tmp_path, of)
    assert found_now == [f"{MADE}/samples/{HOUR}/part-0", f"{MADE}/late_actions/{HOUR}/part-0"]
    assert {entry.partition for entry in of.entries} == {(MADE, HOUR)}


def test_a_replaced_partition_is_read_once_more_when_that_is_asked_for(tmp_path: Path) -> None:
    for hour in (HOUR, NEXT):
        write(tmp_path, f"samples/{hour}/part-0")
        write(tmp_path, f"{MADE}/samples/{hour}/part-0")
    of = ledger()
    assert len(found(tmp_path, of)) == 2
    replaced(tmp_path)
    anew = Wanted("2024-05-01T07", "2024-05-01T08", anew=True)
    asked = Ledger(LAYOUT, of.entries, lambda: NOW, anew)
    assert found(tmp_path, asked) == [f"{MADE}/samples/{HOUR}/part-0"]
    assert found(tmp_path, asked) == []
    # asked again after a restart, or not asked any more: it is the same generation
    assert found(tmp_path, Ledger(LAYOUT, asked.entries, lambda: NOW, anew)) == []
    later = ledger(*asked.entries)
    assert found(tmp_path, later) == []
    # and the other hour stays with the files that were read
    write(tmp_path, f"samples/{NEXT}/part-1", modified=1)
    write(tmp_path, f"samples/{HOUR}/part-1", modified=1)
    assert found(tmp_path, later) == [f"samples/{NEXT}/part-1"]


def test_only_the_hours_that_are_wanted(tmp_path: Path) -> None:
    for hour in (HOUR, NEXT):
        write(tmp_path, f"samples/{hour}/part-0")
    some = Ledger(LAYOUT, (), lambda: NOW, Wanted(end="2024-05-01T08"))
    assert found(tmp_path, some) == [f"samples/{HOUR}/part-0"]
    assert found(tmp_path, ledger(*some.entries)) == [f"samples/{NEXT}/part-0"]


def test_a_pointer_that_is_not_understood_stops_reading(tmp_path: Path) -> None:
    (tmp_path / generations.POINTER).write_bytes(b"{")
    with pytest.raises(ReadError, match=generations.POINTER):
        found(tmp_path)
