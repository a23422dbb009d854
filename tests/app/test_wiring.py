"""Settings as the connectors take them."""

from app.memory import plan_of
from app.settings import Settings
from app.wiring import consumer_options, kafka_config


def test_consumer_signs_in_with_mechanism_user_and_password_of_the_settings() -> None:
    settings = Settings(
        kafka_security="sasl_plaintext", kafka_sasl_mechanism="PLAIN", kafka_user="me", kafka_password="secret"
    )
    assert consumer_options(settings, kafka_config(settings), plan_of(settings)).security == {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "me",
        "sasl_plain_password": "secret",
    }
