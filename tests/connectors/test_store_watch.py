"""A store that is away is told, and told again when it is back."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from connectors.store_watch import StoreWatch
from tests.small_server import SmallServer


class Answers(BaseHTTPRequestHandler):
    """Whatever the status of the class."""

    status = 404

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.send_header("Last-Modified", "Wed, 01 May 2024 00:00:00 GMT")
        self.send_header("ETag", '"a"')
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class Silence(Answers):
    """Takes the request and lets the client wait."""

    go_on = threading.Event()

    def do_HEAD(self) -> None:
        self.go_on.wait(30)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], port: int = 0) -> Iterator[int]:
    with SmallServer(handler, port) as server:
        yield server.server_port


def watching(port: int) -> StoreWatch:
    options = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    return StoreWatch("s3://bucket/lake", options | {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})


def test_store_that_goes_away_is_told_seldom_and_its_return_once(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Answers) as port:
        watch = watching(port)
        watch.look(0)
        assert caplog.messages == []
    for now_s in (2, 4, 6, 18, 20):
        watch.look(now_s)
    away = f"S3 at http://127.0.0.1:{port}, bucket bucket, does not answer (HTTP error: error sending request)"
    assert caplog.messages == [f"{away}; what needs it is tried again"] * 2
    caplog.clear()
    with serving(Answers, port):
        watch.look(22)
        watch.look(24)
    assert caplog.messages == [f"S3 at http://127.0.0.1:{port}, bucket bucket, answers again"]


def test_store_that_takes_requests_and_is_silent_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Silence) as port:
        watching(port).look(0)
        Silence.go_on.set()
    [said] = caplog.messages
    assert "does not answer" in said


@pytest.mark.parametrize(("status", "told"), [(200, 0), (403, 0), (404, 0), (500, 1), (503, 1)])
def test_store_that_refuses_has_answered(caplog: pytest.LogCaptureFixture, status: int, told: int) -> None:
    with serving(type("Status", (Answers,), {"status": status})) as port:
        watching(port).look(0)
    assert len(caplog.messages) == told


def test_watch_says_nothing_once_it_ended(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Answers) as port, watching(port) as watch:
        pass
    watch.look(0)
    assert caplog.messages == []


def test_open_watch_tells_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    asked = threading.Event()

    class Failing(Answers):
        status = 503

        def do_HEAD(self) -> None:
            super().do_HEAD()
            asked.set()

    with serving(Failing) as port, watching(port):
        assert asked.wait(10)
        for _ in range(100):
            if caplog.messages:
                break
            time.sleep(0.05)
    assert [m for m in caplog.messages if "does not answer" in m]
