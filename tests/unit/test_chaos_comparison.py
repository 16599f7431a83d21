"""That the comparison of `make chaos` can fail: rows and files are planted that must not be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chaos.comparison import Comparison
from chaos.load import CLOSER, RULES, Story, story
from chaos.result import Difference
from tests import oracle
from tests.e2e.outcomes import price
from tests.timeline import Request, Row, Timeline

START = 1_700_000_000_000
#: All of it is decided by then.
LATER = START + 3_600_000


def plain_stories() -> list[Story]:
    """Those of which nothing but samples is written: the other tables are not made here."""
    found = [story(number, START + number * 100, seed=1) for number in range(60)]
    return [s for s in found if {len(o) for o in (outcome(s).late, outcome(s).rejected)} == {0}]


def outcome(of: Story) -> Any:
    return oracle.expected(Timeline(of.events, LATER), RULES)


def as_written(row: Row) -> dict[str, Any]:
    written = {name: getattr(row, name) for name in ("request_id", "user_id", "item_id")}
    written |= {name: getattr(row, name) for name in ("position", "event_time", "observed_ms")}
    written |= {name: getattr(row, name) for name in ("revision", "kind", "exposed")}
    written |= {"sampling_rate": row.sampling_rate, "price": price(row.request_id, row.position)}
    for kind in RULES.windows:
        written[f"label_{kind}"] = row.labels[kind]
        written[f"delay_{kind}_ms"] = row.delays[kind]
        written[f"mature_{kind}"] = row.mature[kind]
    return written


def write(output: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = output / "samples" / "dt=2023-11-14" / "hr=22" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def rows_of(stories: list[Story]) -> list[dict[str, Any]]:
    return [as_written(row) for s in stories for row in outcome(s).rows]


def counts(found: Difference) -> tuple[int, int, int]:
    return len(found.missing), len(found.wrong_or_twice), len(found.stray)


def test_nothing_differs_when_all_is_right_and_what_is_not_decided_may_be_missing(
    tmp_path: Path,
) -> None:
    stories = plain_stories()
    rows = rows_of(stories)
    assert len(rows) > 60
    comparison = Comparison(tmp_path)
    write(tmp_path, "a.parquet", rows[:30])
    assert counts(comparison.compare(stories, START)) == (0, 0, 0)
    assert counts(comparison.compare(stories, LATER)) == (len(rows) - 30, 0, 0)
    write(tmp_path, "b.parquet", rows[30:])
    write(tmp_path, ".part-1.inprogress.parquet", rows[:3])
    (tmp_path / "samples" / "dt=2023-11-14" / "hr=22" / "_SUCCESS").touch()
    assert counts(comparison.compare(stories, LATER)) == (0, 0, 0)
    assert counts(comparison.compare_everything(stories)) == (0, 0, 0)


def test_closers_are_not_compared(tmp_path: Path) -> None:
    stories = plain_stories()
    closer = outcome(Story((Request(f"{CLOSER}0", "u0", START, ("i0",)),))).rows
    write(tmp_path, "a.parquet", rows_of(stories) + [as_written(row) for row in closer])
    assert counts(Comparison(tmp_path).compare(stories, LATER)) == (0, 0, 0)


def change_a_label(output: Path, rows: list[dict[str, Any]]) -> None:
    write(output, "a.parquet", [rows[0] | {"label_click": rows[0]["label_click"] + 1}, *rows[1:]])


def write_twice(output: Path, rows: list[dict[str, Any]]) -> None:
    write(output, "b.parquet", rows[5:7])


def lose_one(output: Path, rows: list[dict[str, Any]]) -> None:
    write(output, "a.parquet", rows[1:])


def leave_a_file(output: Path, rows: list[dict[str, Any]]) -> None:
    write(output, "part-0.parquet.tmp", rows[:1])


def leave_half_a_file(output: Path, rows: list[dict[str, Any]]) -> None:
    path = write(output, "b.parquet", rows[:1])
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("plant", "due"),
    [
        (change_a_label, (1, 1, 0)),
        (write_twice, (0, 2, 0)),
        (lose_one, (1, 0, 0)),
        (leave_a_file, (0, 0, 1)),
        (leave_half_a_file, (0, 0, 1)),
    ],
)
def test_a_planted_fault_is_found(
    tmp_path: Path,
    plant: Callable[[Path, list[dict[str, Any]]], None],
    due: tuple[int, int, int],
) -> None:
    stories = plain_stories()
    rows = rows_of(stories)
    write(tmp_path, "a.parquet", rows)
    plant(tmp_path, rows)
    found = Comparison(tmp_path).compare(stories, LATER)
    assert counts(found) == due
    assert found.count == sum(due)


def test_a_file_that_disappears_or_changes_is_found(tmp_path: Path) -> None:
    stories = plain_stories()
    rows = rows_of(stories)
    comparison = Comparison(tmp_path)
    first, second = write(tmp_path, "a.parquet", rows[:30]), write(tmp_path, "b.parquet", rows[30:])
    assert counts(comparison.compare(stories, LATER)) == (0, 0, 0)
    first.unlink()
    write(tmp_path, second.name, rows[31:])
    assert counts(comparison.compare(stories, LATER))[2] == 2
    assert counts(comparison.compare_everything(stories))[0] == 31
