"""Recovery: how long a worker needs to have its state back from the lake, and how much memory it holds then.

    python -m benchmarks.recovery [--invoices N] [--lake FOLDER] [--json FILE]

A synthetic TRS (about five lines per invoice) is put into a lake in a local folder by the stages themselves, without
Kafka, and folded. Then a process of its own opens all buckets of all stages, as a worker does at its start: seconds
from the first look at the lake to the last stage, and the process's peak memory. `--lake` keeps the lake for another
run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from benchmarks.catch_up import SYNTHETIC
from benchmarks.report import Row, publish
from connectors.delta_lake import DeltaLake
from connectors.fold import fold_all
from connectors.lake import LakeLocation
from processors.document_codec import DocumentDecoder
from processors.engine import COMPRESS_ABOVE_PERCENT
from processors.fold import all_that_waits
from processors.inbox import Chunk
from processors.records import RawBatch, event_schema
from processors.stage import Stage, StageContext
from processors.stages import AccountStage, InvoiceStage, SkuStage
from processors.state import compress, cursor, open_state
from processors.tables import ACCOUNTS, INVOICE_LINE_ITEMS, INVOICES, SKUS, Table

BUCKETS = 8
EPOCH_ROWS = 1_000_000
DOCUMENTS = "invoice_documents"
TOPICS = (SKUS.name, INVOICES.name, INVOICE_LINE_ITEMS.name, ACCOUNTS.name, DOCUMENTS)


def main() -> None:
    """Fills a lake unless there is one, then measures a recovery in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--invoices", type=int, default=2_250_000, help="about 4.5 lines each")
    parser.add_argument("--lake", type=Path, default=None, help="keep the lake here, and use it if it is there")
    parser.add_argument("--memory-mb", type=int, default=2000, help="as TRS_MEMORY_MB")
    parser.add_argument("--json", type=Path, default=None, help="file of the result; default build/bench/recovery.json")
    parser.add_argument("--recover", type=Path, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.recover is not None:
        print(json.dumps(recover(arguments.recover, arguments.memory_mb)))
        return
    with tempfile.TemporaryDirectory(prefix="trs-bench-") as folder:
        lake = arguments.lake or Path(folder) / "lake"
        if not lake.exists():
            fill(lake, arguments.invoices)
        command = [sys.executable, "-m", "benchmarks.recovery", "--recover", str(lake)]
        output = subprocess.run(
            [*command, "--memory-mb", str(arguments.memory_mb)], check=True, stdout=subprocess.PIPE
        ).stdout
    found = json.loads(output)
    rows = [
        Row("recovery", found["seconds"], "s"),
        Row("invoices", found["invoices"], "rows"),
        Row("lines", found["lines"], "rows"),
        Row("memory afterwards", found["rss_mb"], "MB"),
        Row("peak memory", found["peak_rss_mb"], "MB"),
    ]
    publish("recovery", rows, {"memory_mb": arguments.memory_mb, **found}, file=arguments.json)


def open_stages(lake: DeltaLake, spill: Path, memory_mb: int, sink: Any) -> tuple[SkuStage, InvoiceStage, AccountStage]:
    """The stages of one worker, wired as the engine does."""
    state = open_state(spill=spill, memory_mb=memory_mb, threads=os.cpu_count() or 2)
    lake.prepare(state)
    rows, features = cursor(state), cursor(state)
    context = StageContext(lake=lake, topic_ids={t: t for t in TOPICS}, writer="benchmark")
    invoices = InvoiceStage(
        context,
        rows,
        [INVOICES.name, INVOICE_LINE_ITEMS.name],
        sink=sink,
        price_at="creation",
        stopping=lambda: False,
    )
    return SkuStage(context, rows, [SKUS.name]), invoices, AccountStage(context, features, [ACCOUNTS.name, DOCUMENTS])


def recover(lake: Path, memory_mb: int) -> dict[str, float]:
    """Opens every bucket of every stage; seconds, rows and peak memory."""
    with tempfile.TemporaryDirectory(prefix="trs-bench-spill-") as spill:
        started = time.perf_counter()
        stages = open_stages(DeltaLake(LakeLocation(str(lake))), Path(spill), memory_mb, Discard())
        per_stage = {}
        for stage in stages:
            began = time.perf_counter()
            stage.assign(frozenset(range(BUCKETS)))
            per_stage[f"{stage.name}_s"] = round(time.perf_counter() - began, 2)
            compress(stage.con, beyond_mb=memory_mb * COMPRESS_ABOVE_PERCENT // 100)
        seconds = time.perf_counter() - started
        con = stages[1].con
        counts = {
            name: int(con.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0])
            for name, table in (("invoices", "invoice_state"), ("lines", "line_state"))
        }
        return {"seconds": seconds, **per_stage, **counts, **resident_mb()}


def resident_mb() -> dict[str, float]:
    """Memory of this process now and at its peak; getrusage would tell the parent's, from before the exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("VmHWM", "VmRSS"))}
    return {"rss_mb": values["VmRSS"], "peak_rss_mb": values["VmHWM"]}


class Discard:
    """A documents topic that nobody reads."""

    def send(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Forgets them."""

    def flush(self) -> dict[int, int]:
        """Nothing is kept."""
        return {}


class Feed:
    """Rows to the stages as chunks, and the documents that A sends to B; positions go on per bucket."""

    def __init__(self, lake: Path, spill: Path) -> None:
        self.lake = DeltaLake(LakeLocation(str(lake)))
        self.skus, self.invoices, self.accounts = open_stages(self.lake, spill, 8000, self)
        for stage in (self.skus, self.invoices, self.accounts):
            stage.assign(frozenset(range(BUCKETS)))
        self._decoder = DocumentDecoder(generation=self.lake.generation)
        self._positions: dict[tuple[str, int], int] = {}

    def send(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """B takes the documents at once."""
        parts: list[list[tuple[bytes | None, bytes | None]]] = [[] for _ in range(BUCKETS)]
        for key, value in zip(keys, values, strict=True):
            parts[int(key[14:-1]) % BUCKETS].append((key, value))
        batches = [
            RawBatch.of(DOCUMENTS, b, part, start_offset=self._next(DOCUMENTS, b)) for b, part in enumerate(parts)
        ]
        rows, _, dead = self._decoder.decode(batches)
        if dead.num_rows:
            raise SystemExit("the stages do not read what they write")
        self._run(self.accounts, DOCUMENTS, rows, {b.partition: b.next_offset for b in batches})

    def flush(self) -> dict[int, int]:
        """B has them."""
        return {}

    def _next(self, topic: str, bucket: int) -> int:
        return self._positions.get((topic, bucket), 0)

    def _run(self, stage: Stage, topic: str, rows: pa.Table, positions: dict[int, int], *, more: bool = False) -> None:
        self._positions |= {(topic, b): p for b, p in positions.items()}
        stage.poll_news()
        stage.run_epoch([Chunk(topic, rows, rows.num_rows, positions)], more_soon=more)

    def rows(self, stage: Stage, table: Table, rows: pa.Table, *, more: bool = False) -> None:
        """An epoch of creates."""
        counts = {c["values"].as_py(): c["counts"].as_py() for c in rows["bucket"].value_counts()}
        positions = {b: self._next(table.name, b) + n for b, n in counts.items()}
        self._run(stage, table.name, rows, positions, more=more)


def fill(lake: Path, invoices: int) -> None:
    """Puts a synthetic TRS into a new lake, and folds it."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="trs-bench-spill-") as spill, duckdb.connect() as con:
        feed = Feed(lake, Path(spill))
        made = {t.name: events(con, t, invoices) for t in (SKUS, ACCOUNTS, INVOICE_LINE_ITEMS, INVOICES)}
        feed.rows(feed.skus, SKUS, made[SKUS.name])
        feed.rows(feed.accounts, ACCOUNTS, made[ACCOUNTS.name])
        for table in (INVOICE_LINE_ITEMS, INVOICES):
            rows = made.pop(table.name)
            for start in range(0, rows.num_rows, EPOCH_ROWS):
                feed.rows(feed.invoices, table, rows.slice(start, EPOCH_ROWS), more=table is INVOICE_LINE_ITEMS)
        print(f"lake filled in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="trs-bench-spill-") as spill:
        state = open_state(spill=Path(spill), memory_mb=8000, threads=os.cpu_count() or 2)
        folding = DeltaLake(LakeLocation(str(lake)))
        folding.prepare(state)
        fold_all(folding, state, BUCKETS, all_that_waits())
        state.close()
    print(f"and folded: {time.perf_counter() - started:.0f} s", file=sys.stderr)


def events(con: duckdb.DuckDBPyConnection, table: Table, invoices: int) -> pa.Table:
    """Creates of all rows of a table, as the decoder gives them; the bucket is a function of the topic's key."""
    key = {"invoice_line_items": "invoice_id"}.get(table.name, table.key[0])
    schema = event_schema(table)
    columns = ", ".join(f"{c.name}::{c.duckdb_type} AS {c.name}" for c in table.columns)
    number = f"hash({key})" if table is SKUS else key
    query = f"""
        SELECT ({number} % {BUCKETS})::INTEGER AS bucket,
               (row_number() OVER ())::BIGINT AS row_offset, (row_number() OVER ())::DECIMAL(38,0) AS row_order,
               FALSE AS is_delete, TRUE AS is_create, TIMESTAMPTZ '2026-01-01 00:00:00+00' AS source_ts, *
        FROM (SELECT {columns} FROM ({SYNTHETIC[table.name].format(invoices=invoices)}))
    """
    return con.sql(query).to_arrow_table().select(schema.names).cast(schema)


if __name__ == "__main__":
    main()
