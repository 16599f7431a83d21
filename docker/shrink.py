"""Takes out of an environment what nothing loads at run time, and compiles the rest.

    python docker/shrink.py .venv

Packages bring their tests, headers and static libraries. What is compiled is not checked against
its source at run time (the image does not change), so it is the same in each build, and nothing has
to be written when a container starts.
"""

from __future__ import annotations

import compileall
import py_compile
import shutil
import sys
from pathlib import Path

#: Folders, by name. Files: by the end of their names.
FOLDERS = ("__pycache__", "tests", "include")
FILES = (".a", ".pyi", ".pyx", ".pxd", ".c", ".h", ".hpp", ".cc")


def shrink(environment: Path) -> None:
    """Remove and compile, below ``lib`` of an environment."""
    (packages,) = (environment / "lib").glob("python*/site-packages")
    for path in sorted(packages.rglob("*"), reverse=True):
        if path.is_symlink():
            continue
        if path.is_dir() and path.name in FOLDERS:
            shutil.rmtree(path)
        elif path.is_file() and path.name.endswith(FILES):
            path.unlink()
    # The time of the build, which would make each image another.
    for note in packages.glob("*.dist-info/uv_cache.json"):
        note.unlink()
        note.with_name("RECORD").unlink()
    compileall.compile_dir(
        packages, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )


if __name__ == "__main__":
    shrink(Path(sys.argv[1]))
