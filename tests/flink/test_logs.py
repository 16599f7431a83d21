"""The logs of a local run roll, and lose no warning of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from jobs.pipeline.log_warnings import LogWarnings
from services import log4j
from tests.flink import running

#: Starts the JVM of a local run, with the size of a log made small, and warns so many times.
_SCRIPT = """
import os, sys
from pathlib import Path
from services import log4j
log4j.SIZE = "2KB"
from jobs.pipeline import environment
environment.prepare_process(Path(sys.argv[1]), log_format=sys.argv[2])
from pyflink.java_gateway import get_gateway
log = get_gateway().jvm.org.slf4j.LoggerFactory.getLogger("sample_stitch.late_requests")
for n in range(int(sys.argv[3])):
    log.warn(f"{n} of them")
"""


def test_a_log_rolls_and_all_that_is_kept_is_read(tmp_path: Path) -> None:
    for layout in ("text", "json"):
        folder = tmp_path / layout
        folder.mkdir()
        warnings = LogWarnings(folder)
        subprocess.run(
            [sys.executable, "-c", _SCRIPT, folder, layout, "400"], cwd=running.ROOT, check=True
        )
        logs = sorted(path.name for path in folder.glob("flink-*"))
        assert len(logs) == 1 + log4j.FILES
        assert [name.rpartition(".")[2] for name in logs] == ["log", *"12345"]
        said = list(warnings.new())
        # the oldest are gone, and what is left is in its order
        assert said == [f"late requests: {n} of them" for n in range(400 - len(said), 400)]
        assert len(said) > 20
        if layout == "json":
            newest = (folder / logs[0]).read_text().splitlines()
            assert {json.loads(line)["log.level"] for line in newest} <= {"WARN", "INFO"}
