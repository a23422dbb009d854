"""The peer of the catch-up: a Spark Structured Streaming job over the same topics, in batches as large as they come.

    python -m benchmarks.peers.spark --kafka HOST:PORT --topic-prefix PREFIX --out FOLDER

The job is in spark_job.py. It runs in .venv-spark (`make setup-spark`), with the jars for Kafka and Delta Lake and a
Java of its own. Twice in one JVM: cold into a folder that is thrown away, then warm into `--out`; the rate that counts
is the warm one. Prints JSON of the warm run: events, seconds from the query's start to the last commit of features,
events per second, CPU seconds; further the cold run's seconds and rate, and the peak memory of both runs, Python and
Java together.

The settings are the fastest that we found on two cores: local[2], two shuffle partitions, one batch of all that waits,
no deletion vectors, short fetch waits, tables merged side by side. Java's start and the creation of the empty tables
are not counted. A batch that fails halfway is merged again, so no row is written twice.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

from benchmarks.peers import spark_jars
from connectors.kafka import KafkaConfig, watermarks
from processors.tables import TABLES, topic_of

_REPOSITORY = Path(__file__).parents[2]
PYTHON = _REPOSITORY / ".venv-spark" / "bin" / "python"
"""The interpreter that has PySpark."""


def main() -> None:
    """Runs the peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", required=True, help="bootstrap servers, comma-separated")
    parser.add_argument("--topic-prefix", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the Delta table, which must not exist")
    parser.add_argument("--interval", type=float, help="not used: there is one batch, hence one commit")
    arguments = parser.parse_args()
    if not PYTHON.exists():
        raise SystemExit(f"{PYTHON} is not there: run `make setup-spark` first")
    places = watermarks(
        KafkaConfig(arguments.kafka), [topic_of(arguments.topic_prefix, table.name) for table in TABLES]
    )
    expected = sum(end - start for start, end in places.values())
    with tempfile.TemporaryDirectory(prefix="trs-bench-spark-") as work:
        options = ["--kafka", arguments.kafka, "--topic-prefix", arguments.topic_prefix, "--out", arguments.out]
        jars = os.pathsep.join(str(jar) for jar in spark_jars.fetch())
        command = [PYTHON, "-m", "benchmarks.peers.spark_job", *options, "--work", work, "--jars", jars]
        done = subprocess.run(command, cwd=_REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}the Spark job failed with exit code {done.returncode}, see above")
    # What a library prints comes before the result, which is the last line.
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if figures["events"] != expected:
        raise SystemExit(f"Spark took {figures['events']:,} events of {expected:,}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
