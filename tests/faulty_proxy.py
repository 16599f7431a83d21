"""HTTP on loopback with faults in it: a proxy before a server, which errs by a seed.

Requests go to the server byte by byte, so that their signatures stay what they are. Before and
behind it, some of them get the faults that clients of object stores have to live with.

One answer of S3Proxy is put right on the way. Its objects are files, so that it takes the mark of a
folder, the object `chk-1/`, for an object `chk-1`, too. To Flink's file system a checkpoint's
folder is then a file, and it looks for the checkpoint's state beside it. No S3 says so.
"""

from __future__ import annotations

import random
import socket
import socketserver
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import BinaryIO, Literal
from urllib.parse import urlsplit

from services.started import Started

#: `slow_down` and `error`: refused, and not done (503, 500). `cut`: the connection is closed, and
#: nothing is done. `lost`: it is done, and the answer is not sent. `half`: the connection is closed
#: in the middle of the answer's body. `late`: done and answered, a while later.
Fault = Literal["slow_down", "error", "cut", "lost", "half", "late"]
FAULTS: tuple[Fault, ...] = ("slow_down", "error", "cut", "lost", "half", "late")

_CODES = {"slow_down": "503 Slow Down", "error": "500 Internal Server Error"}
_NAMES = {"slow_down": "SlowDown", "error": "InternalError"}
_LONGEST_DELAY_S = 0.5


class FaultyProxy(Started):
    """A proxy before the server at `endpoint`; `share` of the requests have one of `faults`.

    `injected`: how often each fault was made. With a share of 0 it only passes on.
    """

    def __init__(
        self,
        endpoint: str,
        seed: int,
        share: float,
        faults: tuple[Fault, ...] = FAULTS,
    ) -> None:
        address = urlsplit(endpoint)
        self.server = (str(address.hostname), int(address.port or 80))
        self.share, self.faults = share, faults
        self.injected: Counter[str] = Counter()
        self.requests = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def start(self) -> None:
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError), socket.create_connection(proxy.server) as server:
                    proxy._serve(self.request, server)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """The URL that clients are given."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _fate(self) -> tuple[Fault | None, float]:
        with self._lock:
            self.requests += 1
            fate = self._random.choice(self.faults) if self._random.random() < self.share else None
            if fate is not None:
                self.injected[fate] += 1
            return fate, self._random.random()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        """The requests of one connection, until a fault or one of the two ends it."""
        asked, answered = client.makefile("rb"), server.makefile("rb")
        while head := _head(asked):
            fate, at = self._fate()
            if fate == "cut":
                return
            length = int(_header(head, b"content-length") or 0)
            waits = _header(head, b"expect") is not None
            if fate in _CODES:
                if not waits:
                    asked.read(length)
                client.sendall(_refusal(fate))
                return
            server.sendall(head)
            answer = _head(answered) if waits else b""
            if not waits or b" 100 " in answer.split(b"\r\n", 1)[0]:
                client.sendall(answer)
                _copy(asked, server, length)
                answer = _head(answered)
            if not answer:
                return
            body = _body(head, answer, answered)
            if _is_folder(head, answer):
                answer, body = _NO_SUCH_OBJECT, b""
            if fate == "lost":
                return
            if fate == "half":
                # Not within the headers: the client of Flink's plugin takes what it has of them for
                # all, which over TLS it would not.
                client.sendall(answer + body[: int(len(body) * at)] if body else b"")
                return
            if fate == "late":
                time.sleep(at * _LONGEST_DELAY_S)
            client.sendall(answer + body)
            if (_header(answer, b"connection") or b"").lower() == b"close":
                return


def _head(stream: BinaryIO) -> bytes:
    """The first line and the headers; empty where the connection has ended."""
    lines = []
    for line in stream:
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""


def _header(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return None


def _copy(stream: BinaryIO, to: socket.socket, length: int) -> None:
    while length:
        piece = stream.read(min(length, 1 << 16))
        if not piece:
            raise OSError("the client has gone")
        to.sendall(piece)
        length -= len(piece)


def _body(asked: bytes, answer: bytes, stream: BinaryIO) -> bytes:
    """The body of an answer, as it is sent."""
    code = answer.split(b" ", 2)[1]
    if asked.startswith(b"HEAD ") or code in (b"204", b"304"):
        return b""
    if (_header(answer, b"transfer-encoding") or b"").lower() != b"chunked":
        return bytes(stream.read(int(_header(answer, b"content-length") or 0)))
    pieces = []
    while True:
        size = stream.readline()
        pieces += [size, stream.read(int(size.split(b";")[0], 16) + 2)]
        if len(pieces[-1]) == 2:
            return b"".join(pieces)


#: The answer to a HEAD.
_NO_SUCH_OBJECT = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def _is_folder(asked: bytes, answer: bytes) -> bool:
    """Whether an object was asked for, and the answer is of the folder with that name."""
    method, target, _ = asked.split(b" ", 2)
    kind = _header(answer, b"content-type")
    return method == b"HEAD" and not target.endswith(b"/") and kind == b"application/x-directory"


def _refusal(fault: Fault) -> bytes:
    body = f"<Error><Code>{_NAMES[fault]}</Code><Message>by a test</Message></Error>"
    return (
        f"HTTP/1.1 {_CODES[fault]}\r\nContent-Type: application/xml\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
