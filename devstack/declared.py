"""The stack, declared once: versions, credentials, ports, server options.

The embedded parts, `docker-compose.yml` and the test containers agree with this module (a test compares them).
Everything listens on the loopback address and holds throw-away data, so the credentials are no secrets.
"""

from dataclasses import dataclass

HOST = "127.0.0.1"

KAFKA_VERSION = "4.4.0"
MARIADB_VERSION = "11.4.5"
CONNECT_VERSION = "4.3.1"
"""Of Kafka Connect: Debezium's tasks miss a class in 4.4.0."""
DEBEZIUM_MYSQL_VERSION = "3.6.1.Final"
DEBEZIUM_MARIADB_VERSION = "3.5.0.Final"
"""The newest ones that were published as artifacts."""
DEBEZIUM_IMAGE_VERSION = "3.6.1.Final"
"""Of the container, which brings Kafka Connect and both connectors."""
TRINO_VERSION = "476"
"""The newest one that was published as an artifact."""
MOTO_VERSION = "5.2.5"
"""Of the container; embedded, the installed one serves."""

DATABASE = "trs"
DATABASE_USER = "trs"
DATABASE_PASSWORD = "trs-devstack"  # noqa: S105  (loopback only, see above)
DATABASE_GRANTS = ("SELECT", "RELOAD", "SHOW DATABASES", "REPLICATION SLAVE", "REPLICATION CLIENT")
"""On *.*: what a snapshot and Debezium need; on the stack's own databases the user may do everything."""

S3_BUCKET = "trs-lake"
S3_PREFIX = "lake"
S3_ACCESS_KEY = "trs-devstack"
S3_SECRET_KEY = "trs-devstack"  # noqa: S105  (loopback only, see above)
S3_REGION = "us-east-1"

KAFKA_OPTIONS = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "log.retention.ms": "-1",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "num.network.threads": "2",
    "num.io.threads": "4",
}
"""Broker properties besides listeners, quorum and folders. Nothing expires: a stack may sleep for weeks."""

MARIADB_OPTIONS = {
    "server-id": "1",
    "log-bin": "binlog",
    "binlog-format": "ROW",
    "binlog-row-image": "FULL",
    "binlog-row-metadata": "FULL",
    "binlog-legacy-event-pos": "ON",  # else, from 11.4 on, all row events of a transaction have one position
    "character-set-server": "utf8mb4",
    "default-time-zone": "+00:00",
    "skip-name-resolve": "ON",
    "innodb-buffer-pool-size": "128M",
    "innodb-flush-log-at-trx-commit": "2",
    "sync-binlog": "0",
    "ssl": "OFF",  # else every start makes an RSA key, which takes up to 25 s
}
"""Server options besides folders and ports: the binlog as Debezium and Aurora's own parameter groups need it."""

CONNECT_GROUP = "trs-connect"
CONNECT_HEAP = "-Xmx256m"
_CONNECT_OPTIONS = {
    "key.converter": "org.apache.kafka.connect.json.JsonConverter",
    "value.converter": "org.apache.kafka.connect.json.JsonConverter",
    "config.storage.replication.factor": "1",
    "offset.storage.replication.factor": "1",
    "offset.storage.partitions": "1",
    "status.storage.replication.factor": "1",
    "status.storage.partitions": "1",
    "offset.flush.interval.ms": "1000",
    "scheduled.rebalance.max.delay.ms": "0",  # else the tasks of a restarted worker wait for five minutes
    "plugin.discovery": "service_load",
    "config.providers": "env,file",
    "config.providers.env.class": "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
    "config.providers.file.class": "org.apache.kafka.common.config.provider.FileConfigProvider",
}
"""One worker, which may take secrets from its environment and from files."""


def connect_options(*, group: str, brokers: str, address: str) -> dict[str, str]:
    """Properties of a Kafka Connect worker besides its folders. The group names the topics that it keeps all in."""
    return {
        **_CONNECT_OPTIONS,
        **{f"{role}.storage.topic": f"{group}-{role}" for role in ("config", "offset", "status")},
        "group.id": group,
        "bootstrap.servers": brokers,
        "listeners": f"http://{address}",
    }


TRINO_CATALOG = "awsdatacatalog"
"""As Athena calls its own, so that the text of a view in Glue names the same tables in both."""
TRINO_HEAP = "-Xmx512M"
TRINO_JVM_OPTIONS = (
    TRINO_HEAP,
    "-XX:+UseSerialGC",
    "-XX:ReservedCodeCacheSize=256M",
    "-XX:TieredStopAtLevel=1",
    "-Djdk.attach.allowAttachSelf=true",
    "-XX:+EnableDynamicAgentLoading",
    "--enable-native-access=ALL-UNNAMED",
)
"""For a server that starts often and answers little: the quick compiler alone halves the work until it is warm."""
_TRINO_OPTIONS = {
    "node.environment": "trs",
    "coordinator": "true",
    "node-scheduler.include-coordinator": "true",
    "query.max-memory": "200MB",
    "query.max-memory-per-node": "200MB",
    "memory.heap-headroom-per-node": "100MB",
}
"""One server that is coordinator and worker."""


def trino_options(*, port: int) -> dict[str, str]:
    """Properties of the Trino server besides its folders."""
    return {
        **_TRINO_OPTIONS,
        "node.internal-address": HOST,
        "node.bind-ip": HOST,
        "http-server.http.port": str(port),
        "discovery.uri": f"http://{HOST}:{port}",
    }


def trino_catalog_options(*, s3: int) -> dict[str, str]:
    """Properties of the catalog: Delta tables and views of the S3 and Glue server at that port."""
    address = f"http://{HOST}:{s3}"
    return {
        "connector.name": "delta_lake",
        "hive.metastore": "glue",
        "hive.metastore.glue.region": S3_REGION,
        "hive.metastore.glue.endpoint-url": address,
        "hive.metastore.glue.aws-access-key": S3_ACCESS_KEY,
        "hive.metastore.glue.aws-secret-key": S3_SECRET_KEY,
        "hive.metastore.glue.default-warehouse-dir": f"s3://{S3_BUCKET}/warehouse",
        "fs.native-s3.enabled": "true",
        "s3.endpoint": address,
        "s3.region": S3_REGION,
        "s3.path-style-access": "true",
        "s3.aws-access-key": S3_ACCESS_KEY,
        "s3.aws-secret-key": S3_SECRET_KEY,
        "delta.register-table-procedure.enabled": "true",
    }


@dataclass(frozen=True)
class Endpoints:
    """Where the parts listen, on the loopback address; `connect` is None where Kafka Connect is left out."""

    kafka: int = 9092
    database: int = 3306
    s3: int = 5000
    connect: int | None = 8083

    @property
    def environment(self) -> dict[str, str]:
        """The settings that lead every command to this stack."""
        optional = {} if self.connect is None else {"TRS_CONNECT": f"http://{HOST}:{self.connect}"}
        return {
            "TRS_KAFKA": f"{HOST}:{self.kafka}",
            "TRS_DATABASE": f"mysql://{DATABASE_USER}:{DATABASE_PASSWORD}@{HOST}:{self.database}/{DATABASE}?tls=off",
            "TRS_SOURCE_NAMES": "aurora",
            "TRS_LAKE": f"s3://{S3_BUCKET}/{S3_PREFIX}",
            "TRS_AWS_REGION": S3_REGION,
            "TRS_AWS_ENDPOINT": f"http://{HOST}:{self.s3}",
            "TRS_AWS_ACCESS_KEY": S3_ACCESS_KEY,
            "TRS_AWS_SECRET_KEY": S3_SECRET_KEY,
            "TRS_EPOCH_INTERVAL_S": "1",
            **optional,
        }


def database_init_sql() -> tuple[str, ...]:
    """Statements that make the database and its user; running them again changes nothing."""
    user = f"'{DATABASE_USER}'@'%'"
    return (
        f"CREATE DATABASE IF NOT EXISTS `{DATABASE}`",
        f"CREATE USER IF NOT EXISTS {user} IDENTIFIED BY '{DATABASE_PASSWORD}'",
        f"GRANT {', '.join(DATABASE_GRANTS)} ON *.* TO {user}",
        f"GRANT ALL ON `{DATABASE}`.* TO {user}",
        f"GRANT ALL ON `{DATABASE}\\_%`.* TO {user}",
    )
