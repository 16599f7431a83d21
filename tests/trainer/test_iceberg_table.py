"""Samples that the trainer takes from an Iceberg table (docs/iceberg.md), made without Flink."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.trainer.data import files
from schemas.samples import ICEBERG_TABLE
from tests.trainer import runs
from tests.trainer.tables import SamplesTable
from tests.trainer.test_reading import HOUR, LAYOUT, MADE, NEXT, NOW, replaced, write
from trainer.config import ConfigError
from trainer.reading.files import ReadError
from trainer.reading.ledger import Entry, Ledger, Wanted, has_samples
from trainer.run.session import Session

FROM_TABLE = Wanted(table="iceberg")
COMPACTED = f"{ICEBERG_TABLE}/data/{HOUR}/compacted-0.parquet"


@pytest.fixture
def table(tmp_path: Path) -> SamplesTable:
    return SamplesTable(tmp_path)


def part(number: int, hour: str = HOUR, made: str = "") -> str:
    return f"{made}samples/{hour}/part-{number}"


def make(table: SamplesTable, *paths: str) -> list[str]:
    for path in paths:
        write(table.root, path)
    return list(paths)


def appended(table: SamplesTable, *paths: str) -> int:
    return table.append(*make(table, *paths))


def ledger(*entries: Entry, wanted: Wanted = FROM_TABLE) -> Ledger:
    return Ledger(LAYOUT, entries, lambda: NOW, wanted)


def found(table: SamplesTable, of: Ledger) -> list[str]:
    return [entry.path for entry in of.discover(table.root)]


def test_files_come_in_the_order_of_the_snapshots(table: SamplesTable) -> None:
    of = ledger()
    assert found(table, of) == []
    appended(table, part(3, NEXT), part(1, NEXT))
    appended(table, part(0))
    assert found(table, of) == [part(1, NEXT), part(3, NEXT), part(0)]
    appended(table, part(2), part(4, NEXT))
    # visible, and not in the table
    make(table, part(5))
    assert found(table, of) == [part(2), part(4, NEXT)]
    # a run that goes on, and one that begins
    assert found(table, ledger(*of.entries)) == []
    assert found(table, ledger()) == [part(1, NEXT), part(3, NEXT), part(0), part(2), part(4, NEXT)]


def test_files_of_a_ledger_that_were_listed_are_those_of_the_table(table: SamplesTable) -> None:
    appended(table, part(0))
    listed = ledger(wanted=Wanted())
    assert found(table, listed) == [part(0)]
    appended(table, part(1))
    of = ledger(*listed.entries)
    assert found(table, of) == [part(1)]
    assert found(table, ledger(*of.entries, wanted=Wanted())) == []


def test_a_table_that_was_moved(table: SamplesTable, tmp_path: Path) -> None:
    """Its metadata have the paths of before. A trainer may have the folder mounted elsewhere."""
    appended(table, part(0))
    (tmp_path / "there").mkdir()
    (tmp_path / "samples").rename(tmp_path / "there" / "samples")
    assert [e.path for e in ledger().discover(tmp_path / "there")] == [part(0)]


def test_compaction_gives_nothing_to_read(table: SamplesTable) -> None:
    appended(table, part(0), part(1), part(9, NEXT))
    of = ledger()
    assert len(found(table, of)) == 3
    table.compact([part(0), part(1)], *make(table, COMPACTED))
    assert found(table, of) == []
    again = COMPACTED.replace("compacted-0", "compacted-1")
    table.compact([COMPACTED], *make(table, again))
    assert found(table, of) == []
    appended(table, part(2))
    assert found(table, of) == [part(2)]
    # a run that begins reads the rows where they are now
    fresh = ledger()
    assert found(table, fresh) == [part(9, NEXT), again, part(2)]
    assert {entry.partition for entry in fresh.entries} == {("", HOUR), ("", NEXT)}
    assert found(table, ledger(*fresh.entries)) == []
    with pytest.raises(ReadError, match=r'-1.parquet: was .* Set samples\.table = "iceberg"'):
        found(table, ledger(*fresh.entries, wanted=Wanted()))


def test_rows_that_were_compacted_before_they_were_read(table: SamplesTable) -> None:
    appended(table, part(0))
    of = ledger()
    assert found(table, of) == [part(0)]
    appended(table, part(1))
    table.compact([part(0), part(1)], *make(table, COMPACTED))
    resumed = ledger(*of.entries)
    # from the file that the join wrote, so those of part 0 are not read twice
    assert found(table, of) == [part(1)]
    (table.root / part(1)).unlink()
    with pytest.raises(ReadError, match=r"part-1: snapshot \d+ of the Iceberg .* is gone\. Put it"):
        found(table, resumed)
    assert resumed.entries == of.entries[:1]


def test_history_that_has_expired(table: SamplesTable) -> None:
    first = appended(table, part(0))
    of = ledger()
    assert found(table, of) == [part(0)]
    second = appended(table, part(1))
    third = appended(table, part(2))
    fourth = appended(table, part(3, NEXT))
    table.expire(first, second, third)
    # all that was read is in the table as it was, so what else it has is new
    seen = [e.path for e in ledger(*of.entries).discover(table.root)]
    assert seen == [part(1), part(2), part(3, NEXT)]
    fifth = table.compact([part(0), part(1), part(2)], *make(table, COMPACTED))
    with pytest.raises(ReadError, match=r"part-\d: snapshot \d+, which .* has expired.* Train"):
        found(table, ledger(*of.entries))
    table.expire(fourth)
    with pytest.raises(ReadError, match=r"part-\d: was replaced by snapshot \d+, and .*expired"):
        found(table, ledger(*of.entries))
    appended(table, part(4, NEXT))
    table.expire(fifth)
    with pytest.raises(ReadError, match=r"compacted-0.parquet: snapshot \d+, which .* has expired"):
        found(table, ledger(*of.entries))
    # an hour that does not need it
    some = Wanted("2024-05-01T08", table="iceberg")
    assert found(table, ledger(*of.entries, wanted=some)) == [part(3, NEXT), part(4, NEXT)]
    assert found(table, ledger()) == [part(3, NEXT), COMPACTED, part(4, NEXT)]


def test_rows_that_were_deleted(table: SamplesTable) -> None:
    """By a retention, say: the files leave the table, then the disk."""
    appended(table, part(0), part(1, NEXT))
    of = ledger()
    assert len(found(table, of)) == 2
    table.delete(part(0))
    (table.root / part(0)).unlink()
    appended(table, part(2, NEXT))
    assert found(table, of) == [part(2, NEXT)]
    assert found(table, ledger()) == [part(1, NEXT), part(2, NEXT)]


def test_row_level_deletes_are_refused(table: SamplesTable) -> None:
    appended(table, part(0))
    table.delete_rows(*make(table, part(1)))
    with pytest.raises(ReadError, match=r"v3\.metadata\.json: snapshot \d+ deletes single rows"):
        found(table, ledger())


def test_an_hour_that_a_backfill_has_replaced(table: SamplesTable) -> None:
    appended(table, part(0), part(1, NEXT))
    old = ledger()
    assert len(found(table, old)) == 2
    appended(table, part(2))
    new = part(0, made=f"{MADE}/")
    replaced(table.root)
    # in between the table has the old rows
    assert found(table, ledger()) == [part(0), part(1, NEXT), part(2)]
    table.overwrite([part(0), part(2)], make(table, new))
    # what was begun is read to its end from the old files
    assert found(table, ledger(*old.entries)) == [part(2)]
    anew = Wanted(anew=True, table="iceberg")
    asked = ledger(*old.entries, wanted=anew)
    assert found(table, asked) == [new]
    assert found(table, ledger(*asked.entries, wanted=anew)) == []
    assert found(table, ledger(*asked.entries)) == []
    assert found(table, ledger()) == [part(1, NEXT), new]


def late(number: int, hour: str = HOUR, made: str = "") -> str:
    return f"{made}late_actions/{hour}/part-{number}"


def test_late_actions_come_behind_the_samples_of_their_hour(table: SamplesTable) -> None:
    appended(table, part(0), part(1, NEXT))
    appended(table, part(2))
    make(table, late(0), late(1, NEXT))
    of = ledger()
    expected = [part(0), part(1, NEXT), late(1, NEXT), part(2), late(0)]
    assert found(table, of) == expected
    # samples are visible and not in the table yet, so their late actions wait
    make(table, part(3), late(2), late(3, NEXT))
    assert found(table, of) == [late(3, NEXT)]
    assert found(table, of) == []
    table.append(part(3))
    assert found(table, of) == [part(3), late(2)]


def test_late_actions_of_samples_that_were_compacted(table: SamplesTable) -> None:
    appended(table, part(0))
    make(table, late(0))
    table.compact([part(0)], *make(table, COMPACTED))
    hours_later = Ledger(LAYOUT, (), lambda: NOW + 2 * 3600 * 10**9, FROM_TABLE)
    assert found(table, hours_later) == [COMPACTED, late(0)]
    assert {entry.partition for entry in hours_later.entries} == {("", HOUR)}


def test_late_actions_of_a_generation_wait_for_its_samples(table: SamplesTable) -> None:
    replaced(table.root)
    new = part(0, made=f"{MADE}/")
    make(table, new, late(0, made=f"{MADE}/"))
    of = Ledger(LAYOUT, (), lambda: NOW + 2 * 3600 * 10**9, FROM_TABLE)
    assert found(table, of) == []
    table.append(new)
    assert found(table, of) == [new, late(0, made=f"{MADE}/")]


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r'no Iceberg table\. Run .* output\.table = "iceberg"'):
        ledger().discover(tmp_path)
    # a run that follows waits, unless the job has written without a table
    assert not has_samples(tmp_path, FROM_TABLE)
    write(tmp_path, part(0))
    with pytest.raises(ReadError, match=r"no Iceberg table"):
        has_samples(tmp_path, FROM_TABLE)


def test_has_samples(table: SamplesTable) -> None:
    make(table, part(0))
    assert not has_samples(table.root, FROM_TABLE)
    table.append(part(0))
    assert has_samples(table.root, FROM_TABLE)
    assert not has_samples(table.root, Wanted("2024-05-01T08", table="iceberg"))


def test_metadata_that_are_damaged(table: SamplesTable) -> None:
    appended(table, part(0))
    folder = table.root / ICEBERG_TABLE / "metadata"
    (lists,) = folder.glob("snap-*.avro")
    kept = lists.read_bytes()
    lists.write_bytes(kept[:20])
    with pytest.raises(ReadError, match=r"v2\.metadata\.json: cannot be read as metadata"):
        found(table, ledger())
    lists.unlink()
    with pytest.raises(ReadError, match=r"needs .*snap-.*, which is not there\. Put it back"):
        found(table, ledger())
    (folder / "v2.metadata.json").write_text("{")
    with pytest.raises(ReadError, match=r"v2\.metadata\.json: cannot be read as metadata"):
        found(table, ledger())
    shutil.rmtree(folder)
    with pytest.raises(ReadError, match=r"no Iceberg table"):
        found(table, ledger())


def test_a_run_that_is_killed_between_two_snapshots(tmp_path: Path) -> None:
    """It has the parameters, to the bit, of one that lists the files."""
    folder = runs.samples(tmp_path / "traffic")
    # its rates would be those of one file, and of two
    zero = "model.start=zero"
    plain = runs.train_here(runs.configured(folder, tmp_path / "plain", zero))
    table = SamplesTable(folder / "out")
    first, second = (str(file.relative_to(folder / "out")) for file in files(folder))
    table.append(first)
    said = (zero, "output.resume=true", "samples.table=iceberg")
    config = runs.configured(folder, tmp_path / "model", *said)
    assert runs.train_here(config, stop_after=3).session.rows == 3 * runs.BATCH
    table.append(second)
    assert runs.train_here(config, stop_after=9).session.rows == (3 + 9) * runs.BATCH
    done = runs.train_here(config)
    assert done.session.rows == runs.ROWS
    runs.assert_equal(done.parts, plain.parts)


def test_a_run_that_follows_the_table(tmp_path: Path) -> None:
    folder = runs.samples(tmp_path / "traffic")
    table = SamplesTable(folder / "out")
    first, second = (str(file.relative_to(folder / "out")) for file in files(folder))
    table.append(first)
    said = ("samples.table=iceberg", "samples.follow=true", "samples.poll=1ms")

    def watch(session: Session) -> None:
        if session.progress.steps == 3 and len(table.table.metadata.snapshots) == 1:
            table.append(second)

    session = runs.session_of(
        runs.configured(folder, tmp_path / "model", *said),
        watch=watch,
        stopping=lambda: session.rows == runs.ROWS,
    )
    runs.run(session)
    assert [entry.path for entry in session.ledger.entries] == [first, second]


def test_labels_of_a_compacted_table_are_wider(tmp_path: Path) -> None:
    """Iceberg has no integer of one byte, so who rewrites a file writes labels of four."""
    folder = runs.samples(tmp_path / "traffic")
    plain = runs.train_here(runs.configured(folder, tmp_path / "plain"))
    table = SamplesTable(folder / "out")
    natives = [str(file.relative_to(folder / "out")) for file in files(folder)]
    for path in natives:
        rows = pq.ParquetFile(folder / "out" / path).read()
        at = rows.schema.get_field_index("label_click")
        made = path.replace("samples/", f"{ICEBERG_TABLE}/data/", 1)
        (folder / "out" / made).parent.mkdir(parents=True)
        pq.write_table(
            rows.set_column(at, "label_click", rows["label_click"].cast(pa.int32())),
            folder / "out" / made,
        )
        table.append(made)
    config = runs.configured(folder, tmp_path / "model", "samples.table=iceberg")
    done = runs.train_here(config)
    assert all(entry.path not in natives for entry in done.session.ledger.entries)
    runs.assert_equal(done.parts, plain.parts)


def test_an_object_store_has_no_table(tmp_path: Path) -> None:
    folder = runs.samples(tmp_path / "traffic")
    said = ("samples.table=iceberg", "samples.path=s3://bucket/out")
    with pytest.raises(ConfigError, match=r"samples\.table: the job keeps no Iceberg table"):
        runs.configured(folder, tmp_path / "model", *said)
