"""Epochs: what 1,000 changes cost, from rows in memory to committed features, by the size of the state that they meet.

    python -m benchmarks.epochs [--invoices N ...] [--changes N] [--epochs N] [--s3] [--json FILE]

For each size a synthetic TRS (4.5 lines per invoice) is put into a lake, and folded. Then a process of its own opens
all buckets of all stages, as a worker does, and runs epochs of a working day: invoices issued with their lines, lines
corrected, invoices paid, all of recent invoices; an epoch is one of the rows (A) and one of the features (B), with
all their commits, without Kafka. Told are the median of the seconds, the bytes written per change (Parquet and Delta's
log), the files that an hour of epochs every 10 s would write, and the files that a reader of all current tables opens
after a fold. `--s3` does the same in the S3 of a running stack, with a copy of the lake.

One more lake has an account with 100,000 invoices. Epochs that change 1, 10, 100 and 1,000 of them, recent ones, tell
what follows from the rows whose values change and what from the account's size.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from app.settings import load_settings
from app.wiring import lake_location
from benchmarks.filled_lake import Feed, decoded_rows, fill, fold_whole
from benchmarks.freshness import LINES, MIX, RECENT
from benchmarks.report import Row, publish
from benchmarks.usage import peak_rss_mb
from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from processors import sku_rows
from processors.engine import COMPRESS_ABOVE_PERCENT
from processors.lake_tables import KEYED_TABLES, LAKE_TABLES
from processors.state import compress
from processors.tables import INVOICE_LINE_ITEMS, INVOICES

WARM_UP = 3
MEMORY_MB = 2000
"""As TRS_MEMORY_MB."""
HOT_INVOICES = 100_000
HOT_CHANGES = (1, 10, 100, 1_000)
EPOCHS_PER_HOUR = 360
"""Of a worker with the default interval of 10 s."""


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--invoices", type=int, nargs="+", default=[22_500, 225_000], help="sizes, 4.5 lines each")
    parser.add_argument("--changes", type=int, default=1_000, help="row events per epoch")
    parser.add_argument("--epochs", type=int, default=20, help="measured ones")
    parser.add_argument("--hot", type=int, default=HOT_INVOICES, help="invoices of the hot account; 0: without it")
    parser.add_argument("--s3", action="store_true", help="also in the S3 of the running stack")
    parser.add_argument("--lakes", type=Path, default=None, help="keep the filled lakes here, and use those that are")
    parser.add_argument("--json", type=Path, default=None, help="file of the result; default build/bench/epochs.json")
    parser.add_argument("--in-process", type=json.loads, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_process is not None:
        print(json.dumps(measure(**arguments.in_process)))
        return
    with tempfile.TemporaryDirectory(prefix="trs-bench-") as folder:
        lakes = arguments.lakes or Path(folder)
        options = {"changes": arguments.changes, "epochs": arguments.epochs}
        sizes = {n: measure_copies(lakes / f"lake-{n}", n, s3=arguments.s3, **options) for n in arguments.invoices}
        hot = measure_hot(lakes, arguments.hot, arguments.epochs) if arguments.hot else {}
    details = {**options, "sizes": sizes, "hot": hot}
    publish("epochs", [*size_rows(sizes, arguments.changes), *hot_rows(hot)], details, file=arguments.json)


def size_rows(sizes: Mapping[int, Mapping[str, Any]], changes: int) -> list[Row]:
    """Seconds by size, each against the smallest, and what the epochs of the largest write."""
    rows = []
    smallest = next(iter(sizes.values()))
    for place in smallest:
        base = smallest[place]
        for found in sizes.values():
            value = found[place]["epoch_s"]
            name = f"{changes:,} changes, {found[place]['lines']:,} lines, {place}"
            peer = () if found is smallest else (f"{base['lines']:,} lines", base["epoch_s"], base["epoch_s"] / value)
            rows.append(Row(name, value, "s", *peer))
    largest = list(sizes.values())[-1]["local"]
    return [
        *rows,
        Row("written per change: Parquet", largest["parquet_bytes"] / changes, "bytes"),
        Row("written per change: Delta's log", largest["log_bytes"] / changes, "bytes"),
        Row("files written per hour, 10 s epochs", largest["files"] * EPOCHS_PER_HOUR, "files"),
        Row("files behind the current tables after a fold", largest["files_after_fold"], "files"),
        Row("peak memory", largest["peak_rss_mb"], "MB"),
    ]


def hot_rows(hot: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Seconds by the number of changed invoices of the hot account, each against those of ordinary accounts."""
    return [
        Row(
            f"{changes} invoices of the hot account, {found['derived']:.0f} feature rows",
            found["epoch_s"],
            "s",
            "of ordinary accounts",
            found["ordinary_s"],
            found["ordinary_s"] / found["epoch_s"],
        )
        for changes, found in hot.items()
    ]


def measure_copies(lake: Path, invoices: int, *, s3: bool, changes: int, epochs: int) -> dict[str, Any]:
    """The figures in a folder and, if asked for, in S3, from the same filled lake, which stays as it is."""
    if not lake.exists():
        fill(DeltaLake(LakeLocation(str(lake))), invoices)
    with tempfile.TemporaryDirectory(prefix="trs-bench-copy-") as folder:
        copied = Path(folder) / "lake"
        copy(lake, pafs.LocalFileSystem(), str(copied))
        found = {"local": run_apart(uri=str(copied), changes=changes, epochs=epochs)}
    if s3:
        settings = load_settings()
        settings = load_settings(lake=f"{settings.lake_uri}-bench-{uuid.uuid4().hex[:8]}")
        store = pafs.S3FileSystem(
            endpoint_override=settings.aws_endpoint,
            access_key=settings.aws_access_key and settings.aws_access_key.get_secret_value(),
            secret_key=settings.aws_secret_key and settings.aws_secret_key.get_secret_value(),
            region=settings.aws_region,
        )
        copy(lake, store, settings.lake_uri.removeprefix("s3://"))
        found["S3"] = run_apart(uri=settings.lake_uri, changes=changes, epochs=epochs)
    return found


def copy(lake: Path, store: pafs.FileSystem, target: str) -> None:
    """Copies all files of a lake."""
    pafs.copy_files(str(lake), target, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=store)


def measure_hot(lakes: Path, hot: int, epochs: int) -> dict[str, Any]:
    """Epochs that change a number of invoices of the hot account, and as many of ordinary ones, in the same lake."""
    lake = lakes / f"lake-hot-{hot}"
    if not lake.exists():
        fill(DeltaLake(LakeLocation(str(lake))), 2 * hot, hot=hot)
    found = {}
    with tempfile.TemporaryDirectory(prefix="trs-bench-copy-") as folder:
        copied = Path(folder) / "lake"
        copy(lake, pafs.LocalFileSystem(), str(copied))
        for changes in HOT_CHANGES:
            ordinary = run_apart(uri=str(copied), changes=changes, epochs=epochs, where="account_id <> 0")
            figures = run_apart(uri=str(copied), changes=changes, epochs=epochs, where="account_id = 0")
            found[str(changes)] = {**figures, "ordinary_s": ordinary["epoch_s"]}
    return found


def run_apart(**options: Any) -> dict[str, Any]:
    """`measure` in a process of its own, so that its memory is a worker's."""
    command = [sys.executable, "-m", "benchmarks.epochs", "--in-process", json.dumps(options)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    print(f"{options}: {found['epoch_s']:.3f} s per epoch, {found['cpu_s']:.3f} CPU s", file=sys.stderr)
    return found


def measure(*, uri: str, changes: int, epochs: int, where: str | None = None) -> dict[str, Any]:
    """Opens the lake's state and runs epochs; `where` (of invoices): only corrections of such, else the whole mix."""
    location = lake_location(load_settings(lake=uri))
    lake = DeltaLake(location)
    with tempfile.TemporaryDirectory(prefix="trs-bench-spill-") as spill:
        feed = Feed(lake, Path(spill), MEMORY_MB)
        compress(feed.invoices.con, beyond_mb=MEMORY_MB * COMPRESS_ABOVE_PERCENT // 100)
        con = feed.invoices.con
        invoices, lines = (
            int(con.sql(f"SELECT count(*) FROM {t}").fetchall()[0][0]) for t in ("invoice_state", "line_state")
        )
        make: Callable[[int], Mapping[str, pa.Table]] = Day(feed, changes).epoch
        if where is not None:
            make = Corrections(feed, changes, where).epoch
        before, seconds, cpu, parts, derived = Size(lake), [], [], [], []
        for number in range(WARM_UP + epochs):
            tables = make(number)
            if number == WARM_UP:
                before = Size(lake)
            started, used = time.perf_counter(), time.process_time()
            feed.epoch(feed.invoices, tables)
            seconds.append(time.perf_counter() - started)
            cpu.append(time.process_time() - used)
            (part,) = feed.accounts.activity.look(1).recent
            parts.append(part.seconds)
            derived.append(part.derived)
        after = Size(lake)
    fold_whole(lake)
    return {
        "invoices": invoices,
        "lines": lines,
        "epoch_s": statistics.median(seconds[WARM_UP:]),
        "slowest_epoch_s": max(seconds[WARM_UP:]),
        "cpu_s": statistics.median(cpu[WARM_UP:]),
        "features_part_s": statistics.median(parts[WARM_UP:]),
        "derived": statistics.median(derived[WARM_UP:]),
        "parquet_bytes": (after.parquet - before.parquet) / epochs,
        "log_bytes": (after.log - before.log) / epochs,
        "files": (after.files - before.files) / epochs,
        "files_after_fold": files_behind_current_tables(lake),
        "peak_rss_mb": peak_rss_mb(),
    }


class Size:
    """What a lake's tables hold at a moment: active files, their bytes, and the bytes of Delta's log (folder only)."""

    def __init__(self, lake: DeltaLake) -> None:
        adds = [pa.table(lake.store.open(name).get_add_actions(flatten=True)) for name in LAKE_TABLES]
        self.files = sum(a.num_rows for a in adds)
        self.parquet = sum(sum(a["size_bytes"].to_pylist()) for a in adds)
        folder = Path(lake.store.location.uri)
        self.log = sum(f.stat().st_size for f in folder.glob("*/_delta_log/*.json"))


def files_behind_current_tables(lake: DeltaLake) -> int:
    """Active files of all folded tables, which a reader of current rows opens when there is no tail."""
    return sum(lake.store.open(keyed.folded).get_add_actions().num_rows for keyed in KEYED_TABLES)


class Day:
    """Row events of a working day, all of recent invoices: issued with their lines, corrected, paid; see freshness."""

    def __init__(self, feed: Feed, changes: int) -> None:
        self._con = feed.invoices.con
        self._changes = changes
        self._next = int(self._con.sql("SELECT max(invoice_id) + 1 FROM invoice_state").fetchall()[0][0])
        self._first_recent = round(self._next * (1 - RECENT))
        self._accounts = int(self._con.sql("SELECT max(account_id) + 1 FROM invoice_state").fetchall()[0][0])
        self._con.execute(f"""
            CREATE OR REPLACE TEMP TABLE items AS
            SELECT row_number() OVER (ORDER BY item_id) - 1 AS i, item_id FROM {sku_rows.STATE} LIMIT 1000
        """)

    def epoch(self, number: int) -> dict[str, pa.Table]:
        """The events of the stage of rows, by topic."""
        issued, corrected, paid = (round(self._changes * MIX[kind]) for kind in ("issued", "corrected", "paid"))
        first, self._next = self._next, self._next + issued
        order = (number + 1) * 1_000_000_000
        new = f"""SELECT {first} + i AS invoice_id, (hash({first} + i) % {self._accounts})::BIGINT AS account_id,
            DATE '2024-01-01' AS date_issued, NULL::DATE AS payment_dates FROM range({issued}) AS t(i)"""
        # Items of an invoice are 101 apart: different ones.
        lines = f"""SELECT n.invoice_id, item_id, 1 + j AS quantity FROM ({new}) AS n, range({LINES}) AS u(j)
            JOIN items ON items.i = (n.invoice_id * 7 + j * 101) % (SELECT count(*) FROM items)"""
        recent = f"invoice_id BETWEEN {self._first_recent} AND {first} AND NOT deleted"
        quantity = f"""SELECT invoice_id, item_id, {10 + number} AS quantity
            FROM (SELECT * FROM line_state WHERE {recent}) USING SAMPLE reservoir({corrected} ROWS)"""
        payment = f"""SELECT invoice_id, account_id, date_issued, date_issued + {10 + number} AS payment_dates
            FROM (SELECT * FROM invoice_state WHERE {recent}) USING SAMPLE reservoir({paid} ROWS)"""

        def events(table: Any, rows: str, offset: int, *, is_create: bool) -> pa.Table:
            return decoded_rows(self._con, table, rows, first_order=order + offset, is_create=is_create)

        return {
            INVOICES.name: pa.concat_tables(
                [events(INVOICES, new, 0, is_create=True), events(INVOICES, payment, 1_000_000, is_create=False)]
            ),
            INVOICE_LINE_ITEMS.name: pa.concat_tables(
                [
                    events(INVOICE_LINE_ITEMS, lines, 2_000_000, is_create=True),
                    events(INVOICE_LINE_ITEMS, quantity, 3_000_000, is_create=False),
                ]
            ),
        }


class Corrections:
    """New quantities on as many of the last invoices of some accounts, one line each."""

    def __init__(self, feed: Feed, changes: int, where: str) -> None:
        self._con = feed.invoices.con
        self._con.execute(f"""
            CREATE OR REPLACE TEMP TABLE corrected AS
            SELECT invoice_id, min(item_id) AS item_id
            FROM line_state SEMI JOIN (SELECT invoice_id FROM invoice_state WHERE {where}) USING (invoice_id)
            WHERE NOT deleted GROUP BY invoice_id ORDER BY invoice_id DESC LIMIT {changes}
        """)
        self._runs = uuid.uuid4().int % 1_000_000

    def epoch(self, number: int) -> dict[str, pa.Table]:
        """The events of the stage of rows, by topic."""
        order = time.time_ns()
        rows = f"SELECT *, {1 + (self._runs + number) % 1_000_000} AS quantity FROM corrected"
        return {
            INVOICE_LINE_ITEMS.name: decoded_rows(
                self._con, INVOICE_LINE_ITEMS, rows, first_order=order, is_create=False
            )
        }


if __name__ == "__main__":
    main()
