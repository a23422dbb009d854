"""Catch-up: from the first fetch of waiting row events to the last commit of features in Delta (local folder).

    python -m benchmarks.catch_up [--invoices N] [--repeat N] [--peers faust spark] [--json FILE]

Prints source row events per second, the whole process's seconds and the worker's peak memory; writes JSON. The topics
hold a synthetic TRS that is made and sent before the clock starts. Peers catch up with the same topics afterwards, one
by one, and must come to the same features. How many cores are busy is told of all processes, the broker's too; and what
memory costs that is touched for the first time, which on virtual machines may differ several times from hour to hour.
Needs a running stack (TRS_KAFKA, or the embedded one).
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
from deltalake import DeltaTable

from app.lake_session import LakeSession
from app.settings import Settings, load_settings
from app.wiring import kafka_config, lake_location
from batch_bootstrap.events import Stamp, connect, row_events
from benchmarks.report import Row, publish
from benchmarks.usage import busy_seconds, fresh_memory_s_per_gb, peak_rss_mb
from benchmarks.worker_process import running_worker, worker_environment
from connectors.kafka import Producer, ensure_topics
from connectors.lake import LakeStore
from processors.features.declarations import INVOICE_FEATURES
from processors.lake_tables import changes_name
from processors.order import BATCH_SOURCE_NAME
from processors.tables import TABLES, Table, all_topics, topic_of

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


PEERS = {
    "faust": ("stock Faust", "benchmarks.peers.stock_faust"),
    "spark": ("Spark", "benchmarks.peers.spark"),
}
"""What each peer is called in the report, and its module.

A peer may do the job twice: its figures are the second run's, and `cold_events_per_s` is the first's.
"""
POLL_S = 0.2

Figures = dict[str, float]


class Run(NamedTuple):
    """What one fill of the topics gave, with each peer's figures by its name."""

    ours: Figures
    peers: dict[str, Figures]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--invoices", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=3, help="runs, each over topics of its own; the median counts")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=(), help="what to measure ours against")
    parser.add_argument("--json", type=Path, default=None, help="file of the result; default build/bench/catch_up.json")
    arguments = parser.parse_args()
    runs = [run_once(arguments.invoices, arguments.peers) for _ in range(arguments.repeat)]
    details = {
        "invoices": arguments.invoices,
        "epoch_interval_s": float(epoch_interval()),
        "runs": [r._asdict() for r in runs],
    }
    publish("catch_up", report_rows(runs), details, file=arguments.json)


def report_rows(runs: Sequence[Run]) -> list[Row]:
    """What is reported of the runs: ours beside each peer, of both the run with the median rate (of two, the lower).

    A ratio is the median of the runs' own: a machine whose speed changes from run to run changes both sides of each.
    """
    ours = _median([r.ours for r in runs])
    rate = ours["events_per_s"]
    peers = {name: _median([r.peers[name] for r in runs]) for name in runs[0].peers}

    def compared(measure: str, figure: str, unit: str, *, more_is_better: bool = False) -> Iterator[Row]:
        value = ours[figure]
        for name, peer in peers.items():
            ratios = [r.ours[figure] / r.peers[name][figure] for r in runs]
            ratio = statistics.median(ratios if more_is_better else [1 / r for r in ratios])
            yield Row(measure, value, unit, PEERS[name][0], peer[figure], ratio)
        if not peers:
            yield Row(measure, value, unit)

    return [
        *compared("row events", "events_per_s", "events/s", more_is_better=True),
        *(
            Row(
                "row events",
                rate,
                "events/s",
                f"{PEERS[n][0]}, cold",
                cold,
                statistics.median(r.ours["events_per_s"] / r.peers[n]["cold_events_per_s"] for r in runs),
            )
            for n, peer in peers.items()
            if (cold := peer.get("cold_events_per_s")) is not None
        ),
        *compared("first event to last commit", "seconds", "s"),
        *compared("CPU of the whole process", "cpu_seconds", "s"),
        *compared("peak memory", "peak_rss_mb", "MB"),
        Row("the whole process", ours["process_seconds"], "s"),
        Row("busy from first event to last commit", ours["busy_cores"], "cores"),
        Row("busy in the last fifth of it", ours["busy_cores_at_the_end"], "cores"),
        Row("a GB of fresh memory, before it began", ours["fresh_memory_s_per_gb"], "s"),
        *(Row(f"features equal to {PEERS[n][0]}'s", peer["equal_rows"], "rows") for n, peer in peers.items()),
    ]


def _median(figures: Sequence[Figures]) -> Figures:
    return sorted(figures, key=lambda f: f["events_per_s"])[(len(figures) - 1) // 2]


def run_once(invoices: int, peers: Sequence[str]) -> Run:
    """Fills topics of its own, lets one worker catch up with them, then each peer, which must find the same features.

    Every one has the machine to itself.
    """
    with tempfile.TemporaryDirectory(prefix="trs-bench-") as folder:
        settings = load_settings(topic_prefix=f"bench{uuid.uuid4().hex[:8]}.trs", lake=f"{folder}/lake")
        events = fill_topics(settings, invoices)
        run = Run({"events": events, **run_worker(settings, events, Path(folder))}, {})
        for name in peers:
            out = Path(folder) / f"peer-{name}"
            figures = run_peer(name, settings, out)
            run.peers[name] = {**figures, "equal_rows": compare_features(settings, out)}
        return run


def fill_topics(settings: Settings, invoices: int) -> int:
    """Makes the topics and sends the synthetic rows; returns how many."""
    kafka = kafka_config(settings)
    ensure_topics(kafka, all_topics(settings.topic_prefix), settings.partitions)
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


def epoch_interval() -> str:
    """Seconds between commits, of ours and of the peers: production's default unless the environment says otherwise."""
    return os.environ.get("TRS_EPOCH_INTERVAL_S", "10")


def run_worker(settings: Settings, events: int, folder: Path) -> Figures:
    """One worker with an empty lake of its own; seconds from its first fetch to the last commit of features."""
    environment = worker_environment(settings, folder / "home", interval_s=epoch_interval())
    main_module = os.environ.get("TRS_BENCH_MAIN", "-m app.cli.main")
    fresh_memory = fresh_memory_s_per_gb()
    started, peak, log = time.perf_counter(), 0.0, folder / "worker.log"
    times, used = [time.time()], [busy_seconds()]
    with running_worker(environment, "--until-caught-up", log=log, main=main_module) as process:
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            peak = max(peak, peak_rss_mb(process.pid))
            time.sleep(POLL_S)
            times.append(time.time())
            used.append(busy_seconds())
        _, status, usage = ended
        process.returncode = os.waitstatus_to_exitcode(status)
    whole, output = time.perf_counter() - started, log.read_text()
    if process.returncode != 0:
        raise SystemExit(output)
    print(output, file=sys.stderr)
    ready = re.search(r"^(\S+Z) .* ready \[", output, re.MULTILINE)
    if ready is None or "caught up: " not in output:
        raise SystemExit(f"the worker did not say when it began, or that it caught up:\n{output}")
    began_s = datetime.fromisoformat(ready.group(1)).timestamp()
    seconds = features_committed_s(settings) - began_s
    busy = np.interp(began_s + seconds * np.array([0, 0.8, 1]), times, used)
    return {
        "seconds": seconds,
        "events_per_s": events / seconds,
        "process_seconds": whole,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_mb": peak,
        "busy_cores": (busy[2] - busy[0]) / seconds,
        "busy_cores_at_the_end": (busy[2] - busy[1]) / (seconds / 5),
        "fresh_memory_s_per_gb": fresh_memory,
    }


def features_committed_s(settings: Settings) -> float:
    """When rows of features were committed the last time, as Unix time. Commits of marks alone may come later."""
    table = LakeStore(lake_location(settings)).open(changes_name(INVOICE_FEATURES))
    commits = table.history()
    told_ms = [float(c["timestamp"]) for c in commits if c.get("operationMetrics", {}).get("num_added_rows")]
    return max(told_ms) / 1000


def run_peer(name: str, settings: Settings, out: Path) -> Figures:
    """What the peer says of itself after it has caught up with the same topics; its features are in `out`."""
    label, module = PEERS[name]
    print(f"{label} catches up with the same topics ...", file=sys.stderr)
    options = ["--kafka", settings.kafka, "--topic-prefix", settings.topic_prefix, "--interval", epoch_interval()]
    command = [sys.executable, "-m", module, *options, "--out", str(out)]
    figures: Figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return figures


def compare_features(settings: Settings, peer: Path) -> int:
    """How many feature rows there are in the lake, all equal to the peer's in all columns; ends when one is not."""
    columns = ", ".join(INVOICE_FEATURES.column_names)
    with LakeSession(settings) as session:
        session.create_views([INVOICE_FEATURES.name])
        con = session.con
        con.register("commits", DeltaTable(str(peer)).to_pyarrow_table())
        con.execute(f"CREATE TEMP TABLE ours AS SELECT {columns} FROM {INVOICE_FEATURES.name}")
        con.execute(f"""
            CREATE TEMP TABLE theirs AS
            SELECT {columns} FROM commits QUALIFY row_number() OVER (PARTITION BY inv_id ORDER BY commit DESC) = 1
        """)
        ((count, wrong),) = con.sql("""
            SELECT
              (SELECT count(*) FROM ours),
              (SELECT count(*) FROM (
                (FROM ours EXCEPT ALL FROM theirs) UNION ALL (FROM theirs EXCEPT ALL FROM ours)
              ))
        """).fetchall()
    if count == 0 or wrong:
        raise SystemExit(f"the peer's features are not ours: {wrong} rows differ, ours has {count}")
    return int(count)


if __name__ == "__main__":
    main()
