"""Where compilers and plots may keep files.

Containers often have no home, a project folder that is read-only, and a user id that no passwd file
knows. numba refuses to import functions with `cache=True` there ("no locator available"), and
matplotlib warns. `prepare` names other places before either is imported; what a person has set
(NUMBA_CACHE_DIR, MPLCONFIGDIR) stays.

What numba keeps has a folder of its own for each state of the sources. numba compiles a function
again when its own file has changed, and does not notice a change in a function or a constant of
another file that is compiled into it.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from hashlib import blake2b
from pathlib import Path

NUMBA, MATPLOTLIB = "NUMBA_CACHE_DIR", "MPLCONFIGDIR"
#: A folder of numba's begins with this, then come the sources' digest.
_STATE = "sources-"
_IMPORTED = re.compile(r"^\s*(?:from|import)\s+([\w.]+)", re.MULTILINE)
#: A folder to which nothing was added for so long is of sources that nobody runs.
_OLD_S = 7 * 86_400.0


def prepare(sources: Path) -> None:
    """Sets NUMBA_CACHE_DIR and MPLCONFIGDIR in this process's environment, where that is needed.

    `sources`: a folder with modules that numba compiles; their cache is beside them if that can be
    written. Processes that are started from this one inherit the choice.
    """
    place = Path(os.environ.get(NUMBA) or _beside(sources))
    if place.name.startswith(_STATE):
        place = place.parent  # a process that started this one has chosen it
    folder = place / (_STATE + _digest(sources))
    if not folder.exists():
        _remove_old(place)
    os.environ[NUMBA] = str(folder)
    _tell_numba(os.environ[NUMBA])
    if MATPLOTLIB not in os.environ and not _may_write(_config_home() / "matplotlib"):
        os.environ[MATPLOTLIB] = str(_folder() / "matplotlib")


def _beside(sources: Path) -> Path:
    beside = sources / "__pycache__"
    return beside if _may_write(beside) else _folder() / "numba"


def _digest(sources: Path) -> str:
    """Of the modules that numba compiles, and of all that these import from the same folder."""
    contents = {path: path.read_bytes() for path in sources.rglob("*.py")}
    due = [path for path, content in contents.items() if b"njit" in content]
    compiled = set(due)
    while due:
        for name in _IMPORTED.findall(contents[due.pop()].decode()):
            module = Path(*name.split(".")).with_suffix(".py")
            imported = {sources.parent / module, sources / module} & contents.keys() - compiled
            compiled |= imported
            due += imported
    found = blake2b(digest_size=8)
    for path in sorted(compiled):
        found.update(f"{path.relative_to(sources)} {len(contents[path])}\n".encode())
        found.update(contents[path])
    return found.hexdigest()


def _remove_old(place: Path) -> None:
    """What other states of the sources have left, unless somebody may still use it."""
    for old in place.glob(f"{_STATE}*"):
        try:
            if time.time() - old.stat().st_mtime > _OLD_S:
                shutil.rmtree(old, ignore_errors=True)
        except OSError:
            continue  # another process removes it, too


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
