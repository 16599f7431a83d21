"""What a backfill has to do and has done: `_backfill.json` in the output, so that it can go on.

A backfill is cut into slices, each joined by a run of its own into a folder of its own. The file is
there from the plan until the whole period is published.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from configuration.stores import Folder
from jobs.backfill import hours
from jobs.backfill.margins import HOUR_MS, Margins
from jobs.pipeline import places
from jobs.pipeline.config import ConfigError
from schemas.generations import GENERATIONS

FILE = "_backfill.json"
_FORMAT = 1
#: A slice is a day or longer: at least as long as what is read for it beside itself.
_DAY_HOURS = 24


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """Hours that are joined at a time, as `2026-11-01T00`; the end is not in it.

    `folder`: relative to the output.
    """

    first: str
    end: str
    folder: str


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """`configuration`: a digest of what is joined by. `joined`: folders of the slices that are."""

    format: int = _FORMAT
    first: str
    end: str
    configuration: str
    slices: tuple[Slice, ...]
    joined: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Of all its slices, relative to the output."""
        return self.slices[0].folder.rsplit("/", 1)[0]


def plan(
    first: int, end: int, margins: Margins, document: Mapping[str, Any], slice_hours: int | None
) -> Work:
    """New work on a period (epoch ms). `document`: the configuration (`config.document`)."""
    length = (slice_hours or max(_DAY_HOURS, margins.hours)) * HOUR_MS
    folder = f"{GENERATIONS}/{hours.text(first)}-{hours.text(end)}-{os.urandom(4).hex()}"
    slices = tuple(
        Slice(
            first=hours.text(start),
            end=hours.text(min(start + length, end)),
            folder=f"{folder}/{number:03}",
        )
        for number, start in enumerate(range(first, end, length))
    )
    return Work(
        first=hours.text(first),
        end=hours.text(end),
        configuration=digest(document),
        slices=slices,
    )


def digest(document: Mapping[str, Any]) -> str:
    """By which a changed configuration is noticed."""
    return hashlib.sha256(msgspec.json.encode(document, order="sorted")).hexdigest()[:16]


def load(output: Folder) -> Work | None:
    """The work that is not done yet, if there is any. Raises ConfigError, PlaceError, OSError."""
    path = output / FILE
    text = places.read(path)
    if text is None:
        return None
    try:
        work = msgspec.json.decode(text, type=Work)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path} cannot be read ({error}); start over with --discard") from None
    if work.format != _FORMAT:
        raise ConfigError(f"{path} is of another release; start over with --discard")
    return work


def save(output: Folder, work: Work) -> None:
    """Replace the file. Raises PlaceError, OSError."""
    places.write(output / FILE, msgspec.json.format(msgspec.json.encode(work)) + b"\n")


def end(output: Folder) -> None:
    """There is nothing to do any more. Raises PlaceError, OSError."""
    places.delete(output / FILE)


def check(work: Work, first: int, end: int, document: Mapping[str, Any]) -> None:
    """Raises ConfigError when the work is not what is asked for."""
    again = "go on with these, or start over with --discard"
    if (work.first, work.end) != (hours.text(first), hours.text(end)):
        raise ConfigError(
            f"a backfill of --from {work.first} --to {work.end} is not done yet; {again}"
        )
    if work.configuration != digest(document):
        raise ConfigError(
            "the configuration is not that of the backfill that is not done yet; go on with that"
            " one, or start over with --discard"
        )
