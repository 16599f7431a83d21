"""What an output says of the jobs that wrote it: `_runs.jsonl` and `_pipeline.toml` beside the
tables, which readers pass over.

`_runs.jsonl` has a line for each start of a job. By it `--restore latest` knows which snapshots are
of this output, where several pipelines share a folder for checkpoints, and the audit knows by which
configurations the rows were made. `_pipeline.toml` is the
configuration of the latest start, overrides included and secrets left out; tools and the trainer
take it as they take the file it was made from.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timezone
from typing import Any, Literal

import msgspec
import tomli_w

from configuration.stores import Folder
from jobs.pipeline import places

#: How a job starts. "fresh" is a start without any of the three options.
Start = Literal["fresh", "append", "overwrite", "restore"]

RUNS = "_runs.jsonl"
PIPELINE = "_pipeline.toml"
FILES = (RUNS, PIPELINE)

_HEAD = """\
# The configuration that the join last ran with, overrides included. It is written anew at every
# start. Secrets are not in it: where one was written out, there is now a reference to an
# environment variable.
"""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One start of a job.

    `started`: ISO 8601, UTC; `restored`: from which snapshot; `files`: what the names of its files
    have in them (`new_name`; earlier releases did not write it down).
    `pipeline`: the configuration, as `_pipeline.toml` has it (earlier releases did not keep it).
    """

    job: str
    started: str
    start: Start
    restored: str | None = None
    files: str | None = None
    pipeline: dict[str, Any] | None = None


def new_name() -> str:
    """A name for a start of a job, for the names of its files: 12 hex digits."""
    return uuid.uuid4().hex[-12:]


def started(job: str, start: Start, restored: str | None, files: str | None = None) -> Run:
    """A start that happens now."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Run(job=job, started=now, start=start, restored=restored, files=files)


def known(output: str | Folder) -> list[Run]:
    """All starts of jobs into this output, oldest first.

    Raises PlaceError; StoreError for an output that is told as a place in an object store.
    """
    at = places.below(output, RUNS) if isinstance(output, str) else output / RUNS
    text = places.read(at) or b""
    decoder = msgspec.json.Decoder(Run)
    found = []
    for line in text.splitlines():
        try:
            found.append(decoder.decode(line))
        except msgspec.MsgspecError:
            continue  # of another release, or cut off
    return found


def note(output: str, run: Run, document: dict[str, Any]) -> None:
    """Write down a start, and the configuration (see `config.document`). Raises PlaceError."""
    before = places.read(places.below(output, RUNS)) or b""
    line = msgspec.json.encode(msgspec.structs.replace(run, pipeline=document))
    places.write(places.below(output, RUNS), before + line + b"\n")
    text = _HEAD + tomli_w.dumps(document)
    places.write(places.below(output, PIPELINE), text.encode())
