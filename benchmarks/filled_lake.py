"""A lake filled by the stages themselves, without Kafka: what the benchmarks of recovery and of epochs start from.

A synthetic TRS (about 4.5 lines per invoice) is played through the stages of one worker that owns all buckets; the
documents of stage A go to stage B at once.
"""

import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from benchmarks.catch_up import SYNTHETIC
from connectors.delta_lake import DeltaLake
from connectors.fold import fold_all
from processors.block_codec import BlockDecoder
from processors.document_codec import DOCUMENT_BLOCKS
from processors.feature_stages import AccountStage
from processors.fold import all_that_waits
from processors.inbox import Chunk
from processors.records import RawBatch, event_schema
from processors.stage import Stage, StageContext
from processors.stages import InvoiceStage, SkuStage
from processors.state import cursor, open_state
from processors.tables import ACCOUNTS, EXTRA, INVOICE_LINE_ITEMS, INVOICES, SKUS, Table

BUCKETS = 8
EPOCH_ROWS = 1_000_000
DOCUMENTS = "invoice_documents"
TOPICS = (SKUS.name, INVOICES.name, INVOICE_LINE_ITEMS.name, ACCOUNTS.name, DOCUMENTS)


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


class Discard:
    """A documents topic that nobody reads."""

    partitions = 1

    def send(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Forgets them."""

    def flush(self) -> dict[int, int]:
        """Nothing is kept."""
        return {}


class Feed:
    """Rows to the stages as chunks, and the documents that A sends to B; positions go on per bucket."""

    partitions = 1

    def __init__(self, lake: DeltaLake, spill: Path, memory_mb: int = 8000) -> None:
        self.skus, self.invoices, self.accounts = open_stages(lake, spill, memory_mb, self)
        self._decoder = BlockDecoder(DOCUMENT_BLOCKS, generation=lake.generation)
        self._positions: dict[tuple[str, int], int] = {}
        for stage in (self.skus, self.accounts, self.invoices):  # the last may send documents at once
            found = stage.assign(frozenset(range(BUCKETS)))
            self._positions |= {place: at.next_offset for place, at in found.items() if at is not None}

    def send(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """B takes the documents at once."""
        start = self._next(DOCUMENTS, 0)
        batch = RawBatch.of(DOCUMENTS, 0, list(zip(keys, values, strict=True)), start_offset=start)
        rows, _, dead = self._decoder.decode([batch])
        if dead.num_rows:
            raise SystemExit("the stages do not read what they write")
        # The accounts of this lake lie in buckets by their number.
        accounts = rows["account_id"].to_numpy()
        buckets = pa.array(accounts % BUCKETS, rows.schema.field("bucket").type)
        rows = rows.set_column(rows.schema.get_field_index("bucket"), rows.schema.field("bucket"), buckets)
        positions = dict.fromkeys(range(BUCKETS), batch.next_offset)
        self._run(self.accounts, [Chunk(DOCUMENTS, rows, rows.num_rows, positions)])

    def flush(self) -> dict[int, int]:
        """B has them."""
        return {}

    def _next(self, topic: str, bucket: int) -> int:
        return self._positions.get((topic, bucket), 0)

    def _run(self, stage: Stage, chunks: Sequence[Chunk], *, more: bool = False) -> None:
        for chunk in chunks:
            self._positions |= {(chunk.topic, b): p for b, p in chunk.positions.items()}
        stage.poll_news()
        stage.run_epoch(chunks, more_soon=more)

    def epoch(self, stage: Stage, tables: Mapping[str, pa.Table], *, more: bool = False) -> None:
        """An epoch of these row events by table; of the invoices' stage it ends with the features' epoch."""
        chunks = []
        for topic, rows in tables.items():
            counts = {c["values"].as_py(): c["counts"].as_py() for c in rows["bucket"].value_counts()}
            positions = {b: self._next(topic, b) + n for b, n in counts.items()}
            chunks.append(Chunk(topic, rows, rows.num_rows, positions))
        self._run(stage, chunks, more=more)


def fill(lake: DeltaLake, invoices: int, *, hot: int = 0) -> None:
    """Puts a synthetic TRS into a new lake, and folds it; `hot` of its invoices belong to account 0."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="trs-bench-spill-") as spill, duckdb.connect() as con:
        feed = Feed(lake, Path(spill))
        made = {t.name: events(con, t, invoices, hot) for t in (SKUS, ACCOUNTS, INVOICE_LINE_ITEMS, INVOICES)}
        feed.epoch(feed.skus, {SKUS.name: made[SKUS.name]})
        feed.epoch(feed.accounts, {ACCOUNTS.name: made[ACCOUNTS.name]})
        for name in (INVOICE_LINE_ITEMS.name, INVOICES.name):
            rows = made.pop(name)
            for start in range(0, rows.num_rows, EPOCH_ROWS):
                last = name == INVOICES.name and start + EPOCH_ROWS >= rows.num_rows
                feed.epoch(feed.invoices, {name: rows.slice(start, EPOCH_ROWS)}, more=not last)
        feed.epoch(feed.invoices, {})  # notes that the documents were sent: folds go no further than that
        print(f"lake filled in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    fold_whole(lake)
    print(f"and folded: {time.perf_counter() - started:.0f} s", file=sys.stderr)


def fold_whole(lake: DeltaLake) -> None:
    """Folds all that waits."""
    with tempfile.TemporaryDirectory(prefix="trs-bench-spill-") as spill:
        state = open_state(spill=Path(spill), memory_mb=8000, threads=os.cpu_count() or 2)
        lake.prepare(state)
        fold_all(lake, state, BUCKETS, all_that_waits())
        state.close()


def events(con: duckdb.DuckDBPyConnection, table: Table, invoices: int, hot: int = 0) -> pa.Table:
    """Creates of all rows of a table."""
    rows = SYNTHETIC[table.name].format(invoices=invoices)
    if table is INVOICES and hot:
        account = f"CASE WHEN invoice_id % {invoices // hot} = 0 THEN 0 ELSE account_id END"
        rows = f"SELECT * REPLACE ({account} AS account_id) FROM ({rows})"
    return decoded_rows(con, table, rows)


def decoded_rows(
    con: duckdb.DuckDBPyConnection, table: Table, rows: str, *, first_order: int = 1, is_create: bool = True
) -> pa.Table:
    """The rows of a query as the decoder gives them, in `event_schema`; the bucket is a function of the topic's key."""
    key = {"invoice_line_items": "invoice_id"}.get(table.name, table.key[0])
    schema = event_schema(table)
    columns = ", ".join(f"{c.name}::{c.duckdb_type} AS {c.name}" for c in table.columns)
    number = f"hash({key})" if table is SKUS else key
    query = f"""
        SELECT ({number} % {BUCKETS})::INTEGER AS bucket,
               (row_number() OVER ())::BIGINT AS row_offset,
               ({first_order} - 1 + row_number() OVER ())::DECIMAL(38,0) AS row_order,
               FALSE AS is_delete, {is_create} AS is_create, TIMESTAMPTZ '2026-01-01 00:00:00+00' AS source_ts, *,
               NULL::VARCHAR AS {EXTRA}
        FROM (SELECT {columns} FROM ({rows}))
    """
    return con.sql(query).to_arrow_table().select(schema.names).cast(schema)
