"""Joining jobs one after the other in one process, so that its JVM starts once.

Standard input is a JSON list of `{"config": path, "environment": {name: value}}`. After the line
`RESULTS` on standard output comes a list of `{"code": exit code, "said": standard error}`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.flink import running

DEADLINE_S = 600
_RESULTS = "RESULTS\n"


@dataclass(frozen=True)
class Done:
    """How a job ended, and its standard error."""

    code: int
    said: str


def run(
    jobs: Sequence[tuple[Path, Mapping[str, str]]], environment: Mapping[str, str]
) -> tuple[list[Done], str]:
    """Run the jobs of these configurations, each with its environment over the common one.

    Returns how each ended, and everything else that the process has printed.
    """
    asked = [{"config": str(path), "environment": dict(own)} for path, own in jobs]
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.several_jobs"],
        cwd=running.ROOT,
        env=os.environ | {"PYTHONPATH": str(running.ROOT)} | dict(environment),
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    printed, _, results = done.stdout.partition(_RESULTS)
    assert done.returncode == 0, printed + done.stderr
    return [Done(**result) for result in json.loads(results)], printed + done.stderr


def main() -> None:
    """The process."""
    from jobs import join_samples

    results = []
    for job in json.load(sys.stdin):
        os.environ.update(job["environment"])
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = join_samples.main(["--config", job["config"]])
        for name in job["environment"]:
            del os.environ[name]
        results.append({"code": code, "said": said.getvalue()})
    print(_RESULTS + json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
