"""A live MySQL-family database as a source: keyset chunks, each with its own consistent read and binlog position.

A transaction is in the binlog a moment before its rows can be read, so a position read just before a snapshot may
already cover rows that the snapshot lacks. MariaDB tells the snapshot's own position. Elsewhere a chunk carries a
position that was read at least `SETTLE_S` before its snapshot: an older position is always right, because what was
committed after it is applied on top.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.json

from connectors.mysql import (
    Connection,
    DatabaseUrl,
    connect,
    current_position,
    query,
    snapshot_position,
    stream_column,
    wrapped_errors,
)
from connectors.mysql_parts import SETTLE_S, PartsReader, SettledPositions, document_cells, documents_by_key
from connectors.mysql_schema import SourceColumns, check_server, check_table
from connectors.row_digests import Parts
from connectors.source_rows import BinlogPosition, Chunk, Finding, Resume, declared_schema, new_connection, type_rows
from processors.errors import SourceError
from processors.tables import INVOICE_LINE_ITEMS, INVOICES, Table

SHOWN_FINDINGS = 5


class MySqlSource:
    """`batch_bootstrap.source.Source` over a database. Each table is read through a connection of its own."""

    origin = "mysql"

    def __init__(self, url: str, tables: tuple[Table, ...], *, chunk_rows: int, ca_file: str | None = None) -> None:
        self.url = DatabaseUrl.parse(url, ca_file=ca_file)
        self._tables = tables
        self._chunk_rows = chunk_rows
        self._columns: dict[str, SourceColumns] = {}
        self._has_binlog = False
        self.notices: list[str] = []
        self.server_id = 0

    @property
    def description(self) -> str:
        return str(self.url)

    @property
    def database(self) -> str:
        return self.url.database

    @property
    def has_binlog(self) -> bool:
        return self._has_binlog

    def fingerprint(self) -> str:
        """A database may be read on at any time, each chunk carries its own position; only the tables must agree."""
        return f"{self.url} {' '.join(t.name for t in self._tables)}"

    def tables(self) -> tuple[Table, ...]:
        """The tables wanted, SKUs before lines."""
        return self._tables

    def numeric_keys(self, table: Table) -> frozenset[str]:
        """Text columns that are whole numbers in this database."""
        return self._columns[table.name].numeric_keys

    def columns(self, table: Table) -> SourceColumns:
        """How the database's columns are called; known after `preflight`."""
        return self._columns[table.name]

    def row_estimate(self, table: Table) -> int | None:
        """The server's own estimate."""
        with wrapped_errors(self.url), connect(self.url) as connection:
            rows = query(
                connection,
                "SELECT table_rows FROM information_schema.tables WHERE table_schema = %s AND table_name = %s",
                (self.url.database, table.name),
            )
        return None if not rows or rows[0][0] is None else int(rows[0][0])

    def preflight(self) -> None:
        """Checks reachability, server settings, privileges and the tables. Raises TrsError with what to do."""
        self.notices.clear()
        with wrapped_errors(self.url), connect(self.url) as connection:
            server = check_server(connection, self.url)
            self._has_binlog, self.server_id = server.has_binlog, server.server_id
            self.notices += server.notices
            for table in self._tables:
                self._columns[table.name] = check_table(connection, self.url, table)
                self.notices += self._columns[table.name].notices
            if INVOICE_LINE_ITEMS in self._tables and INVOICES.name not in self._columns:
                self._columns[INVOICES.name] = check_table(connection, self.url, INVOICES)

    def chunks(self, table: Table, resume: Resume | None = None) -> Iterator[Chunk]:
        """The table's chunks in key order, after `resume`."""
        number = 0 if resume is None else resume.chunks
        last_key = None if resume is None else resume.last_key
        con = new_connection()
        positions = SettledPositions()
        with wrapped_errors(self.url), connect(self.url) as connection:
            while True:
                position, documents, invoice_ids = self._read(connection, positions, table, last_key)
                if not documents:
                    break
                number += 1
                cells = document_cells(table, self._columns[table.name], documents)
                last = cells.slice(cells.num_rows - 1).to_pylist()[0]
                last_key = tuple(last[name] for name in table.key)
                typed = type_rows(con, table, cells, empty_is_null=False)
                chunk = Chunk(table, number, typed.rows, typed.rejects, position, last_key)
                yield chunk if invoice_ids is None else _with_findings(con, chunk, invoice_ids)
                if len(documents) < self._chunk_rows:
                    break
        con.close()

    def _read(
        self, connection: Connection, positions: "SettledPositions", table: Table, after: tuple[str, ...] | None
    ) -> tuple[BinlogPosition | None, list[str], list[int] | None]:
        """One consistent read: its position, rows as JSON documents, and for lines the invoices there are."""
        position = positions.before_snapshot(connection) if self._has_binlog else None
        query(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT")
        try:
            if self._has_binlog:
                position = snapshot_position(connection) or position
            sql, args = self._columns[table.name].chunk_sql(table, after, self._chunk_rows)
            documents = stream_column(connection, sql, args)
            invoice_ids = None
            if table is INVOICE_LINE_ITEMS and documents:
                first, last = (document_cells(table, self._columns[table.name], [documents[i]]) for i in (0, -1))
                ids = self._columns[INVOICES.name].source_name("invoice_id")
                invoice_ids = [
                    int(row[0])
                    for row in query(
                        connection,
                        f"SELECT `{ids}` FROM `{INVOICES.name}` WHERE `{ids}` BETWEEN %s AND %s",
                        (first["invoice_id"][0].as_py(), last["invoice_id"][0].as_py()),
                    )
                ]
        finally:
            query(connection, "COMMIT")
        return position, documents, invoice_ids

    def rows_by_key(
        self, connection: Connection, keys: Mapping[Table, Sequence[tuple[Any, ...]]]
    ) -> tuple[BinlogPosition | None, dict[Table, pa.Table]]:
        """The rows of these primary keys that exist, typed, in one consistent read, and its position.

        Raises SourceError for a row that does not fit its declared table.
        """
        found: dict[Table, pa.Table] = {}
        position = current_position(connection) if self._has_binlog else None
        with wrapped_errors(self.url), new_connection() as con:
            query(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT")
            if self._has_binlog:
                position = snapshot_position(connection) or position
            for table, wanted in keys.items():
                columns = self._columns[table.name]
                documents = documents_by_key(connection, table, columns, wanted)
                if not documents:
                    found[table] = declared_schema(table).empty_table()
                    continue
                typed = type_rows(con, table, document_cells(table, columns, documents), empty_is_null=False)
                if typed.rejects:
                    first = typed.rejects[0]
                    raise SourceError(f"{self.url}: a row of {table.name} is not as declared: {first.detail}")
                found[table] = typed.rows
            query(connection, "COMMIT")
        return position, found

    def is_empty(self, table: Table) -> bool:
        """Whether the table has no row now."""
        with wrapped_errors(self.url), connect(self.url) as connection:
            return not query(connection, f"SELECT 1 FROM `{table.name}` LIMIT 1")

    def position(self) -> BinlogPosition | None:
        """The end of the binlog now, None without one."""
        with wrapped_errors(self.url), connect(self.url) as connection:
            return current_position(connection) if self._has_binlog else None

    def settled_position(self) -> BinlogPosition | None:
        """A position everything before which can be read by reads that begin after this call."""
        position = self.position()
        time.sleep(SETTLE_S)
        return position

    def by_digests(self, table: Table) -> str | None:
        """None where the database can make digests of the table's rows (connectors/row_digests.py), else why not."""
        odd = self._columns[table.name].incomparable(table)
        return f"{table.name}: {', '.join(odd)} of another type than declared" if odd else None

    def reader(self, table: Table, parts: Parts, *, most_rows: int) -> "PartsReader":
        """Reads of the table part by part; reads at most about `most_rows` at once."""
        return PartsReader(self.url, table, self._columns[table.name], parts, self._has_binlog, most_rows)

    def close(self) -> None:
        """Nothing is held between calls."""


def _with_findings(con: duckdb.DuckDBPyConnection, chunk: Chunk, invoice_ids: list[int]) -> Chunk:
    """The chunk of lines with its orphans and returns counted."""
    con.register("chunk", chunk.rows)
    con.register("known", pa.table({"invoice_id": pa.array(invoice_ids, pa.int64())}))
    orphans = con.execute("SELECT invoice_id, item_id FROM chunk ANTI JOIN known USING (invoice_id)").fetchall()
    returns = con.execute("SELECT invoice_id, item_id, quantity FROM chunk WHERE quantity < 1").fetchall()
    con.unregister("chunk")
    con.unregister("known")
    name = chunk.table.name
    findings = [
        Finding("orphan", name, None, None, f"invoice {invoice} of line ({invoice}, {item}) does not exist")
        for invoice, item in orphans[:SHOWN_FINDINGS]
    ]
    findings += [
        Finding("return", name, None, None, f"quantity {quantity} in line ({invoice}, {item})")
        for invoice, item, quantity in returns[:SHOWN_FINDINGS]
    ]
    return replace(chunk, orphans=len(orphans), returns=len(returns), findings=findings)
