"""One process at a time on an output: the lock that a join and a trainer take on theirs.

The lock is the operating system's (flock) on an open file, so it is gone with the process, however
that ends, and a file that is left over locks nothing. It is between processes of one machine;
between machines only where the shared file system has such locks.
"""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import BinaryIO


class HeldError(Exception):
    """Another process holds the lock; the message is which, as it wrote itself down."""


def take(path: Path) -> BinaryIO:
    """Lock the file `path` for this process, until what is returned is closed.

    The file is made if need be, its folder is not. It stays: deleting it would let two processes
    lock two files of one name. Raises HeldError when another process has the lock, and OSError when
    the file cannot be opened or written to. On a file system without locks there is none.
    """
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HeldError(file.read(200).decode(errors="replace").strip() or "unknown") from None
        except OSError:
            return file  # some network file systems have no locks
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    except BaseException:
        file.close()
        raise
    return file
