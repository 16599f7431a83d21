"""Jars by Maven coordinates and SHA-256, without a POM and without Maven.

``pom-free/jars.toml`` says what the project asks for, ``pom-free/jars.lock.toml``
what that amounts to: every jar of the closure with its SHA-256. ``fetch`` reads
the lock only, so it downloads exactly what is written there and resolves nothing.

    python -m services.jars fetch flink kafka
    python -m services.jars lock
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

POM_FREE = Path(__file__).resolve().parents[1] / "pom-free"
REPOSITORY_VARIABLE = "SAMPLE_STITCH_MAVEN_REPOSITORY"

_PARALLEL_DOWNLOADS = 4
_ATTEMPTS = 3
_TIMEOUT_S = 60

# (bytes so far of this file, its size) is told to whoever draws the progress.
ProgressFactory = Callable[[str, int], contextlib.AbstractContextManager[Callable[[int], None]]]


class JarError(Exception):
    """A jar is missing, could not be fetched, or is not the one that was locked."""


@dataclass(frozen=True, order=True)
class Coordinate:
    """One jar in a Maven repository, without a classifier."""

    group: str
    artifact: str
    version: str

    @classmethod
    def parse(cls, text: str) -> Coordinate:
        """Read ``group:artifact:version``.

        Raises:
            JarError: if the text has another form.
        """
        parts = text.split(":")
        if len(parts) != 3 or not all(parts):
            raise JarError(f"{text!r} is not of the form group:artifact:version")
        return cls(*parts)

    @property
    def file_name(self) -> str:
        """The jar's name, as Maven repositories have it."""
        return f"{self.artifact}-{self.version}.jar"

    @property
    def repository_path(self) -> Path:
        """Where a Maven repository, local or remote, keeps the jar."""
        return Path(*self.group.split("."), self.artifact, self.version, self.file_name)

    def __str__(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"


@dataclass(frozen=True)
class LockedJar:
    """A jar and the SHA-256 (hex) that its bytes must have."""

    coordinate: Coordinate
    sha256: str


# Puts the jar somewhere below the given folder and returns its path.
Download = Callable[[Coordinate, Path], Path]


def read_requested(pom_free: Path = POM_FREE) -> dict[str, dict[str, Any]]:
    """Return ``jars.toml``: per set its ``jars`` (coordinate, why) and ``exclude``."""
    return tomli.loads((pom_free / "jars.toml").read_text(encoding="utf-8"))


def read_lock(pom_free: Path = POM_FREE) -> dict[str, list[LockedJar]]:
    """Return the locked jars of every set, in the order of the lock.

    Raises:
        JarError: if there is no lock or a coordinate in it is malformed.
    """
    path = pom_free / "jars.lock.toml"
    if not path.exists():
        raise JarError(f"{path} is missing; `make lock` writes it")
    sets = tomli.loads(path.read_text(encoding="utf-8"))
    return {
        name: [LockedJar(Coordinate.parse(text), digest) for text, digest in jars.items()]
        for name, jars in sets.items()
    }


def locked_set(name: str, pom_free: Path = POM_FREE) -> list[LockedJar]:
    """Return the locked jars of one set.

    Raises:
        JarError: if the lock has no set of that name.
    """
    lock = read_lock(pom_free)
    if name not in lock:
        raise JarError(f"no jar set {name!r} in the lock; there are: {', '.join(sorted(lock))}")
    return lock[name]


def jar_paths(name: str, pom_free: Path = POM_FREE) -> list[Path]:
    """Return the paths of a set's jars, all of which exist.

    Raises:
        JarError: if one is missing; the message names it and what to run.
    """
    folder = pom_free / "jars" / name
    paths = [folder / jar.coordinate.file_name for jar in locked_set(name, pom_free)]
    for path in paths:
        if not path.is_file():
            raise JarError(f"{path} is missing; run `make setup`")
    return paths


def is_fetched(name: str, pom_free: Path = POM_FREE) -> bool:
    """Whether the set was fetched from the present lock and its jars are all there."""
    jars = locked_set(name, pom_free)
    folder = pom_free / "jars" / name
    stamp = folder / ".stamp"
    return (
        stamp.is_file()
        and stamp.read_text(encoding="utf-8") == _stamp_of(jars)
        and all((folder / jar.coordinate.file_name).is_file() for jar in jars)
    )


def fetch(name: str, download: Download, pom_free: Path = POM_FREE) -> int:
    """Bring the folder of a set to exactly what the lock says; return how many jars came new.

    A jar is verified before it appears under its name, so a broken connection or
    a kill leaves nothing half-written behind. Jars that are no longer in the lock
    are removed: whoever takes ``*.jar`` from the folder must not get two versions.

    Raises:
        JarError: if a jar cannot be had or has another SHA-256 than the lock says.
    """
    jars = locked_set(name, pom_free)
    folder = pom_free / "jars" / name
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / ".stamp"
    stamp.unlink(missing_ok=True)

    wanted = {jar.coordinate.file_name for jar in jars}
    for path in folder.glob("*.jar"):
        if path.name not in wanted:
            path.unlink()

    missing = [jar for jar in jars if not _is_in_place(jar, folder)]
    # Beside the folder, not in /tmp: a rename needs one file system.
    with (
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as scratch,
        ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as pool,
    ):
        futures = [pool.submit(_fetch_one, jar, folder, Path(scratch), download) for jar in missing]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    stamp.write_text(_stamp_of(jars), encoding="utf-8")
    return len(missing)


def download_with_jgo(progress: ProgressFactory | None = None) -> Download:
    """Return a download that asks jgo for the one artifact, so no POM is read.

    A jar already in the local Maven repository is taken from there. Downloads go
    to the scratch folder and not to the local Maven repository, where a broken
    one would stay and be believed by the next tool that looks.
    """

    def download(coordinate: Coordinate, scratch: Path) -> Path:
        import requests
        from jgo.constants import default_maven_repo
        from jgo.maven import MavenContext, PythonResolver

        local: Path = default_maven_repo() / coordinate.repository_path
        if local.is_file():
            return local
        context = MavenContext(
            resolver=PythonResolver(progress_callback=progress),
            repo_cache=scratch,
            remote_repos=_remote_repositories(),
            timeout=_TIMEOUT_S,
        )
        component = context.project(coordinate.group, coordinate.artifact).at_version(
            coordinate.version
        )
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return Path(component.artifact().resolve())
            except (requests.RequestException, RuntimeError, OSError) as error:
                # jgo refuses to write over a file that an earlier attempt left.
                (scratch / coordinate.repository_path).unlink(missing_ok=True)
                if attempt == _ATTEMPTS or not isinstance(error, requests.RequestException):
                    raise JarError(
                        f"could not fetch {coordinate}: {_short(error)}; check that Maven Central"
                        f" can be reached (or set {REPOSITORY_VARIABLE} to a mirror), then run"
                        " again"
                    ) from error
        raise AssertionError("unreachable")

    return download


def resolve(name: str, pom_free: Path = POM_FREE) -> list[LockedJar]:
    """Resolve a set of ``jars.toml`` to its closure (compile and runtime scope), with SHA-256.

    Reads POMs from the repository, which takes some seconds: for ``make lock`` only.

    Raises:
        JarError: if something in the closure is not a plain jar.
    """
    from jgo.maven import MavenContext, PythonResolver

    requested = read_requested(pom_free)[name]
    if not requested.get("transitive", True):
        return _as_requested([entry["coordinate"] for entry in requested["jars"]])
    excluded = set(requested.get("exclude", ()))
    with tempfile.TemporaryDirectory() as scratch:
        context = MavenContext(
            resolver=PythonResolver(),
            repo_cache=Path(scratch),
            remote_repos=_remote_repositories(),
            timeout=_TIMEOUT_S,
        )
        asked = [context.create_dependency(entry["coordinate"]) for entry in requested["jars"]]
        for dependency in asked:
            # Otherwise jgo lets the version tables of each requested jar's POM rule the
            # others' dependencies: Log4j's would bring an older kafka-clients.
            dependency.raw = True
        inputs, transitive = context.resolver.resolve(asked)
        jars = []
        for dependency in [*inputs, *transitive]:
            if dependency.scope not in (None, "compile", "runtime"):
                continue
            if f"{dependency.groupId}:{dependency.artifactId}" in excluded:
                continue
            if dependency.type != "jar" or dependency.classifier:
                raise JarError(f"{dependency}: only plain jars can be locked")
            coordinate = Coordinate(dependency.groupId, dependency.artifactId, dependency.version)
            digest = sha256_of(Path(dependency.artifact.resolve()))
            jars.append(LockedJar(coordinate, digest))
    return sorted(set(jars), key=lambda jar: jar.coordinate)


def _as_requested(coordinates: Sequence[str]) -> list[LockedJar]:
    """These jars and no others, with SHA-256."""
    download = download_with_jgo()
    with tempfile.TemporaryDirectory() as scratch:
        return sorted(
            (
                LockedJar(coordinate, sha256_of(download(coordinate, Path(scratch))))
                for coordinate in map(Coordinate.parse, coordinates)
            ),
            key=lambda jar: jar.coordinate,
        )


def write_lock(sets: dict[str, list[LockedJar]], pom_free: Path = POM_FREE) -> None:
    """Write ``jars.lock.toml``: coordinates and SHA-256, sorted, no addresses."""
    lines = ["# Written by `make lock` from jars.toml: every jar with its SHA-256. Do not edit."]
    for name, jars in sets.items():
        lines += ["", f"[{name}]"]
        lines += [f'"{jar.coordinate}" = "{jar.sha256}"' for jar in jars]
    (pom_free / "jars.lock.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _is_in_place(jar: LockedJar, folder: Path) -> bool:
    path = folder / jar.coordinate.file_name
    return path.is_file() and sha256_of(path) == jar.sha256


def _fetch_one(jar: LockedJar, folder: Path, scratch: Path, download: Download) -> None:
    fetched = download(jar.coordinate, scratch)
    # Verify the very bytes that are put in place: copy first, then look.
    copy = scratch / jar.coordinate.file_name
    shutil.copyfile(fetched, copy)
    actual = sha256_of(copy)
    if actual != jar.sha256:
        raise JarError(
            f"{jar.coordinate} is not the locked file: SHA-256 is {actual}, the lock says"
            f" {jar.sha256} (came from {fetched}); it was not used"
        )
    copy.replace(folder / jar.coordinate.file_name)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def _stamp_of(jars: Sequence[LockedJar]) -> str:
    text = "".join(f"{jar.coordinate} {jar.sha256}\n" for jar in jars)
    return hashlib.sha256(text.encode()).hexdigest() + "\n"


def _remote_repositories() -> dict[str, str] | None:
    mirror = os.environ.get(REPOSITORY_VARIABLE)
    return {"mirror": mirror.rstrip("/")} if mirror else None


def _short(error: Exception) -> str:
    """The first line of an error, without the pool and object names requests puts in it."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{type(error).__name__}" if len(text) > 160 else text


@contextlib.contextmanager
def _progress_bars(title: str) -> Iterator[ProgressFactory]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        DownloadColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        total = progress.add_task(title, total=0)
        sizes = 0

        @contextlib.contextmanager
        def one_file(file_name: str, size: int) -> Iterator[Callable[[int], None]]:
            nonlocal sizes
            sizes += size
            progress.update(total, total=sizes)
            task = progress.add_task(file_name, total=size)

            def advance(count: int) -> None:
                progress.update(task, advance=count)
                progress.update(total, advance=count)

            yield advance
            progress.remove_task(task)

        yield one_file


def _fetch_and_say(name: str) -> None:
    if is_fetched(name):
        return
    count = len(locked_set(name))
    print(f"jars: fetching {count} jars of the set '{name}' ...", file=sys.stderr, flush=True)
    with _progress_bars(name) as progress:
        fetch(name, download_with_jgo(progress))
    size = sum(path.stat().st_size for path in jar_paths(name))
    print(f"jars: '{name}' is there: {count} jars, {size / 1e6:.0f} MB", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.jars", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    fetching = commands.add_parser("fetch", help="download and verify what the lock says")
    fetching.add_argument(
        "sets", nargs="+", metavar="SET", help="those of pom-free/jars.toml, such as flink"
    )
    commands.add_parser("lock", help="write jars.lock.toml anew from jars.toml")
    options = parser.parse_args(arguments)
    try:
        if options.command == "fetch":
            for name in options.sets:
                _fetch_and_say(name)
        else:
            write_lock({name: resolve(name) for name in read_requested()})
    except JarError as error:
        print(f"jars: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
