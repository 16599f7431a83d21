"""`make image` as a person meets it: what it needs, and which base it takes. No image is built."""

from __future__ import annotations

import runpy
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from services import images
from services.process import free_port

ROOT = Path(__file__).resolve().parents[2]
Tool = Callable[[str, str], Path]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Makes programs, the only ones that are there; each notes how it was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(name: str, body: str) -> Path:
        calls = tmp_path / f"{name}.calls"
        program = folder / name
        program.write_text(f'#!/bin/sh\necho "$*" >> "{calls}"\n{body}\n')
        program.chmod(0o755)
        return calls

    return make


def test_it_says_what_is_missing(tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    assert images.main([]) == 1
    assert "buildah is missing" in capsys.readouterr().err

    # no registry, no base of an earlier time, and nothing to make one with
    tool("buildah", "exit 1")
    assert images.main([]) == 1
    told = capsys.readouterr().err
    assert "mmdebstrap is missing" in told
    assert "--base" in told


def test_the_base_of_a_registry_goes_before_one_that_is_made(tool: Tool) -> None:
    calls = tool("buildah", "exit 0")
    assert images.main(["jobs"]) == 0
    pull, build = calls.read_text().splitlines()
    assert pull == f"pull --quiet {images.REGISTRY_BASE}"
    assert f"BASE={images.REGISTRY_BASE} " in build
    assert "--tag sample-stitch " in build


def test_without_a_registry_a_base_is_made_once(tool: Tool) -> None:
    made = tool("mmdebstrap", "exit 0")
    calls = tool("buildah", 'case "$1" in pull | inspect) exit 1 ;; from) echo box ;; esac')
    assert images.main(["jobs"]) == 0
    assert len(made.read_text().splitlines()) == 1
    *_, commit, remove, build = calls.read_text().splitlines()
    assert commit == f"commit --quiet box {images.LOCAL_BASE}"
    assert remove == "rm box"
    assert f"BASE={images.LOCAL_BASE} " in build

    tool("buildah", 'case "$1" in pull) exit 1 ;; esac')
    assert images.main(["jobs"]) == 0
    assert len(made.read_text().splitlines()) == 1


def test_a_build_that_fails_is_said_and_no_other_is_begun(
    tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = tool("buildah", 'case "$1" in bud) exit 125 ;; esac')
    assert images.main(["--base", "mirror/debian"]) == 1
    assert "the image sample-stitch could not be made" in capsys.readouterr().err
    assert len(calls.read_text().splitlines()) == 1


def test_the_health_check_asks_each_target() -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    health = runpy.run_path(str(ROOT / "docker" / "health.py"))["main"]
    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        port = server.server_port
        assert health([f"{port}/healthz"]) == 0
        assert health([f"{port}/healthz", f"{port}/readyz"]) == 1
        assert health([str(free_port())]) == 1
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
