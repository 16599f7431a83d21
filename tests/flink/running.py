"""Runs a job in a process of its own, as a user would, and reads what it wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 240


def run_module(
    module: str, *arguments: str, deadline_s: float = DEADLINE_S
) -> subprocess.CompletedProcess[str]:
    """`python -m module …` from the repository; its output is in the result."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=deadline_s,
        check=False,
    )


def join(config: Path, output: Path, *overrides: str) -> None:
    """Runs the joining job to its end; fails the test, with its output, when the job fails."""
    sets = [f"--set={o}" for o in (f"output.path={output}", *overrides)]
    done = run_module("jobs.join_samples", "--config", str(config), *sets)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"


def rows(output: Path, table: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """All rows of one of the tables in an output; none if it does not exist."""
    if not (output / table).is_dir():
        return []
    dataset = ds.dataset(output / table, format="parquet", partitioning="hive")
    # files of before and after a change of configuration: a column that one lacks is null there
    schemas = [fragment.physical_schema for fragment in dataset.get_fragments()]
    if not schemas:
        return []  # the folder is there, and no file in it is visible yet
    dataset = dataset.replace_schema(pa.unify_schemas([dataset.schema, *schemas]))
    listed: list[dict[str, Any]] = dataset.to_table(columns=columns).to_pylist()
    return listed
