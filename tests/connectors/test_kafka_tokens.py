"""Logins by tokens (SASL/OAUTHBEARER), as MSK's of IAM roles are: at a real broker, and as AWS's signer makes them."""

import asyncio
import base64
import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiokafka
import pytest
from aiokafka import TopicPartition

from app.memory import plan_of
from app.settings import Settings
from app.wiring import consumer_options, kafka_config
from connectors.debezium import MSK_IAM, ConnectorPlan, Flavour, render
from connectors.kafka import KafkaConfig, Producer, TransactionalProducer, client_config, ensure_topics
from connectors.mysql import DatabaseUrl
from devstack import ports, processes
from devstack.declared import HOST
from devstack.kafka import Kafka
from devstack.stack import start_part
from processors.errors import AccessDeniedError

IAM = {"kafka": "b-1:9098", "kafka_security": "sasl_iam", "aws_region": "eu-west-1"}
SESSION_S = 3.0


class TokenKafka(Kafka):
    """A broker that lets in whoever brings a token, and ends a connection once its token is used up."""

    port_names = ("kafka", "kafka_controller", "clients")

    def prepare(self) -> list[str | Path]:
        command = super().prepare()
        module = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
        plain, controller, clients = (self.ports[name] for name in self.port_names)
        values = {
            "listeners": f"PLAINTEXT://{HOST}:{plain},CONTROLLER://{HOST}:{controller},CLIENTS://{HOST}:{clients}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{plain},CLIENTS://{HOST}:{clients}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,CLIENTS:SASL_PLAINTEXT",
            "listener.name.clients.sasl.enabled.mechanisms": "OAUTHBEARER",
            "listener.name.clients.oauthbearer.connections.max.reauth.ms": str(int(SESSION_S * 1000)),
            "listener.name.clients.oauthbearer.sasl.jaas.config": f'{module} required unsecuredLoginStringClaim_sub="b";',  # noqa: E501
        }
        with (self.folder / "server.properties").open("a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in values.items())
        return command


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("tokens")
    part = TokenKafka(folder, ports.assign(folder / "ports.json", needed=TokenKafka.port_names, in_use=()))
    start_part(part)
    yield f"{HOST}:{part.ports['clients']}"
    processes.stop(part.record, timeout_s=part.stop_timeout_s)


class Tokens:
    """Makes tokens that the broker takes, and counts them; `fails`: the one in place of which there is an error."""

    def __init__(self, *, fails: int = 0) -> None:
        self.made, self._fails = 0, fails

    def __call__(self) -> tuple[str, float]:
        self.made += 1
        if self.made == self._fails:
            raise AccessDeniedError("no AWS credentials to sign in to Kafka with")
        now = time.time()
        claims = {"sub": "trs", "iat": now, "exp": now + 60}
        parts = (
            base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in ({"alg": "none"}, claims)
        )
        return ".".join((*parts, "")), now + SESSION_S


def test_clients_sign_in_with_tokens_and_go_on_with_new_ones_when_these_are_used_up(broker: str) -> None:
    tokens, for_consumer = Tokens(), Tokens(fails=3)  # after the bootstrap's, and its first connection's
    kafka = KafkaConfig(broker, security="sasl_plaintext", tokens=tokens)
    ensure_topics(kafka, ["numbers"], 1)
    producer = Producer(kafka)
    transactional = TransactionalProducer(kafka, "writer")
    read: list[bytes] = []

    async def consume() -> None:
        options = consumer_options(Settings(), replace(kafka, tokens=for_consumer), plan_of(Settings()))
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=options.bootstrap_servers, auto_offset_reset="earliest", **options.security
        )
        await consumer.start()
        try:
            consumer.assign([TopicPartition("numbers", 0)])
            end = time.monotonic() + 2.5 * SESSION_S
            sent = 0
            while time.monotonic() < end or len(read) < 2 * sent:
                assert time.monotonic() < end + 30
                if time.monotonic() < end:
                    await asyncio.to_thread(send, sent)
                    sent += 1
                read.extend([r.value for rs in (await consumer.getmany(timeout_ms=300)).values() for r in rs])
        finally:
            await consumer.stop()

    def send(number: int) -> None:
        producer.send("numbers", [b"k"], [b"plain %d" % number])
        producer.flush()
        transactional.begin()
        transactional.send("numbers", [b"k"], [b"in a transaction %d" % number])
        transactional.commit()

    try:
        asyncio.run(consume())
    finally:
        producer.close()
        transactional.close()
    assert len(read) == len(set(read)) > 2
    assert tokens.made > 4  # several connections, each more than once
    assert for_consumer.made > 3  # it went on after a token that could not be had


def test_token_that_cannot_be_had_is_one_line(broker: str) -> None:
    def none() -> tuple[str, float]:
        raise AccessDeniedError("no AWS credentials to sign in to Kafka with", hint="give the task a role")

    with pytest.raises(AccessDeniedError, match="no AWS credentials to sign in") as denied:
        Producer(KafkaConfig(broker, security="sasl_plaintext", tokens=none))
    assert "\n" not in str(denied.value)


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "shh")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")


def signed(token: str) -> dict[str, list[str]]:
    """The query of the request that a token is."""
    url = urlsplit(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode())
    assert url.netloc == "kafka.eu-west-1.amazonaws.com"
    return parse_qs(url.query)


def test_settings_for_iam_give_both_clients_tokens_of_the_roles_credentials(credentials: None) -> None:
    kafka = kafka_config(Settings(**IAM))
    properties: dict[str, Any] = client_config(kafka)
    assert (properties["security.protocol"], properties["sasl.mechanism"]) == ("sasl_ssl", "OAUTHBEARER")
    assert not {"sasl.username", "sasl.password"} & properties.keys()
    token, expires_s = properties["oauth_cb"]("")
    query = signed(token)
    assert query["Action"] == ["kafka-cluster:Connect"]
    assert query["X-Amz-Credential"][0].startswith("AKIAEXAMPLE/")
    assert query["X-Amz-Security-Token"] == ["session"]
    assert 800 < expires_s - time.time() <= 900

    security = consumer_options(Settings(**IAM), kafka, plan_of(Settings())).security
    assert (security["security_protocol"], security["sasl_mechanism"]) == ("SASL_SSL", "OAUTHBEARER")
    assert security["ssl_context"].verify_mode is ssl.CERT_REQUIRED
    assert signed(asyncio.run(security["sasl_oauth_token_provider"].token()))["Action"] == query["Action"]


def test_connectors_own_clients_sign_in_by_iam_too() -> None:
    plan = ConnectorPlan(
        name="c",
        source_name="aurora",
        topic_prefix="aurora.trs",
        partitions=8,
        flavour=Flavour.AURORA,
        database=DatabaseUrl.parse("mysql://u:p@h/trs"),
        kafka=kafka_config(Settings(**IAM)),
    )
    own = "schema.history.internal.producer."
    clients = {n.removeprefix(own): v for n, v in render(plan).items() if n.startswith(own)}
    assert clients == {"security.protocol": "SASL_SSL", **MSK_IAM}


def test_iam_without_credentials_says_what_to_give(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    tokens = kafka_config(Settings(**IAM)).tokens
    assert tokens is not None
    with pytest.raises(AccessDeniedError, match="no AWS credentials to sign in to Kafka with"):
        tokens()
