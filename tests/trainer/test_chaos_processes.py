"""The trainer's processes of `make chaos` do not outlive the harness."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from chaos.trainer_cluster import ROOT, environment
from chaos.trainer_plan import PLAN, Plan
from services.waiting import wait_until

DEADLINE_S = 60.0


def test_a_process_ends_with_the_harness_however_that_ends(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as harness:
        (tmp_path / PLAN).write_text(json.dumps(Plan(harness=harness.pid).as_json()))
        said = tmp_path / "address"
        words = ("server", str(tmp_path), "0", "127.0.0.1", str(said))
        server = subprocess.Popen(
            [sys.executable, "-m", "chaos.trainer_process", *words], cwd=ROOT, env=environment()
        )
        try:
            wait_until(said.exists, DEADLINE_S, "the server to start")
            assert server.poll() is None
            harness.kill()
            harness.wait()
            assert server.wait(DEADLINE_S) == 1
        finally:
            harness.kill()
            server.kill()
            server.wait()
