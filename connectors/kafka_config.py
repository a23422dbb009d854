"""How every Kafka client of ours reaches the brokers, and what the library's errors mean."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from processors.errors import AccessDeniedError, FencedError, TrsError, UnavailableError

REACH_TIMEOUT_S = 8.0
"""How long a first answer of the cluster is waited for."""

_LOG = logging.getLogger("trs.kafka")
_LOG.addHandler(logging.NullHandler())  # librdkafka's lines appear only where the program configured logging

_DENIED = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
_FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})


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


@dataclass
class ClientErrors:
    """The errors that a client reported in the background, of which the first refusal of credentials is kept."""

    denied: str | None = None

    def __call__(self, error: KafkaError) -> None:
        if error.code() in _DENIED and self.denied is None:
            self.denied = error.str()


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


def make_client(factory: Callable[..., Any], config: KafkaConfig, **properties: Any) -> tuple[Any, ClientErrors]:
    """A librdkafka client that writes nothing to stderr, and the errors that it will report."""
    errors = ClientErrors()
    try:
        client = factory({**client_config(config), **properties, "error_cb": errors}, logger=_LOG)
    except KafkaException as error:
        raise wrap_error(error, config, "connect") from None
    return client, errors


def wrap_error(error: KafkaException, config: KafkaConfig, doing: str, errors: ClientErrors | None = None) -> TrsError:
    """A library's error as one of ours: one line that names the cluster and what was tried."""
    first = error.args[0] if error.args else None
    code = first.code() if isinstance(first, KafkaError) else None
    text = first.str() if isinstance(first, KafkaError) else str(error)
    where = f"Kafka at {config.bootstrap_servers}"
    if code in _FENCED:
        return FencedError(
            f"{where}: a newer producer with the same transactional id has taken over",
            hint="another snapshot of this lake runs; let it finish",
        )
    if code in _DENIED or (errors is not None and errors.denied is not None):
        return AccessDeniedError(
            f"{where} refuses to {doing}: {errors.denied if errors is not None and errors.denied else text}",
            hint="check TRS_KAFKA_USER, TRS_KAFKA_PASSWORD and TRS_KAFKA_SECURITY, and the user's ACLs",
        )
    return UnavailableError(
        f"{where} does not answer ({doing}: {text})",
        hint="check TRS_KAFKA and that the brokers run; `trs devstack up` starts a local one",
    )


def check_reachable(client: Any, config: KafkaConfig, errors: ClientErrors) -> Any:
    """The cluster's metadata. Raises UnavailableError or AccessDeniedError within about ten seconds."""
    try:
        return client.list_topics(timeout=REACH_TIMEOUT_S)
    except KafkaException as error:
        client.poll(0)  # serves the error callback, which knows whether we were refused
        raise wrap_error(error, config, "list topics", errors) from None
