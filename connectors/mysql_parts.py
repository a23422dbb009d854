"""Consistent reads of a table part by part: digests made in the database, then only the rows that differ.

A read begins with a position of the binlog (see connectors/mysql_source.py), opens a consistent snapshot, asks for the
digests of a range of parts, has them compared, and reads the rows of those parts that differ in the same snapshot.
"""

import json
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
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
from connectors.mysql_schema import SourceColumns
from connectors.row_digests import Digests, Parts, PartsRead, mysql_digests
from connectors.source_rows import BinlogPosition, Reject, new_connection, type_rows
from processors.tables import EXTRA, Table

SETTLE_S = 0.5
KEYS_PER_QUERY = 1_000
_MOST_PARTS = 2_000
"""Of more parts that differ not each is asked for: the whole range is read."""


class PartsReader:
    """Reads one table through one connection. A context manager."""

    def __init__(
        self, url: DatabaseUrl, table: Table, columns: SourceColumns, parts: Parts, has_binlog: bool, most_rows: int
    ) -> None:
        self._url = url
        self._table = table
        self._columns = columns
        self._parts = parts
        self._has_binlog = has_binlog
        self._most_rows = most_rows
        self._positions = SettledPositions()
        self._key = f"`{columns.source_name(parts.column.name)}`"
        self._part = parts.mysql(columns.source_name(parts.column.name))
        self.bytes_read = 0

    def __enter__(self) -> Self:
        with wrapped_errors(self._url):
            self._connection = connect(self._url)
            # the digests and the rows must be of one moment, whatever the server's default is
            query(self._connection, "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        self._con = new_connection()
        return self

    def __exit__(self, *_: object) -> None:
        self._con.close()
        self._connection.close()

    def read(self, first: int | None, end: int | None, lake: Digests) -> PartsRead:
        """Compares the parts [`first`, `end`), or fewer where they have too many rows, with the lake's digests."""
        table, connection = self._table, self._connection
        with wrapped_errors(self._url):
            end = self._near(first, end)
            read_ms = time.time_ns() // 1_000_000
            position = self._positions.before_snapshot(connection) if self._has_binlog else None
            query(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT")
            try:
                if self._has_binlog:
                    position = snapshot_position(connection) or position
                within = self._parts.within(self._key, self._part, first, end)
                sql = mysql_digests(table, self._parts, self._columns.names, within)
                told = np.array(query(connection, sql), dtype=object).reshape(-1, 3)
                found = Digests.sorted(
                    told[:, 0].astype(np.int64), told[:, 1].astype(np.int64), told[:, 2].astype(np.uint64)
                )
                held = lake.between(first, end)
                differing = found.differing(held)
                if len(differing) > _MOST_PARTS:
                    differing = np.union1d(found.parts, held.parts)
                    documents = self._documents(within)
                else:
                    documents = self._documents(self._among(differing)) if len(differing) else []
            finally:
                query(connection, "COMMIT")
            self.bytes_read = int(dict(query(connection, "SHOW SESSION STATUS LIKE 'Bytes_sent'"))["Bytes_sent"])
        cells = document_cells(table, self._columns, documents)
        typed = type_rows(self._con, table, cells, empty_is_null=False)
        return PartsRead(
            position,
            read_ms,
            end,
            int(found.rows.sum()),
            differing,
            typed.rows,
            typed.rejects,
            self._keys_of(typed.rejects),
        )

    def rows_of(self, keys: pa.Table) -> PartsRead:
        """The rows of these primary keys that exist, in one consistent read."""
        table, connection = self._table, self._connection
        wanted = list(zip(*(keys[name].to_pylist() for name in table.key), strict=True))
        with wrapped_errors(self._url):
            read_ms = time.time_ns() // 1_000_000
            position = self._positions.before_snapshot(connection) if self._has_binlog else None
            query(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT")
            try:
                if self._has_binlog:
                    position = snapshot_position(connection) or position
                documents = documents_by_key(connection, table, self._columns, wanted)
            finally:
                query(connection, "COMMIT")
        typed = type_rows(self._con, table, document_cells(table, self._columns, documents), empty_is_null=False)
        none = np.zeros(0, np.int64)
        rejected = self._keys_of(typed.rejects)
        return PartsRead(position, read_ms, None, len(wanted), none, typed.rows, typed.rejects, rejected)

    def _near(self, first: int | None, end: int | None) -> int | None:
        """`end`, or the part before which there are about as many rows as may be read at once."""
        if not self._parts.by_range:
            return end
        within = self._parts.within(self._key, self._part, first, end)
        found = query(
            self._connection,
            f"SELECT {self._key} FROM `{self._table.name}` WHERE {within}"
            f" ORDER BY {self._key} LIMIT 1 OFFSET {self._most_rows}",
        )
        if not found:
            return end
        part = self._parts.part_of(int(found[0][0]))
        return part + 1 if first is None or part <= first else part

    def _among(self, parts: npt.NDArray[np.int64]) -> str:
        return self._parts.among(self._key, self._part, parts)

    def _documents(self, where: str) -> list[str]:
        rows = f"SELECT {self._columns.document_sql(self._table)} FROM `{self._table.name}`"
        return stream_column(self._connection, f"{rows} WHERE {where}")

    def _keys_of(self, rejects: list[Reject]) -> pa.Table:
        """Keys are never null in a database and cast to the declared types, or match nothing in the lake."""
        cells = {name: [json.loads(r.raw).get(name) for r in rejects] for name in self._table.key}
        self._con.register("rejected", pa.table({n: pa.array(v, pa.string()) for n, v in cells.items()}))
        columns = (self._table.column(name) for name in self._table.key)
        casts = ", ".join(f"TRY_CAST({c.name} AS {c.duckdb_type}) AS {c.name}" for c in columns if c is not None)
        keys = self._con.sql(f"SELECT {casts} FROM rejected").to_arrow_table()
        self._con.unregister("rejected")
        return keys


class SettledPositions:
    """Binlog positions old enough that every transaction before them can be read."""

    def __init__(self) -> None:
        self._read: deque[tuple[float, BinlogPosition]] = deque()

    def before_snapshot(self, connection: Connection) -> BinlogPosition | None:
        """A position that was read at least SETTLE_S ago; waits once, at the first call."""
        if snapshot_positions_known(connection):
            return current_position(connection)
        while True:
            position, now = current_position(connection), time.monotonic()
            if position is None:
                return None
            self._read.append((now, position))
            while len(self._read) > 1 and now - self._read[1][0] >= SETTLE_S:
                self._read.popleft()
            if now - self._read[0][0] >= SETTLE_S:
                return self._read[0][1]
            time.sleep(SETTLE_S - (now - self._read[0][0]))


def snapshot_positions_known(connection: Connection) -> bool:
    """Whether the server tells the position of a snapshot (MariaDB does)."""
    return bool(query(connection, "SHOW STATUS LIKE 'binlog_snapshot_file'"))


def documents_by_key(
    connection: Connection, table: Table, columns: SourceColumns, keys: Sequence[tuple[Any, ...]]
) -> list[str]:
    """The rows of these primary keys that exist, as JSON documents."""
    documents: list[str] = []
    for start in range(0, len(keys), KEYS_PER_QUERY):
        part = keys[start : start + KEYS_PER_QUERY]
        args = [value for key in part for value in key]
        documents += stream_column(connection, columns.by_key_sql(table, len(part)), args)
    return documents


def document_cells(table: Table, columns: SourceColumns, documents: list[str]) -> pa.Table:
    """Rows that were read as JSON documents, as text cells, numbered."""
    names = columns.present(table) + ([EXTRA] if columns.undeclared else [])
    options = pyarrow.json.ParseOptions(
        explicit_schema=pa.schema([(name, pa.string()) for name in names]), unexpected_field_behavior="ignore"
    )
    if not documents:
        return pa.table({name: pa.array([], pa.string()) for name in names} | {"line": pa.array([], pa.int64())})
    text = "\n".join(documents).encode()
    parsed = pyarrow.json.read_json(
        pa.BufferReader(text),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
        parse_options=options,
    )
    return parsed.append_column("line", pa.array(range(1, parsed.num_rows + 1), pa.int64()))
