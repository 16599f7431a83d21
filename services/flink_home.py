"""Where the distribution of Flink is that the wheel of ``apache-flink`` holds."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def flink_home() -> Path:
    """The folder with its ``bin``, ``conf``, ``lib``, ``opt`` and ``plugins``.

    Raises:
        FileNotFoundError: if the wheel is not installed here.
    """
    spec = find_spec("pyflink")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("apache-flink is not installed here; run `make setup`")
    return Path(spec.origin).parent
