"""That what is started is also ended, and waiting has an end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from services import process
from services.process import ProcessId
from services.waiting import DeadlineError, wait_until

# Starts a tied process that would sleep for an hour, says which, and waits to be killed.
_PARENT = """
import json, os, signal, sys
from dataclasses import asdict
from pathlib import Path
from services import process
child = process.start(["sleep", "3600"], log=Path(sys.argv[1]), environment=os.environ, tied=True)
print(json.dumps(asdict(child)), flush=True)
signal.pause()
"""

_STUBBORN = "trap '' TERM; echo ready; while :; do sleep 3600; done"


def test_a_tied_process_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path / "log")], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = ProcessId(**json.loads(parent.stdout.readline()))
        assert child.is_running()
        os.kill(parent.pid, signal.SIGKILL)
    wait_until(lambda: not child.is_running(), 10, "the orphan to be killed")


def test_stop_kills_what_does_not_listen_and_its_children(tmp_path: Path) -> None:
    log = tmp_path / "log"
    stubborn = process.start(["sh", "-c", _STUBBORN], log=log, environment=os.environ, tied=False)
    wait_until(lambda: "ready" in process.tail(log), 10, "the trap to be set")
    (child,) = wait_until(psutil.Process(stubborn.pid).children, 10, "its child to run")
    its_child = ProcessId(child.pid, child.create_time())

    process.stop(stubborn, deadline_s=0.2)

    assert not stubborn.is_running()
    # It is not ours to wait for: whoever inherited it may take a moment.
    wait_until(lambda: not its_child.is_running(), 10, "the child to end")


def test_a_used_up_id_is_not_taken_for_the_process() -> None:
    assert not ProcessId(os.getpid(), started=0.0).is_running()


_LISTENS = """
import socket, sys, threading, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
memory = bytearray(400_000_000)
for _ in range(50):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
print("up", flush=True)
time.sleep(1000)
"""


def test_a_killed_process_runs_until_it_has_let_go_of_its_port() -> None:
    port = process.free_port()
    with subprocess.Popen(
        [sys.executable, "-c", _LISTENS, str(port)], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        it = ProcessId(child.pid, psutil.Process(child.pid).create_time())
        child.kill()
        wait_until(lambda: not it.is_running(), 30, "it to end", every_s=0)
        assert process.free_port(port) == port


def test_free_port_takes_the_preferred_one_if_it_can() -> None:
    port = process.free_port()
    assert process.free_port(port) == port


def test_a_free_port_is_kept_from_clients_and_is_there_for_a_server() -> None:
    port = process.free_port()
    assert port not in {process.free_port() for _ in range(50)}
    for _ in range(2):  # and again, after the first server has ended
        with socket.create_server(("127.0.0.1", port)) as server:
            # What a client that connects would get as its own port without asking.
            with socket.socket() as client, pytest.raises(OSError, match="in use"):
                client.bind(("127.0.0.1", port))
            with socket.create_connection(server.getsockname()) as client:
                assert client.getsockname()[1] != port
    with socket.socket() as client, pytest.raises(OSError, match="in use"):
        client.bind(("127.0.0.1", port))


def test_waiting_returns_what_came_true() -> None:
    answers = iter([None, [], [1]])
    assert wait_until(lambda: next(answers), 10, "an answer", every_s=0) == [1]


def test_waiting_says_for_what() -> None:
    with pytest.raises(DeadlineError, match=r"waited 0 s in vain for godot"):
        wait_until(lambda: False, 0, "godot")
