"""A worker that starts while Kafka or S3 is down: it waits, says for what, and goes on; what is wrong ends it."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.settings import Settings
from app.start_up import StartUp, StoppedEarlyError
from connectors.hosts import all_unknown, host_of
from connectors.lake import LakeLocation
from connectors.store_check import check_store
from devstack import ports, processes
from devstack.fault_proxy import Fault, FaultProxy, Weather
from devstack.kafka import Kafka
from devstack.stack import start_part
from processors.errors import AccessDeniedError, SettingsError, TrsError, UnavailableError
from tests.app.worker_process import produce
from tests.scripted_http import Script
from tests.stack_helpers import environment, row_count, start_worker, trs
from tests.waiting import wait_until

_NO_BUCKET = b"<?xml version='1.0'?><Error><Code>NoSuchBucket</Code><Message>none</Message></Error>"
_DENIED = b"<?xml version='1.0'?><Error><Code>InvalidAccessKeyId</Code><Message>no</Message></Error>"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Kafka]:
    """A broker of the test's own that does not run yet."""
    folder = tmp_path / "devstack"
    folder.mkdir()
    part = Kafka(folder, ports.assign(folder / "ports.json", needed=Kafka.port_names, in_use=()))
    yield part
    processes.stop(part.record, timeout_s=part.stop_timeout_s)


@pytest.fixture
def proxy(stack_settings: Settings) -> Iterator[FaultProxy]:
    """In front of the S3 server; at first it drops every request."""
    proxy = FaultProxy(upstream_port=urlsplit(stack_settings.aws_endpoint or "").port or 0, seed=1)
    proxy.set(Weather((Fault.DROP,), rate=1.0))
    proxy.start()
    yield proxy
    proxy.stop()


def get(settings: Settings, worker: "subprocess.Popen[bytes]", path: str) -> tuple[int, str]:
    """Status and body of a page; 0 while there are none."""
    try:
        where = json.loads((settings.home / f"worker-{worker.pid}.json").read_text(encoding="utf-8"))
        with urllib.request.urlopen(f"http://{where['host']}:{where['port']}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (OSError, ValueError):
        return 0, ""


def test_worker_waits_for_kafka_then_for_s3_goes_on_and_may_be_stopped_while_s3_hangs(
    stack_settings: Settings, broker: Kafka, proxy: FaultProxy, tmp_path: Path
) -> None:
    own = {"kafka": f"127.0.0.1:{broker.port}", "aws_endpoint": proxy.url, "partitions": 2, "stop_timeout_s": 3.0}
    settings = stack_settings.model_copy(update=own)
    settings.home.mkdir()
    log = tmp_path / "worker.log"
    worker = start_worker(settings, log, "--wait")
    try:
        wait_until(lambda: "waiting for Kafka" in get(settings, worker, "/ready")[1], timeout_s=60, what="it waits")
        assert get(settings, worker, "/ready")[0] == 503
        assert get(settings, worker, "/health")[0] == 200
        assert f"waiting for Kafka [trs.worker] reason='Kafka at 127.0.0.1:{broker.port} does not" in log.read_text()

        start_part(broker)
        wait_until(
            lambda: "waiting for the lake" in get(settings, worker, "/ready")[1], timeout_s=60, what="S3 is next"
        )
        wait_until(
            lambda: "store_away" in get(settings, worker, "/ready")[1], timeout_s=20, what="the watch says so too"
        )
        assert get(settings, worker, "/health")[0] == 200

        proxy.clear()
        wait_until(lambda: get(settings, worker, "/ready")[0] == 200, timeout_s=90, what="the worker is ready")
        assert "Kafka answers" in log.read_text()
        assert "the lake answers" in log.read_text()

        proxy.set(Weather((Fault.HANG,), rate=1.0, wait_s=60))
        produce(settings, "invoices", 10)
        wait_until(lambda: proxy.met[Fault.HANG] > 0, timeout_s=60, what="S3 hangs")
        worker.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert worker.wait(60) == 0
        assert time.monotonic() - began < settings.stop_timeout_s + 20
    finally:
        worker.kill()
        worker.wait()
    proxy.clear()
    trs(settings, "worker", "--until-caught-up")
    assert row_count(settings, "dead_letters") == 10, "nothing is lost, and nothing twice"


def test_worker_that_waits_ends_at_once_when_it_is_stopped(tmp_path: Path) -> None:
    """The broker takes connections and never answers: the library lets go of the call after seconds only."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = Settings(home=tmp_path, kafka=f"127.0.0.1:{silent.getsockname()[1]}", web_port=0)
        log = tmp_path / "worker.log"
        worker = start_worker(settings, log, "--wait")
        try:
            wait_until(lambda: "waiting for Kafka" in log.read_text(), timeout_s=60, what="it waits")
            seen = time.monotonic()
            wait_until(lambda: time.monotonic() > seen + 4, timeout_s=9, what="the next attempt is under way")
            worker.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert worker.wait(20) == 0
            assert time.monotonic() - began < 3
            assert "Traceback" not in log.read_text()
        finally:
            worker.kill()
            worker.wait()


def test_signal_beside_the_last_answer_is_not_lost(tmp_path: Path) -> None:
    def answers_while_it_comes() -> None:
        signal.raise_signal(signal.SIGTERM)

    with (
        pytest.raises(StoppedEarlyError),
        StartUp(Settings(home=tmp_path), wait=True, store=None) as start_up,
    ):
        start_up.until_there("Kafka", answers_while_it_comes)


@pytest.mark.parametrize("server", ["127.0.0.1", "127.0.0.1:9092", "[::1]:9092"])
def test_broker_that_is_named_without_a_port_is_no_unknown_host(server: str) -> None:
    assert not all_unknown([host_of(server)])


def test_worker_told_a_host_that_does_not_exist_ends_with_one_line(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, kafka="no-such-host.invalid:9092,nor-this.invalid:9092", web_port=0)
    command = [sys.executable, "-m", "app.cli.main", "worker", "--wait"]
    done = subprocess.run(command, env=environment(settings), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "TRS_KAFKA: there is no host of that name: no-such-host.invalid:9092" in line


@pytest.mark.parametrize(
    ("status", "body", "error", "told"),
    [
        (404, _NO_BUCKET, SettingsError, "there is no such bucket"),
        (301, b"<Error><Code>PermanentRedirect</Code></Error>", SettingsError, "in another region than us-east-1"),
        (400, b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>", SettingsError, "TRS_AWS_REGION"),
        (400, b"<Error><Code>InvalidRequest</Code></Error>", UnavailableError, "does not answer"),
        (403, _DENIED, AccessDeniedError, "refuses access"),
        (503, b"<Error><Code>SlowDown</Code></Error>", UnavailableError, "does not answer"),
        (500, b"", UnavailableError, "does not answer"),
    ],
)
def test_store_that_refuses_is_told_from_one_that_is_down(
    status: int, body: bytes, error: type[TrsError], told: str
) -> None:
    server = Script((status, body))
    with pytest.raises(error, match=told):
        check_store(lake_at(f"http://{server.address}"))
    server.server_close()


def test_store_whose_host_does_not_exist_is_a_wrong_setting_and_a_closed_port_is_not() -> None:
    with pytest.raises(SettingsError, match=r"TRS_AWS_ENDPOINT: .*http://no-such-host\.invalid:9000"):
        check_store(lake_at("http://no-such-host.invalid:9000"))
    with socket.socket() as closed, pytest.raises(UnavailableError):
        closed.bind(("127.0.0.1", 0))
        check_store(lake_at(f"http://127.0.0.1:{closed.getsockname()[1]}"))


def lake_at(endpoint: str) -> LakeLocation:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
    return LakeLocation("s3://bucket/lake", {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true", **keys})
