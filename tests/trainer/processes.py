"""The trainer as a process of its own, as tests start, look at and end it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

from trainer import checkpoint
from trainer.run import watchdog

ROOT = Path(__file__).parents[2]
DEADLINE_S = 240.0


class Trainer:
    """A running trainer, in a session (so, a process group) of its own. Follows its samples."""

    def __init__(self, folder: Path, output: Path, environment: dict[str, str], *more: str) -> None:
        settings = (
            f"output.path={output}",
            *("output.resume=true", "train.batch=256", "train.servers=2", "samples.follow=true"),
            *("samples.poll=200ms", "output.checkpoint_every=1s", *more),
        )
        self.output = output
        self._log = output.with_suffix(".log")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "trainer.train"),
                    *("--config", str(folder / "trainer.toml")),
                    *(a for s in settings for a in ("--set", s)),
                ],
                cwd=ROOT,
                env=os.environ | {"COLUMNS": "500"} | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def checkpoints(self) -> list[Path]:
        found = checkpoint.find(self.output / "checkpoints")
        return [path for path in found if isinstance(path, Path)]

    def saved(self) -> int:
        """How many samples the newest checkpoint has learned; 0 without one."""
        found = self.checkpoints()
        return int(checkpoint.read_manifest(found[-1]).session["rows"]) if found else 0

    def family(self) -> list[psutil.Process]:
        """It and all that it has started."""
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]

    def ray_folder(self) -> Path:
        for process in self.family():
            try:
                command = process.cmdline()
            except psutil.Error:
                continue
            if watchdog.__file__ in command:
                return Path(command[-1])
        raise AssertionError("it has no watchdog")

    def listening(self) -> dict[str, set[str]]:
        """The addresses that its processes listen on, by the name of the process."""
        found: dict[str, set[str]] = {}
        for process in self.family():
            try:
                for opened in process.net_connections("inet"):
                    if opened.status == psutil.CONN_LISTEN:
                        found.setdefault(process.name(), set()).add(opened.laddr.ip)
            except psutil.Error:
                continue
        return found

    def end(self) -> None:
        """At once, in a test that has failed."""
        if self.process.poll() is None:
            family = self.family()
            self.process.kill()
            # the watchdog ends them
            psutil.wait_procs(family, timeout=60)
        self.process.wait(DEADLINE_S)
