"""`python -m benchmarks.peers.spark_jars`: locks what Spark needs beside its own jars in spark.maven.lock.json.

Delta Lake's and Kafka's connectors with what they need; all else comes with PySpark (spark-requirements.in), whose
version is that of Kafka's connector here.
"""

import tempfile
from pathlib import Path

from jgo.maven import MavenContext

from devstack import artifacts
from devstack.lock import write_lock

LOCK_FILE = Path(__file__).with_name("spark.maven.lock.json")
_PART = "spark"
_ARTIFACTS = (
    "io.delta:delta-spark_4.1_2.13:4.1.0",
    "io.delta:delta-storage:4.1.0",
    "org.apache.commons:commons-pool2:2.12.1",
    "org.apache.kafka:kafka-clients:3.9.1",
    "org.apache.spark:spark-sql-kafka-0-10_2.13:4.1.1",
    "org.apache.spark:spark-token-provider-kafka-0-10_2.13:4.1.1",
)


def fetch() -> list[Path]:
    """The jars, downloaded once per user. Raises UnavailableError when that fails."""
    return artifacts.fetch(artifacts.read_lock(LOCK_FILE)[_PART], lambda _: None)


def main() -> None:
    """Rewrites the lock file."""
    with tempfile.TemporaryDirectory() as temporary:
        context = MavenContext(repo_cache=Path(temporary), timeout=60)
        found = [context.create_dependency(coordinate).artifact for coordinate in _ARTIFACTS]
        write_lock(LOCK_FILE, {_PART: found})


if __name__ == "__main__":
    main()
