"""Clients of librdkafka, and what its errors mean."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from connectors.kafka_config import KafkaConfig, client_config
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


@dataclass
class ClientErrors:
    """The errors that a client reported in the background, of which the first refusal of credentials is kept."""

    denied: str | None = None

    def __call__(self, error: KafkaError) -> None:
        if error.code() in _DENIED and self.denied is None:
            self.denied = error.str()


def make_client(factory: Callable[..., Any], config: KafkaConfig, **properties: Any) -> tuple[Any, ClientErrors]:
    """A librdkafka client that writes nothing to stderr, and the errors that it will report."""
    errors = ClientErrors()
    if config.tokens is not None:
        config.tokens()  # librdkafka would wait ten seconds for one, and not say why it gets none
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
