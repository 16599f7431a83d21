"""Small disks of memory (tmpfs) that can be filled up."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from pathlib import Path

_BALLAST = "_ballast"
_CHUNK = 1 << 20


class Disk:
    """A folder that is a file system of its own, of `megabytes`."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        """Mount it. Raises OSError without the right to."""
        if os.geteuid() != 0:
            raise OSError("small disks need root")
        folder.mkdir(parents=True)
        words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "chaos", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(done.stderr.strip())
        self.folder = folder

    def fill(self) -> None:
        """Leave not a byte free."""
        with (self.folder / _BALLAST).open("wb", buffering=0) as ballast:
            size = _CHUNK
            while size:
                try:
                    written = ballast.write(b"\0" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    written = 0
                # a write that was cut short is the last that fits of this size
                size = size if written == size else size // 2

    def free(self) -> None:
        """Give the space back."""
        (self.folder / _BALLAST).unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it; what is on it is gone."""
        with contextlib.suppress(OSError):
            subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=False)
