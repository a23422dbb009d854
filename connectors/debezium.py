"""Debezium's connectors for MySQL and MariaDB: what a connector is told, so that its records are our row events.

Pure functions: the server was asked before (`connectors.mysql_schema`), Kafka Connect is told after
(`connectors.connect_rest`). Every option has a reason below; what is left out is Debezium's default.
"""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from connectors.kafka_config import IAM, KafkaConfig
from connectors.mysql import DatabaseUrl
from processors.tables import TABLES, topic_of

Snapshot = Literal["initial", "no_data", "recovery"]
KAFKA_OPTION = "kafka."
"""Extra options that begin so are told to every Kafka client that the connector opens by itself."""
MASK = "***"

_HISTORY = "schema.history.internal."
_SECRET = re.compile(r"(password|secret|sasl\.jaas\.config|ssl\.key(store)?\.key|token)$", re.IGNORECASE)
_REFERENCE = re.compile(r"\$\{[^{}]+\}")
"""`${PROVIDER:PATH:KEY}`, which Kafka Connect's worker puts a secret in place of."""
_LOGIN_PASSWORD = re.compile(r'password="((?:[^"\\]|\\.)*)"')
_LOGIN_MODULES = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}
MSK_IAM = {
    "sasl.mechanism": "AWS_MSK_IAM",
    "sasl.jaas.config": "software.amazon.msk.auth.iam.IAMLoginModule required;",
    "sasl.client.callback.handler.class": "software.amazon.msk.auth.iam.IAMClientCallbackHandler",
}
"""Of AWS's own library (aws-msk-iam-auth), which Kafka Connect must have beside the connector; no secret in it."""
_SERVER_IDS = 10**9
_BEGINNING = frozenset({"snapshot.mode", "snapshot.locking.mode"})


class Flavour(StrEnum):
    """Whose server it is. Aurora speaks MySQL's protocol and is read by MySQL's connector."""

    MYSQL = "mysql"
    AURORA = "aurora"
    MARIADB = "mariadb"

    @property
    def connector_class(self) -> str:
        if self is Flavour.MARIADB:
            return "io.debezium.connector.mariadb.MariaDbConnector"
        return "io.debezium.connector.mysql.MySqlConnector"

    def tls_mode(self, *, verified: bool) -> str:
        """`database.ssl.mode` for TLS with certificate and host name verified, or for none; no word falls back."""
        if self is Flavour.MARIADB:
            return "verify-full" if verified else "disable"
        return "verify_identity" if verified else "disabled"


def flavour_of(version: str) -> Flavour:
    """Whose server answers `SELECT VERSION()` so: `9.7.4`, `11.4.5-MariaDB-log`, `8.0.mysql_aurora.3.08.2`."""
    lower = version.lower()
    return next((f for f in (Flavour.MARIADB, Flavour.AURORA) if f in lower), Flavour.MYSQL)


@dataclass(frozen=True)
class ConnectorPlan:
    """All that a connector's configuration follows from.

    `source_name` becomes `source.name` of every record (R2). `kafka_ca_pem` are the certificates that the brokers'
    chain to, as text: Kafka Connect runs on another machine. `options` win over ours, None takes an option out.
    """

    name: str
    source_name: str
    topic_prefix: str
    partitions: int
    flavour: Flavour
    database: DatabaseUrl
    kafka: KafkaConfig
    snapshot: Snapshot = "initial"
    kafka_ca_pem: str | None = None
    options: Mapping[str, str | None] = field(default_factory=dict, repr=False)


def render(plan: ConnectorPlan) -> dict[str, str]:
    """The connector's configuration as `PUT /connectors/NAME/config` takes it, secrets included."""
    options: dict[str, str | None] = {
        "name": plan.name,
        "connector.class": plan.flavour.connector_class,
        "tasks.max": "1",
        **_source(plan),
        **_row_events(plan),
        **_topics(plan),
        **_schema_history(plan),
    }
    for name, value in plan.options.items():
        options |= dict.fromkeys(_client_names(name), value)
    return {name: value for name, value in options.items() if value is not None}


def captured(config: Mapping[str, str]) -> dict[str, str | None]:
    """What decides whose rows a connector reads and which topics get them; a restart does not change it."""
    source, database = config.get("topic.prefix"), config.get("database.include.list")
    routed = config.get("transforms.route.replacement", f"{source}.{database}.$1").removesuffix(".$1")
    return {"the source's name": source, "the database": database, "the topics": routed}


def differs(planned: Mapping[str, str], known: Mapping[str, str]) -> bool:
    """Whether a connector that is registered lacks settings of the plan. How it began, it does once."""
    return any(planned.get(o) != known.get(o) for o in planned.keys() | known.keys() if o not in _BEGINNING)


def hide_secrets(config: Mapping[str, str]) -> dict[str, str]:
    """The configuration for eyes and logs. References to a config provider are no secrets."""
    return {
        name: MASK if _SECRET.search(name) and not _REFERENCE.fullmatch(value) else value
        for name, value in config.items()
    }


def redact(text: str, config: Mapping[str, str]) -> str:
    """The text without the configuration's secrets: what Kafka Connect answers may quote them."""
    shown = hide_secrets(config)
    secrets = {value for name, value in config.items() if shown[name] == MASK}
    secrets |= {re.sub(r"\\(.)", r"\1", inner) for value in secrets for inner in _LOGIN_PASSWORD.findall(value)}
    for secret in sorted(secrets - {""}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def _source(plan: ConnectorPlan) -> dict[str, str]:
    """Where it reads, as whom, and with which locks."""
    database = re.escape(plan.database.database)
    return {
        "topic.prefix": plan.source_name,
        "database.hostname": plan.database.host,
        "database.port": str(plan.database.port),
        "database.user": plan.database.user,
        "database.password": plan.database.password,
        # what it trusts is on Kafka Connect's machine: Java's own authorities, or database.ssl.truststore
        "database.ssl.mode": plan.flavour.tls_mode(verified=plan.database.tls),
        # every reader of a binlog needs an id that no replica has; the name decides, so that a restart keeps it
        "database.server.id": str(1 + zlib.crc32(plan.name.encode()) % _SERVER_IDS),
        "database.include.list": database,
        "table.include.list": ",".join(rf"{database}\.{t.name}" for t in TABLES),
        "snapshot.mode": plan.snapshot,
        # no_data reads no row, so what is locked is waited for in vain; Aurora would lock tables one by one
        **({} if plan.snapshot == "initial" else {"snapshot.locking.mode": "none"}),
        "heartbeat.interval.ms": "30000",  # else its position stands still while only other tables change
    }


def _row_events(plan: ConnectorPlan) -> dict[str, str]:
    """Keys and values as the decoder reads them."""
    keys = (
        rf"{re.escape(plan.database.database)}\.{t.name}:{','.join(t.event_key)}"
        for t in TABLES
        if t.event_key != t.key
    )
    return {
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "key.converter.schemas.enable": "false",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        "message.key.columns": ";".join(keys),
        "decimal.handling.mode": "string",
        "time.precision.mode": "connect",
        "enable.time.adjuster": "false",  # else the year 50 becomes 2050
        "skipped.operations": "none",  # the default leaves out truncates
        "tombstones.on.delete": "false",
        "include.schema.changes": "false",
        "extended.headers.enabled": "false",  # 200 bytes in each record that nobody reads
        "poll.interval.ms": "20",
    }


def _topics(plan: ConnectorPlan) -> dict[str, str]:
    """Records go to PREFIX.table, whatever the database and this source are called."""
    options = {
        "topic.creation.default.partitions": str(plan.partitions),
        "topic.creation.default.replication.factor": str(plan.kafka.replication),
        "topic.creation.default.cleanup.policy": "delete",
    }
    given = f"{plan.source_name}.{re.sub(r'[^A-Za-z0-9._-]', '_', plan.database.database)}"
    if given != plan.topic_prefix:
        options |= {
            "transforms": "route",
            "transforms.route.type": "org.apache.kafka.connect.transforms.RegexRouter",
            "transforms.route.regex": rf"{re.escape(given)}\.({'|'.join(t.name for t in TABLES)})",
            "transforms.route.replacement": topic_of(plan.topic_prefix, "$1"),
        }
    return options


def _schema_history(plan: ConnectorPlan) -> dict[str, str]:
    """The topic in which the connector keeps the tables' structures, read and written by clients of its own."""
    clients = {name: value for option, value in _client_security(plan).items() for name in _client_names(option)}
    return {
        f"{_HISTORY}kafka.bootstrap.servers": plan.kafka.bootstrap_servers,
        f"{_HISTORY}kafka.topic": f"{plan.topic_prefix}.schema_history.{plan.source_name}",
        f"{_HISTORY}store.only.captured.tables.ddl": "true",
        **clients,
    }


def _client_security(plan: ConnectorPlan) -> dict[str, str]:
    """How the connector's own Kafka clients identify themselves, in Java's names."""
    kafka, options = plan.kafka, {}
    if kafka.security != "plaintext":
        options["security.protocol"] = kafka.protocol.upper()
    if kafka.security == IAM:
        options |= MSK_IAM
    elif kafka.security.startswith("sasl"):
        mechanism = kafka.sasl_mechanism or "SCRAM-SHA-512"
        user, password = (re.sub(r'(["\\])', r"\\\1", text or "") for text in (kafka.user, kafka.password))
        options["sasl.mechanism"] = mechanism
        options["sasl.jaas.config"] = f'{_LOGIN_MODULES[mechanism]} required username="{user}" password="{password}";'
    if plan.kafka_ca_pem is not None:
        options |= {"ssl.truststore.type": "PEM", "ssl.truststore.certificates": plan.kafka_ca_pem}
    return {KAFKA_OPTION + name: value for name, value in options.items()}


def _client_names(option: str) -> tuple[str, ...]:
    """The option's own name; of a Kafka client's option its name for each client."""
    if not option.startswith(KAFKA_OPTION):
        return (option,)
    name = option.removeprefix(KAFKA_OPTION)
    return tuple(f"{_HISTORY}{client}.{name}" for client in ("producer", "consumer"))
