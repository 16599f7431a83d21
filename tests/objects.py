"""Files of this disk as objects. A file that is put into the folder of the store's server is none:
it has no tag, and Flink's file system for S3 refuses to read it.
"""

from __future__ import annotations

from pathlib import Path

from configuration.stores import StorePath


def upload(folder: Path, place: StorePath) -> None:
    """All files below a folder, under the same names below `place`."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            (place / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())
