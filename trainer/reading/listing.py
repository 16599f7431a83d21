"""Files of an output as they are found in its folders, and what says their order."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from configuration.stores import Folder
from schemas import generations
from schemas.generations import Current, PointerError
from trainer.reading.files import ReadError

Stream = Literal["samples", "late_actions"]

#: Data files below a stream's folder.
DATA = re.compile(r"dt=[^/]*/hr=[^/]*/[^._/][^/]*")


class Found(msgspec.Struct, frozen=True):
    """A file that may get into the ledger. `path`, `size` and `home` as in an entry; `modified`:
    epoch ns; `sequence`: of the snapshot of a table that added it.
    """

    stream: Stream
    path: str
    size: int
    modified: int
    sequence: int = 0
    home: str = ""

    @property
    def place(self) -> str:
        """A path that says its hour, and its generation."""
        return f"{self.home}/{self.path.rpartition('/')[2]}" if self.home else self.path

    def order(self) -> tuple[int, str, bool, int, list[str | int]]:
        """What files of one look are sorted by."""
        _, partition, name = split(self.place)
        pieces = re.split(r"(\d+)", name)
        natural: list[str | int] = [int(p) if n % 2 else p for n, p in enumerate(pieces)]
        # the name itself for names that differ in leading zeros only
        late = self.stream != "samples"
        return self.sequence, partition, late, self.modified, [*natural, name]


def split(path: str) -> tuple[str, str, str]:
    """The generation, the partition and the name of a file."""
    *made, _, day, hour, name = path.split("/")
    return "/".join(made), f"{day}/{hour}", name


def pointer(root: Folder) -> Current:
    """What the output's pointer says (`schemas.generations`). Raises ReadError, OSError."""
    path = root / generations.POINTER
    try:
        return generations.decode(path.read_bytes(), str(path))
    except FileNotFoundError:
        return Current()
    except PointerError as error:
        raise ReadError(str(error)) from None


def scan(folder: Path) -> list[os.DirEntry[str]]:
    """The data files, by their names. A folder that does not exist is empty."""
    try:
        with os.scandir(folder) as listing:
            return [item for item in listing if item.name[0] not in "._"]
    except FileNotFoundError:
        return []


def still(entry: os.DirEntry[str]) -> os.stat_result | None:
    """What is known of something that was listed, or None if it was deleted since."""
    try:
        return entry.stat()
    except FileNotFoundError:
        return None


def partitions(
    root: Path, stream: Stream, current: Current, reads: Callable[[str, str, Current], bool]
) -> Iterator[tuple[str, int]]:
    """Folders `<stream>/dt=…/hr=…` of which `reads` is true (of generation, partition, pointer),
    with the time of the last change in them, epoch ns.
    """
    for place in current.places(stream):
        made = place.removesuffix(stream).rstrip("/")
        for day in scan(root / place):
            if not (day.name.startswith("dt=") and day.is_dir()):
                continue
            for hour in scan(root / place / day.name):
                partition = f"{day.name}/{hour.name}"
                if (
                    hour.name.startswith("hr=")
                    and hour.is_dir()
                    and reads(made, partition, current)
                    and (status := still(hour)) is not None
                ):
                    yield f"{place}/{partition}", status.st_mtime_ns
