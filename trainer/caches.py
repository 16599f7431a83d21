"""Where compilers and plots may keep files, when the usual places cannot be written to.

Containers often have no home, a project folder that is read-only, and a user id that no passwd file
knows. numba refuses to import functions with `cache=True` there ("no locator available"), and
matplotlib warns. `prepare` names other places before either is imported; what a person has set
(NUMBA_CACHE_DIR, MPLCONFIGDIR) stays.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

NUMBA, MATPLOTLIB = "NUMBA_CACHE_DIR", "MPLCONFIGDIR"


def prepare(sources: Path) -> None:
    """Sets NUMBA_CACHE_DIR and MPLCONFIGDIR in this process's environment, where that is needed.

    `sources`: a folder with modules that numba compiles; their cache is beside them if that can be
    written. Processes that are started from this one inherit the choice.
    """
    if NUMBA not in os.environ and not _may_write(sources / "__pycache__"):
        os.environ[NUMBA] = str(_folder() / "numba")
        _tell_numba(os.environ[NUMBA])
    if MATPLOTLIB not in os.environ and not _may_write(_config_home() / "matplotlib"):
        os.environ[MATPLOTLIB] = str(_folder() / "matplotlib")


def _tell_numba(folder: str) -> None:
    """It reads the environment when it is imported, which somebody may have done before."""
    numba = sys.modules.get("numba")
    if numba is not None:
        numba.config.CACHE_DIR = folder


def _config_home() -> Path:
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and a user id that is not in the passwd file
        return Path(os.devnull)
    return Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")


def _may_write(folder: Path) -> bool:
    """Tried, not looked up: permissions do not tell of a file system that is read-only."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _folder() -> Path:
    """A folder under the temporary one that only this user can write to.

    It is kept for the next run. numba unpickles what is in it, so a folder that somebody else made
    under this name is not used: there is one for this process alone then, removed when it ends.
    """
    shared = Path(tempfile.gettempdir()) / f"sample-stitch-{os.getuid()}"
    try:
        shared.mkdir(mode=0o700, exist_ok=True)
        about = shared.lstat()
        mine = stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid()
        if mine and not about.st_mode & 0o022 and _may_write(shared):
            return shared
    except OSError:
        pass
    own = Path(tempfile.mkdtemp(prefix="sample-stitch-"))
    owner = os.getpid()
    # not in a child that was forked from this process

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(own, ignore_errors=True)

    atexit.register(remove)
    return own
