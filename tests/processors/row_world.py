"""The row and feature functions of the core, epoch by epoch, without Kafka and without a lake."""

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from operator import itemgetter
from typing import Any

import duckdb
import pyarrow as pa

from processors import account_features, account_rows, feature_rows, invoice_documents, invoice_rows, sku_rows
from processors.charging import PriceAt
from processors.document_codec import DOCUMENT_BLOCKS, DOCUMENT_SCHEMA
from processors.features.declarations import SETS_BY_ACCOUNT
from processors.records import event_schema
from processors.state import to_arrow
from processors.tables import TABLES_BY_NAME
from tests.murmur2 import murmur2
from tests.processors.row_oracle import Record

BUCKETS = 3
_AT = datetime(2024, 1, 1, tzinfo=UTC)


@cache
def bucket_of(table: str, key: tuple[Any, ...]) -> int:
    record_key = {TABLES_BY_NAME[table].key[0]: key[0]}
    return murmur2(json.dumps(record_key, separators=(",", ":")).encode()) % BUCKETS


def events(table: str, records: Sequence[Record]) -> pa.Table:
    """The records of one table as the decoder gives them."""
    declared = TABLES_BY_NAME[table]
    rows = []
    for r in records:
        if r.table == table:
            row: dict[str, Any] = dict.fromkeys(event_schema(declared).names)
            row |= {c.name: "text" for c in declared.columns if c.duckdb_type == "VARCHAR" and not r.is_delete}
            row |= {"item_cost_price": Decimal(1)} if table == "skus" else {}
            row |= dict(zip(declared.key, r.key, strict=True)) | dict(r.values)
            row |= {"bucket": bucket_of(table, r.key), "row_order": Decimal(r.order), "row_offset": r.offset}
            row |= {"is_delete": r.is_delete, "is_create": r.is_create, "source_ts": _AT}
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=event_schema(declared))


class World:
    """All buckets in one place. Documents wait in `sent` until an epoch of stage B takes them."""

    def __init__(self, con: duckdb.DuckDBPyConnection, price_at: PriceAt) -> None:
        self.con = con
        self.price_at: PriceAt = price_at
        self.epoch = 0
        self.sent: list[dict[str, Any]] = []
        self.invoice_log: list[dict[str, Any]] = []
        self.account_log: list[dict[str, Any]] = []
        self.history: dict[str, list[dict[str, Any]]] = {f.name: [] for f in SETS_BY_ACCOUNT}
        self._offset = 0
        sku_rows.create_state(con)
        invoice_rows.create_state(con)
        invoice_documents.create_state(con)
        account_rows.create_state(con)
        for feature_set in SETS_BY_ACCOUNT:
            feature_rows.create_state(con, feature_set)

    def rows(self, query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.con.sql(query).to_arrow_table().to_pylist()
        return found

    def _own(self) -> None:
        self.epoch += 1
        self.con.execute(
            f"CREATE OR REPLACE TEMP TABLE owned AS SELECT range::INTEGER AS bucket, {self.epoch}::BIGINT AS epoch"
            f" FROM range({BUCKETS})"
        )

    def _register(self, table: str, records: Sequence[Record]) -> str:
        self.con.register(f"{table}_events", events(table, records))
        return f"{table}_events"

    def rows_epoch(self, records: Sequence[Record], *, put_off: bool = False) -> int:
        """One epoch of the stages skus and A; returns the number of changed states and documents.

        `put_off`: documents are left to the next epoch, as in a backlog.
        """
        self._own()
        changed = sku_rows.merge(self.con, events=self._register("skus", records), owned="owned")
        invoice_documents.apply_prices(self.con, sku_rows=sku_rows.ROWS, price_at=self.price_at)
        invoice_rows.merge_invoices(self.con, events=self._register("invoices", records), owned="owned")
        invoice_rows.merge_lines(self.con, events=self._register("invoice_line_items", records), owned="owned")
        invoice_documents.touch_changed(self.con)
        logged = self.rows(invoice_rows.log_rows_sql())
        self.invoice_log += logged
        if put_off:
            return changed + len(logged)
        parts = invoice_documents.derive(self.con, owned="owned", partitions=BUCKETS)
        derived = [row for part in parts for row in part.select(DOCUMENT_BLOCKS.content.names).to_pylist()]
        for document in sorted(derived, key=itemgetter("account_id", "invoice_id")):
            self._offset += 1
            bucket = bucket_of("accounts", (document["account_id"],))
            self.sent.append(document | {"bucket": bucket, "row_offset": self._offset})
        invoice_documents.forget_touched(self.con)
        return changed + len(logged) + len(derived)

    def features_epoch(self, records: Sequence[Record], documents: Sequence[dict[str, Any]]) -> int:
        """One epoch of stage B; returns the number of changed states and feature rows."""
        self._own()
        account_rows.merge_accounts(self.con, events=self._register("accounts", records), owned="owned")
        self.con.register("arrived", pa.Table.from_pylist(list(documents), schema=DOCUMENT_SCHEMA))
        account_rows.merge_documents(self.con, documents="arrived", owned="owned")
        logged = self.rows(account_rows.log_rows_sql())
        self.account_log += logged
        account_features.touch_changed(self.con)
        changed = len(logged)
        for feature_set in SETS_BY_ACCOUNT:
            changed += account_features.derive(self.con, feature_set, owned="owned")
            self.history[feature_set.name] += self.rows(feature_rows.rows_sql(feature_set))
        return changed

    def run(self, records: Sequence[Record], chance: random.Random) -> None:
        """All records in epochs that chance splits, in an order of its own, some twice; documents likewise."""
        plan = [(record, chance.randrange(4)) for record in records]
        plan += [(record, chance.randrange(4)) for record in records if chance.random() < 0.2]
        chance.shuffle(plan)
        for epoch in range(4):
            arriving = [record for record, place in plan if place == epoch]
            self.rows_epoch(arriving, put_off=epoch < 3 and chance.random() < 0.3)
            if chance.random() < 0.6:
                self._deliver([r for r in arriving if r.table == "accounts"], chance)
            else:
                plan += [(r, epoch + 1) for r in arriving if r.table == "accounts"]
        late = [r for r, place in plan if r.table == "accounts" and place >= 4]
        self.features_epoch(late, self.sent)

    def _deliver(self, accounts: Sequence[Record], chance: random.Random) -> None:
        """Some of what was sent, in any order; it stays to be delivered a second time."""
        arriving = [d for d in self.sent if chance.random() < 0.6]
        chance.shuffle(arriving)
        self.features_epoch(accounts, arriving)

    def state(self, table: str, schema: pa.Schema) -> list[dict[str, Any]]:
        names = [c[0] for c in self.con.sql(f"DESCRIBE {table}").fetchall()]
        wanted = pa.schema([schema.field(n) for n in names])
        return to_arrow(self.con, f"SELECT {', '.join(names)} FROM {table}", wanted).to_pylist()
