"""Passwords with a mark in them, through commands, workers and every way to fail: the mark must be found nowhere."""

import json
import urllib.request
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.connector import connect_client, plan_connector
from app.dms import plan_dms
from app.settings import Settings
from app.wiring import database_url, kafka_config, lake_location
from connectors.mysql import DatabaseUrl
from tests.app.commands import trs
from tests.stack_helpers import environment, start_worker
from tests.stack_helpers import trs as run_trs
from tests.waiting import wait_until

MARK = "Zq7xMARKw9"
"""Part of every password here but the database's, whose server is given no new user."""
NOWHERE = "127.0.0.1:1"


def assert_secret(where: str, text: str, *more: str) -> None:
    for secret in (MARK, *more):
        assert secret not in text, f"{where}: …{text[max(0, text.find(secret) - 200) : text.find(secret) + 50]}"


@pytest.fixture
def marked(local_settings: Settings) -> Settings:
    """Settings that work, with marked passwords for all that takes any."""
    return local_settings.model_copy(
        update={
            "kafka_user": "trs",
            "kafka_password": SecretStr(f"kafka-{MARK}"),
            "aws_access_key": SecretStr(f"key-{MARK}"),
            "aws_secret_key": SecretStr(f"secret-{MARK}"),
            "connect": SecretStr(f"http://trs:connect-{MARK}@{NOWHERE}"),
            "connector_options": SecretStr(json.dumps({"database.ssl.truststore.password": MARK})),
            "log_level": "DEBUG",
        }
    )


def variables(settings: Settings, **changes: str) -> dict[str, str]:
    return {n: v for n, v in environment(settings).items() if n.startswith("TRS_")} | changes


def status_of(method: str, host: str, port: int, page: str) -> int:
    """How the worker's server answers a request, whatever its method."""
    connection = HTTPConnection(host, port, timeout=10)
    try:
        connection.request(method, page, body=b"x" if method != "TRACE" else None)
        return connection.getresponse().status
    finally:
        connection.close()


def children() -> list[str]:
    """The command lines of all processes that may be read."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended
            continue
    return lines


def test_marked_passwords_of_commands_and_workers_that_work_are_found_nowhere_and_pages_take_no_command(
    marked: Settings, tmp_path: Path
) -> None:
    password = DatabaseUrl.parse(marked.database.get_secret_value() if marked.database else "").password
    for command in (
        ("generate", "--invoices", "30", "--to", "mysql"),
        ("bootstrap", "snapshot", "--source", "mysql"),
    ):
        done = run_trs(marked, *command)
        assert_secret(" ".join(command), done.stdout + done.stderr, password)
    log = tmp_path / "worker.log"
    worker = start_worker(marked.model_copy(update={"log_format": "json"}), log)
    try:
        address = marked.home / f"worker-{worker.pid}.json"
        wait_until(address.exists, timeout_s=60, what="the worker's pages")
        where: dict[str, Any] = json.loads(address.read_text(encoding="utf-8"))
        for page in ("/", "/status.json", "/metrics"):
            with urllib.request.urlopen(f"http://{where['host']}:{where['port']}{page}", timeout=10) as answer:
                assert_secret(page, answer.read().decode(), password)
        for page in ("/", "/status.json", "/metrics", "/health", "/ready", "/nothing"):
            for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PURGE"):
                assert status_of(method, where["host"], where["port"], page) in (400, 404, 405), (method, page)
        for line in children():
            assert_secret("/proc", line, f":{password}@")
    finally:
        worker.terminate()
        assert worker.wait(60) == 0
    text = run_trs(marked, "worker", "--until-caught-up")
    for name, said in (("json", log.read_text(encoding="utf-8")), ("text", text.stdout + text.stderr)):
        assert "DEBUG" in said or "debug" in said
        assert_secret(f"log, {name}", said, password)

    for command in (
        ("settings",),
        ("settings", "--json"),
        ("settings", "--describe"),
        ("doctor",),
        ("status", "--json"),
        ("connector", "render"),
        ("connector", "dms-render"),
        ("connector", "validate"),
        ("lake", "describe"),
    ):
        told = trs(*command, **variables(marked))
        assert told.out + told.err
        assert_secret(" ".join(command), told.out + told.err, password)
    for file in (f for folder in (marked.home, Path(marked.lake)) for f in folder.rglob("*") if f.is_file()):
        assert_secret(str(file), file.read_bytes().decode("latin-1"), f":{password}@")


FAILURES = {
    "wrong password of the database": (("etl", "--source", "mysql", "--out", "x.csv"), {"TRS_DATABASE": "{denied}"}),
    "database that does not answer": (
        ("bootstrap", "snapshot", "--source", "mysql"),
        {"TRS_DATABASE": f"mysql://u:{MARK}@{NOWHERE}/trs"},
    ),
    "port of the database that is none": (
        ("generate", "--to", "mysql"),
        {"TRS_DATABASE": f"mysql://u:{MARK}@h:port/trs"},
    ),
    "password with a slash": (("generate", "--to", "mysql"), {"TRS_DATABASE": f"mysql://u:a/{MARK}@h/trs"}),
    "password with a bracket": (("generate", "--to", "mysql"), {"TRS_DATABASE": f"mysql://u:[{MARK}@h/trs"}),
    "source that is no URL": (("etl", "--source", f"my:{MARK}@h", "--out", "x.csv"), {}),
    "brokers without SASL": (("worker", "--until-caught-up"), {"TRS_KAFKA_SECURITY": "sasl_plaintext"}),
    "brokers that do not answer": (
        ("worker", "--until-caught-up"),
        {"TRS_KAFKA_SECURITY": "sasl_plaintext", "TRS_KAFKA": NOWHERE},
    ),
    "Kafka Connect that does not answer": (("connector", "status"), {}),
    "Kafka Connect's URL that is none": (("connector", "status"), {"TRS_CONNECT": f"ftp://u:{MARK}@h"}),
    "Kafka Connect's port that is none": (("connector", "status"), {"TRS_CONNECT": f"http://u:{MARK}@h:port"}),
    "options that are no JSON": (("settings",), {"TRS_CONNECTOR_OPTIONS": f'{{"database.password": {MARK}'}),
    "object store that does not answer": (
        ("lake", "describe"),
        {"TRS_LAKE": "s3://bucket/lake", "TRS_AWS_ENDPOINT": f"http://{NOWHERE}"},
    ),
}


SLOW = {"brokers that do not answer", "object store that does not answer"}


@pytest.mark.parametrize(
    "failure", [pytest.param(name, marks=[pytest.mark.long] if name in SLOW else []) for name in FAILURES]
)
def test_marked_passwords_are_not_in_what_a_failure_says(marked: Settings, failure: str) -> None:
    command, changes = FAILURES[failure]
    assert marked.database is not None
    url = DatabaseUrl.parse(marked.database.get_secret_value())
    denied = f"mysql://{url.user}:{MARK}@{url.host}:{url.port}/{url.database}?tls=off"
    told = trs(*command, **variables(marked, **{n: v.replace("{denied}", denied) for n, v in changes.items()}))
    assert told.code != 0
    assert_secret(failure, told.out + told.err)
    assert "Traceback" not in told.err


def test_objects_that_hold_secrets_do_not_show_them_in_a_log_or_traceback() -> None:
    settings = Settings(
        database=SecretStr(f"mysql://u:{MARK}@h/trs"),
        kafka_security="sasl_ssl",
        kafka_user="trs",
        kafka_password=SecretStr(MARK),
        aws_access_key=SecretStr(MARK),
        aws_secret_key=SecretStr(MARK),
        connect=SecretStr(f"http://u:{MARK}@h:8083"),
        lake="s3://bucket/lake",
    )
    for value in (
        settings,
        database_url(settings),
        kafka_config(settings),
        lake_location(settings),
        plan_connector(settings, version="9.7.4"),
        plan_dms(settings, version="9.7.4"),
        connect_client(settings),
    ):
        assert_secret(type(value).__name__, repr(value) + str(value))
