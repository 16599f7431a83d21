"""Builds the images of ``docker/`` with buildah: no Docker engine, no daemon.

    python -m services.images [jobs] [trainer] [--base IMAGE]

The base is Debian's image from a registry. Where none can be reached, mmdebstrap makes one of the
same release from Debian's packages. Needed: buildah; for the latter, mmdebstrap. Root, or whatever
buildah needs of a machine to work without it.

Standard library only.
"""

from __future__ import annotations

import argparse
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEBIAN = "bookworm"
REGISTRY_BASE = f"docker.io/library/debian:{DEBIAN}-slim"
LOCAL_BASE = f"localhost/sample-stitch-base:{DEBIAN}"

_PULL_DEADLINE_S = 120
# What Debian's own slim image leaves out, too.
_NOT_IN_BASE = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")
_YET_IN_BASE = ("/usr/share/doc/*/copyright",)


class ImageError(Exception):
    """An image cannot be built; the message says what is missing."""


@dataclass(frozen=True)
class Image:
    """What an image is called, and the file that says how it is made."""

    name: str
    dockerfile: Path


IMAGES = {
    "jobs": Image("sample-stitch", ROOT / "docker" / "Dockerfile"),
    "trainer": Image("sample-stitch-trainer", ROOT / "docker" / "trainer.Dockerfile"),
}


def _check_tools(tool: str, otherwise: str = "") -> None:
    if shutil.which(tool) is None:
        raise ImageError(
            f"{tool} is missing; on Debian and Ubuntu: apt-get install {tool}{otherwise}"
        )


def build(image: Image, base: str) -> None:
    """Build an image, under the tag ``latest``.

    Raises:
        ImageError: if a step of it fails.
    """
    # The machine's certificates, as in the set-up: companies put their own there.
    certificates = ssl.get_default_verify_paths().cafile
    secret = ["--secret", f"id=certificates,src={certificates}"] if certificates else []
    _run(
        f"the image {image.name}",
        # chroot asks nothing of the machine but root; docker format, for OCI's has no health checks
        [
            *("buildah", "bud", "--isolation", "chroot", "--format", "docker", "--layers"),
            *("--build-arg", f"BASE={base}", *secret),
            *("--tag", image.name, "--file", str(image.dockerfile), str(ROOT)),
        ],
    )


def find_base() -> str:
    """The image to begin with: the registry's, or one made here.

    Raises:
        ImageError: if neither can be had.
    """
    _say(f"asking a registry for {REGISTRY_BASE} ...")
    if _succeeds("buildah", "pull", "--quiet", REGISTRY_BASE):
        return REGISTRY_BASE
    _say("no registry answered")
    if not _succeeds("buildah", "inspect", "--type", "image", LOCAL_BASE):
        _make_base()
    return LOCAL_BASE


def _make_base() -> None:
    _check_tools("mmdebstrap", otherwise="; or give a base that can be reached: --base IMAGE")
    _say(f"making {LOCAL_BASE} with mmdebstrap ...")
    with tempfile.TemporaryDirectory() as scratch:
        archive = str(Path(scratch) / "base.tar")
        options = [f"--dpkgopt=path-exclude={path}" for path in _NOT_IN_BASE]
        options += [f"--dpkgopt=path-include={path}" for path in _YET_IN_BASE]
        _run("the base", ["mmdebstrap", "--quiet", "--variant=minbase", *options, DEBIAN, archive])
        container = _run("the base", ["buildah", "from", "scratch"], quiet=True)
        try:
            _run("the base", ["buildah", "add", "--quiet", container, archive, "/"], quiet=True)
            _run("the base", ["buildah", "commit", "--quiet", container, LOCAL_BASE], quiet=True)
        finally:
            _run("the base", ["buildah", "rm", container], quiet=True)


def _succeeds(*command: str) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PULL_DEADLINE_S, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _run(what: str, command: Sequence[str], *, quiet: bool = False) -> str:
    """Run a step; return what it printed if it is quiet, and nothing otherwise."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE if quiet else None, text=True, check=False
    )
    if done.returncode != 0:
        raise ImageError(f"{what} could not be made: {command[0]} {command[1]} failed (see above)")
    return (done.stdout or "").strip()


def _say(text: str) -> None:
    print(f"image: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.images", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="jobs, trainer; default: both")
    parser.add_argument("--base", help=f"default: {REGISTRY_BASE}, or one that mmdebstrap makes")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.images if name not in IMAGES]
    if unknown:
        parser.error(f"no image {unknown[0]!r}; there are: {', '.join(IMAGES)}")
    try:
        _check_tools("buildah")
        base = options.base or find_base()
        for name in options.images or IMAGES:
            started = time.monotonic()
            build(IMAGES[name], base)
            _say(f"{IMAGES[name].name} was built in {time.monotonic() - started:.0f} s")
    except ImageError as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
