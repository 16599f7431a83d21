"""What a registry that does not answer as it should gives: never a rejected record."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from schemas.decoding import BadRecord
from schemas.formats.declared import FormatError, Registry, RegistryError
from schemas.formats.registry import RegistryClient
from services.process import free_port

#: Quick retries, for tests.
QUICK = {"retries.wait.ms": "1", "retries.max.wait.ms": "2", "max.retries": "2"}


class Answers:
    """A server that answers every request with what stands here; it keeps the paths."""

    def __init__(self) -> None:
        self.status = 200
        self.body: object = {"schema": '"string"'}
        self.paths: list[str] = []
        #: What the paths begin with of which it has nothing.
        self.absent: tuple[str, ...] = ()


@contextmanager
def serving() -> Iterator[tuple[str, Answers]]:
    answers = Answers()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.paths.append(self.path)
            gone = self.path.startswith(answers.absent) if answers.absent else False
            body = {"error_code": 40401, "message": "gone"} if gone else answers.body
            text = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(404 if gone else answers.status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", answers
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, {"error_code": 401, "message": "Unauthorized"}, "set basic.auth.user.info"),
        (403, {"error_code": 403, "message": "no"}, "HTTP status 403: no"),
        (404, "<html>nothing here</html>", "is this the address of a schema registry"),
        (500, {"error_code": 50001, "message": "store down"}, "HTTP status 500: store down"),
        (503, "wait", "HTTP status 503"),
        (200, "<html>a login page</html>", "gives no answer"),
    ],
)
def test_an_answer_that_is_none_fails_the_job(status: int, body: object, says: str) -> None:
    now = 0.0
    with serving() as (url, answers):
        answers.status, answers.body = status, body
        client = RegistryClient(Registry(url, (), QUICK), clock=lambda: now)
        with pytest.raises(RegistryError) as error:
            client.registered(7)
        assert says in str(error.value)
        assert "\n" not in str(error.value)
        # a try takes long, so the next one waits
        asked = len(answers.paths)
        with pytest.raises(RegistryError) as again:
            client.registered(8)
        assert (str(again.value), len(answers.paths)) == (str(error.value), asked)
        # and it goes on when the registry does
        answers.status, answers.body = 200, {"schema": '"string"'}
        now = 31.0
        assert client.registered(7).text == '"string"'


def test_nobody_at_the_address_fails_the_job() -> None:
    client = RegistryClient(Registry(f"http://127.0.0.1:{free_port()}", (), QUICK))
    with pytest.raises(RegistryError, match=r"gives no answer: .*; start it, or correct"):
        client.registered(7)
    with pytest.raises(RegistryError, match="gives no answer"):
        client.check("AVRO")


def test_an_unknown_id_is_asked_for_again_after_a_while() -> None:
    now = 0.0
    with serving() as (url, answers):
        client = RegistryClient(Registry(url, (), QUICK), clock=lambda: now)
        answers.status, answers.body = 404, {"error_code": 40403, "message": "not found"}
        for _ in range(3):
            with pytest.raises(BadRecord) as bad:
                client.registered(7)
            assert bad.value.reason == "unknown_schema"
        assert len(answers.paths) == 1
        answers.status, answers.body = 200, {"schema": '"string"'}
        now = 31.0
        assert client.registered(7).kind == "AVRO"
        assert client.registered(7).kind == "AVRO"
        assert len(answers.paths) == 2


GUID = "6e9a0c8e-4b0e-4f5e-9d52-3f1c8c1f7a10"


def test_a_guid_is_asked_for_once_and_must_be_under_a_subject() -> None:
    with serving() as (url, answers):
        answers.body = {"schema": '"string"', "guid": GUID, "subject": "here", "id": 1}
        client = RegistryClient(Registry(url, ("gone", "here"), QUICK))
        answers.absent = ("/subjects/gone",)
        for _ in range(2):
            assert client.registered(GUID).text == '"string"'
        assert answers.paths[0] == f"/schemas/guids/{GUID}"
        assert [path.partition("?")[0] for path in answers.paths[1:]] == [
            *("/subjects/gone", "/subjects/here")
        ]
        answers.absent = ("/subjects/",)
        client = RegistryClient(Registry(url, ("gone", "here"), QUICK))
        with pytest.raises(BadRecord) as bad:
            client.registered(GUID)
        assert bad.value.reason == "wrong_schema"
        assert bad.value.message == f"schema {GUID} is not registered under gone or here"


def test_a_guid_that_is_not_known_and_a_registry_without_guids() -> None:
    with serving() as (url, answers):
        client = RegistryClient(Registry(url, (), QUICK))
        answers.status, answers.body = 404, {"error_code": 40403, "message": "not found"}
        with pytest.raises(BadRecord) as bad:
            client.registered(GUID)
        assert bad.value.reason == "unknown_schema"
        assert bad.value.message == f"{url} knows no schema {GUID}"
        # an older one has no such path: its records are not at fault
        answers.body = {"error_code": 404, "message": "HTTP 404 Not Found"}
        client = RegistryClient(Registry(url, (), QUICK))
        with pytest.raises(RegistryError, match="does it know schemas by their GUIDs"):
            client.registered(GUID)


@pytest.mark.parametrize(
    ("registry", "says"),
    [
        (Registry("ftp://x"), "Invalid url"),
        (Registry("http://x", (), {"no.such": "1"}), "no.such"),
        (Registry("http://x", (), {"timeout": "soon"}), "timeout = 'soon' is no number"),
        (Registry("http://x", (), {"max.retries": "-1"}), "below 0"),
        (Registry("http://x", (), {"basic.auth.user.info": "me"}), "{username}:{password}"),
        (Registry("http://x", (), {"ssl.ca.location": "/nowhere.pem"}), "registry"),
    ],
)
def test_properties_that_the_client_does_not_take(registry: Registry, says: str) -> None:
    with pytest.raises(FormatError) as error:
        RegistryClient(registry)
    assert says in str(error.value)
