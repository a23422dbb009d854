"""The same stack for those who have Docker: `python -m devstack.compose > docker-compose.yml` writes the file anew.

Built from devstack.declared, so that containers and embedded parts agree in versions, options, ports and credentials;
a test compares the file with `services`, and the tests' containers are made from it.
"""

import sys
from typing import Any

import yaml

from devstack.declared import (
    CONNECT_GROUP,
    CONNECT_HEAP,
    DATABASE_PASSWORD,
    DEBEZIUM_IMAGE_VERSION,
    HOST,
    KAFKA_OPTIONS,
    KAFKA_VERSION,
    MARIADB_OPTIONS,
    MARIADB_VERSION,
    MOTO_VERSION,
    S3_ACCESS_KEY,
    S3_BUCKET,
    S3_REGION,
    S3_SECRET_KEY,
    Endpoints,
    connect_options,
    database_init_sql,
)

_HEADER = """\
# The embedded stack's parts as containers. Written by `python -m devstack.compose`: change devstack/declared.py.
# Docker Compose 2.23.1 or newer:
#   docker compose up -d --wait && eval "$(trs devstack env --compose)"
# With Kafka Connect besides, in the host's network, so that it reaches Kafka and database where everybody does:
#   docker compose --profile connect up -d --wait
# Kafka and the database keep their data in volumes; the S3 server keeps its in memory, until it is stopped.
"""
_MAKE_BUCKET = (
    f"import boto3; boto3.client('s3', endpoint_url='http://localhost:5000', region_name='{S3_REGION}', "
    f"aws_access_key_id='{S3_ACCESS_KEY}', aws_secret_access_key='{S3_SECRET_KEY}')"
    f".create_bucket(Bucket='{S3_BUCKET}')"
)


def kafka_environment(port: int) -> dict[str, str]:
    """Variables of the apache/kafka image: the broker's properties, advertised at the host's `port`."""
    options = {
        **KAFKA_OPTIONS,
        "listeners": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "controller.quorum.voters": f"{KAFKA_OPTIONS['node.id']}@localhost:9093",
        "log.dirs": "/var/lib/kafka/data",
    }
    return {"KAFKA_" + name.upper().replace(".", "_"): value for name, value in options.items()}


_IMAGE_NAMES = frozenset(
    {
        "bootstrap.servers",
        "group.id",
        "config.storage.topic",
        "offset.storage.topic",
        "status.storage.topic",
        "key.converter",
        "value.converter",
        "offset.flush.interval.ms",
    }
)
"""Properties for which Debezium's image has variables of its own, which win."""


def connect_environment(endpoints: Endpoints) -> dict[str, str]:
    """Variables of the debezium/connect image: the worker's properties."""
    options = connect_options(
        group=CONNECT_GROUP, brokers=f"{HOST}:{endpoints.kafka}", address=f"{HOST}:{endpoints.connect}"
    )
    names = {name: name.upper().replace(".", "_") for name in options}
    return {
        "HEAP_OPTS": CONNECT_HEAP,
        "ADVERTISED_HOST_NAME": HOST,
        "ADVERTISED_PORT": str(endpoints.connect),
        **{(names[o] if o in _IMAGE_NAMES else f"CONNECT_{names[o]}"): value for o, value in options.items()},
    }


def services(endpoints: Endpoints) -> dict[str, Any]:
    """The compose file's content, with ports published on the loopback address only."""
    return {
        "name": "trs",
        "services": {
            "kafka": {
                "image": f"apache/kafka:{KAFKA_VERSION}",
                "environment": kafka_environment(endpoints.kafka),
                "ports": [f"{HOST}:{endpoints.kafka}:9092"],
                "volumes": ["kafka:/var/lib/kafka/data"],
                "healthcheck": _healthcheck(
                    "CMD-SHELL", "/opt/kafka/bin/kafka-cluster.sh cluster-id --bootstrap-server localhost:9092"
                ),
            },
            "mariadb": {
                "image": f"mariadb:{MARIADB_VERSION}",
                "environment": {"MARIADB_ROOT_PASSWORD": DATABASE_PASSWORD},
                "command": [f"--{name}={value}" for name, value in MARIADB_OPTIONS.items()],
                "ports": [f"{HOST}:{endpoints.database}:3306"],
                "volumes": ["mariadb:/var/lib/mysql"],
                "configs": [{"source": "init", "target": "/docker-entrypoint-initdb.d/init.sql"}],
                "healthcheck": _healthcheck("CMD", "healthcheck.sh", "--connect", "--innodb_initialized"),
            },
            "s3": {
                "image": f"motoserver/moto:{MOTO_VERSION}",
                "ports": [f"{HOST}:{endpoints.s3}:5000"],
                "healthcheck": _healthcheck("CMD", "python3", "-c", _MAKE_BUCKET),
            },
            "connect": {
                "image": f"quay.io/debezium/connect:{DEBEZIUM_IMAGE_VERSION}",
                "profiles": ["connect"],
                "network_mode": "host",
                "depends_on": {"kafka": {"condition": "service_healthy"}},
                "environment": connect_environment(endpoints),
                "healthcheck": _healthcheck("CMD", "curl", "-fsS", f"http://{HOST}:{endpoints.connect}/health"),
            },
        },
        "configs": {"init": {"content": init_script()}},
        "volumes": {"kafka": None, "mariadb": None},
    }


def init_script() -> str:
    """What the database server runs on its first start."""
    return "".join(f"{statement};\n" for statement in database_init_sql())


def _healthcheck(*test: str) -> dict[str, Any]:
    return {"test": list(test), "interval": "2s", "timeout": "10s", "retries": 30}


def main() -> None:
    """Prints the compose file for the default ports."""
    sys.stdout.write(_HEADER + yaml.safe_dump(services(Endpoints()), sort_keys=False, width=120))


if __name__ == "__main__":
    main()
