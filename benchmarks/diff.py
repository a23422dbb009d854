"""Diffs: what it costs to find the lines that changed, between a database and a lake with millions of them.

    python -m benchmarks.diff [--invoices N] [--per-mille N] [--lake FOLDER] [--json FILE]

A synthetic TRS (4.5 lines per invoice) is put into a lake in a local folder by the stages themselves, and folded; the
same lines go into a database of the running stack. A diff finds nothing; then so many lines in a thousand, scattered
over all invoices, get another quantity, and a diff finds them and sends them to Kafka. Beside it the same comparison
reads every line of the database, as a snapshot does; it must find the same lines. A process of its own does each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import pyarrow as pa

from app.bootstrap import diff
from app.settings import Settings, load_settings
from app.wiring import lake_location
from batch_bootstrap.compare import Comparison, Workspace
from batch_bootstrap.diff import Watcher
from batch_bootstrap.source import DEFAULT_CHUNK_ROWS, Source, open_source
from benchmarks.catch_up import SYNTHETIC
from benchmarks.filled_lake import fill
from benchmarks.report import Row, publish
from benchmarks.usage import peak_rss_mb
from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from connectors.mysql import DatabaseUrl, connect, ddl, execute, load_rows
from connectors.object_files import LakeReader
from connectors.source_rows import Chunk, Resume, declared_schema
from processors.tables import INVOICE_LINE_ITEMS, TABLES, Table

TABLE = INVOICE_LINE_ITEMS


class ReadWhole:
    """A source without digests: every row travels."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.description = source.description

    def chunks(self, table: Table, resume: Resume | None = None) -> Iterator[Chunk]:
        return self._source.chunks(table, resume)


def main() -> None:
    """Fills lake and database, compares in processes of their own, reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--invoices", type=int, default=225_000, help="invoices in lake and database")
    parser.add_argument("--per-mille", type=int, default=1, help="lines in a thousand that change")
    parser.add_argument("--lake", type=Path, help="folder of a lake that an earlier run filled, or is to fill")
    parser.add_argument("--json", type=Path, help="where the result goes")
    parser.add_argument("--run", choices=("ours", "peer"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run is not None:
        measured = run_diff if arguments.run == "ours" else read_whole
        print(json.dumps(measured(load_settings())))
        return
    with tempfile.TemporaryDirectory(prefix="trs-bench-") as folder:
        lake = arguments.lake or Path(folder) / "lake"
        if not lake.exists():
            fill(DeltaLake(LakeLocation(str(lake))), arguments.invoices)
        unique = uuid.uuid4().hex[:8]
        url = secret_url(load_settings())
        database = f"trs_bench_{unique}"
        with connect(DatabaseUrl.parse(url), autocommit=False) as connection:
            execute(connection, f"CREATE DATABASE {database}")
            execute(connection, f"USE {database}")
            try:
                lines = load_lines(connection, arguments.invoices)
                environment = {
                    **os.environ,
                    "TRS_LAKE": str(lake),
                    "TRS_HOME": folder,
                    "TRS_TOPIC_PREFIX": f"bench-{unique}",
                    "TRS_DATABASE": urlsplit(url)._replace(path=f"/{database}").geturl(),
                }
                report(connection, lines, arguments, environment)
            finally:
                execute(connection, f"DROP DATABASE {database}")


def secret_url(settings: Settings) -> str:
    """The database's URL with its password."""
    if settings.database is None:
        raise SystemExit("TRS_DATABASE is not set")
    return settings.database.get_secret_value()


def load_lines(connection: Any, invoices: int) -> int:
    """Puts the lake's lines into the database; returns their number."""
    started, lines = time.perf_counter(), 0
    for table in TABLES:
        execute(connection, ddl(table))
    with duckdb.connect() as con:
        columns = ", ".join(f"{c.name}::{c.duckdb_type} AS {c.name}" for c in TABLE.columns)
        rows = con.sql(f"SELECT {columns} FROM ({SYNTHETIC[TABLE.name].format(invoices=invoices)})")
        for batch in rows.to_arrow_reader(200_000):
            lines += load_rows(connection, TABLE, pa.Table.from_batches([batch]).cast(declared_schema(TABLE)))
    execute(connection, f"ANALYZE TABLE {TABLE.name}")
    connection.commit()
    print(f"{lines:,} lines in the database in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return lines


def report(connection: Any, lines: int, arguments: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Measures and publishes."""
    unchanged = in_process("ours", environment)
    if unchanged["emitted"] or unchanged["compared"] != lines:
        raise SystemExit("lake and database do not begin with the same lines")
    changed = execute(
        connection,
        f"UPDATE {TABLE.name} SET quantity = quantity + 1"
        f" WHERE CRC32(CONCAT(invoice_id, item_id)) % 1000 < {arguments.per_mille}",
    )
    connection.commit()
    ours = in_process("ours", environment)
    peer = in_process("peer", environment)
    if not changed == ours["emitted"] == peer["changed"]:
        raise SystemExit(f"{changed} lines changed, ours found {ours['emitted']}, the peer {peer['changed']}")
    whole = "every line read"
    rows = [
        Row("lines", lines, "rows"),
        Row("changed lines found and sent", changed, "rows"),
        Row("diff", ours["seconds"], "s", whole, peer["seconds"], peer["seconds"] / ours["seconds"]),
        Row("without a change", unchanged["seconds"], "s"),
        Row("of it reading the lake's lines", ours["lake_s"], "s"),
        Row("lines read", ours["rows_read"], "rows", whole, peer["rows_read"], peer["rows_read"] / ours["rows_read"]),
        Row("received from the database", ours["bytes"] / 1e6, "MB"),
        Row("received without a change", unchanged["bytes"] / 1e6, "MB"),
        Row("peak memory", ours["rss_mb"], "MB", whole, peer["rss_mb"], peer["rss_mb"] / ours["rss_mb"]),
    ]
    publish("diff", rows, {"ours": ours, "unchanged": unchanged, "peer": peer}, file=arguments.json)


def in_process(run: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """What a process of its own measures."""
    command = [sys.executable, "-m", "benchmarks.diff", "--run", run]
    output = subprocess.run(command, env=dict(environment), check=True, stdout=subprocess.PIPE).stdout
    found: dict[str, Any] = json.loads(output)
    return found


def run_diff(settings: Settings) -> dict[str, Any]:
    """The command's work; `seconds` are from its beginning to the end of the run."""
    started = time.perf_counter()
    first: list[float] = []

    def on_step(table: str, rows: int, _estimate: int | None) -> None:
        if rows and not first:
            first.append(time.perf_counter() - started)

    summary = diff(settings, "mysql", tables=[TABLE.name], watcher=Watcher(report=on_step))
    return {
        "seconds": time.perf_counter() - started,
        "lake_s": first[0],
        "emitted": summary.emitted,
        "compared": summary.total("compared"),
        "rows_read": summary.total("read"),
        "chunks": summary.total("chunks"),
        "bytes": summary.total("bytes_read"),
        "rss_mb": peak_rss_mb(),
    }


def read_whole(settings: Settings) -> dict[str, Any]:
    """The same lines, each read from the database; nothing is sent."""
    started = time.perf_counter()
    source = open_source(secret_url(settings), tables=[TABLE.name])
    source.preflight()
    location = lake_location(settings)
    changed = read = 0
    with tempfile.TemporaryDirectory(dir=settings.home) as folder:
        reader = LakeReader(location.uri, location.storage_options)
        with Workspace(Path(folder), reader, memory_mb=settings.memory_mb, threads=settings.threads) as workspace:
            comparison = Comparison(
                ReadWhole(source),  # type: ignore[arg-type]  # all that a source read whole is asked for
                workspace,
                source_epoch=1,
                run=1,
                chunk_rows=DEFAULT_CHUNK_ROWS,
            )
            for found in comparison.of_table(TABLE):
                changed += found.changed + found.newer
                read += found.read
    return {
        "seconds": time.perf_counter() - started,
        "changed": changed,
        "rows_read": read,
        "rss_mb": peak_rss_mb(),
    }


if __name__ == "__main__":
    main()
