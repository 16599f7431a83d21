"""Which files an archive has of a source, and how they are opened: on a disk, on `s3://`, or on
another file system that Arrow knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from pyarrow import fs

from configuration.store_requests import ObjectStorageSection
from configuration.stores import StorePath, is_stored
from jobs.pipeline.config import ArchiveSource, ConfigError, NamedSource, hour_ms

_FILE = re.compile(r"dt=(\d{4}-\d\d-\d\d)/hr=(\d\d)/([^/]+)")

#: Opens a file by its name below the folder.
Open = Callable[[str], AbstractContextManager[Any]]


@dataclass(frozen=True)
class ArchiveFile:
    """A file below the folder of its source; its hour as epoch ms."""

    name: str
    hour: int
    size: int


@dataclass(frozen=True)
class Listing:
    """The data files of a source by name, and the hours (epoch ms) that have a `_SUCCESS`.

    `open` gives a binary file that can be sought in. It raises OSError.
    """

    folder: str
    files: tuple[ArchiveFile, ...]
    complete: frozenset[int]
    open: Open = field(repr=False, compare=False)


def folder_of(source: NamedSource) -> str:
    """Where the archive has the records of a source."""
    return f"{archive_of(source).path.rstrip('/')}/{source.id}"


def archive_of(source: NamedSource) -> ArchiveSource:
    """The source, which is known to be an archive."""
    assert isinstance(source.source, ArchiveSource)
    return source.source


def listed(source: NamedSource, store: ObjectStorageSection) -> Listing:
    """What the folder of a source has, whatever the range of the source. It may have nothing.

    `store`: the service of `s3://`. Raises ConfigError when it cannot be listed.
    """
    folder = folder_of(source)
    files: list[ArchiveFile] = []
    complete: set[int] = set()
    try:
        names, opened = _stored(folder, store) if is_stored(folder) else _of_arrow(folder)
        for name, size in names:
            named = _FILE.fullmatch(name)
            if named is None:
                continue
            hour = hour_ms(f"{named[1]}T{named[2]}")
            if named[3] == "_SUCCESS":
                complete.add(hour)
            elif named[3].endswith(".parquet") and named[3][0] not in "._":
                files.append(ArchiveFile(name, hour, size))
    except (OSError, ValueError) as error:
        raise ConfigError(f"sources.{source.key}.path: {folder}: {error}") from None
    files.sort(key=lambda file: file.name)
    return Listing(folder, tuple(files), frozenset(complete), opened)


def _stored(folder: str, store: ObjectStorageSection) -> tuple[Iterator[tuple[str, int]], Open]:
    root = StorePath(folder, store)
    names = ((name, status.st_size) for name, status in root.walk())
    return names, lambda name: (root / name).open()


def _of_arrow(folder: str) -> tuple[Iterator[tuple[str, int]], Open]:
    """A path, or a URI that Arrow knows."""
    system, root = (
        fs.FileSystem.from_uri(folder) if "://" in folder else (fs.LocalFileSystem(), folder)
    )
    found = system.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
    names = (
        (info.path.removeprefix(root).lstrip("/"), info.size)
        for info in found
        if info.type == fs.FileType.File
    )
    return names, lambda name: system.open_input_file(f"{root}/{name}")
