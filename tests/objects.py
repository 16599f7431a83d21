"""An object store for a test, and files of this disk as objects in it. A file that is put into the
folder of the store's server is none: it has no tag, and Flink's file system for S3 refuses to read
it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from configuration.stores import StorePath
from services.object_store import ObjectStore

BUCKET = "stitch"


@contextmanager
def serving(folder: Path) -> Iterator[ObjectStore]:
    """A server with the empty bucket, in which this process is allowed."""
    with ObjectStore(folder) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        server.make_bucket(BUCKET)
        yield server


def upload(folder: Path, place: StorePath) -> None:
    """All files below a folder, under the same names below `place`."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            (place / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())
