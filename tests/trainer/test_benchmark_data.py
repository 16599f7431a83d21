"""The samples of ``benchmarks.trainer``, and the text that Vowpal Wabbit reads of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.trainer import peer_input
from benchmarks.trainer.data import FILE_STEP, SCHEMA, SLOTS, Traffic, files, tables, write
from trainer.config import load
from trainer.reading.ledger import Ledger
from trainer.run.job import job_of

TRAFFIC = Traffic(2 * FILE_STEP + 5, files=2, hours=1, users=500, catalogue=300, seed=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data") / "samples"
    write(TRAFFIC, made)
    peer_input.make(TRAFFIC, made)
    return made


def _all(folder: Path) -> pa.Table:
    return pa.concat_tables(tables(folder))


def test_rows_are_whole_batches_in_every_file(folder: Path) -> None:
    assert TRAFFIC.rows == 2 * FILE_STEP
    assert [pq.ParquetFile(path).metadata.num_rows for path in files(folder)] == [FILE_STEP] * 2
    with pytest.raises(ValueError, match="at least"):
        Traffic(FILE_STEP, files=2, hours=1)


def test_the_trainer_takes_it_for_samples(folder: Path) -> None:
    config = load(folder / "trainer.toml")
    ledger = Ledger(job_of(config).samples)
    found = ledger.discover(config.folder)
    # in the order in which the peers get them
    assert [config.folder / entry.path for entry in found] == files(folder)
    assert job_of(config).samples.equals(SCHEMA)
    assert ledger.rows == TRAFFIC.rows


def test_it_follows_from_the_seed(folder: Path, tmp_path: Path) -> None:
    write(TRAFFIC, tmp_path / "again")
    assert _all(tmp_path / "again").equals(_all(folder))
    other = Traffic(TRAFFIC.rows, files=2, hours=1, users=500, catalogue=300, seed=8)
    write(other, tmp_path / "other")
    assert not _all(tmp_path / "other").equals(_all(folder))


def test_a_click_is_worth_learning(folder: Path) -> None:
    table = _all(folder)
    clicked = table["label_click"].to_numpy() == 1
    f00 = table["f00"].to_numpy()
    assert 0.03 < clicked.mean() < 0.3
    assert f00[clicked].mean() > f00[~clicked].mean() + 0.3
    first = table["position"].to_numpy() == 0
    assert clicked[first].mean() > 1.5 * clicked[~first].mean()


def test_the_texts_say_what_the_rows_say(folder: Path) -> None:
    rows = _all(folder).to_pylist()
    first = peer_input.first_ids(TRAFFIC)
    numbers = (folder / peer_input.NUMBERS).read_text().splitlines()
    strings = (folder / peer_input.STRINGS).read_text().splitlines()
    assert len(numbers) == len(strings) == len(rows)
    assert any(None in row.values() for row in rows)
    for row, by_number, by_name in zip(rows, numbers, strings, strict=True):
        label, keys = by_number.split(" | ")
        assert label == ("1" if row["label_click"] == 1 else "-1")
        there = [name for name in SLOTS if row[name] is not None]
        bias, *given = keys.split(" ")
        assert (bias, len(given)) == ("0", len(there))
        assert given[there.index("user_id")] == str(first["user_id"] + int(row["user_id"][1:]))
        value = given[there.index("f00")].split(":")
        assert (int(value[0]), float(value[1])) == (first["f00"], row["f00"])
        expected = [
            f"{name}:{row[name]:g}" if SLOTS[name] else f"{name}={_text(row[name])}"
            for name in there
        ]
        assert [_short(word) for word in by_name.split(" | 0 ")[1].split(" ")] == expected


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _short(word: str) -> str:
    name, colon, number = word.partition(":")
    return f"{name}:{float(number):g}" if colon else word


def test_the_matrices_say_what_the_text_says(folder: Path) -> None:
    ids, values, labels = peer_input.read(folder)
    text = (folder / peer_input.NUMBERS).read_text().splitlines()
    assert ids.max() < peer_input.ids_needed(TRAFFIC) <= 2**24
    for line, of_ids, of_values, label in zip(text, ids, values, labels, strict=True):
        pairs = [word.partition(":") for word in line.split(" | ")[1].split(" ")]
        assert [int(key) for key, _, _ in pairs] == of_ids[of_ids >= 0].tolist()
        given = np.array([float(number or 1.0) for _, _, number in pairs], np.float32)
        assert np.array_equal(given, of_values[of_ids >= 0])
        assert line.startswith("1 " if label == 1 else "-1 ")


def test_ids_of_different_slots_differ(folder: Path) -> None:
    ids, _, _ = peer_input.read(folder)
    seen = [set(column[column >= 0].tolist()) for column in ids.T]
    assert sum(map(len, seen)) == len(set.union(*seen))
