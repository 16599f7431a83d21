"""Chunks that the workers on one machine share: one of them decodes and encodes, the others map it.

The first worker that needs a chunk takes its lock, makes the chunk, and copies it into memory that
has no name in any file system (`memfd_create`). Last of all it makes a link, in a folder that the
workers share, to this memory as /proc shows it. Others open the link and map the memory. So

* memory goes with the processes that use it, also when all of them are killed at once, and needs no
  room on /dev/shm;
* what a killed worker has not finished has no link, and its lock is released by the kernel, so
  another worker makes the chunk;
* the link of a killed worker leads nowhere: who finds it makes the chunk, and replaces the link.

A worker keeps the last `KEPT` chunks that it has made. One that comes too late for a chunk makes it
again. Where all this is not possible (no Linux, no memory, a folder that cannot be written to) each
worker makes its own chunks, as if it were alone.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from trainer.features.chunk import Chunk
from trainer.features.encode import Encoder
from trainer.features.packing import packed, unpacked
from trainer.reading.ledger import Entry

#: The name of a folder that is to be in each machine's temporary folder begins with this.
PREFIX = "stitch-shared-"
#: How many of the chunks that it has made a worker keeps for others.
KEPT = 3
#: Seconds that a worker waits for another one to make a chunk; then it makes the chunk itself.
WAIT_S = 5.0
_LOOK_S = 0.001
#: Chunks with the same number here are made one after the other.
_LOCKS = 16
#: The file that every worker has locked (shared) as long as it uses the folder.
_IN_USE = "in-use"
#: Seconds for which a folder that is just being made is safe from others.
_YOUNG_S = 60.0

_Make = Callable[[Entry, int], Chunk]
_log = logging.getLogger(__name__)


class SharedChunks:
    """`make`: makes chunk number `index` of a file. `encoder`: the one that `make` uses.

    `folder`: the same for all workers of the run on a machine; relative to the temporary folder.
    """

    def __init__(self, make: _Make, encoder: Encoder, folder: str) -> None:
        self._make, self._encoder = make, encoder
        self._folder = Path(tempfile.gettempdir()) / folder
        #: Locks that were waited for in vain: a worker that hangs is waited for once.
        self._vain: set[int] = set()
        self._kept: deque[tuple[Path, int]] = deque()
        self._in_use: BinaryIO | None = None
        self._works = self._begin()

    def __call__(self, entry: Entry, index: int) -> Chunk:
        """The chunk. Raises what `make` raises. Not for several threads at once."""
        if not self._works:
            return self._make(entry, index)
        name, number = _named(entry, index)
        try:
            lock = (self._folder / f"lock-{number}").open("wb")
        except OSError as error:
            self._give_up(error)
            return self._make(entry, index)
        end = time.monotonic() + (0.0 if number in self._vain else WAIT_S)
        with lock:
            while True:
                locked = _try_to_lock(lock)
                # looked for after that, because it may have been made just before the lock was free
                found = self._opened(name)
                if found is not None:
                    return found
                if locked:
                    self._vain.discard(number)
                    return self._published(name, self._make(entry, index))
                if time.monotonic() > end:
                    self._vain.add(number)
                    return self._make(entry, index)
                time.sleep(_LOOK_S)

    def _opened(self, name: str) -> Chunk | None:
        try:
            # what a stale link leads to may be a pipe, which must not be waited for
            file = os.open(self._folder / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            # copied where it is written to, which nobody does: so no worker can change another's
            memory = mmap.mmap(file, 0, access=mmap.ACCESS_COPY)
            return unpacked(memory, name, self._encoder)
        except (OSError, ValueError):
            return None
        finally:
            os.close(file)

    def _published(self, name: str, chunk: Chunk) -> Chunk:
        """The chunk, for all workers from now on."""
        path = self._folder / name
        try:
            file = os.memfd_create(name, os.MFD_CLOEXEC)
            try:
                # written, because that is faster than to map new memory and copy into it
                with open(file, "wb", closefd=False) as memory:
                    memory.writelines(packed(chunk, name))
                hidden = path.with_suffix(".new")
                hidden.unlink(missing_ok=True)
                hidden.symlink_to(_link_to(file))
                hidden.replace(path)
            except BaseException:
                os.close(file)
                raise
        except OSError as error:
            self._give_up(error)
            return chunk
        self._kept.append((path, file))
        while len(self._kept) > KEPT:
            self._drop(*self._kept.popleft())
        return self._opened(name) or chunk

    @staticmethod
    def _drop(path: Path, file: int) -> None:
        try:
            if str(path.readlink()) == _link_to(file):
                path.unlink()
        except OSError:
            pass  # the folder is gone, or another worker has made the chunk again
        os.close(file)

    # -- the folder --------------------------------------------------------------------------------

    def _begin(self) -> bool:
        if not hasattr(os, "memfd_create"):
            self._give_up(OSError("this system has no memfd_create"))
            return False
        try:
            remove_abandoned()
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # raises PermissionError if the folder is another user's
            self._folder.chmod(0o700)
            self._in_use = (self._folder / _IN_USE).open("wb")
            fcntl.flock(self._in_use, fcntl.LOCK_SH)
        except OSError as error:
            self._give_up(error)
            return False
        return True

    def _give_up(self, error: OSError) -> None:
        self._works = False
        _log.warning(
            "samples are decoded by each worker for itself, as they cannot be shared: %s", error
        )

    def close(self) -> None:
        """Leave the folder. Chunks that were given out can be used on."""
        while self._kept:
            self._drop(*self._kept.popleft())
        if self._in_use is not None:
            self._in_use.close()
        self._works = False


def remove_abandoned() -> None:
    """Remove folders of runs on a Ray cluster whose workers on this machine have all ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            about = folder.stat()
            if about.st_uid != os.getuid() or time.time() - about.st_mtime < _YOUNG_S:
                continue
            with (folder / _IN_USE).open("r+b") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, or gone meanwhile


def _link_to(file: int) -> str:
    return f"/proc/{os.getpid()}/fd/{file}"


def _try_to_lock(lock: BinaryIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _named(entry: Entry, index: int) -> tuple[str, int]:
    """A name for the chunk, and the number of its lock: chunks that follow each other in a file
    have different ones.
    """
    of_file = blake2b(f"{entry.path}:{entry.size}:{entry.rows}".encode(), digest_size=8).hexdigest()
    return f"{of_file}-{index}", (int(of_file, 16) + index) % _LOCKS
