"""What is particular to a bucket. Goal: its failures are told apart, quickly, without a secret.

The servers here are sockets of this process that answer what a broken service would; whether the
store works on a whole one is the matter of tests/contract.
"""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pitr.archive.archive import probe_conditional_put
from pitr.archive.location import open_store
from pitr.archive.store import ObjectExists, Store
from pitr.errors import ObjectMissing, StoreUnusable

SECRET = "a-very-secret-value"
Answer = Callable[[http.server.BaseHTTPRequestHandler], tuple[int, str]]


@pytest.fixture
def bucket_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Store]:
    """Return a function from an endpoint to a store there, with a secret in the environment."""

    def open_at(endpoint: str) -> Store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA-TEST-KEY")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        return open_store("s3://bucket/prefix")

    return open_at


@pytest.fixture
def answering() -> Iterator[Callable[[Answer], str]]:
    """Start servers that answer every request by a function; return their endpoints."""
    servers = []

    def start(answer: Answer) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, body = answer(self)
                self.send_response(status)
                self.send_header("ETag", '"tag"')
                self.send_header("Last-Modified", "Sun, 22 Nov 2026 12:00:00 GMT")
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def failure(call: Callable[[], object]) -> StoreUnusable:
    with pytest.raises(StoreUnusable) as raised:
        call()
    error = raised.value
    shown = f"{error.message} {error.detail} {error.hint} {error.__cause__}"
    assert SECRET not in shown
    assert "Debug source" not in shown
    assert "\n" not in shown
    return error


def error_document(code: str, message: str) -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message>"
        f"<StringToSign>AWS4 {SECRET}</StringToSign></Error>"
    )


def test_dead_endpoint_is_given_up_in_seconds(bucket_at: Callable[[str], Store]) -> None:
    """Where nobody listens the command says so soon, and what to check."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        store = bucket_at(f"http://127.0.0.1:{unused.getsockname()[1]}")
        begun = time.monotonic()
        error = failure(lambda: store.get("pitr-archive"))

    assert time.monotonic() - begun < 10
    assert error.message == "cannot read the archive at s3://bucket/prefix"
    assert "network" in (error.hint or "")


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (403, "SignatureDoesNotMatch", "secret of the access key"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (403, "AccessDenied", "list, read, write and delete"),
        (404, "NoSuchBucket", "Create the bucket"),
    ],
)
def test_refusal_of_the_server_is_told_with_its_remedy(
    bucket_at: Callable[[str], Store],
    answering: Callable[[Answer], str],
    status: int,
    code: str,
    hint: str,
) -> None:
    """Each refusal is named by its code, for every method, with what the user can do."""
    store = bucket_at(answering(lambda _: (status, error_document(code, f"see {SECRET}"))))

    for call in (
        lambda: store.get("log/1"),
        lambda: store.get_ranges("log/1", [(0, 1)]),
        lambda: store.put("log/1", b"x"),
        lambda: store.put_new("log/1", b"x"),
        lambda: list(store.list("log/")),
        lambda: store.delete("log/1"),
    ):
        error = failure(call)
        assert code in (error.detail or "")
        assert hint in (error.hint or "")


def test_missing_object_is_no_failure_of_the_store(
    bucket_at: Callable[[str], Store], answering: Callable[[Answer], str]
) -> None:
    """Only the object is missing when the server says NoSuchKey; deleting it is no error."""
    store = bucket_at(answering(lambda _: (404, error_document("NoSuchKey", "no such key"))))

    with pytest.raises(ObjectMissing):
        store.get("log/1")
    with pytest.raises(ObjectMissing):
        store.get_ranges("log/1", [(0, 1)])


def test_short_hiccup_of_the_server_is_ridden_out(
    bucket_at: Callable[[str], Store], answering: Callable[[Answer], str]
) -> None:
    """A server that says 503 twice is asked again, and the command goes on."""
    answers = iter([(503, ""), (503, ""), (200, "content")])
    store = bucket_at(answering(lambda _: next(answers)))

    assert store.get("log/1") == b"content"


def test_server_that_ignores_ranges_serves_no_wrong_bytes(
    bucket_at: Callable[[str], Store], answering: Callable[[Answer], str]
) -> None:
    """Some servers answer a range with the whole object: that is an error, not the range."""
    store = bucket_at(answering(lambda _: (200, "0123456789")))

    failure(lambda: store.get_ranges("log/1", [(5, 8)]))


def test_server_that_ignores_create_if_absent_is_refused(
    bucket_at: Callable[[str], Store], answering: Callable[[Answer], str]
) -> None:
    """The probe finds out a server that overwrites, and says what rests on it."""
    requests = []

    def overwrite(request: http.server.BaseHTTPRequestHandler) -> tuple[int, str]:
        requests.append((request.command, request.headers.get("If-None-Match")))
        deleted = "<DeleteResult><Deleted><Key>probe</Key></Deleted></DeleteResult>"
        return 200, deleted if request.command == "POST" else ""

    store = bucket_at(answering(overwrite))

    error = failure(lambda: probe_conditional_put(store))

    assert "ignores create-if-absent" in error.message
    assert requests == [("PUT", "*"), ("PUT", "*"), ("POST", None)]


def test_lost_answer_may_report_our_own_object(
    bucket_at: Callable[[str], Store], answering: Callable[[Answer], str]
) -> None:
    """When the first answer is lost the repeated request finds the name taken: ObjectExists."""
    answers = iter([(500, ""), (412, error_document("PreconditionFailed", "exists"))])
    store = bucket_at(answering(lambda _: next(answers)))

    with pytest.raises(ObjectExists):
        store.put_new("log/1", b"x")
