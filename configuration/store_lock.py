"""One process at a time on an output in an object store: a lease, which its holder renews.

The lock is an object. It is made only if it is not there, and replaced only if it is still the one
that was seen (`If-None-Match`, `If-Match`), so of two processes that want it one gets it. A holder
that was killed cannot delete it: who comes next watches it for as long as a lease lasts, and takes
it over if it was not renewed. No clocks are compared. A store that ignores these conditions has no
lock.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import BinaryIO

from configuration import output_lock
from configuration.output_lock import HeldError
from configuration.store_requests import AlreadyThereError, StoreError
from configuration.stores import Folder, StorePath

#: After so many seconds without a renewal, the holder is taken for dead.
LEASE_S = 30.0
_LOOK_S = 1.0
#: The holder stops before others may take it for dead, by this share of a lease.
_GIVE_UP = 2 / 3

_log = logging.getLogger(__name__)


class Lease:
    """The lock, held until `close`. In a `with` it is given back at the end."""

    def __init__(self, path: StorePath, lease_s: float, lost: Callable[[], None]) -> None:
        self._path, self._lease_s, self._lost = path, lease_s, lost
        self._owner = f"process {os.getpid()} on {socket.gethostname()} ({uuid.uuid4().hex})"
        self._tag: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)

    def made(self) -> bool:
        """Make the lock; whether there was none."""
        try:
            self._tag = self._path.create(self._mark())
        except AlreadyThereError:
            return self._is_mine_after_all()
        return True

    def took_over(self, tag: str | None) -> bool:
        """Take over the lock that has this tag; whether it still had it."""
        if tag is None:
            return False
        try:
            self._tag = self._path.replace_if(tag, self._mark())
        except AlreadyThereError:
            return self._is_mine_after_all()
        return True

    def start(self) -> Lease:
        """Renew it from now on."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Give it back, if it is still this process's."""
        self._ended.set()
        self._thread.join()
        try:
            if self._is_mine_after_all():
                self._path.unlink()
        except OSError as error:
            _log.warning(f"the lock was left behind; it ends by itself ({error})")

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _mark(self) -> bytes:
        """Another text every time: so the tag is another, too."""
        return f"{self._owner} {uuid.uuid4().hex}\n".encode()

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._ended.wait(self._lease_s / 6):
            try:
                if self.took_over(self._tag):
                    renewed = time.monotonic()
                else:
                    self._end("another process has taken it")
                    return
            except OSError as error:
                if time.monotonic() - renewed > self._lease_s * _GIVE_UP:
                    self._end(str(error))
                    return

    def _is_mine_after_all(self) -> bool:
        """Whether it was made or renewed, and only the answer was lost."""
        try:
            tag, text = self._path.stat().tag, self._path.read_text()
        except FileNotFoundError:
            return False
        if not text.startswith(self._owner):
            return False
        self._tag = tag
        return True

    def _end(self, why: str) -> None:
        _log.error(f"{self._path}: the lock of this output is lost ({why}); stopping")
        self._lost()


def take(
    path: StorePath,
    lease_s: float = LEASE_S,
    lost: Callable[[], None] | None = None,
) -> Lease:
    """Lock the object `path` for this process.

    `lost` is called, in another thread, when the lease could not be renewed. By default the process
    gets two SIGTERM, which the join and the trainer take for a stop at once: what is unsaved stays
    so. Takes up to `lease_s` when there is a lock already.

    Raises HeldError when another process has it; the message is which. Raises StoreError.
    """
    lease = Lease(path, lease_s, lost or _stop_at_once)
    end = time.monotonic() + lease_s
    seen: str | None = None
    while True:
        try:
            if lease.made():
                break
            tag, text = path.stat().tag, path.read_text()
        except FileNotFoundError:
            continue  # given back meanwhile
        except StoreError:
            if time.monotonic() >= end:
                raise
            time.sleep(lease_s / 30)
            continue
        if seen not in (None, tag):
            raise HeldError(text.split(" (")[0])
        seen = tag
        if time.monotonic() >= end:
            if not lease.took_over(tag):
                raise HeldError(text.split(" (")[0])
            break
        time.sleep(min(_LOOK_S, lease_s / 6))
    return lease.start()


def take_either(path: Folder) -> BinaryIO | Lease:
    """Lock a file, by `output_lock.take`, or an object, by `take`."""
    return take(path) if isinstance(path, StorePath) else output_lock.take(path)


def _stop_at_once() -> None:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
