"""The trainer's processes of `make chaos` do not outlive the harness."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.trainer_cluster import ROOT, environment
from chaos.trainer_plan import PLAN, Plan
from services.waiting import wait_until

DEADLINE_S = 60.0
#: Does nothing but to have its processes watched.
HARNESS = """
import sys, time
from pathlib import Path
from chaos.trainer_end import watch

watch(Path(sys.argv[1]))
print("watched", flush=True)
time.sleep(600)
"""


def started(*words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, *words]
    return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_process_ends_with_the_harness_however_that_ends(tmp_path: Path, stopped: bool) -> None:
    folder, said = tmp_path / "era-1", tmp_path / "address"
    folder.mkdir()
    (folder / PLAN).write_text(json.dumps(Plan().as_json()))
    harness = started("-c", HARNESS, str(folder))
    server = started(
        "-m", "chaos.trainer_process", "server", str(folder), "0", "127.0.0.1", str(said)
    )
    # of a folder whose name begins with the same
    other = started("-c", "import time; time.sleep(600)", "chaos.trainer_process", f"{folder}0")
    try:
        assert harness.stdout is not None
        assert harness.stdout.readline() == b"watched\n"
        wait_until(said.exists, DEADLINE_S, "the server to start")
        assert server.poll() is None
        if stopped:
            server.send_signal(signal.SIGSTOP)
        # nobody reaps it until the server has ended
        harness.kill()
        assert server.wait(DEADLINE_S) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (harness, server, other):
            process.kill()
            process.communicate()
