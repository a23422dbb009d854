"""Freshness: from the commit at the source until the feature row is readable in Delta, under steady changes.

    python -m benchmarks.freshness [--rate N] [--seconds N] [--invoices N] [--json FILE]

A worker with epochs of one second first catches up with a synthetic TRS. Then row events of a working day are sent at a
steady rate: invoices issued with their lines, lines corrected and invoices paid (recent ones), SKUs priced anew. They
are made beforehand, since in life neither source nor reader shares the worker's cores, and get the time at which they
are sent, which stands for the commit at the source. A reader polls the table of feature changes meanwhile and notes
when it sees each file. The freshness of a change is the time from its event to the sight of the first row of its
invoice that knows it; it is measured of the changes that alter a feature value for certain: new invoices and new
quantities. Needs a running stack (TRS_KAFKA, or the embedded one).
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from deltalake import DeltaTable
from rich.console import Console
from rich.progress import track

from app.settings import Settings, load_settings
from app.wiring import kafka_config
from batch_bootstrap.events import Op, Stamp, connect, row_events
from benchmarks.catch_up import SYNTHETIC, fill_topics
from benchmarks.report import Row, publish
from benchmarks.usage import cpu_seconds
from benchmarks.worker_process import running_worker, worker_environment
from connectors.kafka import Producer
from processors.features.declarations import INVOICE_FEATURES
from processors.lake_tables import changes_name
from processors.tables import ACCOUNTS, INVOICE_LINE_ITEMS, INVOICES, SKUS, Table, topic_of

TICK_S = 0.1
POLL_S = 0.02
SETTLE_S = 5.0
RECENT = 0.05
"""The share of the invoices, the last ones, that are corrected and paid."""
MIX = {"issued": 0.08, "corrected": 0.25, "paid": 0.27, "priced": 0.01}
"""Changes of each kind per row event; an issued invoice brings five lines with it, so that the events add up to one."""
LINES = 5
MADE_MS = 9_876_543_210_123
"""The time that events have before they are sent, as long as a real one."""
_MADE = b"%d" % MADE_MS


@dataclass(frozen=True)
class Sending:
    """Events of one kind of a tick, made beforehand: they name MADE_MS as their time. `ids`: the invoices measured."""

    topic: str
    keys: list[bytes]
    values: list[bytes]
    ids: pa.Array | None

    def at(self, now_ms: int) -> list[bytes]:
        """The values with the time at which they are sent."""
        return [value.replace(_MADE, b"%d" % now_ms) for value in self.values]


class Changes:
    """Makes the row events of each tick beforehand, sends them, and remembers which invoice changed when."""

    def __init__(self, settings: Settings, invoices: int) -> None:
        self._settings = settings
        self._producer = Producer(kafka_config(settings), **{"linger.ms": 5})
        self._con = connect()
        self._chance = np.random.default_rng(1)
        self._next_invoice = invoices
        self._accounts = self._count(ACCOUNTS, invoices)
        self._skus = self._table(SKUS, invoices, "true")
        recent = f"{{column}} >= {invoices * (1 - RECENT):.0f}"
        self._invoices = self._table(INVOICES, invoices, recent.format(column="invoice_id"))
        self._lines = self._table(INVOICE_LINE_ITEMS, invoices, recent.format(column="invoice_id"))
        self._tick = 0
        self._made: deque[list[Sending]] = deque()
        self.made: list[pa.Table] = []

    def _count(self, table: Table, invoices: int) -> int:
        query = f"SELECT count(*) FROM ({SYNTHETIC[table.name].format(invoices=invoices)})"
        return int(self._con.sql(query).fetchall()[0][0])

    def _table(self, table: Table, invoices: int, where: str) -> pa.Table:
        columns = ", ".join(f"{c.name}::{c.duckdb_type} AS {c.name}" for c in table.columns)
        query = SYNTHETIC[table.name].format(invoices=invoices)
        return self._con.sql(f"SELECT {columns} FROM ({query}) WHERE {where}").to_arrow_table()

    def make(self, events: int) -> None:
        """Makes about so many events for one more tick."""
        self._tick += 1
        issued = self._issued(max(1, round(events * MIX["issued"])))
        corrected = self._some(self._lines, events * MIX["corrected"])
        place = corrected.schema.get_field_index("quantity")
        quantity = pa.scalar(10 + self._tick, corrected.schema.field(place).type)  # it never was the same before
        corrected = corrected.set_column(place, "quantity", pa.repeat(quantity, corrected.num_rows))
        paid = self._some(self._invoices, events * MIX["paid"])
        days = self._chance.integers(18_900, 19_000, paid.num_rows).astype("int32")
        place = paid.schema.get_field_index("payment_dates")
        paid = paid.set_column(place, "payment_dates", pa.array(days, pa.int32()).cast(pa.date32()))
        parts: list[tuple[Table, Op, pa.Table, bool]] = [
            (INVOICES, "c", issued, True),
            (INVOICE_LINE_ITEMS, "c", self._lines_of(issued), False),
            (INVOICE_LINE_ITEMS, "u", corrected, True),
            (INVOICES, "u", paid, False),
            (SKUS, "u", self._some(self._skus, events * MIX["priced"]), False),
        ]
        self._made.append([self._sending(number, *part) for number, part in enumerate(parts)])

    def send(self) -> int:
        """Sends the events of the next tick; returns how many."""
        sendings = self._made.popleft()
        for sending in sendings:
            now_ms = time.time_ns() // 1_000_000
            self._producer.send(sending.topic, sending.keys, sending.at(now_ms))
            if sending.ids is not None:
                made_ms = pa.repeat(pa.scalar(now_ms, pa.int64()), len(sending.ids))
                self.made.append(pa.table({"inv_id": sending.ids, "made_ms": made_ms}))
        return sum(len(sending.values) for sending in sendings)

    def _some(self, rows: pa.Table, count: float) -> pa.Table:
        return rows.take(pa.array(self._chance.choice(rows.num_rows, round(count), replace=False)))

    def _issued(self, count: int) -> pa.Table:
        first, self._next_invoice = self._next_invoice, self._next_invoice + count
        return self._con.sql(
            f"""
            SELECT {first} + i AS invoice_id, (hash({first} + i) % {self._accounts})::BIGINT AS account_id,
                   DATE '2024-01-01' AS date_issued, NULL::DATE AS payment_dates
            FROM range({count}) AS t(i)
            """
        ).to_arrow_table()

    def _lines_of(self, invoices: pa.Table) -> pa.Table:
        items = [self._some(self._skus, LINES)["item_id"] for _ in range(invoices.num_rows)]
        return pa.table(
            {
                "invoice_id": pa.array(np.repeat(invoices["invoice_id"].to_numpy(), LINES)),
                "item_id": pa.chunked_array([c for item in items for c in item.chunks]),
                "quantity": pa.array(self._chance.integers(1, 9, LINES * invoices.num_rows), pa.int32()),
            }
        )

    def _sending(self, number: int, table: Table, op: Op, rows: pa.Table, measured: bool) -> Sending:
        pos = 1_000 + self._tick * 10 + number
        stamp = Stamp(self._settings.source_names[-1], "trs", "mysql-bin.000001", pos, MADE_MS, numbered=True)
        keys, values = row_events(self._con, table, rows, stamp, op=op)
        ids = rows["invoice_id"].combine_chunks().cast(pa.int64()).unique() if measured else None
        return Sending(topic_of(self._settings.topic_prefix, table.name), keys, values, ids)

    def close(self) -> None:
        """Waits until the broker has all."""
        self._producer.flush()
        self._producer.close()
        self._con.close()


class Reader:
    """Polls a Delta table in a folder and notes when each of its files became readable."""

    def __init__(self, folder: str) -> None:
        self._log = Path(folder) / "_delta_log"
        self._handle = DeltaTable(folder)
        self._known = set(self._handle.file_uris())
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen_ms: dict[str, int] = {}

    def _run(self) -> None:
        while not self._stopped.wait(POLL_S):
            if (self._log / f"{self._handle.version() + 1:020}.json").exists():  # a look, not a listing
                self._handle.update_incremental()
                now_ms = time.time_ns() // 1_000_000
                fresh = set(self._handle.file_uris()) - self._known
                self._known |= fresh
                self.seen_ms |= dict.fromkeys(fresh, now_ms)

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()


def measure(invoices: int, rate: int, seconds: float) -> dict[str, Any]:
    """One run; see the module."""
    settings = load_settings(topic_prefix=f"fresh{uuid.uuid4().hex[:8]}.trs")
    fill_topics(settings, invoices)
    with tempfile.TemporaryDirectory(prefix="trs-fresh-") as folder:
        home = Path(folder) / "home"
        settings = settings.model_copy(update={"lake": f"{folder}/lake"})
        environment = worker_environment(settings, home, interval_s=1)
        print("the worker catches up", file=sys.stderr)
        with running_worker(environment, "--until-caught-up", log=home / "first.log") as process:
            if process.wait():
                raise SystemExit((home / "first.log").read_text())
        table = f"{folder}/lake/{changes_name(INVOICE_FEATURES)}"
        with running_worker(environment, log=home / "worker.log") as process:
            wait_for_commits(table, process, 2)
            changes = Changes(settings, invoices)
            for _ in track(range(round(seconds / TICK_S) + 1), "the changes are made", console=Console(stderr=True)):
                changes.make(round(rate * TICK_S))
            with Reader(table) as reader:
                cpu_s = cpu_seconds(process.pid)
                sent, lasted = keep_changing(changes, seconds)
                cpu_s = cpu_seconds(process.pid) - cpu_s
                changes.close()
                time.sleep(SETTLE_S)
        load = {"events": sent, "events_per_s": sent / lasted, "worker_cores": cpu_s / lasted}
        return load | summarise(changes, reader)


def wait_for_commits(table: str, process: subprocess.Popen[bytes], count: int) -> None:
    """Until the worker, which has just been started, committed so often."""
    begin = DeltaTable(table).version()
    while DeltaTable(table).version() < begin + count:
        if process.poll() is not None:
            raise SystemExit("the worker has ended")
        time.sleep(0.2)


def keep_changing(changes: Changes, seconds: float) -> tuple[int, float]:
    """Sends a tick's events every TICK_S; returns how many, and the seconds that it took."""
    begin, sent, ticks = time.monotonic(), 0, 0
    while (now := time.monotonic()) < begin + seconds:
        due = begin + ticks * TICK_S
        if due > now:
            time.sleep(due - now)
        sent += changes.send()
        ticks += 1
        if ticks % round(5 / TICK_S) == 0:
            print(f"{sent:,} events in {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return sent, time.monotonic() - begin


def summarise(changes: Changes, reader: Reader) -> dict[str, Any]:
    """Percentiles over all changes of invoices."""
    seen = pa.table({"filename": list(reader.seen_ms), "seen_ms": pa.array(reader.seen_ms.values(), pa.int64())})
    made = pa.concat_tables(changes.made)
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.register("made", made)
        con.register("seen", seen)
        row = con.execute(
            """
            WITH files AS (
              SELECT inv_id, epoch_ms(valid_from) AS valid_ms, seen_ms
              FROM read_parquet($files, filename = true, hive_partitioning = false) JOIN seen USING (filename)
            ), first_seen AS (
              SELECT made.inv_id, made_ms, min(seen_ms) AS seen_ms
              FROM made LEFT JOIN files ON files.inv_id = made.inv_id AND valid_ms >= made_ms
              GROUP BY ALL
            )
            SELECT
              count(*) AS changes,
              count(seen_ms) AS seen,
              quantile_cont((seen_ms - made_ms) / 1000, 0.5) AS p50_s,
              quantile_cont((seen_ms - made_ms) / 1000, 0.99) AS p99_s,
              max((seen_ms - made_ms) / 1000) AS max_s
            FROM first_seen
            """,
            {"files": list(reader.seen_ms)},
        ).fetchone()
    assert row is not None
    result = dict(zip(("changes", "seen", "p50_s", "p99_s", "max_s"), row, strict=True))
    return result | {"commits": len(reader.seen_ms)}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--invoices", type=int, default=200_000, help="of the state that the changes meet")
    parser.add_argument("--rate", type=int, default=2_000, help="row events per second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path, default=None, help="file of the result; build/bench/freshness.json")
    arguments = parser.parse_args()
    result = measure(arguments.invoices, arguments.rate, arguments.seconds)
    if result["seen"] < result["changes"]:
        raise SystemExit(f"{result['changes'] - result['seen']} changes have no row that knows them")
    rows = [
        Row("freshness, median", result["p50_s"], "s"),
        Row("freshness, 99 of 100", result["p99_s"], "s"),
        Row("freshness, worst", result["max_s"], "s"),
        Row("row events", result["events_per_s"], "events/s"),
        Row("the worker's CPU", result["worker_cores"], "cores"),
        Row("changes measured", result["changes"], "changes"),
    ]
    publish(
        "freshness",
        rows,
        {"invoices": arguments.invoices, "rate": arguments.rate, "seconds": arguments.seconds, **result},
        file=arguments.json,
    )


if __name__ == "__main__":
    main()
