"""What an Iceberg table over samples/ has, read as docs/iceberg.md reads it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.documented_keys import DOCS
from tests.flink import running

PYTHON = running.ROOT / ".venv-readers" / "bin" / "python"
(SNIPPET,) = re.findall(r"```python\n(.*?)```", (DOCS / "iceberg.md").read_text("utf-8"), re.S)
WRITE = """
import pyarrow as pa
import pyarrow.parquet as pq
pq.write_table(samples, "read.parquet", store_schema=False)
files = [task.file.file_path for task in table.scan().plan_files()]
pq.write_table(pa.table({"file": files}), "files.parquet")
"""


def check(folder: Path) -> None:
    """The table in out/samples has the visible files, each once, and their rows."""
    (folder / "snippet.py").write_text(SNIPPET + WRITE)
    done = subprocess.run(
        [PYTHON, "snippet.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files = pq.read_table(folder / "files.parquet")["file"].to_pylist()
    visible = (folder / "out" / "samples").glob("dt=*/hr=*/*.parquet")
    assert sorted(Path(file).name for file in files) == sorted(file.name for file in visible)
    rows = pq.ParquetFile(folder / "read.parquet").read().to_pylist()
    assert rows
    # running.rows takes hr for a number
    rows = [row | {"hr": int(row["hr"])} for row in rows]
    assert _by_sample(rows) == _by_sample(running.rows(folder / "out", "samples"))


def _by_sample(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["sample_id"], row["revision"]))
