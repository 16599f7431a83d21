"""The root file system of a built image, and processes in it as a container engine starts them.

They run as the image's user, with its environment, on a read-only root with an empty /tmp of their
own and a /data that all share. Each has its own mount and host name; the network is this machine's,
so each needs ports of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services import process
from services.process import ProcessId
from services.started import Started

_ROOT = Path(__file__).resolve().parents[2]

# Arguments: the root, the folder for /data, a file for /etc/hosts, the host name, user:group, the
# working directory, the command.
_ENTER = """
root=$1 data=$2 hosts=$3 name=$4 user=$5 folder=$6
shift 6
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --bind "$hosts" "$root/etc/hosts"
mount --bind "$data" "$root/data"
hostname "$name"
exec chroot --userspec="$user" --groups= "$root" sh -c 'cd "$0" && exec "$@"' "$folder" "$@"
"""
_LOOPBACK = "ip link set lo up"  # of a network that has nothing else


def missing() -> str | None:
    """Why images cannot be run here; None if they can."""
    for tool in ("buildah", "unshare", "chroot"):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    if os.geteuid() != 0:
        return "needs root, to enter the image"
    tried = subprocess.run(
        ["unshare", "--mount", "--uts", "true"], capture_output=True, check=False
    )
    return None if tried.returncode == 0 else "needs mount namespaces"


@dataclass
class ImageRoot(Started):
    """An image that was built here, mounted while it is started.

    `name`: of the image; `folder`: for logs and /data, readable by others; `hosts`: names that are
    to be this machine.
    """

    name: str
    folder: Path
    hosts: tuple[str, ...] = ()

    def start(self) -> None:
        """Mount it. Skips the test if it was not built here."""
        inspected = _buildah("inspect", "--type", "image", f"localhost/{self.name}:latest")
        if inspected is None:
            pytest.skip(f"there is no image {self.name}: run `make image` first")
        self.config: dict[str, Any] = json.loads(inspected)["Docker"]["config"]
        self._container = _needed("from", "--pull-never", f"localhost/{self.name}:latest")
        self.root = Path(_needed("mount", self._container))
        (self.root / "etc" / "hosts").touch()
        self._hosts = self.folder / "hosts"
        self._hosts.write_text(f"127.0.0.1 localhost {' '.join(self.hosts)}\n")
        self.data = self.folder / "data"
        self.data.mkdir()
        self.give_data()
        self._running: list[ProcessId] = []

    def stop(self) -> None:
        """End what runs in it, and unmount it."""
        process.stop(*self._running)
        _needed("rm", self._container)

    def skip_unless_it_has(self, packages: Sequence[str]) -> None:
        """Skip the test if the image was built from other code than that of this checkout."""
        for path in (one for name in packages for one in (_ROOT / name).rglob("*.py")):
            built = self.root / "app" / path.relative_to(_ROOT)
            if not built.is_file() or built.read_bytes() != path.read_bytes():
                pytest.skip(f"the image has another {path.name}: run `make image` first")

    def add_data(self, source: Path) -> None:
        """Copy a folder's content to /data, for the image's user."""
        shutil.copytree(source, self.data, dirs_exist_ok=True)
        self.give_data()

    def run(self, name: str, *arguments: str, environment: Mapping[str, str] = {}) -> ProcessId:
        """Start a container on this host name; `log` has what it says."""
        started = process.start(
            self._command(name, [*(self.config["Entrypoint"] or ()), *arguments]),
            log=self.log(name),
            environment=self._environment(environment),
            tied=True,
        )
        self._running.append(started)
        return started

    def log(self, name: str) -> Path:
        """What the containers of this name have said."""
        return self.folder / f"{name}.log"

    def execute(
        self, *command: str, environment: Mapping[str, str] = {}, alone: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the image to its end, beside its entry point.

        `alone`: in a network of its own, where each port is free.
        """
        return subprocess.run(
            self._command("localhost", command, alone=alone),
            env=self._environment(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def healthy(self, *targets: str) -> bool:
        """What the image's health check says, asked for other ports than its own."""
        test = self.config["Healthcheck"]["Test"]
        assert test[:3] == ["CMD", "python", "/health.py"]
        return self.execute(*test[1:3], *targets).returncode == 0

    def give_data(self) -> None:
        """Make all of /data the image's user's."""
        user, _, group = self.config["User"].partition(":")
        for path in (self.data, *self.data.rglob("*")):
            os.chown(path, int(user), int(group))

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        own = dict(pair.split("=", 1) for pair in self.config["Env"])
        return own | {"HOME": "/tmp"} | dict(more)

    def _command(self, name: str, command: Sequence[str], *, alone: bool = False) -> list[str]:
        enter = [shutil.which("unshare") or "", "--mount", "--uts"]
        enter += ["--net", "sh", "-euc", _LOOPBACK + _ENTER] if alone else ["sh", "-euc", _ENTER]
        enter.append("sh")
        places = [str(self.root), str(self.data), str(self._hosts), name]
        return [*enter, *places, self.config["User"], self.config["WorkingDir"], *command]


def _buildah(*arguments: str) -> str | None:
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _needed(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
