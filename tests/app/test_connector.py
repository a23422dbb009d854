"""Waiting for a connector, on scripted answers; settings and hints. The real Kafka Connect is in tests/stack."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from app.connector import (
    await_running,
    connector_name,
    current_state,
    delete,
    pause,
    plan_connector,
    refusal,
    resume,
    validate,
)
from app.settings import Settings, load_settings, parse_options
from connectors.connect_rest import ConnectClient, Problem
from processors.errors import ConnectError, SettingsError, UnavailableError
from tests.app.commands import trs
from tests.scripted_http import Script


def status(connector: str, *tasks: str) -> tuple[int, Any]:
    parts = [{"id": n, "state": t, "worker_id": "w", "trace": "a.B: broken\n\tat x"} for n, t in enumerate(tasks)]
    return 200, {"name": "c", "connector": {"state": connector, "worker_id": "w"}, "tasks": parts}


ACCEPTED = (202, b"")
GONE = (404, {"error_code": 404, "message": "No status found for connector c"})


@pytest.fixture
def scripted() -> Iterator[Any]:
    """Makes a client of a server that gives these answers."""
    servers: list[Script] = []

    def start(*answers: tuple[int, Any]) -> tuple[ConnectClient, Script]:
        servers.append(Script(*answers))
        return ConnectClient(f"http://{servers[-1].address}"), servers[-1]

    yield start
    for server in servers:
        server.server_close()


def test_resume_starts_again_what_failed(scripted: Any) -> None:
    failed, running = status("RUNNING", "FAILED"), status("RUNNING", "RUNNING")
    client, server = scripted(ACCEPTED, failed, ACCEPTED, failed, running)
    resume(client, "c", wait_s=10)
    assert [asked[:2] for asked in server.asked[:3]] == [
        ("PUT", "/connectors/c/resume"),
        ("GET", "/connectors/c/status"),
        ("POST", "/connectors/c/restart?includeTasks=true&onlyFailed=true"),
    ]


def test_resume_of_a_connector_that_did_not_fail_restarts_nothing(scripted: Any) -> None:
    client, server = scripted(ACCEPTED, status("PAUSED", "PAUSED"), status("RUNNING", "RUNNING"))
    resume(client, "c", wait_s=10)
    assert "POST" not in [asked[0] for asked in server.asked]


def test_connector_that_runs_for_a_moment_and_fails_does_not_count_as_running(scripted: Any) -> None:
    code, failed = status("RUNNING", "FAILED")
    last = (code, failed | {"database.password": "broken"})  # also what is answered when the configuration is asked for
    client, _ = scripted(GONE, status("RUNNING"), status("RUNNING", "RUNNING"), last)
    with pytest.raises(ConnectError, match=r"connector c failed: a\.B: \*\*\* .*trs connector resume"):
        await_running(client, "c", wait_s=10)


def test_connector_that_does_not_get_there_in_time_is_told_with_its_state(scripted: Any) -> None:
    client, _ = scripted(ACCEPTED, status("PAUSED", "RUNNING"))
    with pytest.raises(UnavailableError, match="c is not paused after 1 s but PAUSED, RUNNING"):
        pause(client, "c", wait_s=1)


def test_delete_with_its_position_stops_it_first_though_it_failed(scripted: Any) -> None:
    client, server = scripted(ACCEPTED, status("FAILED"), status("STOPPED"), ACCEPTED, (204, b""), GONE)
    delete(client, "c", forget=True, wait_s=10)
    assert [asked[:2] for asked in server.asked if asked[0] != "GET"] == [
        ("PUT", "/connectors/c/stop"),
        ("DELETE", "/connectors/c/offsets"),
        ("DELETE", "/connectors/c"),
    ]


QUOTED = [
    {"definition": None, "value": None},
    {"definition": {"name": "database.hostname"}, "value": {"name": "database.hostname", "errors": ["no s3cret at h"]}},
]


def test_secrets_that_kafka_connect_quotes_are_not_shown(scripted: Any) -> None:
    planned = plan_connector(Settings(database=SecretStr("mysql://u:s3cret@h/trs")), version="9.7.4")
    plugins = (200, [{"class": planned.config["connector.class"], "version": "3"}])
    client, _ = scripted(plugins, (200, {"configs": QUOTED}))
    assert validate(client, planned) == ([Problem("database.hostname", "no *** at h")], [])
    client, _ = scripted(plugins, (500, {"error_code": 500, "message": "s3cret is wrong"}))
    with pytest.raises(ConnectError, match=r"\*\*\* is wrong"):
        validate(client, planned)

    trace = {"id": 0, "state": "FAILED", "worker_id": "w", "trace": "a.B: s3cret is wrong"}
    failed = (200, {"connector": {"state": "RUNNING", "worker_id": "w"}, "tasks": [trace]})
    client, _ = scripted(failed, (200, planned.config))
    assert current_state(client, "c").failure == "a.B: *** is wrong"


def test_refusal_of_a_password_over_a_plain_connection_says_what_may_be_done() -> None:
    error = refusal([Problem("database.hostname", "Unable to connect: Public Key Retrieval is not allowed")])
    assert "driver.allowPublicKeyRetrieval" in str(error)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("{}", {}),
        (
            '{"a": "x", "b": true, "c": 20, "d": null, "e": 0.5}',
            {"a": "x", "b": "true", "c": "20", "d": None, "e": "0.5"},
        ),
    ],
)
def test_options_are_text_as_kafka_connect_takes_them(text: str, options: dict[str, str | None]) -> None:
    assert parse_options(text) == options


@pytest.mark.parametrize("text", ["s3cret", "[1]", '{"a": {"b": "s3cret"}}', '{"a": "s3cret"'])
def test_options_that_are_no_object_are_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TRS_CONNECTOR_OPTIONS", text)
    with pytest.raises(SettingsError, match=r"^TRS_CONNECTOR_OPTIONS: not ") as caught:
        load_settings()
    assert "s3cret" not in str(caught.value)


def test_connector_is_named_after_the_newest_source_unless_told() -> None:
    assert connector_name(Settings(source_names=("old", "new"))) == "trs-new"
    assert connector_name(Settings(source_names=("old", "new"), connector="mine")) == "mine"
    with pytest.raises(SettingsError, match="TRS_SOURCE_NAMES is empty"):
        connector_name(Settings(source_names=()))


def test_connector_without_a_database_is_refused() -> None:
    with pytest.raises(SettingsError, match="TRS_DATABASE"):
        plan_connector(Settings(), version="9.7.4")


def test_certificates_of_the_brokers_are_sent_along(tmp_path: Any) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\n")
    settings = Settings(
        database=SecretStr("mysql://u:p@h/trs"), kafka_security="ssl", kafka_ca_file=file, source_names=("old", "new")
    )
    planned = plan_connector(settings, version="9.7.4", snapshot="no_data")
    history = "schema.history.internal.producer."
    assert planned.config[f"{history}ssl.truststore.certificates"] == "-----BEGIN CERTIFICATE-----\n"
    assert planned.config["topic.prefix"] == "new"


def test_settings_show_neither_options_nor_the_password_of_connect() -> None:
    secrets = {"TRS_CONNECTOR_OPTIONS": '{"database.password": "s3cret"}', "TRS_CONNECT": "http://me:s3cret@h:8083"}
    shown = trs("settings", "--json", **secrets)
    assert shown.code == 0
    assert "s3cret" not in shown.out
    assert "http://me:***@h:8083" in shown.out
