"""docs/archive.md has the columns that the archive has, and its query finds what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.archive import ARCHIVE
from tests.documented_keys import DOCS

PAGE = (DOCS / "archive.md").read_text(encoding="utf-8")


def test_the_table_has_all_columns_with_their_types() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\w<>\\]+) \|", PAGE, re.M)
    types = {pa.list_(pa.string()): "list<string>", pa.list_(pa.binary()): "list<binary>"}
    columns = [(field.name, types.get(field.type, str(field.type))) for field in ARCHIVE]
    assert [(name, text.replace("\\", "")) for name, text in rows] == columns


@pytest.mark.parametrize(("second", "twice"), [((2, 3), []), ((1, 2), [1])])
def test_the_query_finds_offsets_that_are_there_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: tuple[int, ...], twice: list[int]
) -> None:
    folder = tmp_path / "archive" / "features" / "dt=2026-11-26" / "hr=07"
    folder.mkdir(parents=True)
    for name, offsets in (("part-0", (0, 1)), ("part-1", second)):
        rows = [{"topic": "t", "partition": 0, "offset": offset} for offset in offsets]
        pq.write_table(pa.Table.from_pylist(rows, schema=ARCHIVE), folder / f"{name}.parquet")
    monkeypatch.chdir(tmp_path)
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "pyarrow" in c)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["twice"]["offset"].to_pylist() == twice
    assert names["records"].schema.field("hr").type == pa.string()
