"""Checkpoints and exports of a run: begun between two batches, written while training goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from trainer import checkpoint
from trainer.checkpoint import Manifest
from trainer.disk import naming
from trainer.run.runner import Runner, Written
from trainer.server.shard_file import File
from trainer.serving import format as serving
from trainer.serving.format import PartInfo
from trainer.serving.write import prune, publish, write_dense
from trainer.spec import Since


@dataclass
class _Saving:
    """A checkpoint that is being written. The manifest lacks its files."""

    folder: Path
    manifest: Manifest
    written: Written[File]


class Checkpoints:
    """Those of one run, in `folder`. `keep`: how many.

    `step`: at which the last complete one was made, or with which the run began.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.step = 0
        self._folder, self._keep = folder, keep
        self._replaced: Sequence[Path] = []
        self._saving: _Saving | None = None

    def find(self) -> list[Path]:
        """The complete checkpoints that this run may go back to, the newest last."""
        return [path for path in checkpoint.find(self._folder) if path not in self._replaced]

    def replace(self, found: Sequence[Path]) -> None:
        """These are of another run. They go as soon as there is one of this run."""
        self._replaced = found

    @property
    def writing(self) -> bool:
        """Whether one is begun and not complete."""
        return self._saving is not None

    def begin(self, runner: Runner, step: int, session: dict[str, Any]) -> None:
        """Begins one. `session`: the state of the run.

        Raises OSError, ServerGoneError, RunError.
        """
        folder = checkpoint.begin(self._folder, step)
        job = runner.job
        manifest = Manifest(step, job.spec, [], job.consistency, job.workers, session)
        self._saving = _Saving(folder, manifest, runner.checkpoint(folder))

    def finish(self) -> bool:
        """Completes what is being written if its files are there; whether it did.

        Raises OSError, ServerGoneError, RunError.
        """
        if self._saving is None:
            return False
        saving = self._saving
        written = saving.written()
        if written is None:
            return False
        manifest = msgspec.structs.replace(saving.manifest, shards=list(written))
        checkpoint.finish(saving.folder, manifest, self._keep, self._replaced)
        self._saving, self._replaced = None, []
        self.step = manifest.step
        return True

    def discard(self) -> None:
        """Gives up what is being written."""
        self._saving = None


@dataclass
class _Exporting:
    """An export that is being written. The manifest lacks its parts."""

    manifest: serving.Manifest
    written: Written[PartInfo]


class Exports:
    """Those of one run, for those who rank: bases, and deltas between them, in `folder`.

    `base_every`: how many exports from one base to the next. `run_id`: names the folder of this
    run. `step`: at which the last complete one was made, or -1.
    """

    def __init__(self, folder: Path, base_every: int) -> None:
        self._folder, self._base_every = folder, base_every
        self._exporting: _Exporting | None = None
        self.restart()

    def restart(self) -> None:
        """Begins another serving run, with a base.

        A delta says what changed since the export before, which is not known after a restart.
        """
        self.run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid4().hex[:6]}"
        self.step = -1
        self._number = 0
        self._base_due = True

    @property
    def writing(self) -> bool:
        """Whether one is begun and not complete."""
        return self._exporting is not None

    def begin(self, runner: Runner, step: int, newest: int, since: dict[str, Since]) -> None:
        """Begins one. `newest`: the newest sample's event time in milliseconds, or 0.

        `since`: see `session.State`.

        Raises OSError, ServerGoneError, RunError.
        """
        number = self._number
        everything = self._base_due or number % self._base_every == 0
        folder = self._folder / self.run_id
        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
        written, dense = runner.export(folder, number, everything=everything)
        vector = None if dense is None else write_dense(folder, number, dense)
        manifest = serving.Manifest(
            run_id=self.run_id,
            number=number,
            kind="base" if everything else "delta",
            parts=(),
            dense=vector,
            step=step,
            event_time=newest or None,
            created=time.time_ns() // 1_000_000,
            spec=runner.job.spec,
            since=since,
        )
        self._exporting = _Exporting(manifest, written)

    def finish(self) -> bool:
        """Publishes what is being written if its files are there; whether it did.

        Raises OSError, ServerGoneError, RunError.
        """
        if self._exporting is None:
            return False
        exporting = self._exporting
        written = exporting.written()
        if written is None:
            return False
        manifest = msgspec.structs.replace(exporting.manifest, parts=tuple(written))
        publish(self._folder, manifest)
        prune(self._folder)
        self._exporting, self._base_due = None, False
        self._number, self.step = manifest.number + 1, manifest.step
        return True

    def discard(self) -> None:
        """Gives up what is being written; the next one is a base.

        Some shards count their changes as exported already.
        """
        self._exporting, self._base_due = None, True
