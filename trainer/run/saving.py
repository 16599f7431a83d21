"""Checkpoints and exports of a run: begun between two batches, written during training."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar
from uuid import uuid4

import msgspec

from configuration.stores import Folder
from trainer import checkpoint
from trainer.checkpoint import Manifest
from trainer.disk import naming
from trainer.run.runner import Runner, Written
from trainer.server.shard_file import File
from trainer.serving import format as serving
from trainer.serving.format import PartInfo
from trainer.serving.write import prune, publish, write_dense
from trainer.spec import Since

_File = TypeVar("_File")


class _InBackground(Generic[_File]):
    """Files that shards write while training goes on; one set at a time."""

    def __init__(self) -> None:
        self._written: Written[_File] | None = None
        self._complete: Callable[[Sequence[_File]], None]
        self._began = 0.0
        #: Seconds from the beginning of the last complete set to its end.
        self.took_s = 0.0

    @property
    def writing(self) -> bool:
        """Whether files are being written."""
        return self._written is not None

    def _start(self, written: Written[_File], complete: Callable[[Sequence[_File]], None]) -> None:
        """`complete` is called with the files when all of them are there."""
        self._written, self._complete, self._began = written, complete, time.monotonic()

    def finish(self) -> bool:
        """Complete the files if all are written. Returns whether they were.

        Raises OSError, ServerGoneError, RunError.
        """
        files = None if self._written is None else self._written()
        if files is None:
            return False
        self._complete(files)
        self._written = None
        self.took_s = time.monotonic() - self._began
        return True

    def discard(self) -> None:
        """Give up what is being written."""
        self._written = None


class Checkpoints(_InBackground[File]):
    """The checkpoints of one run, in `folder`. `keep`: how many.

    `step`: of the last complete checkpoint, or that with which the run began.
    """

    def __init__(self, folder: Folder, keep: int) -> None:
        super().__init__()
        self.step = 0
        self._folder, self._keep = folder, keep
        self._replaced: Sequence[Folder] = []

    def find(self) -> list[Folder]:
        """The complete checkpoints to which this run may go back, the newest last."""
        return [path for path in checkpoint.find(self._folder) if path not in self._replaced]

    def replace(self, found: Sequence[Folder]) -> None:
        """These checkpoints are of another run. The first one of this run deletes them."""
        self._replaced = found

    def begin(self, runner: Runner, step: int, session: dict[str, Any]) -> None:
        """Begin a checkpoint. `session`: the state of the run.

        Raises OSError, ServerGoneError, RunError.
        """
        folder = checkpoint.begin(self._folder, step)
        job = runner.job
        manifest = Manifest(
            *(step, job.spec, [], job.consistency, job.workers, session), steps=job.steps
        )
        self._start(runner.checkpoint(folder), partial(self._keep_whole, folder, manifest))

    def _keep_whole(self, folder: Folder, manifest: Manifest, files: Sequence[File]) -> None:
        manifest = msgspec.structs.replace(manifest, shards=list(files))
        checkpoint.finish(folder, manifest, self._keep, self._replaced)
        self._replaced, self.step = [], manifest.step


class Exports(_InBackground[PartInfo]):
    """The exports of one run for ranking services: bases, and deltas between them, in `folder`.

    `base_every`: how many exports from one base to the next. `run_id`: names the folder of this
    run. `step`: of the last complete export, or -1.
    """

    def __init__(self, folder: Folder, base_every: int) -> None:
        super().__init__()
        self._folder, self._base_every = folder, base_every
        self.restart()

    def restart(self) -> None:
        """Begin another serving run, starting with a base.

        A delta has the changes since the export before, which are not known after a restart.
        """
        self.run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid4().hex[:6]}"
        self.step = -1
        self._number = 0
        self._base_due = True

    def begin(self, runner: Runner, step: int, newest: int, since: dict[str, Since]) -> None:
        """Begin an export. `newest`: the event time of the newest sample, epoch ms, or 0.

        `since`: see `session.State`. Raises OSError, ServerGoneError, RunError.
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
        self._start(written, partial(self._publish, manifest))

    def _publish(self, manifest: serving.Manifest, files: Sequence[PartInfo]) -> None:
        publish(self._folder, msgspec.structs.replace(manifest, parts=tuple(files)))
        prune(self._folder)
        self._base_due = False
        self._number, self.step = manifest.number + 1, manifest.step

    def discard(self) -> None:
        """Give up what is being written. The next export is then a base.

        The reason is that some shards count their changes as exported already.
        """
        super().discard()
        self._base_due = True
