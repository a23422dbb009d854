"""Settings that name a secret which AWS keeps, instead of holding it."""

import json
from collections.abc import Iterator

import boto3
import pytest
from moto import mock_aws

from app.settings import load_settings
from connectors.secret_references import is_reference, resolve
from processors.errors import SettingsError
from tests.app.commands import trs

REGION = "eu-west-1"


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """AWS with two secrets and a parameter; the ARNs by name."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("TRS_AWS_REGION", REGION)
    resolve.cache_clear()
    with mock_aws():
        secrets = boto3.client("secretsmanager", region_name=REGION)
        brokers = json.dumps({"username": "worker", "password": "sh#h"})
        arns = {"brokers": secrets.create_secret(Name="AmazonMSK_trs", SecretString=brokers)["ARN"]}
        secrets.create_secret(Name="bytes", SecretBinary=b"\x00")
        parameters = boto3.client("ssm", region_name=REGION)
        url = "mysql://u:p@h/trs"
        parameters.put_parameter(Name="/trs/database", Value=url, Type="SecureString")
        arns["database"] = parameters.get_parameter(Name="/trs/database")["Parameter"]["ARN"]
        yield arns
    resolve.cache_clear()


def test_references_of_every_form_become_the_secrets(monkeypatch: pytest.MonkeyPatch, aws: dict[str, str]) -> None:
    monkeypatch.setenv("TRS_KAFKA_USER", "secretsmanager:AmazonMSK_trs#username")
    monkeypatch.setenv("TRS_KAFKA_PASSWORD", f"{aws['brokers']}#password")
    monkeypatch.setenv("TRS_AWS_SECRET_KEY", f"secretsmanager:{aws['brokers']}#username")
    for reference in ("ssm:/trs/database", aws["database"], f"ssm:{aws['database']}"):
        monkeypatch.setenv("TRS_DATABASE", reference)
        settings = load_settings()
        assert settings.database is not None
        assert settings.database.get_secret_value() == "mysql://u:p@h/trs"
    assert settings.kafka_user == "worker"
    assert settings.kafka_password is not None
    assert settings.kafka_password.get_secret_value() == "sh#h"
    assert settings.aws_secret_key is not None
    assert settings.aws_secret_key.get_secret_value() == "worker"


def test_secret_is_asked_for_once_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRS_DATABASE", "ssm:/trs/database")
    before = load_settings()
    boto3.client("ssm", region_name=REGION).delete_parameter(Name="/trs/database")
    assert load_settings() == before


def test_what_a_reference_leads_to_is_checked_as_if_it_stood_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRS_CONNECTOR_OPTIONS", "secretsmanager:AmazonMSK_trs#password")
    with pytest.raises(SettingsError, match="TRS_CONNECTOR_OPTIONS: not JSON") as refused:
        load_settings()
    assert "sh#h" not in str(refused.value)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("secretsmanager:no-such", "ResourceNotFoundException"),
        ("ssm:/no/such", "ParameterNotFound"),
        ("secretsmanager:bytes", "is binary"),
        ("secretsmanager:AmazonMSK_trs#passwort", "no JSON object with that key"),
        ("ssm:/trs/database#password", "no JSON object with that key"),
        ("ssm:arn:aws:secretsmanager:eu-west-1:1:secret:x", "the ARN is one of secretsmanager"),
    ],
)
def test_secret_that_is_not_to_be_had_is_one_line_without_it(reference: str, said: str) -> None:
    told = trs("settings", TRS_KAFKA_PASSWORD=reference)
    assert told.code == SettingsError.exit_code
    assert told.err.count("\n") == 1
    assert "TRS_KAFKA_PASSWORD: " in told.err
    assert said in told.err
    assert "mysql://" not in told.err + told.out


@pytest.mark.parametrize(
    "text",
    ["mysql://u:p@h/d", "secret", "secretsmanager", "ssm:", "arn:aws:s3:::bucket", "x ssm:/a", "secretsmanager:#k"],
)
def test_other_texts_are_no_references(text: str) -> None:
    assert not is_reference(text)
