"""Which files of an output are its rows, where periods of it were joined again (jobs.backfill).

The rule is in docs/sample-format.md, "Generations". An output without a pointer is read as it
stands. This module says which paths count; `names` lists them for an output on a disk or in an
object store, `files` for one on a disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

#: In an output: which generation holds a partition. Replaced as a whole, by one atomic put.
POINTER = "_current.json"
#: In an output: the folder of all generations.
GENERATIONS = "_generations"
#: What hours look like here: `2026-11-01T00`, UTC.
HOUR = r"^\d{4}-\d\d-\d\dT([01]\d|2[0-3])$"
#: Of all data files.
DATA_SUFFIX = ".parquet"
_FORMAT = 1


class PointerError(ValueError):
    """The pointer of an output cannot be understood. The message names it."""


class Stored(Protocol):
    """An output in an object store, or something in it (`configuration.stores.StorePath`)."""

    def __truediv__(self, name: object) -> Stored:
        """What is in it under a name, which may have slashes."""

    def read_bytes(self) -> bytes:
        """All of an object. Raises FileNotFoundError, OSError."""

    def walk(self) -> Iterator[tuple[str, Any]]:
        """All objects below it: the name from here on, and its status. Raises OSError."""


class Generation(msgspec.Struct, frozen=True, kw_only=True, rename={"first": "from", "end": "to"}):
    """A folder that holds all partitions of some hours.

    `folder`: relative to the output, with slashes; in it are `samples/`, `late_actions/`,
    `rejected/` and `corrections/`. `first`, `end`: hours such as `2026-11-01T00`, UTC; the end is
    not in it. `published`: ISO 8601, UTC. `rejected`: the files of `rejected/` beside the
    generations (relative to the output) whose rows it has instead.
    """

    folder: str
    first: str
    end: str
    published: str
    rejected: tuple[str, ...] = ()

    def has(self, hour: str) -> bool:
        """Whether it was made for this hour."""
        return self.first <= hour < self.end


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the file. Of the generations of an hour, the last one holds it."""

    format: int = _FORMAT
    generations: tuple[Generation, ...] = ()


@dataclass(frozen=True)
class Current:
    """What a pointer says. Take one for all that is to be of one state of the output."""

    generations: Sequence[Generation] = ()
    _held: dict[str, Generation | None] = field(default_factory=dict, repr=False, compare=False)

    def holder(self, partition: str) -> Generation | None:
        """The generation that holds a partition such as `dt=2026-11-01/hr=00`; None: the folders
        beside the generations do.
        """
        if partition not in self._held:
            hour = hour_of(partition)
            made = (g for g in reversed(self.generations) if hour is not None and g.has(hour))
            self._held[partition] = next(made, None)
        return self._held[partition]

    def folder(self, partition: str) -> str:
        """The folder of the holder, relative to the output; empty: the output itself."""
        holder = self.holder(partition)
        return "" if holder is None else holder.folder

    def places(self, table: str) -> list[str]:
        """Where files of a table may lie, relative to the output."""
        return [table, *(f"{g.folder}/{table}" for g in self.generations)]

    def takes(self, path: str) -> bool:
        """Whether a file below `places` is data that counts. `path`: relative to the output."""
        made = next((g for g in self.generations if path.startswith(f"{g.folder}/")), None)
        inside = path if made is None else path.removeprefix(f"{made.folder}/")
        names = inside.split("/")
        if any(name.startswith((".", "_")) for name in names):
            return False
        holder = self.holder("/".join(names[1:-1]))
        if holder is None or made is not None:
            return holder is made
        return names[0] == "rejected" and path not in holder.rejected


def hour_of(partition: str) -> str | None:
    """`2026-11-01T00` of `dt=2026-11-01/hr=00`; None for a path of another form."""
    day, _, hour = partition.partition("/")
    if not (day.startswith("dt=") and hour.startswith("hr=")):
        return None
    return f"{day[3:]}T{hour[3:]}"


def decode(text: bytes | None, name: str = POINTER) -> Current:
    """Of the bytes of a pointer; None: there is none. `name`: for errors. Raises PointerError."""
    if text is None:
        return Current()
    try:
        pointer = msgspec.json.decode(text, type=Pointer)
    except msgspec.MsgspecError as error:
        raise PointerError(f"{name} cannot be read: {error}") from None
    if pointer.format != _FORMAT:
        raise PointerError(
            f"{name} has format {pointer.format}, of a newer release; this one knows {_FORMAT}"
        )
    return Current(pointer.generations)


def encode(generations: Iterable[Generation]) -> bytes:
    """The bytes of a pointer."""
    pointer = Pointer(generations=tuple(generations))
    return msgspec.json.format(msgspec.json.encode(pointer)) + b"\n"


def current(output: Path | Stored) -> Current:
    """What the pointer of an output says. Raises PointerError, OSError."""
    path = output / POINTER
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return Current()
    return decode(text, str(path))


def names(output: Path | Stored, table: str, of: Current | None = None) -> list[str]:
    """The data files of a table, relative to the output, by hour, then by path.

    `of`: to read several tables of one state. Raises PointerError, OSError.
    """
    of = current(output) if of is None else of
    found = [
        f"{place}/{name}"
        for place in of.places(table)
        for name in _below(output / place)
        if of.takes(f"{place}/{name}")
    ]
    return sorted(found, key=lambda name: (name.split("/")[-3:-1], name.split("/")))


def files(output: Path, table: str, of: Current | None = None) -> list[Path]:
    """The same of a local output, as paths."""
    return [output / name for name in names(output, table, of)]


def partitions(output: Path, table: str, of: Current) -> dict[str, list[Path]]:
    """The same by partition, those without files left out."""
    found: dict[str, list[Path]] = {}
    for path in files(output, table, of):
        found.setdefault("/".join(path.parts[-3:-1]), []).append(path)
    return found


def partition_in(name: str) -> str:
    """The partition, `dt=…/hr=…`, of a file that `names` gave."""
    return "/".join(name.split("/")[-3:-1])


def _below(folder: Path | Stored) -> Iterator[str]:
    """The files below a folder, relative to it."""
    if isinstance(folder, Path):
        for place, _, found in os.walk(folder):
            inside = Path(place).relative_to(folder)
            yield from ((inside / name).as_posix() for name in found)
        return
    # Flink's file system marks a folder `x` by an object `x/`, which a listing may call `x`
    yield from (name for name, _ in folder.walk() if name.endswith(DATA_SUFFIX))
