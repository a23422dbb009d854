"""How every Kafka client of ours reaches the brokers; knows no client library."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

IAM = "sasl_iam"
"""Our word for MSK's logins of IAM roles: SASL over TLS, with tokens."""
TokenSource = Callable[[], tuple[str, float]]
"""A token of SASL/OAUTHBEARER, and until when it is good, in seconds since 1970."""


@dataclass(frozen=True)
class KafkaConfig:
    """Where the cluster is and how we identify ourselves.

    `security` and `sasl_mechanism` are Kafka's own names, or IAM. `tokens` take the place of user and password.
    """

    bootstrap_servers: str
    security: str = "plaintext"
    sasl_mechanism: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    replication: int = 1
    tokens: TokenSource | None = field(default=None, repr=False)

    @property
    def protocol(self) -> str:
        """The security protocol as Kafka calls it."""
        return "sasl_ssl" if self.security == IAM else self.security


def client_config(config: KafkaConfig) -> dict[str, Any]:
    """librdkafka's properties that all clients share."""
    properties: dict[str, Any] = {
        "bootstrap.servers": config.bootstrap_servers,
        "client.id": "trs-stream",
        "security.protocol": config.protocol,
        "socket.connection.setup.timeout.ms": 5000,
        "reconnect.backoff.max.ms": 1000,
    }
    tokens = config.tokens
    if tokens is not None:
        properties |= {"sasl.mechanism": "OAUTHBEARER", "oauth_cb": lambda _config: tokens()}
    elif config.security.startswith("sasl"):
        properties["sasl.mechanism"] = config.sasl_mechanism or "SCRAM-SHA-512"
        properties["sasl.username"] = config.user or ""
        properties["sasl.password"] = config.password or ""
    if config.ca_file is not None:
        properties["ssl.ca.location"] = config.ca_file
    return properties
