"""The fault proxy before a tiny server: what passes, what each fault does to client and server."""

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import pytest

from devstack.fault_proxy import Fault, FaultProxy, Weather
from tests.small_server import SmallServer

WAIT_S = 0.3


class Store(BaseHTTPRequestHandler):
    """PUT keeps a body, GET returns it (a range where asked), `/chunked` in chunks, `/endless` without a length.

    A PUT below `/meet/` is answered when as many of them are there as `meeting` waits for.
    """

    protocol_version = "HTTP/1.1"
    content: dict[str, bytes]
    seen: list[tuple[str, str]]
    meeting = threading.Barrier(8, timeout=60)

    def do_GET(self) -> None:
        self.seen.append((self.command, self.path))
        body = self.content.get(self.path)
        if body is None:
            self._head(404, b"no")
        elif self.path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        elif self.path == "/endless":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True
        elif "Range" in self.headers:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            self._head(206, body[int(first) : int(last) + 1])
        else:
            self._head(200, body)

    do_HEAD = do_GET  # noqa: N815 - the base class's name

    def do_PUT(self) -> None:
        self.seen.append((self.command, self.path))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("If-None-Match") == "*" and self.path in self.content:
            self._head(412, b"exists")
            return
        if self.path.startswith("/meet/"):
            self.meeting.wait()
        self.content[self.path] = body
        self._head(200, b"")

    do_POST = do_PUT  # noqa: N815 - the base class's name

    def do_DELETE(self) -> None:
        self.seen.append((self.command, self.path))
        self.content.pop(self.path, None)
        self.send_response(204)
        self.end_headers()

    def _head(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def store() -> Iterator[type[Store]]:
    class Own(Store):
        """With a content of its own."""

    Own.content, Own.seen = {}, []
    yield Own


@pytest.fixture
def proxy(store: type[Store]) -> Iterator[FaultProxy]:
    with SmallServer(store) as server:
        proxy = FaultProxy(upstream_port=server.server_port, seed=1)
        proxy.start()
        yield proxy
        proxy.stop()


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5)
    yield connection
    connection.close()


def ask(
    client: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    client.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    answer = client.getresponse()
    return answer.status, answer.read()


def test_requests_of_every_kind_pass_over_one_connection(client: http.client.HTTPConnection, proxy: FaultProxy) -> None:
    big = bytes(range(256)) * 4000
    assert ask(client, "PUT", "/a", big) == (200, b"")
    kept = client.sock
    assert ask(client, "GET", "/a") == (200, big)
    assert ask(client, "GET", "/a", Range="bytes=5-9") == (206, big[5:10])
    assert ask(client, "HEAD", "/a") == (200, b"")
    assert ask(client, "PUT", "/a", b"new", If_None_Match="*") == (412, b"exists")
    assert ask(client, "POST", "/b?uploads", b"<Parts/>", Expect="100-continue") == (200, b"")
    assert ask(client, "DELETE", "/a") == (204, b"")
    assert ask(client, "GET", "/a") == (404, b"no")
    assert client.sock is kept
    assert (proxy.requests, proxy.met) == (8, {})


def test_request_that_is_refused_never_reaches_the_server(
    client: http.client.HTTPConnection, proxy: FaultProxy, store: type[Store]
) -> None:
    proxy.set(Weather((Fault.REFUSE_500, Fault.REFUSE_503), rate=1.0))
    assert ask(client, "DELETE", "/a")[0] in (500, 503)
    assert store.seen == []


def test_chunked_and_unsized_bodies_pass(client: http.client.HTTPConnection, store: type[Store]) -> None:
    client.request("PUT", "/chunked", iter([b"one ", b"two"]), encode_chunked=True)
    assert client.getresponse().read() == b""
    assert store.content == {"/chunked": b"one two"}
    assert ask(client, "GET", "/chunked") == (200, b"one two")
    store.content["/endless"] = b"x" * 200_000
    assert ask(client, "GET", "/endless") == (200, b"x" * 200_000)


def test_many_clients_are_served_side_by_side(proxy: FaultProxy, store: type[Store]) -> None:
    proxy.set(Weather((Fault.SLOW,), rate=1.0, wait_s=WAIT_S))

    def put(number: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=90)
        status, _ = ask(connection, "PUT", f"/meet/{number}", b"x")
        connection.close()
        return status

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(put, range(8))) == [200] * 8
    assert len(store.content) == 8


@pytest.mark.parametrize(("fault", "status"), [(Fault.REFUSE_500, 500), (Fault.REFUSE_503, 503), (Fault.DENY_500, 500)])
def test_fault_with_a_status_keeps_the_connection(
    client: http.client.HTTPConnection, proxy: FaultProxy, store: type[Store], fault: Fault, status: int
) -> None:
    proxy.set(Weather((fault,), rate=1.0))
    assert ask(client, "PUT", "/a", b"body")[0] == status
    assert store.content == ({"/a": b"body"} if fault is Fault.DENY_500 else {})
    proxy.clear()
    assert ask(client, "PUT", "/b", b"body")[0] == 200
    assert proxy.met == {fault: 1}


@pytest.mark.parametrize(
    ("fault", "done"),
    [
        (Fault.DROP, False),
        (Fault.CUT_REQUEST, False),
        (Fault.CUT_ANSWER, True),
        (Fault.DROP_ANSWER, True),
        (Fault.HANG, True),
    ],
)
def test_fault_without_an_answer_ends_the_connection(
    client: http.client.HTTPConnection, proxy: FaultProxy, store: type[Store], fault: Fault, done: bool
) -> None:
    proxy.set(Weather((fault,), rate=1.0, wait_s=WAIT_S))
    began = time.monotonic()
    with pytest.raises((http.client.HTTPException, OSError)):
        assert ask(client, "PUT", "/a", b"body" * 100_000)[0] == 0
    assert (time.monotonic() - began >= WAIT_S) == (fault is Fault.HANG)
    assert store.content == ({"/a": b"body" * 100_000} if done else {})
    proxy.clear()
    client.close()
    assert ask(client, "PUT", "/b", b"body")[0] == 200


def test_answer_that_is_cut_has_a_part_of_its_body(
    client: http.client.HTTPConnection, proxy: FaultProxy, store: type[Store]
) -> None:
    store.content["/a"] = b"x" * 1000
    proxy.set(Weather((Fault.CUT_ANSWER,), rate=1.0))
    with pytest.raises(http.client.IncompleteRead) as cut:
        ask(client, "GET", "/a")
    assert 0 < len(cut.value.partial) < 1000


def test_proxy_that_is_shut_waits_for_what_is_under_way_and_drops_the_rest(
    client: http.client.HTTPConnection, proxy: FaultProxy, store: type[Store]
) -> None:
    proxy.set(Weather((Fault.SLOW,), rate=1.0, wait_s=WAIT_S))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, client, "PUT", "/a", b"x")
        while proxy.requests == 0:
            time.sleep(0.01)
        proxy.shut()
        assert slow.result() == (200, b"")
    assert store.content == {"/a": b"x"}
    with pytest.raises((http.client.HTTPException, OSError)):
        ask(client, "GET", "/a")
    proxy.clear()
    proxy.reopen()
    client.close()
    assert ask(client, "GET", "/a") == (200, b"x")


def test_faults_of_one_seed_are_the_same_again(proxy: FaultProxy, store: type[Store]) -> None:
    def met(seed: int) -> list[int]:
        other = FaultProxy(upstream_port=proxy.port, seed=seed)
        other.start()
        other.set(Weather((Fault.REFUSE_500, Fault.REFUSE_503), rate=0.5))
        client = http.client.HTTPConnection("127.0.0.1", other.port, timeout=5)
        statuses = [ask(client, "GET", "/a")[0] for _ in range(30)]
        client.close()
        other.stop()
        return statuses

    assert met(7) == met(7) != met(8)
    assert {404, 500, 503} == set(met(7))


def test_server_that_is_away_ends_the_connection(proxy: FaultProxy) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        away = FaultProxy(upstream_port=probe.getsockname()[1], seed=1)
        away.start()
        client = http.client.HTTPConnection("127.0.0.1", away.port, timeout=5)
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(client, "GET", "/a")
        client.close()
        away.stop()
