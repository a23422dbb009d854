"""The three stages (DESIGN): skus; A, invoices and their lines; B, accounts and invoice documents."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from processors import account_rows, feature_rows, invoice_documents, invoice_rows, sku_rows
from processors.charging import PriceAt
from processors.document_codec import DOCUMENT_SCHEMA, encode_documents
from processors.errors import UnavailableError
from processors.features.declarations import FEATURE_SETS, FeatureSet
from processors.inbox import Chunk
from processors.keyed_table import KeyedTable, current_sql
from processors.lake_tables import (
    ACCOUNT_LOG,
    ACCOUNTS_KEYED,
    ACCOUNTS_PRIVATE,
    INVOICE_LOG,
    INVOICES_KEYED,
    LAKE_TABLES,
    SKU_LOG,
    SKUS_KEYED,
    changes_name,
    feature_keyed,
)
from processors.ports import DocumentSink, KeyedFiles
from processors.prices import TRUNCATES, PriceTail
from processors.records import event_schema
from processors.stage import OWNED, EpochReport, Stage, StageContext, rows_of
from processors.state import count_rows, to_arrow
from processors.tables import ACCOUNTS, INVOICE_LINE_ITEMS, INVOICES, SKUS, Table

log = logging.getLogger(__name__)
EVENTS = "events"
ROWS_ID = "rows"
"""`rows:BUCKET` in sku_log: the last epoch of the bucket that changed a price or SKU."""
PRICES_ID = "prices"
"""`prices:BUCKET` in invoice_log: the sum of `rows` over all SKU buckets, as far as its documents know them."""
SEND_RETRY_S = 2.0
PUT_OFF_S = 10.0
"""How long documents may wait, at most, while a backlog of rows is read."""


class _RowStage(Stage):
    """What stages with row events share: events as a relation, truncates applied, log rows dated."""

    keyed: KeyedTable

    def events(
        self, chunks: Sequence[Chunk], table: Table, topic: str, report: EpochReport, truncates: str | None
    ) -> str | None:
        """The relation of this epoch's events of a table, synthetic deletes of truncates included; None: no event."""
        rows = rows_of(chunks, topic)
        below = self.control.below(table.name)
        if rows is None and truncates is None:
            return None
        view = f"{EVENTS}_{table.name}"
        self.con.register(view, event_schema(table).empty_table() if rows is None else rows)
        if below is not None and rows is not None:
            report.ignored["below_truncate"] += count_rows(self.con, f"{view} WHERE row_order < {below}")
        if below is None and truncates is None:
            return view
        kept = f"SELECT * FROM {view}" + (f" WHERE row_order >= {below}" if below is not None else "")
        union = f" UNION ALL BY NAME SELECT * FROM {truncates}" if truncates is not None else ""
        self.con.execute(f"CREATE OR REPLACE TEMP TABLE {view}_kept AS {kept}{union}")
        return f"{view}_kept"

    def dated(self, query: str, schema: pa.Schema) -> pa.Table:
        """The query's rows with today's known_date, in the schema of their table."""
        today = self.context.now().date()
        return to_arrow(self.con, f"SELECT *, DATE '{today}' AS known_date FROM ({query})", schema)

    def current(self, keyed: KeyedTable, buckets: frozenset[int]) -> tuple[KeyedFiles, str]:
        """The lake's current rows of these buckets, tombstones included: what is to be read, and the relation."""
        columns = tuple(n for n in LAKE_TABLES[keyed.log].schema.names if n != "known_date")
        mine = f"bucket IN ({_list(buckets)})"
        if keyed.home_bucket != keyed.log_bucket:  # a row of another bucket may be later than ours
            files = self.context.lake.keyed(keyed)
            whole = current_sql(keyed, columns=columns, log=files.log, folded=files.folded)
            return files, f"(SELECT * FROM {whole} WHERE {mine})"
        files = self.context.lake.keyed(keyed, buckets)
        log_rows, folded = (f"(SELECT * FROM {rows} WHERE {mine})" for rows in (files.log, files.folded))
        return files, current_sql(keyed, columns=columns, log=log_rows, folded=folded)

    def poll_news(self) -> None:
        self.news = self.control.refresh() or self.news


class SkuStage(_RowStage):
    """SKU events to sku_log; also writes what producers of ours rejected to the dead letters."""

    name = "skus"
    log_name = SKU_LOG.name

    def __init__(self, context: StageContext, con: duckdb.DuckDBPyConnection, topics: Sequence[str]) -> None:
        super().__init__(context, con, topics)
        self._last_rows: dict[int, int] = {}
        sku_rows.create_state(con)

    def extra_ids(self, table: str) -> tuple[str, ...]:
        return tuple(f"{ROWS_ID}:{b}" for b in sorted(self.buckets)) if table == self.log_name else ()

    def load_gained(self, gained: frozenset[int], stored: Mapping[str, Mapping[str, int]]) -> None:
        columns = ", ".join(n for n in SKU_LOG.schema.names if n != "known_date")
        files, current = self.current(SKUS_KEYED, gained)
        self.loading.run([(files, f"INSERT INTO {sku_rows.STATE} BY NAME SELECT {columns} FROM {current}")])
        self.control.apply_again()
        self._last_rows |= {b: stored[self.log_name].get(f"{ROWS_ID}:{b}", 0) for b in gained}

    def drop_lost(self) -> None:
        kept = ", ".join(str(b) for b in self.buckets) or "NULL"
        self.con.execute(f"DELETE FROM {sku_rows.STATE} WHERE (bucket IN ({kept})) IS NOT TRUE")

    def apply_and_commit(self, chunks: Sequence[Chunk], report: EpochReport) -> None:
        truncates = sku_rows.truncate_events(TRUNCATES) if self.control.pending(("skus",)) else None
        events = self.events(chunks, SKUS, self.topics[0], report, truncates)
        if events is not None:
            sku_rows.merge(self.con, events=events, owned=OWNED)
            rows = self.dated(f"SELECT * FROM {sku_rows.ROWS} ORDER BY bucket", SKU_LOG.schema)
        else:
            rows = SKU_LOG.schema.empty_table()
        self._last_rows |= {b: self.epochs[b] for b in rows["bucket"].unique().to_pylist()}
        self.commit_log(rows, {f"{ROWS_ID}:{b}": e for b, e in self._last_rows.items() if b in self.buckets}, report)


class InvoiceStage(_RowStage):
    """Stage A: invoices and lines to invoice_log; derives invoice documents to their topic."""

    name = "invoices"
    log_name = INVOICE_LOG.name

    def __init__(
        self,
        context: StageContext,
        con: duckdb.DuckDBPyConnection,
        topics: Sequence[str],
        *,
        sink: DocumentSink,
        price_at: PriceAt,
        stopping: Callable[[], bool],
    ) -> None:
        super().__init__(context, con, topics)
        self._sink = sink
        self._stopping = stopping
        self.prices = PriceTail(context.lake, con, price_at)
        self.sent_through: dict[int, int] = {}
        self._cursor_written: dict[int, int] = {}
        self._put_off_since_s: float | None = None
        self.sending = False
        """Whether documents are on their way to Kafka."""
        self.sends = 0
        """How often an epoch's documents were acknowledged."""
        self.documents_through: Mapping[int, int] = {}
        """Per partition of their topic an offset beyond the last ones that were sent."""
        invoice_rows.create_state(con)
        invoice_documents.create_state(con)

    def extra_ids(self, table: str) -> tuple[str, ...]:
        names = ("documents", PRICES_ID) if table == self.log_name else ()
        return tuple(f"{name}:{b}" for b in sorted(self.buckets) for name in names)

    def extra_metadata(self) -> dict[str, object]:
        return {
            "sku_versions": [self.prices.versions.get(b, -1) for b in range(max(self.prices.versions, default=-1) + 1)]
        }

    def poll_news(self) -> None:
        super().poll_news()
        self.news = self.prices.refresh() or self._put_off_since_s is not None or self.news

    @property
    def unsettled(self) -> bool:
        return any(
            self.sent_through.get(b, -1) >= 0 and self._cursor_written.get(b) != e for b, e in self.epochs.items()
        )

    def load_gained(self, gained: frozenset[int], stored: Mapping[str, Mapping[str, int]]) -> None:
        # Prices first: what they reprice now are lines of buckets that were kept.
        self.prices.refresh()
        files, current = self.current(INVOICES_KEYED, gained)
        self.loading.run([(files, query) for query in invoice_rows.load_queries(current=current)])
        self.control.apply_again()
        cursors = {b: stored[self.log_name].get(f"documents:{b}", 0) for b in gained}
        self._touch_repriced(cursors)
        self.con.register("cursor_arrow", _pairs(cursors))
        self.con.execute("CREATE OR REPLACE TEMP TABLE cursors AS SELECT * FROM cursor_arrow")
        wanted = ", ".join(str(b) for b in sorted(gained))
        log_rows = f"(SELECT * FROM {self.context.lake.relation(self.log_name)} WHERE bucket IN ({wanted}))"
        invoice_documents.touch_beyond_cursor(self.con, log=log_rows, cursors="cursors")
        count = invoice_documents.derive(self.con, owned=OWNED)
        if count:
            log.info("sending %d documents again that lie beyond the cursors", count)
            self._send()
        invoice_documents.forget_touched(self.con)
        self._put_off_since_s = None
        self.sent_through = dict(self.epochs)
        self._cursor_written = {}

    def _touch_repriced(self, cursors: Mapping[int, int]) -> None:
        """Invoices whose prices may have changed since the cursors' commits; without their metadata, all of the lot."""
        for bucket, cursor in cursors.items():
            if cursor == 0:
                continue
            used = dict(enumerate(self.metadata_of(bucket, cursor).get("sku_versions", [])))
            if all(used.get(b, -1) >= v for b, v in self.prices.versions.items()):
                continue
            lines = f"(SELECT * FROM {invoice_rows.LINES} WHERE bucket = {bucket})"
            self.prices.mark_repriced_since(used, lines, invoice_documents.REPRICED)

    def drop_lost(self) -> None:
        invoice_rows.drop_buckets(
            self.con, keep=f"(SELECT bucket FROM {OWNED} WHERE bucket IN ({_list(self.buckets)}))"
        )
        self.sent_through = {b: e for b, e in self.sent_through.items() if b in self.buckets}

    def apply_and_commit(self, chunks: Sequence[Chunk], report: EpochReport) -> None:
        pending = self.control.pending(("invoices", "invoice_line_items"))
        self.prices.refresh()
        invoices_topic, lines_topic = self.topics
        truncated = invoice_rows.truncate_invoice_events(TRUNCATES) if pending else None
        invoices = self.events(chunks, INVOICES, invoices_topic, report, truncated)
        truncated = invoice_rows.truncate_line_events(TRUNCATES) if pending else None
        lines = self.events(chunks, INVOICE_LINE_ITEMS, lines_topic, report, truncated)
        empty_invoices, empty_lines = (
            event_schema(INVOICES).empty_table(),
            event_schema(INVOICE_LINE_ITEMS).empty_table(),
        )
        self.con.register("no_invoices", empty_invoices)
        self.con.register("no_lines", empty_lines)
        invoice_rows.merge_invoices(self.con, events=invoices or "no_invoices", owned=OWNED)
        invoice_rows.merge_lines(self.con, events=lines or "no_lines", owned=OWNED)
        invoice_documents.touch_changed(self.con)
        put_off = self._put_off()
        count = 0 if put_off else invoice_documents.derive(self.con, owned=OWNED)
        rows = self.dated(invoice_rows.log_rows_sql(), INVOICE_LOG.schema)
        # Nothing to derive: this very commit may say that documents are complete through it.
        through = self.sent_through if put_off or count else dict(self.epochs)
        used = sum(self.prices.versions.values())
        ids = {f"documents:{b}": e for b, e in through.items() if e > 0} | {
            f"{PRICES_ID}:{b}": used for b in self.epochs
        }
        self.commit_log(rows, ids, report)
        self._cursor_written = through
        if put_off:
            return
        if count:
            self._send()
        invoice_documents.forget_touched(self.con)
        self.sent_through = dict(self.epochs)
        report.derived = count

    def _put_off(self) -> bool:
        """Whether documents wait for a next epoch: in a backlog the lines of an invoice come in several of them.

        The cursor stays behind meanwhile, as if the broker did not acknowledge. After PUT_OFF_S they wait no longer,
        so that a long catch-up shows what it has.
        """
        now_s = time.monotonic()
        if not self.more_soon:
            self._put_off_since_s = None
        elif self._put_off_since_s is None:
            self._put_off_since_s = now_s
        elif now_s - self._put_off_since_s >= PUT_OFF_S:
            self._put_off_since_s = None
            return False
        return self.more_soon

    def _send(self) -> None:
        """Sends `documents_out` until the broker acknowledged all; a worker that stops meanwhile derives them again."""
        generation = self.context.lake.generation
        self.sending = True
        while True:
            try:
                for keys, values in encode_documents(self.con, invoice_documents.DOCUMENTS, generation=generation):
                    self._sink.send(keys, values)
                self.documents_through = self._sink.flush()
                self.sends += 1
                self.sending = False
                return
            except UnavailableError as error:
                if self._stopping():
                    raise
                log.warning("documents wait: %s", error)
                time.sleep(SEND_RETRY_S)


class AccountStage(_RowStage):
    """Stage B: accounts and documents to account_log; derives every feature set."""

    name = "accounts"
    log_name = ACCOUNT_LOG.name

    def __init__(
        self,
        context: StageContext,
        con: duckdb.DuckDBPyConnection,
        topics: Sequence[str],
        *,
        feature_sets: tuple[FeatureSet, ...] = FEATURE_SETS,
    ) -> None:
        super().__init__(context, con, topics)
        self.feature_sets = feature_sets
        self._known_from_ms = 0
        self._truncated: dict[int, int] = {}
        account_rows.create_state(con)
        for feature_set in feature_sets:
            feature_rows.create_state(con, feature_set)

    side_tables = (ACCOUNTS_PRIVATE.name,)

    def extra_ids(self, table: str) -> tuple[str, ...]:
        return tuple(f"truncate:{b}" for b in sorted(self.buckets)) if table == ACCOUNTS_PRIVATE.name else ()

    @property
    def tables(self) -> tuple[str, ...]:
        return (*super().tables, *(changes_name(f) for f in self.feature_sets))

    def _ids_of(self, table: str) -> tuple[str, ...]:
        if table not in {changes_name(f) for f in self.feature_sets}:
            return super()._ids_of(table)
        buckets = sorted(self.buckets)
        return tuple(
            i for b in buckets for i in (self.epoch_id(b), f"cursor:{b}", f"version:{b}", f"known_from_ms:{b}")
        )

    def written_by_newer(self, stored: Mapping[str, Mapping[str, int]]) -> frozenset[int]:
        return frozenset(
            b
            for f in self.feature_sets
            for b in self.buckets
            if stored[changes_name(f)].get(f"version:{b}", 0) > f.version
        )

    def load_gained(self, gained: frozenset[int], stored: Mapping[str, Mapping[str, int]]) -> None:
        files, current = self.current(ACCOUNTS_KEYED, gained)
        passes = [(files, query) for query in account_rows.load_queries(current=current)]
        for feature_set in self.feature_sets:
            files, current = self.current(feature_keyed(feature_set), gained)
            passes.append((files, feature_rows.load_query(feature_set, current=current)))
        self.loading.run(passes)
        self.control.apply_again()
        self._truncated |= {b: stored[ACCOUNTS_PRIVATE.name].get(f"truncate:{b}", 0) for b in gained}
        for feature_set in self.feature_sets:
            ids = stored[changes_name(feature_set)]
            self._known_from_ms = max([self._known_from_ms, *(ids.get(f"known_from_ms:{b}", 0) for b in gained)])
            cursors = {b: ids.get(f"cursor:{b}", 0) for b in gained}
            self.con.register("cursor_arrow", _pairs(cursors))
            self.con.execute("CREATE OR REPLACE TEMP TABLE cursors AS SELECT * FROM cursor_arrow")
            feature_rows.touch_buckets(self.con, cursors="cursors")
            self._derive(feature_set, self._next_known_from(), whole=True)

    def drop_lost(self) -> None:
        kept = f"(SELECT bucket FROM {OWNED} WHERE bucket IN ({_list(self.buckets)}))"
        account_rows.drop_buckets(self.con, keep=kept)
        for feature_set in self.feature_sets:
            self.con.execute(
                f"DELETE FROM {feature_rows.state_name(feature_set)} WHERE bucket NOT IN (SELECT bucket FROM {kept})"
            )

    def _next_known_from(self) -> int:
        now_ms = int(self.context.now().timestamp() * 1000)
        self._known_from_ms = max(now_ms, self._known_from_ms + 1)
        return self._known_from_ms

    def known_through(self) -> datetime:
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=self._known_from_ms)

    def apply_and_commit(self, chunks: Sequence[Chunk], report: EpochReport) -> None:
        accounts_topic, documents_topic = self.topics
        known_from_ms = self._next_known_from()
        pending = self.control.pending(("accounts",))
        truncated = account_rows.truncate_events(TRUNCATES) if pending else None
        accounts = self.events(chunks, ACCOUNTS, accounts_topic, report, truncated)
        self.con.register("no_accounts", event_schema(ACCOUNTS).empty_table())
        if accounts is not None:
            self._commit_private(accounts, accounts_topic, known_from_ms)
        account_rows.merge_accounts(self.con, events=accounts or "no_accounts", owned=OWNED)
        documents = rows_of(chunks, documents_topic)
        self.con.register("document_rows", DOCUMENT_SCHEMA.empty_table() if documents is None else documents)
        account_rows.merge_documents(self.con, documents="document_rows", owned=OWNED)
        rows = self.dated(account_rows.log_rows_sql(), ACCOUNT_LOG.schema)
        self.commit_log(rows, {}, report)
        feature_rows.touch_changed(self.con)
        for feature_set in self.feature_sets:
            report.derived += self._derive(feature_set, known_from_ms)

    def _commit_private(self, events: str, topic: str, known_from_ms: int) -> None:
        """Personal columns leave the stream here, before the log (R5)."""
        known = f"epoch_ms({known_from_ms}::BIGINT)"
        columns = ", ".join(
            n for n in ACCOUNTS_PRIVATE.schema.names if n not in ("deleted", "known_from", "known_date")
        )
        query = (
            f"SELECT {columns}, is_delete AS deleted, {known}::TIMESTAMPTZ AS known_from FROM {events} ORDER BY bucket"
        )
        rows = self.dated(query, ACCOUNTS_PRIVATE.schema)
        rows = self.beyond_side(ACCOUNTS_PRIVATE.name, rows, topic, partition="bucket")
        # Deletes of a truncate were not read: they are complete through its entry of the control log.
        truncate = self.control.last_truncate(ACCOUNTS.name)
        done = pa.array([b for b, entry in self._truncated.items() if entry >= truncate], pa.int32())
        rows = rows.filter(pc.invert(pc.and_(pc.less(rows["row_offset"], 0), pc.is_in(rows["bucket"], done))))
        if rows.num_rows:
            self._truncated = dict.fromkeys(self.buckets, truncate)
            self.commit_side(ACCOUNTS_PRIVATE.name, rows, {f"truncate:{b}": truncate for b in self.buckets})

    def _derive(self, feature_set: FeatureSet, known_from_ms: int, *, whole: bool = False) -> int:
        count = feature_rows.derive(self.con, feature_set, owned=OWNED, whole=whole)
        table = LAKE_TABLES[changes_name(feature_set)]
        known = f"epoch_ms({known_from_ms}::BIGINT)::TIMESTAMPTZ"
        rows = self.dated(f"SELECT *, {known} AS known_from FROM ({feature_rows.rows_sql(feature_set)})", table.schema)
        ids = {f"cursor:{b}": e for b, e in self.epochs.items()}
        ids |= {f"version:{b}": feature_set.version for b in self.buckets}
        ids |= {f"known_from_ms:{b}": known_from_ms for b in self.buckets}
        self.commit_derived(table.name, rows, ids)
        return count


def _pairs(epochs: Mapping[int, int]) -> pa.Table:
    return pa.table(
        {"bucket": pa.array(list(epochs), pa.int32()), "epoch": pa.array(list(epochs.values()), pa.int64())}
    )


def _list(buckets: frozenset[int]) -> str:
    return ", ".join(str(b) for b in sorted(buckets)) or "NULL"
