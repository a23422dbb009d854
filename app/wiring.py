"""Settings turned into what the connectors take."""

from app.settings import Settings
from connectors.kafka import KafkaConfig


def kafka_config(settings: Settings) -> KafkaConfig:
    """How to reach the Kafka cluster."""
    return KafkaConfig(
        bootstrap_servers=settings.kafka,
        security=settings.kafka_security,
        sasl_mechanism=settings.kafka_sasl_mechanism,
        user=settings.kafka_user,
        password=None if settings.kafka_password is None else settings.kafka_password.get_secret_value(),
        ca_file=None if settings.kafka_ca_file is None else str(settings.kafka_ca_file),
        replication=settings.replication,
    )
