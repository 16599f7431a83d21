"""A signal ends a service, whenever it comes."""

from __future__ import annotations

import signal
import socket

import pytest
import uvicorn

from online import http_service


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_uvicorn_takes_them_is_not_lost(
    sent: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    ending: list[bool] = []

    def run(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        signal.raise_signal(sent)
        ending.append(server.should_exit)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    try:
        with http_service.bound("127.0.0.1", 0) as listening:
            http_service.serve(None, listening)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert ending == [True]
