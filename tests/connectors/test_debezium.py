"""The connector's configuration: what differs by server, where records go, what passes through, what is hidden."""

import re
from dataclasses import replace
from typing import Any

import pytest

from connectors.debezium import ConnectorPlan, Flavour, flavour_of, hide_secrets, redact, render
from connectors.kafka_config import KafkaConfig
from connectors.mysql import DatabaseUrl
from processors.tables import TABLES

HISTORY = "schema.history.internal."
PLAN = ConnectorPlan(
    name="trs-aurora",
    source_name="aurora",
    topic_prefix="aurora.trs",
    partitions=64,
    flavour=Flavour.MYSQL,
    database=DatabaseUrl.parse("mysql://reader:p%40ss@db.example:3307/trs"),
    kafka=KafkaConfig("broker-1:9092,broker-2:9092", replication=3),
)


def rendered(**changes: Any) -> dict[str, str]:
    return render(replace(PLAN, **changes))


@pytest.mark.parametrize(
    ("version", "flavour"),
    [
        ("11.4.5-MariaDB-log (MariaDB Server)", Flavour.MARIADB),
        ("10.6.14-MariaDB", Flavour.MARIADB),
        ("5.5.5-10.11.6-mariadb", Flavour.MARIADB),
        ("9.7.4", Flavour.MYSQL),
        ("8.4.3 (MySQL Community Server - GPL)", Flavour.MYSQL),
        ("8.0.36-28 (Percona Server (GPL))", Flavour.MYSQL),
        ("8.0.mysql_aurora.3.08.2", Flavour.AURORA),
        ("8.0.39 (Source distribution) aurora 3.08.2", Flavour.AURORA),
    ],
)
def test_flavour_follows_from_what_the_server_says(version: str, flavour: Flavour) -> None:
    assert flavour_of(version) is flavour


def test_server_decides_the_connector_class_its_word_for_tls_and_nothing_else() -> None:
    of = {flavour: rendered(flavour=flavour) for flavour in Flavour}
    assert {f: c.pop("connector.class") for f, c in of.items()} == {
        Flavour.MARIADB: "io.debezium.connector.mariadb.MariaDbConnector",
        Flavour.MYSQL: "io.debezium.connector.mysql.MySqlConnector",
        Flavour.AURORA: "io.debezium.connector.mysql.MySqlConnector",
    }
    assert {c.pop("database.ssl.mode") for c in of.values()} == {"verify-full", "verify_identity"}
    assert of[Flavour.MARIADB] == of[Flavour.MYSQL] == of[Flavour.AURORA]


def test_options_on_which_the_decoder_relies_are_set() -> None:
    config = rendered()
    wanted = {
        "topic.prefix": "aurora",
        "database.hostname": "db.example",
        "database.port": "3307",
        "database.user": "reader",
        "database.password": "p@ss",
        "key.converter.schemas.enable": "false",
        "value.converter.schemas.enable": "false",
        "message.key.columns": r"trs\.invoice_line_items:invoice_id",
        "decimal.handling.mode": "string",
        "time.precision.mode": "connect",
        "enable.time.adjuster": "false",
        "skipped.operations": "none",
        "tombstones.on.delete": "false",
        "topic.creation.default.partitions": "64",
        "topic.creation.default.replication.factor": "3",
        "topic.creation.default.cleanup.policy": "delete",
        f"{HISTORY}kafka.bootstrap.servers": "broker-1:9092,broker-2:9092",
        f"{HISTORY}kafka.topic": "aurora.trs.schema_history.aurora",
    }
    assert {name: config.get(name) for name in wanted} == wanted
    tables = [re.compile(pattern) for pattern in config["table.include.list"].split(",")]
    assert all(any(p.fullmatch(f"trs.{t.name}") for p in tables) for t in TABLES)
    assert not any(p.fullmatch("trsXskus") or p.fullmatch("trs.skus_old") for p in tables)
    assert all(isinstance(value, str) for value in config.values())


def test_topics_are_routed_only_where_debezium_would_name_them_otherwise() -> None:
    assert not [name for name in rendered() if name.startswith("transforms")]
    other = rendered(source_name="aurora2")
    assert other["transforms"] == "route"
    regex, replacement = other["transforms.route.regex"], other["transforms.route.replacement"]
    route = {name: re.sub(rf"\A{regex}\Z", replacement.replace("$", "\\"), name) for name in ROUTED}
    assert route == ROUTED
    assert (other["topic.prefix"], other["name"]) == ("aurora2", "trs-aurora")
    assert other[f"{HISTORY}kafka.topic"] == "aurora.trs.schema_history.aurora2"


ROUTED = {
    "aurora2.trs.skus": "aurora.trs.skus",
    "aurora2.trs.invoice_line_items": "aurora.trs.invoice_line_items",
    "aurora2.trs.invoices": "aurora.trs.invoices",
    "aurora2.trs.audit": "aurora2.trs.audit",
    "aurora2Xtrs.skus": "aurora2Xtrs.skus",
    "__debezium-heartbeat.aurora2": "__debezium-heartbeat.aurora2",
}


def test_database_whose_name_is_no_topic_name_is_matched_and_routed() -> None:
    config = rendered(database=replace(PLAN.database, database="t r+s"))
    assert re.fullmatch(config["database.include.list"], "t r+s")
    assert re.fullmatch(config["transforms.route.regex"], "aurora.t_r_s.skus")


def test_server_id_is_one_per_name_and_stays() -> None:
    ids = [int(rendered(name=name)["database.server.id"]) for name in ("trs-a", "trs-b", "trs-a")]
    assert ids[0] == ids[2] != ids[1]
    assert all(0 < number < 2**32 for number in ids)


@pytest.mark.parametrize(("snapshot", "locking"), [("initial", None), ("no_data", "none"), ("recovery", "none")])
def test_snapshot_that_reads_no_rows_takes_no_locks(snapshot: Any, locking: str | None) -> None:
    config = rendered(snapshot=snapshot)
    assert (config["snapshot.mode"], config.get("snapshot.locking.mode")) == (snapshot, locking)


@pytest.mark.parametrize(
    ("flavour", "verified", "clear"),
    [
        (Flavour.AURORA, "verify_identity", "disabled"),
        (Flavour.MYSQL, "verify_identity", "disabled"),
        (Flavour.MARIADB, "verify-full", "disable"),
    ],
)
def test_connector_verifies_the_server_unless_the_url_switches_it_off(
    flavour: Flavour, verified: str, clear: str
) -> None:
    assert rendered(flavour=flavour)["database.ssl.mode"] == verified
    off = DatabaseUrl.parse("mysql://reader:p@db.example/trs?tls=off")
    assert rendered(flavour=flavour, database=off)["database.ssl.mode"] == clear


@pytest.mark.parametrize("client", ["producer", "consumer"])
def test_sasl_and_tls_of_the_settings_reach_the_connectors_own_clients(client: str) -> None:
    kafka = KafkaConfig("b:9096", security="sasl_ssl", sasl_mechanism="SCRAM-SHA-512", user="me", password='a"b\\c')
    config = rendered(kafka=kafka, kafka_ca_pem="-----BEGIN CERTIFICATE-----\n…")
    own = {n.removeprefix(f"{HISTORY}{client}."): v for n, v in config.items() if n.startswith(f"{HISTORY}{client}.")}
    assert own == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required"
        ' username="me" password="a\\"b\\\\c";',
        "ssl.truststore.type": "PEM",
        "ssl.truststore.certificates": "-----BEGIN CERTIFICATE-----\n…",
    }
    plain = rendered(kafka=replace(kafka, security="sasl_plaintext", sasl_mechanism="PLAIN"))
    assert "plain.PlainLoginModule" in plain[f"{HISTORY}{client}.sasl.jaas.config"]


def test_plaintext_cluster_needs_no_option_of_clients() -> None:
    assert not [n for n in rendered() if n.startswith((f"{HISTORY}producer.", f"{HISTORY}consumer."))]


def test_further_options_win_pass_through_and_take_out() -> None:
    iam = "software.amazon.msk.auth.iam.IAM"
    config = rendered(
        kafka=replace(PLAN.kafka, security="ssl"),
        options={
            "database.ssl.mode": "verify_identity",
            "database.ssl.truststore": "/etc/trs/rds.jks",
            "driver.wrapperPlugins": "iam",
            "database.server.id": "77",
            "kafka.security.protocol": "SASL_SSL",
            "kafka.sasl.mechanism": "AWS_MSK_IAM",
            "kafka.sasl.jaas.config": f"{iam}LoginModule required;",
            "kafka.sasl.client.callback.handler.class": f"{iam}ClientCallbackHandler",
            "heartbeat.interval.ms": None,
            "database.password": None,
        },
    )
    assert config["database.ssl.mode"] == "verify_identity"
    assert config["database.ssl.truststore"] == "/etc/trs/rds.jks"
    assert config["driver.wrapperPlugins"] == "iam"
    assert config["database.server.id"] == "77"
    for client in ("producer", "consumer"):
        assert config[f"{HISTORY}{client}.security.protocol"] == "SASL_SSL"
        assert config[f"{HISTORY}{client}.sasl.mechanism"] == "AWS_MSK_IAM"
        assert config[f"{HISTORY}{client}.sasl.jaas.config"] == f"{iam}LoginModule required;"
        assert config[f"{HISTORY}{client}.sasl.client.callback.handler.class"] == f"{iam}ClientCallbackHandler"
    assert "heartbeat.interval.ms" not in config
    assert "database.password" not in config
    assert not [name for name in config if name.startswith("kafka.")]


def test_secrets_are_hidden_and_references_are_not() -> None:
    kafka = KafkaConfig("b:1", security="sasl_ssl", sasl_mechanism="PLAIN", user="me", password="kafka-secret")
    config = rendered(
        kafka=kafka,
        options={
            "database.ssl.keystore.password": "${file:/run/secrets/db:keystore}",
            "database.ssl.truststore.password": "trust-secret ${file:x:y}",
            "kafka.ssl.keystore.key": "key-secret",
        },
    )
    shown = hide_secrets(config)
    assert shown["database.password"] == "***"
    assert shown["database.ssl.keystore.password"] == "${file:/run/secrets/db:keystore}"
    assert shown.keys() == config.keys()
    assert not [secret for secret in ("p@ss", "kafka-secret", "trust-secret", "key-secret") if secret in str(shown)]
    assert {n for n in config if shown[n] != config[n]} >= {
        "database.password",
        "database.ssl.truststore.password",
        f"{HISTORY}producer.sasl.jaas.config",
        f"{HISTORY}consumer.ssl.keystore.key",
    }


def test_text_that_quotes_a_secret_is_redacted() -> None:
    config = rendered()
    assert redact("login of reader with 'p@ss' at db.example", config) == "login of reader with '***' at db.example"
    kafka = KafkaConfig("b:1", security="sasl_ssl", sasl_mechanism="PLAIN", user="me", password='k"1\\2')
    config = rendered(kafka=kafka, database=replace(PLAN.database, password=""))
    jaas = config[f"{HISTORY}producer.sasl.jaas.config"]
    assert redact(f'of me: {jaas} or k"1\\2', config) == "of me: *** or ***"


def test_plan_shows_no_secret() -> None:
    plan = replace(PLAN, options={"kafka.sasl.jaas.config": "secret"})
    assert "p@ss" not in repr(plan)
    assert "secret" not in repr(plan)
