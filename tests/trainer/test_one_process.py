"""Training in one process needs neither Ray nor ZeroMQ, and does not import them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer import runs

ROOT = Path(__file__).parents[2]
#: Both are made impossible to import, so that an import anywhere is an error, and is named.
PROGRAM = """
import sys
sys.modules["ray"] = sys.modules["zmq"] = None
from trainer.train import main
code = main(sys.argv[1:])
loaded = sorted(m for m, it in sys.modules.items() if it and m.split(".")[0] in ("ray", "zmq"))
print("loaded:", loaded)
sys.exit(code)
"""


def test_one_process_imports_neither_ray_nor_zeromq(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = runs.samples(tmp_path_factory.mktemp("samples"))
    settings = (f"output.path={folder / 'model'}", "train.batch=4096")
    more = [a for setting in settings for a in ("--set", setting)]
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--config", str(folder / "trainer.toml"), *more],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "loaded: []"
    assert (folder / "model/serving/current.json").is_file()
