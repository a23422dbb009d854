"""Training sets: seconds and memory for a frame of labels against a long history, beside polars' `join_asof`.

    python -m benchmarks.training_set [--labels N] [--versions N] [--lake FOLDER] [--json FILE]

The history is a Delta table in a local folder, 5 versions per invoice, of which 2 in 100 arrive after a greater one.
Both are asked for the features that counted at each label's time, each in a process of its own, from the files to a
frame with all columns; both must give the same. The peer gets the rows that ever counted by polars' own window
functions, since an as-of join alone takes late rows for newer ones.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from benchmarks.report import Row, publish
from benchmarks.usage import peak_rss_mb
from connectors.lake import WRITER
from processors.features.declarations import INVOICE_FEATURES
from processors.lake_tables import EPOCHS, LAKE_TABLES, changes_name

CHANGES = LAKE_TABLES[changes_name(INVOICE_FEATURES)]
VERSIONS_EACH = 5
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
SPAN_DAYS = 200
_BATCH_ROWS = 100_000


def main() -> None:
    """Fills a lake unless there is one, then lets each contender answer in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--versions", type=int, default=10_000_000, help="rows of the history")
    parser.add_argument("--lake", type=Path, default=None, help="keep the lake here, and use it if it is there")
    parser.add_argument("--json", type=Path, default=None, help="default build/bench/training_set.json")
    parser.add_argument("--run", choices=CONTENDERS, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run is not None:
        print(json.dumps(answer(arguments.run, arguments.lake, arguments.labels, arguments.versions)))
        return
    with tempfile.TemporaryDirectory(prefix="trs-bench-") as folder:
        lake = arguments.lake or Path(folder) / "lake"
        if not lake.exists():
            fill(lake, arguments.versions)
        size = ["--labels", str(arguments.labels), "--versions", str(arguments.versions)]
        found = {name: _run(name, lake, size) for name in CONTENDERS}
    publish("training_set", report_rows(found), {"contenders": found}, file=arguments.json)


def report_rows(found: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The figures; ends the program where the answers differ."""
    ours, peer = found["ours"], found["polars"]
    if ours["sums"] != peer["sums"]:
        raise SystemExit(f"the answers differ: {ours['sums']} and {peer['sums']}")
    seconds, memory = ours["seconds"], ours["peak_rss_mb"]
    return [
        Row("training set", seconds, "s", "polars", peer["seconds"], peer["seconds"] / seconds),
        Row("peak memory", memory, "MB", "polars", peer["peak_rss_mb"], peer["peak_rss_mb"] / memory),
        Row("labels", ours["sums"]["labels"], "rows"),
        Row("labels with features", ours["sums"]["with_features"], "rows"),
    ]


def _run(name: str, lake: Path, size: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.training_set", "--run", name, "--lake", str(lake), *size]
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env={**os.environ, "TRS_LAKE": str(lake)}
    ).stdout
    result: dict[str, Any] = json.loads(output)
    return result


def fill(lake: Path, versions: int) -> None:
    """Writes the history, in the order in which it became known, and a watermark behind all of it."""
    invoices = versions // VERSIONS_EACH
    step_s = SPAN_DAYS * 86400 // VERSIONS_EACH
    late_s = step_s * 5 // 4
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        rows = con.sql(f"""
            WITH made AS (
              SELECT i % {invoices} AS inv_id, i // {invoices} AS k, hash(i) AS h FROM range({versions}) AS t(i)
            ), timed AS (
              SELECT *, k * {step_s} + h % {step_s} + CASE WHEN h % 50 = 0 THEN {late_s} ELSE 0 END AS seconds FROM made
            ), made_known AS (
              SELECT *, {_literal(BEGIN)} + to_seconds(CAST(seconds AS DOUBLE)) AS known_from FROM timed
            )
            SELECT CAST(inv_id AS BIGINT) AS inv_id, CAST(inv_id % 50000 AS BIGINT) AS acct_id,
              CAST(h % 100000 AS DECIMAL(38,10)) / 100 AS inv_total, CAST(h % 90 AS BIGINT) AS inv_items,
              CAST(h % 2000 AS INTEGER) AS acct_age, CAST(h % 30 AS BIGINT) AS num_inv_120d,
              CAST(h % 9999999 AS DECIMAL(38,10)) / 100 AS cum_tot_inv_acct, CAST(h % 2 AS INTEGER) AS is_late,
              0 AS bucket, CAST(k AS BIGINT) AS epoch, 0 AS entity_bucket, CAST(k AS BIGINT) AS document_version,
              k = {VERSIONS_EACH - 1} AND h % 20 = 0 AS deleted, 1 AS feature_version, known_from AS valid_from,
              known_from, CAST(known_from AS DATE) AS known_date
            FROM made_known ORDER BY known_from""").to_arrow_reader(_BATCH_ROWS)
        batches = (_complete(batch) for batch in rows)
        reader = pa.RecordBatchReader.from_batches(CHANGES.schema, batches)
        uri = str(lake / CHANGES.name)
        write_deltalake(uri, reader, partition_by=list(CHANGES.partition_by), writer_properties=WRITER)
    now = datetime.now(UTC)
    epoch = {"stage": "accounts", "bucket": 0, "epoch": 1, "known_through": now, "known_date": now.date()}
    row = pa.Table.from_pylist([{**dict.fromkeys(EPOCHS.schema.names), **epoch}], schema=EPOCHS.schema)
    write_deltalake(str(lake / EPOCHS.name), row, partition_by=list(EPOCHS.partition_by))


def _complete(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch in the table's schema; columns that it does not have are null."""
    columns = [
        batch.column(f.name).cast(f.type) if f.name in batch.schema.names else pa.nulls(batch.num_rows, f.type)
        for f in CHANGES.schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=CHANGES.schema)


def _literal(time: datetime) -> str:
    return f"TIMESTAMPTZ '{time.isoformat(sep=' ')}'"


def labels(count: int, versions: int) -> pa.Table:
    """Random invoices, one in a hundred unknown, at random times of the history."""
    invoices = versions // VERSIONS_EACH
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        return con.sql(f"""
            SELECT i AS label, CAST(hash(i) % {invoices * 101 // 100} AS BIGINT) AS inv_id,
              {_literal(BEGIN)} + to_seconds(CAST(hash(i + {count}) % ({SPAN_DAYS} * 86400) AS DOUBLE)) AS time
            FROM range({count}) AS t(i)""").to_arrow_table()


def answer(name: str, lake: Path, count: int, versions: int) -> dict[str, Any]:
    """One contender's seconds, memory, and sums by which the answers are compared."""
    asked = labels(count, versions)
    started = time.perf_counter()
    result = CONTENDERS[name](asked, lake)
    seconds = time.perf_counter() - started
    memory = peak_rss_mb()
    with duckdb.connect() as con:
        con.register("result", result)
        sums = con.sql("""
            SELECT count(*) AS labels, count(known_from) AS with_features, CAST(sum(inv_total) AS VARCHAR) AS totals,
              CAST(sum(label * inv_items) AS BIGINT) AS items,
              CAST(sum(epoch_ms(known_from) // 1000) AS BIGINT) AS known
            FROM result""").to_arrow_table()
    return {"seconds": seconds, "peak_rss_mb": memory, "sums": sums.to_pylist()[0]}


def ours(asked: pa.Table, _: Path) -> pa.Table:
    """`lake.training_set`."""
    from trs import lake

    return lake.training_set(asked)


def polars(asked: pa.Table, lake: Path) -> pa.Table:
    """Rows that ever counted, then `join_asof`; deleted ones have no features."""
    import polars as pl

    key = "inv_id"
    files = DeltaTable(lake / CHANGES.name).file_uris()
    values = [c for c in INVOICE_FEATURES.column_names if c != key]
    shown = (*values, "known_from", "valid_from")
    history = pl.scan_parquet(files, hive_partitioning=False)
    until = pl.col("known_from").reverse().cum_min().shift(1).reverse().over(key)
    counted = (
        history.sort("document_version", "epoch")
        .with_columns(until.alias("until"))
        .filter(pl.col("until").is_null() | (pl.col("until") > pl.col("known_from")))
        .select(key, *values, "known_from", "valid_from", "deleted")
        .sort("known_from")
    )
    joined = (
        pl.LazyFrame(asked)
        .sort("time")
        .join_asof(counted, left_on="time", right_on="known_from", by=key, check_sortedness=False, coalesce=False)
        .with_columns(pl.when(~pl.col("deleted")).then(pl.col(c)).alias(c) for c in shown)
        .sort("label")
    )
    return joined.collect().to_arrow()


CONTENDERS = {"ours": ours, "polars": polars}

if __name__ == "__main__":
    main()
