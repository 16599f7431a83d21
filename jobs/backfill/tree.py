"""What lies in an output, whether it is read or not: on a disk, or in an object store."""

from __future__ import annotations

import os
from pathlib import Path

from configuration.stores import Folder
from schemas.generations import hour_of


def partitions(table: Folder) -> dict[str, list[str]]:
    """By partition (`dt=…/hr=…`), the names of all files in it, markers and unfinished ones too.

    Raises OSError.
    """
    found: dict[str, list[str]] = {}
    if isinstance(table, Path):
        for place, _, names in os.walk(table):
            partition = Path(place).relative_to(table).as_posix()
            if _is_hour(partition):
                found[partition] = names
        return found
    for path, _ in table.walk():
        partition, _, name = path.rpartition("/")
        if _is_hour(partition):
            found.setdefault(partition, []).append(name)
    return found


def folders(root: Folder) -> list[Folder]:
    """The folders in a folder; none if there is no such folder. Raises OSError."""
    return [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []


def _is_hour(partition: str) -> bool:
    return partition.count("/") == 1 and hour_of(partition) is not None
