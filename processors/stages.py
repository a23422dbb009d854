"""The stages of rows (DESIGN): skus; A, invoices and their lines. Those of features are in feature_stages.py."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing

import duckdb
import pyarrow as pa

from processors import charged_lines, invoice_documents, invoice_rows, sku_rows
from processors.activity import EpochNotes
from processors.ahead import one_ahead
from processors.charging import PriceAt
from processors.errors import UnavailableError
from processors.inbox import Chunk
from processors.lake_tables import INVOICE_LOG, INVOICES_KEYED, SKU_LOG, SKUS_KEYED
from processors.outputs import Output, documents_output, lines_output
from processors.ports import DocumentSink
from processors.prices import TRUNCATES, PriceTail
from processors.records import event_schema
from processors.row_stage import RowStage, bucket_list, epoch_table
from processors.stage import OWNED, StageContext
from processors.state import count_rows
from processors.tables import INVOICE_LINE_ITEMS, INVOICES, SKUS

log = logging.getLogger(__name__)
ROWS_ID = "rows"
"""`rows:BUCKET` in sku_log: the last epoch of the bucket that changed a price or SKU."""
PRICES_ID = "prices"
"""`prices:BUCKET` in invoice_log: the sum of `rows` over all SKU buckets, as far as its documents know them."""
SEND_RETRY_S = 2.0
PUT_OFF_S = 10.0
"""How long documents may wait, at most, while a backlog of rows is read."""


class SkuStage(RowStage):
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

    def apply_and_commit(self, chunks: Sequence[Chunk], notes: EpochNotes) -> None:
        truncates = sku_rows.truncate_events(TRUNCATES) if self.control.pending(("skus",)) else None
        events = self.events(chunks, SKUS, self.topics[0], notes, truncates)
        if events is not None:
            sku_rows.merge(self.con, events=events, owned=OWNED)
            rows = self.dated(f"SELECT * FROM {sku_rows.ROWS}", SKU_LOG.schema)
        else:
            rows = SKU_LOG.schema.empty_table()
        self._last_rows |= {b: self.epochs[b] for b in rows["bucket"].unique().to_pylist()}
        self.commit_log(rows, {f"{ROWS_ID}:{b}": e for b, e in self._last_rows.items() if b in self.buckets}, notes)


class InvoiceStage(RowStage):
    """Stage A: invoices and lines to invoice_log; derives invoice documents, and charged lines, to their topics.

    Each output has a cursor of its own in the lake, because a lake may get its first set by article late; from the
    first epoch on they are derived, put off and sent together.
    """

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
        lines_sink: DocumentSink | None = None,
    ) -> None:
        """`lines_sink`: where charged lines go; None: no feature set is derived by article."""
        super().__init__(context, con, topics)
        self.documents = documents_output(sink)
        self.charged_lines = None if lines_sink is None else lines_output(lines_sink)
        self.outputs = (self.documents, *(() if self.charged_lines is None else (self.charged_lines,)))
        self._stopping = stopping
        self.prices = PriceTail(context.lake, con, price_at)
        self.sent_through: dict[int, int] = {}
        self._cursor_written: dict[int, int] = {}
        self._put_off_since_s: float | None = None
        self.sending = False
        """Whether documents, or lines, are on their way to Kafka."""
        self.sends = 0
        """How often all that an epoch derived was acknowledged."""
        invoice_rows.create_state(con)
        invoice_documents.create_state(con)

    def extra_ids(self, table: str) -> tuple[str, ...]:
        names = (*(o.name for o in self.outputs), PRICES_ID) if table == self.log_name else ()
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
        touched: Mapping[int, int] | None = None
        for output in self.outputs:
            cursors = {b: stored[self.log_name].get(f"{output.name}:{b}", 0) for b in gained}
            if cursors != touched:  # as a rule they stand together
                self._touch_beyond(output, cursors, folded=files.folded)
            touched = cursors
            count = self._send((output,))
            if count:
                log.info("sent %d %s again that lay beyond the cursors", count, output.name)
        invoice_documents.forget_touched(self.con)
        self._put_off_since_s = None
        self.sent_through = dict(self.epochs)
        self._cursor_written = {}

    def _touch_beyond(self, output: Output, cursors: Mapping[int, int], *, folded: str) -> None:
        """Adds to the touched invoices those of which the output may lack something that is committed."""
        if output is self.charged_lines:
            # A fold that passed the cursor did not know of this output: the set is new here, or was away for a while.
            marks = dict(
                self.con.sql(
                    f"SELECT mark_bucket, max(epoch) FROM {folded} WHERE is_mark GROUP BY mark_bucket"
                ).fetchall()
            )
            lost = frozenset(b for b, e in cursors.items() if e < max(1, marks.get(b, -1)))
            charged_lines.touch_buckets(self.con, lost)
            cursors = {b: e for b, e in cursors.items() if b not in lost}
        self._touch_repriced(cursors)
        self.con.register("cursor_arrow", epoch_table(cursors))
        self.con.execute("CREATE OR REPLACE TEMP TABLE cursors AS SELECT * FROM cursor_arrow")
        wanted = bucket_list(frozenset(cursors))
        log_rows = f"(SELECT * FROM {self.context.lake.relation(self.log_name)} WHERE bucket IN ({wanted}))"
        invoice_documents.touch_beyond_cursor(self.con, log=log_rows, cursors="cursors")

    def _touch_repriced(self, cursors: Mapping[int, int]) -> None:
        """Invoices whose prices may have changed since the cursors' commits; without their metadata, all of the lot."""
        for bucket, cursor in cursors.items():
            if cursor == 0:
                continue
            used = dict(enumerate(self.recent.metadata_of(bucket, cursor).get("sku_versions", [])))
            if all(used.get(b, -1) >= v for b, v in self.prices.versions.items()):
                continue
            lines = f"(SELECT * FROM {invoice_rows.LINES} WHERE bucket = {bucket})"
            self.prices.mark_repriced_since(used, lines, invoice_documents.REPRICED)

    def drop_lost(self) -> None:
        invoice_rows.drop_buckets(
            self.con, keep=f"(SELECT bucket FROM {OWNED} WHERE bucket IN ({bucket_list(self.buckets)}))"
        )
        self.sent_through = {b: e for b, e in self.sent_through.items() if b in self.buckets}

    def apply_and_commit(self, chunks: Sequence[Chunk], notes: EpochNotes) -> None:
        pending = self.control.pending(("invoices", "invoice_line_items"))
        self.prices.refresh()
        invoices_topic, lines_topic = self.topics
        truncated = invoice_rows.truncate_invoice_events(TRUNCATES) if pending else None
        invoices = self.events(chunks, INVOICES, invoices_topic, notes, truncated)
        truncated = invoice_rows.truncate_line_events(TRUNCATES) if pending else None
        lines = self.events(chunks, INVOICE_LINE_ITEMS, lines_topic, notes, truncated)
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
        rows = self.dated(invoice_rows.log_rows_sql(), INVOICE_LOG.schema)
        touched = count_rows(self.con, invoice_documents.TOUCHED) > 0
        # Nothing to derive: this very commit may say that the outputs are complete through it.
        through = self.sent_through if put_off or touched else dict(self.epochs)
        used = sum(self.prices.versions.values())
        ids = {f"{o.name}:{b}": e for o in self.outputs for b, e in through.items() if e > 0} | {
            f"{PRICES_ID}:{b}": used for b in self.epochs
        }
        self.commit_log(rows, ids, notes)
        self._cursor_written = through
        if put_off:
            return
        if touched:
            notes.derived = self._send(self.outputs)
        invoice_documents.forget_touched(self.con)
        self.sent_through = dict(self.epochs)

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

    def _send(self, outputs: Sequence[Output]) -> int:
        """Derives what is touched and sends it until the broker acknowledged all; returns how many rows.

        A worker that stops meanwhile derives it again.
        """
        count = 0
        for output in outputs:
            with closing(one_ahead(self._derived(output))) as parts:
                while (rows := self._next_of(parts)) is not None:
                    self.settle()  # what is not in the log yet must not be known to others
                    self.sending = True
                    with self.activity.step("send", output.name):
                        self._send_part(output, rows)
                    count += rows.num_rows
        if count:
            self.sends += 1
        self.sending = False
        return count

    def _next_of(self, parts: Iterator[pa.Table]) -> pa.Table | None:
        with self.activity.waiting("derive"):
            return next(parts, None)

    def _derived(self, output: Output) -> Iterator[pa.Table]:
        parts = output.derive(self.con, owned=OWNED, partitions=output.sink.partitions)
        while True:
            with self.activity.beside("derive", output.name):
                rows = next(parts, None)
            if rows is None:
                return
            yield rows

    def _send_part(self, output: Output, rows: pa.Table) -> None:
        while True:
            try:
                output.send(rows, generation=self.context.lake.generation)
                return
            except UnavailableError as error:
                if self._stopping():
                    raise
                log.warning("%s wait: %s", output.name, error)
                time.sleep(SEND_RETRY_S)
