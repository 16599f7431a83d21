"""Clients that cost little: a request is bytes made before, and an answer is not taken apart."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

_LENGTH = b"content-length: "


class Connection:
    """One connection, over which requests go one after the other."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytes:
        """The body of the answer. Raises AnswerError for another status than 200, OSError."""
        self._socket.sendall(request)
        got = b""
        while b"\r\n\r\n" not in got:
            got += self._more()
        head, _, body = got.partition(b"\r\n\r\n")
        at = head.lower().index(_LENGTH) + len(_LENGTH)
        length = int(head[at:].split(b"\r\n", 1)[0])
        while len(body) < length:
            body += self._more()
        if not head.startswith(b"HTTP/1.1 200"):
            raise AnswerError(f"{head.splitlines()[0].decode()}: {body.decode()}")
        return body

    def _more(self) -> bytes:
        found = self._socket.recv(1 << 16)
        if not found:
            raise ConnectionError("the service has closed the connection")
        return found

    def close(self) -> None:
        """Ends it."""
        self._socket.close()


class AnswerError(Exception):
    """A request was not answered as it should be."""


def post(path: str, body: Any) -> bytes:
    """A request, as it goes over the wire."""
    data = json.dumps(body, separators=(",", ":")).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def asked(port: int, requests: Sequence[bytes], seconds: float, clients: int) -> list[float]:
    """The seconds that each request took, of clients that ask one after the other for so long.

    Raises the first error that a client met.
    """
    took: list[list[float]] = [[] for _ in range(clients)]
    errors: list[Exception] = []
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = Connection(port)
        try:
            at = number
            while (begun := time.perf_counter()) < end and not errors:
                connection.ask(requests[at % len(requests)])
                took[number].append(time.perf_counter() - begun)
                at += clients
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [seconds for of_client in took for seconds in of_client]
