"""Folders that are local or belong to one of Flink's file systems: list, read, write, delete.

A place is an absolute path, or a URI such as `s3://bucket/folder`. Paths are read with Python. URIs
go through the file systems that Flink has in this process, so they need a running JVM. What runs no
Flink itself names a place by a `configuration.stores.Folder`, which knows its service.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configuration import durable
from configuration.stores import Folder, StorePath


class PlaceError(Exception):
    """A place cannot be looked at, or changed, from here. One line."""


@dataclass(frozen=True)
class Entry:
    """A file or folder in a place. `modified_ms`: epoch ms; `size`: bytes, 0 for a folder."""

    place: str
    name: str
    is_folder: bool
    modified_ms: int
    size: int


def is_uri(place: str) -> bool:
    """Whether Flink has to look at it, and not Python."""
    return "://" in place


def below(place: str, *names: str) -> str:
    """The place of something inside of `place`."""
    return "/".join((place.rstrip("/"), *names))


def as_uri(place: str) -> str:
    """As Flink's options want it: a local path gets the scheme `file`.

    Nothing is percent-encoded, for Flink decodes nothing: a space stays a space.
    """
    return place if is_uri(place) else f"file://{Path(place).absolute()}"


def from_uri(uri: str) -> str:
    """The other way: the path that a URI of the scheme `file` stands for; others stay."""
    if not uri.startswith("file:/"):
        return uri
    path = uri.removeprefix("file:")
    return "/" + path.lstrip("/") if not path.startswith("//") or path.startswith("///") else uri


def entries(place: str) -> list[Entry]:
    """What is in a folder, by name; nothing if there is no such folder. Raises PlaceError."""
    found = _flink_entries(place) if is_uri(place) else _local_entries(Path(place))
    return sorted(found, key=lambda entry: entry.name)


def bytes_in(folder: Path, pattern: str) -> int:
    """The bytes of the files that match, without those that get another name while it looks."""
    size = 0
    with suppress(OSError):
        for file in folder.glob(pattern):
            with suppress(OSError):
                size += file.stat().st_size
    return size


def read(place: str | Folder) -> bytes | None:
    """The bytes of a small file, or None if there is no such file.

    Raises PlaceError; StoreError for an object.
    """
    if isinstance(place, StorePath):
        try:
            return place.read_bytes()
        except FileNotFoundError:
            return None
    if isinstance(place, str) and is_uri(place):
        with _flink(place) as (system, path):
            if not system.exists(path):
                return None
            stream = _unless_missing(system.open, path)
            if stream is None:
                return None
            try:
                return bytes(stream.readAllBytes())
            finally:
                stream.close()
    try:
        return Path(place).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PlaceError(f"{place}: {error.strerror or error}") from None


def write(place: str | Folder, data: bytes) -> None:
    """Replace a small file, and make its folder if there is none.

    Raises PlaceError; StoreError for an object.
    """
    if isinstance(place, StorePath):
        place.write_bytes(data)
        return
    if isinstance(place, str) and is_uri(place):
        with _flink(place) as (system, path):
            modes = _jvm().org.apache.flink.core.fs.FileSystem.WriteMode
            stream = system.create(path, modes.OVERWRITE)
            stream.write(data)
            stream.close()
        return
    path, partial = Path(place), Path(f"{place}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or the name may outlive a loss of power, and the data not
        partial.replace(path)
        durable.flush_names(path.parent)
    except OSError as error:
        raise PlaceError(f"{place}: {error.strerror or error}") from None


def delete(place: str | Folder) -> None:
    """Delete a file, or a folder with all that is in it, if it is there.

    Another process may delete the same at the same time, as Flink does with the checkpoints of a
    job that ended. Raises PlaceError; StoreError for an object.
    """
    if isinstance(place, StorePath):
        if place.is_dir():
            place.remove_all()
        else:
            place.unlink()
        return
    if isinstance(place, str) and is_uri(place):
        with _flink(place) as (system, path):
            if system.exists(path):
                system.delete(path, True)
        return
    path = Path(place)
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, onerror=_unless_gone)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise PlaceError(f"{place}: {error.strerror or error}") from None


def _unless_gone(_function: object, _path: str, error: Any) -> None:
    """Raises the error that `rmtree` met, unless another had deleted it first."""
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


def _local_entries(folder: Path) -> Iterator[Entry]:
    try:
        if not folder.is_dir():
            return
        with os.scandir(folder) as listed:
            found = list(listed)
        for path in found:
            try:
                status = _status(path)
            except FileNotFoundError:
                continue  # deleted while the others were listed
            is_folder = stat.S_ISDIR(status.st_mode)
            yield Entry(
                path.path,
                path.name,
                is_folder,
                int(status.st_mtime * 1000),
                0 if is_folder else status.st_size,
            )
    except FileNotFoundError:
        return  # the folder itself was deleted
    except OSError as error:
        raise PlaceError(f"{folder}: {error.strerror or error}") from None


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    """That of what a link leads to; of a link that leads nowhere, its own. Raises OSError."""
    try:
        return entry.stat()
    except OSError:
        if not entry.is_symlink():
            raise
        return entry.stat(follow_symlinks=False)


def _flink_entries(place: str) -> Iterator[Entry]:
    with _flink(place) as (system, path):
        if not system.exists(path):
            return
        for status in _unless_missing(system.listStatus, path) or ():
            inner = status.getPath()
            yield Entry(
                below(place, inner.getName()),
                inner.getName(),
                status.isDir(),
                status.getModificationTime(),
                0 if status.isDir() else status.getLen(),
            )


@contextmanager
def _flink(place: str) -> Iterator[tuple[Any, Any]]:
    """Flink's file system of a URI and the path in it. What it raises becomes a PlaceError."""
    try:
        path = _jvm().org.apache.flink.core.fs.Path(place)
        yield path.getFileSystem(), path
    except Exception as error:
        raise _place_error(place, error) from None


def _unless_missing(look: Callable[[Any], Any], path: Any) -> Any:
    """What the JVM sees at a path; None if that was deleted since it was last looked at."""
    try:
        return look(path)
    except Exception as error:
        java = getattr(error, "java_exception", None)
        if java is None or "FileNotFoundException" not in java.getClass().getName():
            raise
        return None


def _place_error(place: str, error: Exception) -> PlaceError:
    # Py4J: the first line is its own, the second the exception of the JVM
    java = getattr(error, "java_exception", None)
    text = str(error) if java is None else java.getMessage() or java.toString()
    return PlaceError(f"{place}: {text.strip().splitlines()[0]}")


def _jvm() -> Any:
    from pyflink.java_gateway import get_gateway

    return get_gateway().jvm
