"""The tools of docs/reading-samples.md are those that the tests read with."""

from __future__ import annotations

import re

from tests.documented_keys import DOCS
from tests.unit.test_requirements_locks import REQUIREMENTS

PAGE = (DOCS / "reading-samples.md").read_text(encoding="utf-8")
PACKAGES = {"Spark": "pyspark", "PyTorch": "torch"}


def test_the_versions_of_the_table_are_those_of_the_lock() -> None:
    lock = (REQUIREMENTS / "readers-torch.lock").read_text(encoding="utf-8")
    tools = dict(re.findall(r"^\| (\w+) \| (\d[\d.]*) \|", PAGE, re.M))
    assert set(tools) == {"pyarrow", "pandas", "Polars", "DuckDB", "Spark", "PyTorch"}
    for tool, version in tools.items():
        package = PACKAGES.get(tool, tool.lower())
        locked = re.findall(rf"^{package}==(\S+)( ; .*'3.11')?", lock, re.M)
        # that of Python 3.11 comes last
        assert locked[-1][0] == version, tool


def test_each_tool_of_the_table_has_one_snippet() -> None:
    tools = re.findall(r"^\| (\w+) \| \d", PAGE, re.M)
    assert re.findall(r"^## (\w+)\n\n```python\n", PAGE, re.M) == tools
    assert PAGE.count("```python") == len(tools)
