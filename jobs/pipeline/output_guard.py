"""Whether a job may write into an output: never a second time without being asked, never two at
once.

A fresh start reads its input from the beginning. Into an output that has rows already it would
write them all again, and nobody would notice before the model does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from configuration import output_lock, store_lock
from configuration.store_requests import AWS, ObjectStorageSection
from configuration.stores import folder
from jobs.pipeline import places, runs
from jobs.pipeline.config import ConfigError, Pipeline
from jobs.pipeline.runs import Start
from schemas import generations

LOCK = "_lock"


@dataclass(frozen=True)
class Written:
    """What a job writes. `--overwrite` deletes `tables`, what is `made_from_them`, and what says
    `beside` them that others hold their rows.

    `job`: "join"; `key`: that of the configuration which names the output; `again`: what may be
    added to it with --append; `by_source`: the tables are those of the pipeline's sources.
    """

    job: str
    key: str
    tables: tuple[str, ...]
    made_from_them: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    again: str = "input that was not joined before"
    by_source: bool = False

    def by(self, pipeline: Pipeline) -> Written:
        """What the job of a pipeline writes."""
        if not self.by_source:
            return self
        return dataclasses.replace(self, tables=tuple(n.id for n in pipeline.sources.each))


JOINED = Written(
    "join",
    "output.path",
    ("samples", "late_actions", "rejected"),
    made_from_them=("corrections",),
    beside=(generations.POINTER, generations.GENERATIONS),
)


def check(output: str, start: Start, written: Written = JOINED) -> None:
    """Raises ConfigError when the job would add to rows that it knows nothing of, or would delete
    what no such job has written; PlaceError when the output cannot be looked at from here.
    """
    if start == "fresh":
        table = next((t for t in written.tables if _has_rows(places.below(output, t))), None)
        if table is not None:
            raise ConfigError(
                f"{written.key}: {output} has rows already (in {table}/), and a fresh start would "
                "write them a second time. Choose one: --overwrite deletes them first; "
                "--restore latest goes on from the last checkpoint; --append adds to them (for "
                f"{written.again}); or set another {written.key}"
            )
    if start == "overwrite":
        for table in (*written.tables, *written.made_from_them):
            for entry in places.entries(places.below(output, table)):
                if not entry.name.startswith(("dt=", "_", ".")):
                    raise ConfigError(
                        f"--overwrite: {entry.place} was not written by {_a(written.job)}, so "
                        f"nothing was deleted; check {written.key}, or delete it yourself"
                    )


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def clear(output: str, written: Written = JOINED) -> None:
    """Delete the tables, what was made from them, and the record of earlier runs.

    Raises PlaceError.
    """
    for name in (*written.beside, *written.tables, *written.made_from_them, *runs.FILES):
        places.delete(places.below(output, name))


@contextmanager
def locked(
    output: str, written: Written = JOINED, store: ObjectStorageSection = AWS
) -> Iterator[None]:
    """Hold the output's lock, the file `_lock` in it (see `configuration.output_lock`).

    In an object store it is a lease (see `configuration.store_lock`). Raises ConfigError when
    another process holds it, or when it cannot be written.
    """
    path = folder(output, store) / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = store_lock.take_either(path)
    except output_lock.HeldError as holder:
        raise ConfigError(
            f"{written.key}: another {written.job} writes to {output} ({holder}); wait for it, "
            f"stop it, or set another {written.key}"
        ) from None
    except OSError as error:
        raise ConfigError(f"{written.key}: {path}: {error.strerror or error}") from None
    with lock:
        yield


def _has_rows(table: str) -> bool:
    """Whether there is a file that readers take, at any depth.

    Names with `_` or `.` in front are not such: they are markers, and files that were never
    finished.
    """
    for entry in places.entries(table):
        if entry.name.startswith(("_", ".")):
            continue
        if not entry.is_folder or _has_rows(entry.place):
            return True
    return False
