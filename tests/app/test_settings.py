"""Settings: precedence, errors that name the variable, masking."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli.main import build
from app.cli.settings import masked
from app.settings import STACK_FILE, Settings, load_settings, origins, unknown_variables
from app.wiring import kafka_config
from processors.errors import SettingsError


@pytest.fixture
def dotenv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working directory of the test's own whose `.env` counts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Settings.model_config, "env_file", ".env")
    return tmp_path / ".env"


@pytest.fixture
def stack_file(tmp_path: Path) -> Path:
    """The file of a running stack; this process stands for its processes."""
    file = tmp_path / "home" / STACK_FILE
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"TRS_KAFKA": "stack:1", "TRS_GROUP": "of-stack", "pids": [os.getpid()]}))
    return file


def test_value_of_the_environment_beats_dotenv_beats_stack_beats_default(
    monkeypatch: pytest.MonkeyPatch, dotenv: Path, stack_file: Path
) -> None:
    dotenv.write_text("TRS_KAFKA=dotenv:1\nTRS_TOPIC_PREFIX=of.dotenv\n")
    monkeypatch.setenv("TRS_TOPIC_PREFIX", "of.environment")
    settings = load_settings()
    told = origins(settings)
    assert (settings.topic_prefix, told["topic_prefix"].name) == ("of.environment", "environment")
    assert (settings.kafka, told["kafka"].name) == ("dotenv:1", ".env")
    assert (settings.group, told["group"].name) == ("of-stack", "embedded stack")
    assert (settings.partitions, told["partitions"].name) == (8, "default")


def test_stack_file_is_found_below_the_home_of_dotenv(monkeypatch: pytest.MonkeyPatch, dotenv: Path) -> None:
    monkeypatch.delenv("TRS_HOME")
    dotenv.write_text("TRS_HOME=elsewhere\n")
    file = dotenv.parent / "elsewhere" / STACK_FILE
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"TRS_KAFKA": "stack:2", "pids": [os.getpid()]}))
    assert load_settings().kafka == "stack:2"


def test_stack_file_whose_processes_are_gone_counts_as_none(stack_file: Path) -> None:
    stack_file.write_text(json.dumps({"TRS_KAFKA": "stack:1", "pids": [2**22 + 1]}))
    assert load_settings().kafka == "localhost:9092"


@pytest.mark.parametrize("variable", ["TRS_PARTITIONS", "TRS_EPOCH_INTERVAL_S", "TRS_PRICE_AT", "TRS_TOPIC_PREFIX"])
def test_wrong_value_raises_an_error_that_names_the_variable_and_not_the_value(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "%nonsense")
    with pytest.raises(SettingsError, match=variable) as caught:
        load_settings()
    assert "nonsense" not in str(caught.value)


@pytest.mark.parametrize("lake", ["gs://bucket/lake", "file:///lake", "s3://", "s3:///"])
def test_lake_that_is_neither_s3_nor_a_folder_is_refused(monkeypatch: pytest.MonkeyPatch, lake: str) -> None:
    monkeypatch.setenv("TRS_LAKE", lake)
    with pytest.raises(SettingsError, match=r"^TRS_LAKE: neither s3://BUCKET/PREFIX nor a folder"):
        load_settings()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"TRS_KAFKA_SECURITY": "sasl_ssl"}, "needs TRS_KAFKA_USER and TRS_KAFKA_PASSWORD"),
        ({"TRS_KAFKA_SECURITY": "sasl_plaintext", "TRS_KAFKA_USER": "me"}, "needs TRS_KAFKA_USER and"),
        ({"TRS_KAFKA_CA_FILE": "/no/such.pem"}, "TRS_KAFKA_CA_FILE: there is no file /no/such.pem"),
    ],
)
def test_kafka_settings_that_cannot_work_are_named_before_a_connection(
    monkeypatch: pytest.MonkeyPatch, setting: dict[str, str], said: str
) -> None:
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=said):
        kafka_config(load_settings())


def test_all_wrong_variables_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRS_PARTITIONS", "0")
    monkeypatch.setenv("TRS_WEB_PORT", "99999")
    with pytest.raises(SettingsError, match=r"TRS_PARTITIONS.*; TRS_WEB_PORT"):
        load_settings()


def test_unknown_variable_is_told_with_the_likeliest_setting(monkeypatch: pytest.MonkeyPatch, dotenv: Path) -> None:
    monkeypatch.setenv("TRS_PARTITION", "4")
    monkeypatch.setenv("TRS_EXTRACTS", "of the tests")
    dotenv.write_text("TRS_QQQQQQQQ=1\n")
    assert list(unknown_variables()) == [("TRS_PARTITION", "TRS_PARTITIONS"), ("TRS_QQQQQQQQ", None)]


@pytest.mark.parametrize("password", ["secret", "p@ss:w/rd", "line\nbreak"])
def test_settings_command_shows_no_secret(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    monkeypatch.setenv("TRS_DATABASE", f"mysql://someone:{password}@db:3306/trs")
    monkeypatch.setenv("TRS_KAFKA_PASSWORD", password)
    monkeypatch.setenv("TRS_AWS_SECRET_KEY", password)
    answer = CliRunner().invoke(build(), ["settings", "--json"])
    assert answer.exit_code == 0
    shown = {row["variable"]: row["value"] for row in json.loads(answer.stdout)}
    assert shown["TRS_DATABASE"] == "mysql://someone:***@db:3306/trs"
    assert shown["TRS_KAFKA_PASSWORD"] == shown["TRS_AWS_SECRET_KEY"] == "***"
    assert password not in answer.stdout


def test_database_setting_that_is_no_url_is_masked_altogether() -> None:
    assert masked("database", Settings(database="just-a-password").database) == "***"


def test_settings_command_with_describe_works_while_a_setting_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRS_PARTITIONS", "wrong")
    answer = CliRunner().invoke(build(), ["settings", "--describe", "--json"])
    assert answer.exit_code == 0
    rows = {row["variable"]: row for row in json.loads(answer.stdout)}
    assert len(rows) == len(Settings.model_fields)
    assert rows["TRS_PARTITIONS"]["default"] == 8
    assert rows["TRS_EPOCH_INTERVAL_S"]["unit"] == "seconds"
    assert all(row["meaning"] for row in rows.values())


def test_reasons_to_stop_at_are_checked_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRS_DEAD_LETTER_STOP", "not_json,bad_position")
    assert load_settings().dead_letter_stop == ("not_json", "bad_position")
    assert masked("dead_letter_stop", load_settings().dead_letter_stop) == "not_json,bad_position"
    monkeypatch.setenv("TRS_DEAD_LETTER_STOP", "no_json")
    with pytest.raises(SettingsError, match=r"TRS_DEAD_LETTER_STOP: .*no_json: no reason"):
        load_settings()
