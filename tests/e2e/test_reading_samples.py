"""What docs/reading-samples.md says of other tools: its snippets give the rows of the files.

The files are those of two jobs. The second has a feature less and one more, and two of its features
have wider types. Beside the files lies what a job leaves there while it writes.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services import java
from tests.documented_keys import DOCS
from tests.e2e.iceberg_rows import PYTHON
from tests.flink import running

PAGE = (DOCS / "reading-samples.md").read_text(encoding="utf-8")
SNIPPETS = dict(re.findall(r"^## (\w+)\n\n```python\n(.*?)```", PAGE, re.M | re.S))

#: What follows a snippet: `samples` as an Arrow table.
AS_TABLE = {
    "pyarrow": "table = samples",
    "pandas": """
import pyarrow as pa
table = pa.Table.from_pandas(samples, preserve_index=False)""",
    "Polars": "table = samples.collect().to_arrow()",
    "DuckDB": "table = samples.to_arrow_table()",
    "Spark": "table = samples.toArrow(); spark.stop()",
    # tensors to a table: 0 where `present` says so is a null
    "PyTorch": """
def rows_of(loader):
    tables = []
    for batch in loader:
        columns = {}
        for name, values in batch.items():
            if name in batch["present"]:
                gone = ~batch["present"][name].numpy()
                columns[name] = pa.array(values.numpy(), mask=gone)
            elif name != "present":
                # lists of Python's numbers, which have no size
                lists = {"scores": pa.list_(pa.float32()), "tags": pa.list_(pa.string())}
                columns[name] = pa.array(values, lists.get(name, pa.string()))
        tables.append(pa.table(columns))
    return tables

if __name__ == "__main__":
    table = pa.concat_tables(rows_of(samples))
    from torchdata.stateful_dataloader import StatefulDataLoader
    other = StatefulDataLoader(Samples("out/samples", rows=7), batch_size=None, num_workers=3)
    again = pa.concat_tables(rows_of(other))
    assert again.sort_by("sample_id").equals(table.sort_by("sample_id"))
    ranks = [DataLoader(Samples("out/samples", rank=r, world=3), batch_size=None) for r in range(3)]
    ids = [set(i for b in rank for i in b["sample_id"].tolist()) for rank in ranks]
    assert sum(map(len, ids)) == len(set().union(*ids)) == table.num_rows
    assert all(ids)""",
}
WRITE = """
import pyarrow.parquet as pq
pq.write_table(table, "read.parquet", store_schema=False)
"""

DECLARED = """
[actions.click]
window = "10min"
[actions.purchase]
window = "10min"
label = "sum"
[features.hour]
scope = "context"
type = "int64"
[features.flag]
type = "bool"
required = false
[features.tags]
type = "list<string>"
required = false
[features.scores]
type = "list<float32>"
[features.price]
type = "{price}"
[features.stock]
type = "{stock}"
[features.{own}]
type = "string"
[sources]
features = {{ type = "files", path = "features.jsonl" }}
actions = {{ type = "files", path = "actions.jsonl" }}
[output]
path = "out"
"""
#: 2023-11-14, 21:00, so hours with a leading zero come after midnight.
START_MS = 1_699_995_600_000
HALF_HOUR_MS = 1_800_000
REQUESTS, ITEMS = 24, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With out/samples, as the snippets have it."""
    made = tmp_path_factory.mktemp("read")
    before = DECLARED.format(price="float32", stock="int64", own="retired")
    after = DECLARED.format(price="float64", stock="float64", own="added")
    jobs = [
        # the last hour of the one is the first of the other
        (made / "before", before, "retired", range(13)),
        (made / "after", after, "added", range(13, REQUESTS)),
    ]
    with ThreadPoolExecutor(len(jobs)) as pool:
        outputs = list(pool.map(lambda job: _joined(*job), jobs))
    for output in outputs:
        shutil.copytree(output / "samples", made / "out" / "samples", dirs_exist_ok=True)
    for file in list(_files(made)):
        whole = file.read_bytes()
        (file.parent / f".uncompacted-{file.stem}").write_bytes(whole)
        (file.parent / f".{file.name}.inprogress.9b1deb4d-3b7d").write_bytes(
            whole[: len(whole) // 2]
        )
    return made


def _joined(folder: Path, config: str, own: str, requests: range) -> Path:
    choose = random.Random(own)
    folder.mkdir()
    (folder / "pipeline.toml").write_text(config)
    features, actions = [], []
    for n in requests:
        request: dict[str, Any] = {
            "request_id": f"r{n}",
            "user_id": f"{n:03}",
            "event_time": START_MS + n * HALF_HOUR_MS,
        }
        items = []
        for p in range(ITEMS):
            values: dict[str, Any] = {
                "price": choose.random(),
                "stock": choose.randrange(100),
                "scores": [choose.random() for _ in range(choose.randrange(3))],
                own: choose.choice(["", "é", "07"]),
            }
            if choose.random() < 0.6:
                values |= {
                    "flag": choose.random() < 0.5,
                    "tags": ["new", "é"][: choose.randrange(3)],
                }
            items.append({"item_id": f"i{p}", "features": values})
            for kind in ("click", "purchase"):
                if choose.random() < 0.4:
                    action = request | {"event_time": request["event_time"] + 1_000}
                    action |= {
                        "event_id": f"{kind}-{n}-{p}",
                        "item_id": f"i{p}",
                        "action": kind,
                        "value": 2.5,
                    }
                    actions.append(action)
        features.append(request | {"context": {"hour": n}, "items": items})
    for name, records in (("features", features), ("actions", actions)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines)
    running.join(folder / "pipeline.toml", folder / "out")
    return folder / "out"


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "out" / "samples").glob("*/*/*.parquet"))


def _expected(folder: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The types of the columns, and the rows: each file alone, and its partition from its path."""
    types: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for file in _files(folder):
        table = pq.ParquetFile(file).read()
        partition = dict(part.split("=") for part in file.parts[-3:-1])
        for field in table.schema:
            if types.get(field.name) != "double":
                types[field.name] = _type(field.type)
        rows += [row | partition for row in table.to_pylist()]
    types |= {"dt": "string", "hr": "string"}
    return types, [{name: row.get(name) for name in types} for row in rows]


def _type(kind: pa.DataType) -> str:
    """Its name, whatever the elements of a list are called."""
    return f"list<{kind.value_type}>" if pa.types.is_list(kind) else str(kind)


@pytest.mark.thorough
@pytest.mark.skipif(not PYTHON.exists(), reason="run `make setup-readers` first")
@pytest.mark.parametrize("tool", SNIPPETS)
def test_a_snippet_reads_all_rows_with_their_types(folder: Path, tool: str) -> None:
    if tool == "PyTorch" and not list(PYTHON.parents[1].glob("lib/*/site-packages/torch")):
        pytest.skip("run `make setup-readers LEVEL=readers-torch` first")
    (folder / "read.parquet").unlink(missing_ok=True)
    (folder / "snippet.py").write_text(SNIPPETS[tool] + AS_TABLE[tool] + WRITE)
    done = subprocess.run(
        [PYTHON, "snippet.py"],
        cwd=folder,
        env=os.environ | {"JAVA_HOME": str(java.find_java_home()), "SPARK_LOCAL_IP": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    read = pq.ParquetFile(folder / "read.parquet").read()
    types, rows = _expected(folder)
    assert len(rows) == REQUESTS * ITEMS
    assert {row["hr"] for row in rows} >= {"00", "07", "08", "21"}
    assert {field.name: _type(field.type) for field in read.schema} == types
    key = "sample_id"
    assert sorted(read.to_pylist(), key=lambda r: r[key]) == sorted(rows, key=lambda r: r[key])
