"""What AWS DMS is told is what its API takes, and asks for all that the translator needs."""

import json
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from connectors.debezium import Flavour
from connectors.dms import BEFORE_IMAGE
from connectors.dms_task import DmsPlan, hide_secrets, render
from connectors.kafka_config import KafkaConfig
from connectors.mysql import DatabaseUrl
from processors.errors import SettingsError
from processors.tables import TABLES

SASL = KafkaConfig("b-1:9096,b-2:9096", security="sasl_ssl", user="trs", password="kafka-secret")
OPERATIONS = {"source": "CreateEndpoint", "target": "CreateEndpoint", "task": "CreateReplicationTask"}


def plan(**changes: Any) -> DmsPlan:
    fields: dict[str, Any] = {
        "name": "trs-aurora",
        "topic_prefix": "dms.trs",
        "flavour": Flavour.AURORA,
        "database": DatabaseUrl("db.example.com", 3306, "dms", "db-secret", "trs"),
        "schema": "trs",
        "kafka": SASL,
        "start": "mysql-bin-changelog.000024:373",
    }
    return DmsPlan(**(fields | changes))


def faults(arguments: dict[str, Any], operation: str) -> str:
    """What botocore's model of DMS says against the arguments; enumerations too, which botocore does not check."""
    model = botocore.session.get_session().get_service_model("dms")
    shape = model.operation_model(operation).input_shape
    found = str(ParamValidator().validate(arguments, shape).generate_report())
    return found + "".join(_outside(arguments, shape))


def _outside(value: Any, shape: Any) -> list[str]:
    if shape.type_name == "structure":
        return [
            line
            for name, inner in value.items()
            if name in shape.members
            for line in _outside(inner, shape.members[name])
        ]
    allowed = getattr(shape, "enum", [])
    return [f"{value} is none of {allowed}"] if allowed and value not in allowed else []


@pytest.mark.parametrize("flavour", list(Flavour))
@pytest.mark.parametrize(
    "kafka",
    [
        SASL,
        KafkaConfig("b:9092"),
        KafkaConfig("b:9094", security="ssl"),
        KafkaConfig("b:9096", security="sasl_ssl", sasl_mechanism="PLAIN", user="u", password="p"),
    ],
    ids=["scram", "plaintext", "ssl", "plain"],
)
def test_arguments_are_those_of_the_api(flavour: Flavour, kafka: KafkaConfig) -> None:
    arguments = render(plan(flavour=flavour, kafka=kafka))
    assert {part: faults(arguments[part], operation) for part, operation in OPERATIONS.items()} == dict.fromkeys(
        OPERATIONS, ""
    )


def test_a_wrong_name_or_value_would_be_found() -> None:
    wrong = render(plan())["target"] | {"KafkaSettings": {"MessageFormat": "xml", "Brokers": "b:9092"}}
    assert "Brokers" in faults(wrong, "CreateEndpoint")
    assert "xml is none of" in faults(wrong, "CreateEndpoint")


def test_target_asks_for_order_nulls_and_whole_integers() -> None:
    settings = render(plan())["target"]["KafkaSettings"]
    for option in ("IncludeTransactionDetails", "IncludeNullAndEmpty", "UseLargeIntegerValue"):
        assert settings[option] is True


def test_task_asks_for_before_images_and_truncates_and_stops_rather_than_losing_rows() -> None:
    settings = json.loads(render(plan())["task"]["ReplicationTaskSettings"])
    assert settings["BeforeImageSettings"]["EnableBeforeImage"] is True
    assert settings["BeforeImageSettings"]["FieldName"] == BEFORE_IMAGE
    assert settings["ChangeProcessingDdlHandlingPolicy"]["HandleSourceTableTruncated"] is True
    assert {policy for name, policy in settings["ErrorBehavior"].items() if name.endswith("Policy")} == {"STOP_TASK"}


def test_every_table_has_a_topic_of_its_own_and_rows_keep_to_a_partition() -> None:
    rules = json.loads(render(plan(schema="shop"))["task"]["TableMappings"])["rules"]
    assert [rule["rule-id"] for rule in rules] == [str(n) for n in range(1, len(rules) + 1)]
    assert {rule["object-locator"]["schema-name"] for rule in rules} == {"shop"}
    selected = [r["object-locator"]["table-name"] for r in rules if r["rule-type"] == "selection"]
    mapped = {r["object-locator"]["table-name"]: r for r in rules if r["rule-type"] == "object-mapping"}
    assert selected == list(mapped) == [table.name for table in TABLES]
    for name, rule in mapped.items():
        assert rule["kafka-target-topic"] == f"dms.trs.{name}"
        assert rule["mapping-parameters"]["partition-key-type"] == "primary-key"


def test_secrets_are_masked() -> None:
    arguments = render(plan())
    assert "secret" in json.dumps(arguments)
    assert "secret" not in json.dumps(hide_secrets(arguments))
    assert "secret" not in repr(plan())


def test_identifiers_are_what_dms_takes() -> None:
    for name, wanted in (("trs-aurora_2", "trs-aurora-2"), ("7--x.", "trs-7-x"), ("é", "trs")):
        assert render(plan(name=name))["task"]["ReplicationTaskIdentifier"] == wanted


@pytest.mark.parametrize(
    ("kafka", "setting"),
    [
        (KafkaConfig("b:9092", security="sasl_plaintext"), "TRS_KAFKA_SECURITY"),
        (KafkaConfig("b:9092", security="sasl_ssl", sasl_mechanism="SCRAM-SHA-256"), "TRS_KAFKA_SASL_MECHANISM"),
    ],
    ids=["protocol", "mechanism"],
)
def test_what_dms_cannot_do_is_refused(kafka: KafkaConfig, setting: str) -> None:
    with pytest.raises(SettingsError, match=setting):
        render(plan(kafka=kafka))
