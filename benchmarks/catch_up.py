"""Catch-up: from the first fetch of waiting row events to the last commit of features in Delta (local folder).

Prints source row events per second, the whole process's seconds and the worker's peak memory; writes JSON. The topics
hold a synthetic TRS that is made and sent before the clock starts. Needs a running stack (TRS_KAFKA, or the embedded
one).
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import duckdb

from app.settings import Settings, load_settings
from app.wiring import kafka_config
from batch_bootstrap.events import Stamp, connect, row_events
from connectors.kafka import Producer, ensure_topics
from processors.order import BATCH_SOURCE_NAME
from processors.tables import DEAD_LETTERS_TOPIC, DOCUMENTS_TOPIC, TABLES, Table, topic_of

SYNTHETIC = {
    "skus": """
        SELECT printf('%d-%05d-%03d', i % 10, i, i % 997) AS item_id, 'Article ' || i AS item_name,
               'Description of ' || i AS item_description, (10 + i * 0.37)::DECIMAL(20,10) AS item_cost_price,
               (15 + i * 0.51)::DECIMAL(20,10) AS item_retail_price
        FROM range(1000) AS t(i)""",
    "accounts": """
        SELECT i AS account_id, 'Company ' || i AS company_name, i || E' High St\\nTown' AS company_address,
               'Person ' || i AS contact_person, '+44 ' || i AS contact_phone, 'F' AS gender,
               DATE '2015-01-01' + (i % 1500)::INTEGER AS joining_date
        FROM range({invoices} // 50 + 1) AS t(i)""",
    "invoices": """
        SELECT i AS invoice_id, ((hash(i) % 1000003)::BIGINT * ({invoices} // 50) // 1000003) AS account_id,
               DATE '2019-01-01' + (i * 1800 // {invoices})::INTEGER AS date_issued,
               CASE WHEN hash(i + 7) % 10 < 8 THEN
                 DATE '2019-01-01' + (i * 1800 // {invoices})::INTEGER + (hash(i + 3) % 50)::INTEGER
               END AS payment_dates
        FROM range({invoices}) AS t(i)""",
    "invoice_line_items": """
        SELECT i AS invoice_id, printf('%d-%05d-%03d', k % 10, k, k % 997) AS item_id,
               (1 + hash(i * 31 + k) % 9)::INTEGER AS quantity
        FROM (
          SELECT DISTINCT i, (hash(i * 17 + j) % 1000)::BIGINT AS k
          FROM range({invoices}) AS t(i), range(10) AS u(j) WHERE j < hash(i) % 10
        ) ORDER BY i""",
}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--invoices", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=3, help="runs, each over topics of its own; the median counts")
    parser.add_argument("--json", type=Path, default=None, help="also write the result here")
    arguments = parser.parse_args()
    runs = [run_once(arguments.invoices) for _ in range(arguments.repeat)]
    median = sorted(runs, key=lambda r: r["events_per_s"])[len(runs) // 2]
    result = {
        "benchmark": "catch_up",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "invoices": arguments.invoices,
        **median,
        "runs": runs,
    }
    rates = ", ".join(f"{r['events_per_s']:,.0f}" for r in runs)
    print(f"catch-up: {median['events_per_s']:,.0f} events/s, the median of {rates}")
    print(f"{median['events']:,.0f} row events in {median['seconds']:.1f} s, first fetch to last commit")
    print(f"whole process: {median['process_seconds']:.1f} s, peak memory {median['peak_rss_mb']:,.0f} MB")
    print(f"machine: {result['machine']}, broker on the same machine")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2))


def run_once(invoices: int) -> dict[str, float]:
    """Fills topics of its own and lets one worker catch up with them."""
    settings = load_settings(topic_prefix=f"bench{uuid.uuid4().hex[:8]}.trs")
    events = fill_topics(settings, invoices)
    return {"events": events, **run_worker(settings, events)}


def fill_topics(settings: Settings, invoices: int) -> int:
    """Makes the topics and sends the synthetic rows; returns how many."""
    kafka = kafka_config(settings)
    names = [*(t.name for t in TABLES), DOCUMENTS_TOPIC, DEAD_LETTERS_TOPIC]
    ensure_topics(kafka, [topic_of(settings.topic_prefix, n) for n in names], settings.partitions)
    producer = Producer(kafka)
    con = connect()
    started, count = time.perf_counter(), 0
    for place, table in enumerate(TABLES):
        count += _send(con, producer, settings, table, invoices, place)
    producer.flush()
    producer.close()
    con.close()
    print(f"sent {count:,} row events in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    return count


def _send(
    con: duckdb.DuckDBPyConnection, producer: Producer, settings: Settings, table: Table, invoices: int, place: int
) -> int:
    columns = ", ".join(f"{c.name}::{c.duckdb_type} AS {c.name}" for c in table.columns)
    rows = con.sql(f"SELECT {columns} FROM ({SYNTHETIC[table.name].format(invoices=invoices)})").to_arrow_table()
    for start in range(0, rows.num_rows, 100_000):
        stamp = Stamp(
            BATCH_SOURCE_NAME, "trs", "run.0000000001", place * 10_000 + start // 100_000, 1_700_000_000_000, True
        )
        keys, values = row_events(con, table, rows.slice(start, 100_000), stamp)
        producer.send(topic_of(settings.topic_prefix, table.name), keys, values)
    return int(rows.num_rows)


def run_worker(settings: Settings, events: int) -> dict[str, float]:
    """One worker with an empty lake of its own; seconds are those that it reports, from the first fetch on."""
    with tempfile.TemporaryDirectory(prefix="trs-bench-") as folder:
        environment = dict(os.environ) | {
            "TRS_KAFKA": settings.kafka,
            "TRS_TOPIC_PREFIX": settings.topic_prefix,
            "TRS_GROUP": f"bench-{uuid.uuid4().hex[:8]}",
            "TRS_LAKE": f"{folder}/lake",
            "TRS_HOME": f"{folder}/home",
            "TRS_WEB_PORT": "0",
            "TRS_EPOCH_INTERVAL_S": os.environ.get("TRS_EPOCH_INTERVAL_S", "10"),
        }
        started = time.perf_counter()
        process = subprocess.Popen(
            [
                sys.executable,
                *os.environ.get("TRS_BENCH_MAIN", "-m app.cli.main").split(),
                "worker",
                "--until-caught-up",
            ],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        output = process.stderr.read() if process.stderr is not None else ""
        _, status, usage = os.wait4(process.pid, 0)
        whole = time.perf_counter() - started
        if os.waitstatus_to_exitcode(status) != 0:
            raise SystemExit(output)
        print(output, file=sys.stderr)
        found = re.search(r"caught up: .* in ([0-9.]+) s", output)
        if found is None:
            raise SystemExit(f"the worker did not say how long it took:\n{output}")
        seconds = float(found.group(1))
        return {
            "seconds": seconds,
            "events_per_s": events / seconds,
            "process_seconds": whole,
            "peak_rss_mb": usage.ru_maxrss / 1024,
        }


if __name__ == "__main__":
    main()
