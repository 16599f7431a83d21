"""Programs that a Maven repository keeps as an archive: downloaded, verified and unpacked once.

``pom-free/programs.toml`` says which there are, each with its SHA-256.
"""

from __future__ import annotations

import os
import ssl
import sys
import tarfile
import tempfile
from pathlib import Path

import tomli
from jgo.constants import default_maven_repo

from services.jars import POM_FREE, REPOSITORY_VARIABLE, Coordinate, JarError, sha256_of

_CENTRAL = "https://repo.maven.apache.org/maven2"
_ATTEMPTS = 3
_TIMEOUT_S = 60


def folder_of(name: str, pom_free: Path = POM_FREE) -> Path:
    """The folder of a program, which is fetched if it is not there yet.

    Raises JarError: there is none of that name, it cannot be had, or it is not the one that
    `programs.toml` names.
    """
    listed = tomli.loads((pom_free / "programs.toml").read_text(encoding="utf-8"))
    if name not in listed:
        raise JarError(f"no program {name!r} in programs.toml; there are: {', '.join(listed)}")
    program = listed[name]
    coordinate = Coordinate.parse(program["coordinate"])
    folder = pom_free / "jars" / f"{name}-{program['sha256'][:12]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"programs: fetching {coordinate} ...", file=sys.stderr, flush=True)
    # Beside the folder, not in /tmp: a rename needs one file system.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as scratch:
        archive = _fetched(coordinate, program["ending"], Path(scratch))
        actual = sha256_of(archive)
        if actual != program["sha256"]:
            raise JarError(
                f"{coordinate}{program['ending']} is not the one in programs.toml: SHA-256 is"
                f" {actual}, and {program['sha256']} is wanted; it was not used"
            )
        unpacked = Path(scratch) / "unpacked"
        with tarfile.open(archive) as tar:
            # the first releases of 3.10 and 3.11 have no filters
            tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
            tar.extractall(unpacked)
        try:
            unpacked.rename(folder)
        except OSError:
            # another process was faster, with the same bytes
            if not folder.is_dir():
                raise
    return folder


def _fetched(coordinate: Coordinate, ending: str, scratch: Path) -> Path:
    """The archive: from the local Maven repository, else downloaded into `scratch`."""
    import requests

    name = f"{coordinate.artifact}-{coordinate.version}{ending}"
    place = coordinate.repository_path.with_name(name)
    local: Path = default_maven_repo() / place
    if local.is_file():
        return local
    url = f"{os.environ.get(REPOSITORY_VARIABLE, _CENTRAL).rstrip('/')}/{place.as_posix()}"
    path = scratch / name
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with requests.get(url, stream=True, timeout=_TIMEOUT_S, verify=_trusted()) as answer:
                answer.raise_for_status()
                with path.open("wb") as file:
                    for block in answer.iter_content(1 << 20):
                        file.write(block)
        except requests.RequestException as error:
            if attempt == _ATTEMPTS:
                raise JarError(
                    f"could not fetch {name}: {type(error).__name__}; check that Maven Central can"
                    f" be reached (or set {REPOSITORY_VARIABLE} to a mirror), then run again"
                ) from error
        else:
            return path
    raise AssertionError("unreachable")


def _trusted() -> str | bool:
    """The machine's certificates, as the set-up takes them: companies put their own there."""
    paths = ssl.get_default_verify_paths()
    return os.environ.get("REQUESTS_CA_BUNDLE") or paths.cafile or paths.capath or True
