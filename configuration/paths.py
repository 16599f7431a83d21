"""Paths that a configuration file names: relative to the file, and any name is legal.

A source's path may be a glob. It is kept as a pattern, in which the folders above it are escaped,
so a `[` in the name of a folder is never taken for a wildcard. `shown` is for messages.
"""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path


def beside(file: Path, text: str) -> str:
    """The absolute path of `text`, which is relative to `file`; a URI (`s3://…`) stays as it is.

    Raises ValueError for text that is no path.
    """
    return text if "://" in text else str(_resolved(file, text))


def pattern_beside(file: Path, text: str) -> str:
    """An absolute glob for `text`, a file, a folder or a glob relative to `file`.

    What exists under exactly this name is meant literally, even if it looks like a glob.
    Raises ValueError for text that is no path.
    """
    whole = _resolved(file, text)
    if os.path.lexists(whole) or not glob.has_magic(text):
        return glob.escape(str(whole))
    parts = Path(text).parts
    literal = 0
    while literal < len(parts) and not glob.has_magic(parts[literal]):
        literal += 1
    above = _resolved(file, str(Path(*parts[:literal])))
    return str(Path(glob.escape(str(above)), *parts[literal:]))


def is_literal(pattern: str) -> bool:
    """Whether the glob can only match one name."""
    return not glob.has_magic(re.sub(r"\[[*?[]\]", "", pattern))


def shown(pattern: str) -> str:
    """The glob as a person would write it."""
    return re.sub(r"\[([*?[])\]", r"\1", pattern)


def _resolved(file: Path, text: str) -> Path:
    if "\0" in text:
        raise ValueError("a path cannot hold a NUL character")
    try:
        return (file.parent / Path(text).expanduser()).resolve()
    except RuntimeError as error:
        raise ValueError(f"{text}: {error}") from None
