"""How every Kafka client of ours reaches the brokers; knows no client library."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class KafkaConfig:
    """Where the cluster is and how we identify ourselves. `security` and `sasl_mechanism` are Kafka's own names."""

    bootstrap_servers: str
    security: str = "plaintext"
    sasl_mechanism: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    replication: int = 1


def client_config(config: KafkaConfig) -> dict[str, Any]:
    """librdkafka's properties that all clients share."""
    properties: dict[str, Any] = {
        "bootstrap.servers": config.bootstrap_servers,
        "client.id": "trs-stream",
        "security.protocol": config.security,
        "socket.connection.setup.timeout.ms": 5000,
        "reconnect.backoff.max.ms": 1000,
    }
    if config.security.startswith("sasl"):
        properties["sasl.mechanism"] = config.sasl_mechanism or "SCRAM-SHA-512"
        properties["sasl.username"] = config.user or ""
        properties["sasl.password"] = config.password or ""
    if config.ca_file is not None:
        properties["ssl.ca.location"] = config.ca_file
    return properties
