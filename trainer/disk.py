"""Files that are whole or not there: a reader sees the old one or the new, after a crash too.

They are on a disk or in an object store, where an object is whole or not there by itself.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from configuration import durable, output_lock, store_lock
from configuration.store_requests import StoreError
from configuration.stores import Folder, StorePath

_ADVICE = {
    errno.ENOSPC: "free some space there, or set output.path to another disk",
    errno.EDQUOT: "the quota is used up: free some of it, or set output.path to another disk",
    errno.EROFS: "the file system is read-only: set output.path to one that is not",
    errno.EACCES: "this user may not write there: change the permissions, or set output.path",
}


class WriteError(OSError):
    """A file could not be written; the message has its path, why, and what to do."""


class LockedError(Exception):
    """Another process uses the folder; the message says which, and what to do."""


@contextmanager
def naming(path: Folder) -> Iterator[None]:
    """Errors of the system in here become `WriteError`s with the path.

    Of a full disk the system says neither: an error in `write` has no file name.
    """
    try:
        yield
    except WriteError:
        raise
    except StoreError as error:
        raise WriteError(str(error)) from error
    except OSError as error:
        why = error.strerror or str(error)
        advice = _ADVICE.get(error.errno or 0)
        raise WriteError(f"{path}: {why}{f'; {advice}' if advice else ''}") from error


@contextmanager
def replacing(path: Folder) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when it is complete and on the disk.

    Its name lasts once the folder is flushed (`sync`). Raises WriteError; `path` is what it was
    then.
    """
    if isinstance(path, StorePath):
        with naming(path), tempfile.TemporaryFile() as local:
            yield local
            local.seek(0)
            path.write_from(local)
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with naming(path):
        try:
            with temporary.open("w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def replace(path: Folder, data: bytes) -> None:
    """`data` as all of a file, which lasts when this returns. Raises WriteError."""
    with replacing(path) as file:
        file.write(data)
    with naming(path.parent):
        sync(path.parent)


def sync(folder: Folder) -> None:
    """Flushes a folder: the names in it. Raises OSError."""
    if isinstance(folder, StorePath):
        return  # an object lasts when the store has answered
    durable.flush_names(folder)


@contextmanager
def locked(folder: Folder) -> Iterator[None]:
    """Holds a folder for this process alone, and makes it if it is not there.

    The lock is the file `.lock` in it (see `configuration.output_lock`, and `store_lock` for an
    object store). Raises LockedError if another process has it, WriteError if the folder cannot be
    written to.
    """
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = store_lock.take_either(folder / ".lock")
        except output_lock.HeldError as holder:
            raise LockedError(
                f"{folder} is in use by another trainer ({holder}): stop that one, or set"
                " another output.path"
            ) from None
    with lock:
        yield
