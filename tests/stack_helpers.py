"""What tests on the real stack share: extracts onto topics, `trs` and workers as processes, whole tables to compare."""

import csv
import json
import os
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.etl import run_etl
from app.lake_session import LakeSession
from app.settings import Settings
from app.wiring import kafka_config, lake_location
from batch_bootstrap.events import Stamp, connect, row_events
from connectors.kafka import Producer, ensure_topics
from connectors.object_files import LakeReader
from processors.features.declarations import FeatureSet
from processors.order import BATCH_SOURCE_NAME
from processors.tables import TABLES, all_topics, topic_of
from tests.waiting import wait_until

_REPOSITORY = Path(__file__).parent.parent


def environment(settings: Settings) -> dict[str, str]:
    """The process environment in which `trs` sees exactly these settings."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("TRS_")} | {"PYTHONPATH": str(_REPOSITORY)}
    values: Mapping[str, Any] = settings.model_dump(exclude_none=True)
    for name, value in values.items():
        shown = value.get_secret_value() if hasattr(value, "get_secret_value") else value
        env[f"TRS_{name.upper()}"] = ",".join(shown) if isinstance(shown, tuple) else str(shown)
    return env


def trs(settings: Settings, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs the `trs` command with these settings; fails the test when it fails."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "app.cli.main", *arguments],
            env=environment(settings),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        told = late.stderr.decode() if isinstance(late.stderr, bytes) else late.stderr
        raise AssertionError(f"trs {' '.join(arguments)} took more than {timeout_s:.0f} s:\n{told}") from None
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def start_worker(settings: Settings, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A worker in the background; its output goes to `log`."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "app.cli.main", "worker", *arguments],
            env=environment(settings),
            stdout=out,
            stderr=out,
        )


def get(url: str) -> tuple[int, str]:
    """Status and body of a page. Raises URLError when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def pages_of(settings: Settings, worker: "subprocess.Popen[bytes]", log: Path) -> str:
    """The address of the worker's pages, once it has them."""
    address = settings.home / f"worker-{worker.pid}.json"
    wait_until(lambda: address.exists() or worker.poll() is not None, timeout_s=60, what="the worker has its pages")
    assert worker.poll() is None, log.read_text()
    where = json.loads(address.read_text(encoding="utf-8"))
    return f"http://127.0.0.1:{where['port']}"


def owned_buckets(settings: Settings, worker: "subprocess.Popen[bytes]") -> set[int]:
    """The buckets that the worker says it owns; none before it is up and while the group rebalances."""
    address = settings.home / f"worker-{worker.pid}.json"
    if not address.exists():
        return set()
    where = json.loads(address.read_text(encoding="utf-8"))
    with urllib.request.urlopen(f"http://{where['host']}:{where['port']}/status.json", timeout=10) as answer:
        return set(json.load(answer)["buckets"] or ())


def feed(settings: Settings, extracts: Path, *, run: int, tables: Iterable[str] | None = None) -> int:
    """Sends the rows of CSV extracts as a bootstrap of that run number would; returns how many."""
    kafka = kafka_config(settings)
    ensure_topics(kafka, all_topics(settings.topic_prefix), settings.partitions)
    producer = Producer(kafka)
    sent = 0
    with connect() as con:
        for chunk, table in enumerate(TABLES, start=1):
            if tables is not None and table.name not in tables:
                continue
            columns = ", ".join(f"CAST({c.name} AS {c.duckdb_type}) AS {c.name}" for c in table.columns)
            file = str(extracts / f"{table.name}.csv").replace("'", "''")
            rows = con.sql(f"SELECT {columns} FROM read_csv('{file}', all_varchar = true, header = true)")
            stamp = Stamp(
                source_name=BATCH_SOURCE_NAME,
                database="trs",
                file=f"run.{run:010d}",
                pos=chunk,
                ts_ms=int(time.time() * 1000),
                numbered=True,
            )
            keys, values = row_events(con, table, rows.to_arrow_table(), stamp)
            producer.send(topic_of(settings.topic_prefix, table.name), keys, values)
            sent += len(keys)
    producer.flush()
    producer.close()
    return sent


def write_extracts(folder: Path, *, invoices: int, seed: int) -> Path:
    """CSV extracts of a small synthetic shop: hot accounts, unpaid and lineless invoices, articles nobody knows."""
    chance = random.Random(seed)
    items = [f"{n}-{n * 7919 % 997}" for n in range(40)]
    accounts = range(1, 31)
    days = [date(2020, 1, 1) + timedelta(n) for n in range(500)]
    rows: dict[str, list[tuple[object, ...]]] = {
        "skus": [
            (
                item,
                f"Article {item}",
                "plain, with a comma",
                "1.25",
                f"{chance.randrange(10**5)}.{chance.randrange(10**10)}",
            )
            for item in items
        ],
        "accounts": [
            (a, f"Firm {a}", f"{a} Road\nTown", "A Person", "555", chance.choice(("F", "M", "")), days[a].isoformat())
            for a in accounts
        ],
        "invoices": [],
        "invoice_line_items": [],
    }
    items.append("unknown-article")
    for number in range(1, invoices + 1):
        issued = chance.choice(days)
        account = min(chance.choice(accounts), chance.choice((31, chance.choice(accounts))))
        paid = issued + timedelta(chance.randrange(60))
        rows["invoices"].append((number, account, issued, "" if chance.random() < 0.2 else paid))
        for item in chance.sample(items, chance.randrange(9)):
            rows["invoice_line_items"].append((number, item, chance.choice((-1, 1, 2, 3, 40))))
    folder.mkdir(parents=True, exist_ok=True)
    for table in TABLES:
        with (folder / f"{table.name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(table.column_names)
            writer.writerows(rows[table.name])
    return folder


def query(settings: Settings, sql: str) -> pa.Table:
    """The lake's answer to one SELECT."""
    with LakeSession(settings) as session:
        prepared = session.prepare_query(sql)
        return session.con.sql(prepared).to_arrow_table()


def row_count(settings: Settings, table: str) -> int:
    """Rows of a Delta table, 0 while it does not exist."""
    location = lake_location(settings)
    with LakeReader(location.uri, location.storage_options) as reader:
        return reader.row_count(table) or 0


def batch_features(settings: Settings, source: str, features: FeatureSet, folder: Path) -> pa.Table:
    """What `trs etl` makes of a source, with exact types; in this process, which saves its start."""
    file = folder / f"{features.name}.parquet"
    run_etl(
        settings,
        source,
        features,
        file,
        price_at="current",
        date_formats={},
        progress=lambda _table, _read, _total: None,
    )
    return pq.read_table(file)
