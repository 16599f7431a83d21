"""The trainer's processes as an operator sees them: signals, kill -9, sockets, folders, resizing.

Each run is `python -m trainer.train` with two servers on a Ray of its own, on samples that it
follows, so it lasts until it is ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from benchmarks.trainer.data import Traffic, write
from tests.trainer.processes import DEADLINE_S, Trainer
from trainer import checkpoint
from trainer.run import ray_node, watchdog
from trainer.run.runner import RunError

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, as the watchdog does"),
]

ROWS = 8_192


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("samples")
    write(Traffic(rows=ROWS, files=2, hours=2, users=200, catalogue=100), root)
    return root


def until(what: str, condition: Callable[[], object], trainer: Trainer | None = None) -> None:
    """Waits for a condition; a trainer that has ended before cannot bring it about any more."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        if trainer is not None:
            assert trainer.process.poll() is None, f"it ended: {what}: {trainer.said()}"
        time.sleep(0.05)


def is_loopback(address: str) -> bool:
    ip = ip_address(address)
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


def test_sockets_resizing_sigterm_and_kill(
    folder: Path, tmp_path: Path, trainers: list[Trainer]
) -> None:
    """Two runs on one output. The temporary folder has a long path, and no home can be written."""
    long = tmp_path / ("temporary-" * 8)
    long.mkdir(parents=True)
    environment = {"TMPDIR": str(long), "HOME": "/proc"}
    first = Trainer(folder, tmp_path / "model", environment)
    trainers.append(first)
    until("a checkpoint of all samples", lambda: first.saved() == ROWS, first)

    # what listens, listens on loopback; docs/trainer.md has the list
    listening = first.listening()
    assert set(listening) >= {"gcs_server", "raylet"}, "it sees Ray's sockets"
    outside = {
        name: addresses
        for name, addresses in listening.items()
        if not all(is_loopback(address) for address in addresses)
    }
    assert outside == {}
    ray_folder = first.ray_folder()
    assert ray_folder.stat().st_mode & 0o777 == 0o700
    assert (ray_folder / "token").stat().st_mode & 0o777 == 0o600
    for process in first.family():
        assert (ray_folder / "token").read_text() not in " ".join(process.cmdline())

    # the control file: more servers, fewer, and what is no number
    control = tmp_path / "model" / "servers"
    for text, says in (
        ("3\n", "3 servers now"),
        ("1\n", "1 servers now"),
        ("many\n", "the number of servers stays as it is"),
        ("0\n", "expected a number of servers from 1"),
    ):
        control.write_text(text)
        until(says, lambda says=says: says in first.said(), first)  # type: ignore[misc]
        assert not control.exists()

    # SIGTERM to the whole group, as systemd or a container's init sends it
    family = first.family()
    os.killpg(first.process.pid, signal.SIGTERM)
    assert first.process.wait(DEADLINE_S) == 130, first.said()
    assert "interrupted, and saved" in first.said()
    assert "Traceback" not in first.said()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    assert not ray_folder.exists()
    saved = first.checkpoints()[-1]
    manifest = checkpoint.read_manifest(saved)
    assert manifest.session["rows"] == ROWS
    assert json.loads((tmp_path / "model/serving/current.json").read_text())

    # kill -9 of the coordinator
    second = Trainer(folder, tmp_path / "model", environment)
    trainers.append(second)
    until("resumed", lambda: f"resumed from {saved.name}" in second.said(), second)
    family, ray_folder = second.family(), second.ray_folder()
    assert ray_folder.exists()
    assert len(watchdog.running(ray_folder)) > 5
    second.process.kill()
    second.process.wait(DEADLINE_S)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, [process.cmdline() for process in alive]
    assert watchdog.running(ray_folder) == []
    until("its folder goes", lambda: not ray_folder.exists())


@pytest.mark.thorough
def test_a_ray_that_comes_up_too_slowly_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first attempt has started is gone."""
    really, folders = ray_node._init, []

    def slow_at_first(**options: Any) -> None:
        really(**options)
        folders.append(Path(options["_temp_dir"]).parent)
        if len(folders) == 1:
            raise RunError("Ray does not start: the current node timed out during startup")

    monkeypatch.setattr(ray_node, "_init", slow_at_first)
    local = ray_node.started(1)
    try:
        assert ray.is_initialized()
        first, second = folders
        assert (watchdog.running(first), local.folder) == ([], second)
        until("its folder goes", lambda: not first.exists())
    finally:
        local.stop()

    def refused(**_options: Any) -> None:
        raise RunError("Ray does not start: no room")

    monkeypatch.setattr(ray_node, "_init", refused)
    with pytest.raises(RunError, match="no room"):
        ray_node.started(1)


# -- folders ---------------------------------------------------------------------------------------


def test_a_short_folder_is_found_and_abandoned_ones_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "long" * 20)
    made = ray_node._new_folder()
    try:
        assert len(os.fsencode(made)) + len(ray_node._SOCKET) <= 107
        # a folder that no watchdog holds was left by a run that was killed with its watchdog
        (made / watchdog.LOCK).touch()
        (made / "session_x").mkdir()
        other = ray_node._new_folder()
        assert not made.exists()
        with (other / watchdog.LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            third = ray_node._new_folder()
            assert other.exists(), "it is in use"
            third.rmdir()
        (other / watchdog.LOCK).unlink()
        other.rmdir()
    finally:
        if made.exists():
            made.rmdir()


def test_without_any_folder_one_line_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> str:
        raise PermissionError("read-only file system")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(RunError, match=r"^Ray needs a folder .* set RAY_TMPDIR to .* bytes$"):
        ray_node._new_folder()


# -- a Ray cluster that is there -------------------------------------------------------------------


def _node(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    """A Ray node on 127.0.0.2, which lasts until it is ended. (Ray replaces 127.0.0.1.)"""
    with (folder / f"node-{len(arguments)}.log").open("wb") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
                *("--node-ip-address=127.0.0.2", "--num-cpus=3", "--disable-usage-stats"),
                *("--object-store-memory=100000000", *arguments),
            ],
            env=os.environ | environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.2", 0))
        return int(found.getsockname()[1])


@pytest.mark.thorough
def test_a_cluster_of_two_nodes(folder: Path, tmp_path: Path, trainers: list[Trainer]) -> None:
    """`train.address`: servers and workers are spread over two nodes of this machine."""
    short = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))
    token = short / "token"
    token.write_text("0123456789abcdef" * 4)
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    port = _free_port()
    nodes = []
    family: list[psutil.Process] = []
    try:
        nodes.append(
            _node(
                *(short, environment, "--head", f"--port={port}", "--include-dashboard=false"),
                f"--temp-dir={short}/h",
            )
        )
        until("the head node", lambda: b"Ray runtime started" in _logs(short))
        nodes.append(_node(short, environment, f"--address=127.0.0.2:{port}"))
        until("the second node", lambda: _logs(short).count(b"Ray runtime started") == 2)
        settings = {**environment, "RAY_ADDRESS": ""}
        trainer = Trainer(folder, tmp_path / "model", settings, f"train.address=127.0.0.2:{port}")
        trainers.append(trainer)
        until("a checkpoint of all samples", lambda: trainer.saved() == ROWS, trainer)
        family = [
            process
            for node in nodes
            for process in psutil.Process(node.pid).children(recursive=True)
        ]
        ours = [process for process in family if "_ServerActor" in process.name()]
        trainer.process.send_signal(signal.SIGTERM)
        assert trainer.process.wait(DEADLINE_S) == 130, trainer.said()
        assert "interrupted, and saved" in trainer.said()
        manifest = checkpoint.read_manifest(trainer.checkpoints()[-1])
        assert manifest.session["rows"] == ROWS
        assert len(manifest.shards) == 2
        _, alive = psutil.wait_procs(ours, timeout=60)
        assert not alive, "the cluster goes on, without our processes"
        assert all(node.poll() is None for node in nodes)
    finally:
        for node in reversed(nodes):
            node.terminate()
            try:
                node.wait(60)
            except subprocess.TimeoutExpired:
                node.kill()
        _, alive = psutil.wait_procs(family, timeout=30)
        for process in alive:
            process.kill()
        shutil.rmtree(short, ignore_errors=True)


def _logs(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("node-*.log"))
