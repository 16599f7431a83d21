"""What outlives a loss of power."""

from __future__ import annotations

import os
from pathlib import Path


def flush_names(folder: Path) -> None:
    """What is done in a folder afterwards is not on the disk before the names that it has now.

    Raises OSError.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
