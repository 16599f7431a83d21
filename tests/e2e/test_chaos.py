"""The short form of `make chaos`, and the cuts that it makes between processes."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from chaos.network import Network
from services.place import Place
from services.waiting import wait_until
from tests.flink import running


@pytest.mark.thorough
@pytest.mark.timeout(1200)
def test_five_kinds_of_faults_cost_no_row() -> None:
    done = running.run_module("chaos", "--short", deadline_s=1100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stop with drain" in done.stdout


@pytest.fixture
def network() -> Iterator[Network]:
    try:
        made = Network()
    except OSError as error:
        pytest.skip(f"no network namespaces here: {error}")
    try:
        yield made
    finally:
        made.close()


_ANSWER = """
import socket
server = socket.create_server((ADDRESS, 5555))
while True:
    connection, _ = server.accept()
    connection.sendall(b"here")
    connection.close()
"""
_ASK = """
import socket
with socket.create_connection((ADDRESS, 5555), 1) as connection:
    connection.settimeout(1)
    assert connection.recv(4) == b"here"
"""


def program(text: str, address: str, place: Place) -> list[str]:
    return [*place.prefix, sys.executable, "-S", "-c", text.replace("ADDRESS", repr(address))]


@contextmanager
def answering(places: list[Place]) -> Iterator[None]:
    servers = [subprocess.Popen(program(_ANSWER, place.address, place)) for place in places]
    try:
        for place in places:
            wait_until(lambda place=place: answers_us(place), 10, "the server to listen")  # type: ignore[misc]
        yield
    finally:
        for server in servers:
            server.kill()
            server.wait()


def answers_us(place: Place) -> bool:
    try:
        with socket.create_connection((place.address, 5555), 1) as connection:
            return connection.recv(4) == b"here"
    except OSError:
        return False


def hears(place: Place, other: Place) -> bool:
    done = subprocess.run(
        program(_ASK, other.address, place), capture_output=True, check=False, timeout=20
    )
    return done.returncode == 0


def test_a_cut_parts_two_and_no_others_until_it_heals(network: Network) -> None:
    one, other, third = (network.place(name) for name in ("one", "other", "third"))
    with answering([one, other, third]):
        assert hears(one, other)
        network.cut(["one"], ["other"])
        assert not hears(one, other)
        assert not hears(other, one)
        assert hears(one, third)
        assert hears(third, other)
        assert answers_us(one)
        network.heal()
        assert hears(one, other)
        assert hears(other, one)
