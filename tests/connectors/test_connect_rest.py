"""The client of Kafka Connect on scripted answers that a healthy cluster does not give; the rest is in tests/stack."""

import base64
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from connectors.connect_rest import ConnectClient
from processors.errors import (
    AccessDeniedError,
    ConnectError,
    RetryableError,
    TrsError,
    UnavailableError,
    UsageError,
)
from tests.scripted_http import Script
from tests.small_connect import Kept, SmallConnect

STATUS = {
    "name": "c",
    "connector": {"state": "RUNNING", "worker_id": "w:1"},
    "tasks": [{"id": 0, "state": "RUNNING", "worker_id": "w:1"}],
}


@pytest.fixture
def script() -> Iterator[Any]:
    """Starts scripted servers and ends them."""
    servers: list[Script] = []

    def start(*answers: tuple[int, Any]) -> Script:
        servers.append(Script(*answers))
        return servers[-1]

    yield start
    for server in servers:
        server.server_close()


def refused(message: str, status: int = 500) -> tuple[int, dict[str, Any]]:
    return status, {"error_code": status, "message": message}


def test_call_during_a_rebalance_is_repeated(script: Any) -> None:
    server = script(refused("rebalance", 409), refused("starting", 503), (200, STATUS))
    state = ConnectClient(f"http://{server.address}").state("c")
    assert state is not None
    assert state.runs
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (
            refused("Cannot complete request because of a\n conflicting operation", 409),
            RetryableError,
            "of a conflicting",
        ),
        (refused("no user", 401), AccessDeniedError, "no user.*check the user in TRS_CONNECT"),
        ((403, b""), AccessDeniedError, "HTTP status 403"),
        (refused("it broke"), ConnectError, "it broke"),
        ((404, b"<html>"), UnavailableError, r"no Kafka Connect \(HTTP status 404\)"),
        ((302, b""), UnavailableError, r"no Kafka Connect \(HTTP status 302\)"),
        ((200, b"<html>"), UnavailableError, "no Kafka Connect"),
        ((500, b'"a text"'), UnavailableError, r"no Kafka Connect \(HTTP status 500\)"),
    ],
)
def test_refusal_is_told_in_connects_own_words(
    script: Any, answer: tuple[int, Any], error: type[TrsError], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.connect_rest._RETRY", 0)
    server = script(answer)
    with pytest.raises(error, match=f"Kafka Connect at http://{server.address}.*{said}"):
        ConnectClient(f"http://{server.address}").state("c")


def test_user_of_the_url_is_sent_and_never_shown(script: Any) -> None:
    server = script((200, []))
    client = ConnectClient(f"http://me:p%40ss@{server.address}/")
    client.names()
    ((_, path, sent),) = server.asked
    assert (path, sent) == ("/connectors", "Basic " + base64.b64encode(b"me:p@ss").decode())
    assert "p@ss" not in client.where
    assert "me" not in client.where


def test_connect_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(UnavailableError, match=rf"{address} does not answer \(.*Connection refused\).*TRS_CONNECT"):
        ConnectClient(f"http://{address}").names()


@pytest.mark.parametrize("url", ["", "localhost:8083", "ftp://host", "http://", "http://host:port"])
def test_url_that_is_none_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(UsageError, match=r"^TRS_CONNECT is not the URL of a Kafka Connect \(http://HOST:PORT"):
        ConnectClient(url)


def test_connector_that_is_not_registered_is_told_with_those_that_are(script: Any) -> None:
    server = script(refused("Connector a/b not found", 404), (200, ["one", "two"]))
    with pytest.raises(UsageError, match=r"has no connector a/b \(registered: one, two"):
        ConnectClient(f"http://{server.address}").pause("a/b")
    assert server.asked[0][:2] == ("PUT", "/connectors/a%2Fb/pause")


def test_failure_is_told_by_its_last_cause(script: Any) -> None:
    trace = "org.x.ConnectException: outer\n\tat org.x.Y\nCaused by: a.B: middle\nCaused by: c.D: Access\n\tat org.x.Z"
    task = {"id": 0, "state": "FAILED", "worker_id": "w:1", "trace": trace}
    server = script((200, {**STATUS, "tasks": [task]}))
    state = ConnectClient(f"http://{server.address}").state("c")
    assert state is not None
    assert (state.failure, state.runs) == ("c.D: Access", False)


@pytest.mark.parametrize(
    ("connector", "tasks", "runs"),
    [
        ("RUNNING", ["RUNNING"], True),
        ("RUNNING", [], False),
        ("RUNNING", ["PAUSED"], False),
        ("PAUSED", ["RUNNING"], False),
        ("RUNNING", ["RUNNING", "FAILED"], False),
        ("UNASSIGNED", [], False),
    ],
)
def test_connector_runs_only_with_all_its_tasks(script: Any, connector: str, tasks: list[str], runs: bool) -> None:
    parts = [{"id": n, "state": state, "worker_id": "w"} for n, state in enumerate(tasks)]
    server = script((200, {"connector": {"state": connector, "worker_id": "w"}, "tasks": parts}))
    state = ConnectClient(f"http://{server.address}").state("c")
    assert state is not None
    assert state.runs is runs


def test_position_is_that_of_the_sources_present_name() -> None:
    server = SmallConnect()
    former = {"partition": {"server": "before"}, "offset": {"file": "binlog.000009", "pos": 4}}
    server.world.connectors["c"] = Kept({"topic.prefix": "now"}, former=[former])
    client = ConnectClient(server.url)
    try:
        assert client.position("c") is None
        server.world.connectors["c"].position = {"file": "binlog.000001", "pos": 7}
        assert client.position("c") == {"file": "binlog.000001", "pos": 7}
        assert client.position("nobody") is None
    finally:
        server.server_close()
