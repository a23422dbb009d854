"""What AWS DMS is told, so that `trs dms translate` understands its records: two endpoints and a task.

Pure functions; the result has the shapes of DMS's API (`create-endpoint`, `create-replication-task`). Every option that
is not DMS's default has a reason below.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from connectors.debezium import MASK, Flavour
from connectors.dms import BEFORE_IMAGE
from connectors.kafka_config import KafkaConfig
from connectors.mysql import DatabaseUrl
from processors.errors import SettingsError
from processors.tables import TABLES, topic_of

Migration = Literal["cdc", "full-load-and-cdc"]
CONTROL_TOPIC = "control"
"""Where DMS sends what belongs to no table of ours."""

_SECURITY = {"plaintext": "plaintext", "ssl": "ssl-encryption", "sasl_ssl": "sasl-ssl"}
_MECHANISMS = {"SCRAM-SHA-512": "scram-sha-512", "PLAIN": "plain"}
_SECRETS = frozenset({"Password", "SaslPassword"})


@dataclass(frozen=True)
class DmsPlan:
    """All that the settings of DMS follow from.

    `start` is the binlog position, as FILE:POS, behind which a task of changes alone begins; a task that loads whole
    tables finds its own.
    """

    name: str
    topic_prefix: str
    flavour: Flavour
    database: DatabaseUrl
    schema: str
    kafka: KafkaConfig
    migration: Migration = "cdc"
    start: str | None = None


def render(plan: DmsPlan) -> dict[str, dict[str, Any]]:
    """Arguments of DMS's API, secrets included: `source` and `target` of create-endpoint, `task` of
    create-replication-task. The ARNs of a task are for its creator to fill in.

    Raises SettingsError for a way to reach Kafka that DMS does not have.
    """
    name = _identifier(plan.name)
    return {
        "source": {
            "EndpointIdentifier": f"{name}-source",
            "EndpointType": "source",
            "EngineName": {Flavour.AURORA: "aurora", Flavour.MARIADB: "mariadb"}.get(plan.flavour, "mysql"),
            "ServerName": plan.database.host,
            "Port": plan.database.port,
            "Username": plan.database.user,
            "Password": plan.database.password,
            **_source_tls(plan),
            "MySQLSettings": {"EventsPollInterval": 1},  # else an idle database is asked every five seconds
        },
        "target": {
            "EndpointIdentifier": f"{name}-target",
            "EndpointType": "target",
            "EngineName": "kafka",
            "KafkaSettings": _kafka_settings(plan),
        },
        "task": {
            "ReplicationTaskIdentifier": name,
            "SourceEndpointArn": "<ARN of the source endpoint>",
            "TargetEndpointArn": "<ARN of the target endpoint>",
            "ReplicationInstanceArn": "<ARN of the replication instance>",
            "MigrationType": plan.migration,
            **({} if plan.start is None else {"CdcStartPosition": plan.start}),
            "TableMappings": json.dumps(table_mappings(plan)),
            "ReplicationTaskSettings": json.dumps(task_settings()),
        },
    }


def _source_tls(plan: DmsPlan) -> dict[str, str]:
    if not plan.database.tls:
        return {"SslMode": "none"}
    return {"SslMode": "verify-full", "CertificateArn": "<ARN of the database's CA, imported into DMS>"}


def hide_secrets(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for eyes and logs."""
    return {
        name: hide_secrets(value) if isinstance(value, Mapping) else MASK if name in _SECRETS else value
        for name, value in arguments.items()
    }


def table_mappings(plan: DmsPlan) -> dict[str, Any]:
    """Our tables, each to a topic of its own; a row's records in one partition, so that they keep their order."""
    rules: list[dict[str, Any]] = []

    def add(kind: str, name: str, table: str, **more: Any) -> None:
        number = str(len(rules) + 1)
        locator = {"schema-name": plan.schema, "table-name": table}
        rules.append({"rule-type": kind, "rule-id": number, "rule-name": name, "object-locator": locator, **more})

    for table in TABLES:
        add("selection", f"select-{table.name}", table.name, **{"rule-action": "include", "filters": []})
    for table in TABLES:
        more = {
            "rule-action": "map-record-to-record",
            "kafka-target-topic": topic_of(plan.topic_prefix, table.name),
            "mapping-parameters": {"partition-key-type": "primary-key"},
        }
        add("object-mapping", f"map-{table.name}", table.name, **more)
    return {"rules": rules}


def task_settings() -> dict[str, Any]:
    """The task's settings, as far as they are not DMS's defaults."""
    return {
        "TargetMetadata": {
            "SupportLobs": True,
            "LimitedSizeLobMode": True,
            "LobMaxSize": 64,  # KB: all of a TEXT
        },
        "FullLoadSettings": {"TargetTablePrepMode": "DO_NOTHING"},
        # keys that change are seen by it alone
        "BeforeImageSettings": {"EnableBeforeImage": True, "FieldName": BEFORE_IMAGE, "ColumnFilter": "pk-only"},
        "ChangeProcessingDdlHandlingPolicy": {
            "HandleSourceTableDropped": True,
            "HandleSourceTableTruncated": True,
            "HandleSourceTableAltered": True,
        },
        # by default DMS logs rows that it cannot send, and goes on without them
        "ErrorBehavior": {
            "DataErrorPolicy": "STOP_TASK",
            "DataTruncationErrorPolicy": "STOP_TASK",
            "TableErrorPolicy": "STOP_TASK",
            "FailOnNoTablesCaptured": True,
        },
        "Logging": {"EnableLogging": True},
    }


def _kafka_settings(plan: DmsPlan) -> dict[str, Any]:
    kafka = plan.kafka
    security = _SECURITY.get(kafka.security)
    if security is None:
        raise SettingsError(
            f"TRS_KAFKA_SECURITY={kafka.security}: AWS DMS has no such protocol", hint=f"it has {', '.join(_SECURITY)}"
        )
    settings: dict[str, Any] = {
        "Broker": kafka.bootstrap_servers,
        "Topic": topic_of(plan.topic_prefix, CONTROL_TOPIC),
        "MessageFormat": "json-unformatted",  # a fifth smaller
        "IncludeTransactionDetails": True,  # the place in the binlog
        "IncludeNullAndEmpty": True,  # else an empty text cannot be told from null
        "IncludeTableAlterOperations": True,
        "IncludeControlDetails": True,
        "UseLargeIntegerValue": True,  # else integers pass through doubles
        "SecurityProtocol": security,
    }
    if security == "sasl-ssl":
        mechanism = _MECHANISMS.get(kafka.sasl_mechanism or "SCRAM-SHA-512")
        if mechanism is None:
            raise SettingsError(
                f"TRS_KAFKA_SASL_MECHANISM={kafka.sasl_mechanism}: AWS DMS has no such mechanism",
                hint=f"it has {', '.join(_MECHANISMS)}",
            )
        settings |= {"SaslMechanism": mechanism, "SaslUsername": kafka.user or "", "SaslPassword": kafka.password or ""}
    return settings


def _identifier(name: str) -> str:
    """A name as DMS wants it: letters, digits and single hyphens, a letter first."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
    return plain if plain[:1].isalpha() else f"trs-{plain}".rstrip("-")
