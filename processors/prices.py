"""What every worker tails: the control log (runs, truncates) and the SKU log (prices)."""

from collections.abc import Mapping

import duckdb
import pyarrow as pa

from processors.charging import PriceAt
from processors.invoice_documents import apply_prices
from processors.keyed_table import current_sql
from processors.lake_tables import SKU_LOG, SKUS_KEYED
from processors.order import ORDER_SQL_TYPE
from processors.ports import Lake

TRUNCATES = "truncates"
"""Temporary table (table_name, row_order, source_ts) of truncates that the state has not seen yet."""


class Control:
    """The control log as one stage sees it: its version, and the truncates that are still to be applied."""

    def __init__(self, lake: Lake, con: duckdb.DuckDBPyConnection) -> None:
        self._lake = lake
        self._con = con
        self._files = lake.follow("control_log")
        self.version = 0
        self._applied = 0
        self._truncates: list[tuple[int, str, int, int]] = []

    def refresh(self) -> bool:
        """Reads new entries; whether there were truncates among them."""
        if not self._files.new_files():
            return False
        news = False
        for entry in self._lake.control.entries():
            if entry.entry <= self.version:
                continue
            self.version = entry.entry
            if entry.kind == "truncate" and entry.table_name is not None and entry.row_order is not None:
                source_ts_ms = int(entry.detail.get("source_ts_ms", 0))
                self._truncates.append((entry.entry, entry.table_name, entry.row_order, source_ts_ms))
                news = True
        return news

    def apply_again(self) -> None:
        """Every truncate counts as unseen: state was loaded that may not have seen them."""
        self._applied = 0

    def below(self, table: str) -> int | None:
        """The greatest order below which rows of the table are gone, or None."""
        return max((order for _, name, order, _ in self._truncates if name == table), default=None)

    def last_truncate(self, table: str) -> int:
        """The number of the last entry that truncates the table, 0 if there is none."""
        return max((entry for entry, name, _, _ in self._truncates if name == table), default=0)

    def pending(self, tables: tuple[str, ...]) -> bool:
        """Fills `truncates` with the unseen ones of these tables and marks them as seen; whether there are any."""
        fresh = [t for t in self._truncates if t[0] > self._applied and t[1] in tables]
        self._applied = self.version
        self._con.execute(
            f"CREATE OR REPLACE TEMP TABLE {TRUNCATES}"
            f" (table_name VARCHAR, row_order {ORDER_SQL_TYPE}, source_ts TIMESTAMPTZ)"
        )
        for _, name, order, source_ts_ms in fresh:
            self._con.execute(f"INSERT INTO {TRUNCATES} VALUES (?, {order}, epoch_ms(?::BIGINT))", [name, source_ts_ms])
        return bool(fresh)


class PriceTail:
    """The committed prices of all SKU buckets, followed through the SKU log."""

    def __init__(self, lake: Lake, con: duckdb.DuckDBPyConnection, price_at: PriceAt) -> None:
        self._lake = lake
        self._con = con
        self._price_at = price_at
        self._files = lake.follow(SKU_LOG.name)
        self._loaded = False
        self.versions: dict[int, int] = {}

    def refresh(self) -> bool:
        """Takes committed news; whether there were any. Invoices that they reprice are added to `repriced`."""
        new = self._files.new_files()
        if not self._loaded:
            columns = tuple(n for n in SKU_LOG.schema.names if n != "known_date")
            folded = self._lake.relation(SKUS_KEYED.folded)
            rows = current_sql(SKUS_KEYED, columns=columns, log=self._lake.relation(SKU_LOG.name), folded=folded)
            self._loaded = True
        elif new:
            rows = self._lake.relation(SKU_LOG.name, new)
        else:
            return False
        # Compaction gives old rows in new files: two columns of them tell, the rows themselves are not read again.
        newest = dict(self._con.sql(f"SELECT bucket, max(epoch) FROM {rows} GROUP BY bucket").fetchall())
        fresh = {bucket: epoch for bucket, epoch in newest.items() if epoch > self.versions.get(bucket, -1)}
        if not fresh:
            return False
        later = " OR ".join(f"(bucket = {b} AND epoch > {self.versions.get(b, -1)})" for b in sorted(fresh))
        self._con.execute(
            f"CREATE OR REPLACE TEMP TABLE sku_news AS SELECT bucket, epoch, item_id, prices FROM {rows} WHERE {later}"
        )
        apply_prices(self._con, sku_rows="sku_news", price_at=self._price_at)
        self.versions |= fresh
        return True

    def mark_repriced_since(self, versions: Mapping[int, int], lines: str, repriced: str) -> None:
        """Adds to `repriced` the invoices with a line of a SKU that changed after these versions (R6)."""
        table = pa.table(
            {"bucket": pa.array(list(versions), pa.int32()), "epoch": pa.array(list(versions.values()), pa.int64())}
        )
        self._con.register("used_versions", table)
        self._con.execute(f"""
            INSERT INTO {repriced}
            SELECT l.bucket, l.invoice_id, max(v.source_ts)
            FROM {lines} AS l
            JOIN price_versions AS v ON l.item_id = v.item_id
            LEFT JOIN used_versions AS u ON v.bucket = u.bucket
            WHERE NOT l.deleted AND v.epoch > coalesce(u.epoch, -1)
            GROUP BY l.bucket, l.invoice_id
        """)
        self._con.unregister("used_versions")
