"""What the operators on the JVM run of Python when they open (udfs/jvm/*Batches.java)."""

from __future__ import annotations

import gc
import pickle
from typing import Any


class _Reader:
    """A `udfs.core.join_batches.Reader` over the JVM's, whose arrays become bytes."""

    def __init__(self, java: Any) -> None:
        self._java = java

    def entry(self, key: str, name: str) -> bytes | None:
        stored = self._java.entry(key, name)
        return None if stored is None else bytes(stored)

    def entries(self, key: str) -> bytes:
        return bytes(self._java.entries(key))

    def log(self, key: str) -> bytes:
        return bytes(self._java.log(key))


def opened(pickled: bytes, reader: Any = None) -> Any:
    """The host that was pickled where the job was submitted, opened.

    A host has `open`, which takes the reader if there is one, and `run`, which takes a batch and
    returns the reply, both as bytes.
    """
    host = pickle.loads(bytes(pickled))
    if reader is None:
        host.open()
    else:
        host.open(_Reader(reader))
    _calm_collector()
    return host


def _calm_collector() -> None:
    """Python's collector of cycles looks through all objects again and again, while what a batch
    makes has no cycles and goes with it. So what is there now is not looked through any more, and a
    look is taken seldom. All hosts of a process share one interpreter: what is frozen is released
    first, for hosts that are gone after a restart must not stay in memory.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
