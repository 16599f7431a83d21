"""Files that are whole or not there: a reader sees the old one or the new, after a crash too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when it is complete and on the disk. Raises OSError.

    Its name lasts once the folder is flushed (`sync`).
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace(path: Path, data: bytes) -> None:
    """`data` as all of a file, which lasts when this returns. Raises OSError."""
    with replacing(path) as file:
        file.write(data)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Flushes a folder: the names in it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
