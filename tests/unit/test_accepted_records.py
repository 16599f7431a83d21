"""Nothing that the decoders accept may raise later: rows and corrections are made of all of it."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.accepted_records import Driver, a_pipeline, records, unusual
from tests.effort import examples

#: Pipelines for each way; each has some 60 records.
PIPELINES = 25


@pytest.mark.parametrize("small", [0, 16])
def test_what_is_accepted_becomes_rows_and_corrections(small: int, tmp_path: Path) -> None:
    total: Counter[str] = Counter()
    for number in range(examples(PIPELINES)):
        choose = random.Random(f"{small} {number}").choice
        pipeline = a_pipeline(choose, tmp_path)
        driver = Driver(pipeline, small=small)
        where = f"seed '{small} {number}'"
        try:
            ran = driver.run(records(choose, pipeline, choose((20, 60, 100))))
            samples, late = driver.tables()
            made = driver.corrected(samples, late)
        except Exception as error:
            raise AssertionError(where) from error
        assert not unusual(samples), where
        assert not unusual(made.rows), where
        assert made.rows.schema.equals(samples.schema), where
        total += ran.counts
        total["rows"] += len(ran.rows)
        total["corrections"] += made.rows.num_rows
        total["made anew"] += made.anew
    # the fuzzer gets everywhere
    reached = ("rows", "corrections", "made anew", "settled", "refused", "joined", "late")
    for name in (*reached, "orphans", "duplicates", "sampled_out", "ignored"):
        assert total[name], (name, total)
    assert total["requests"] + total["actions"] > total["records"] / 2, total
