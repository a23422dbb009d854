"""The worker's state: a DuckDB database in memory that spills to a folder, filled from the lake, thrown away at will.

State tables have no primary key (it makes writes three times slower); every write deletes the keys that it replaces.
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from processors.ports import StateMemory

_CATALOG = "state"
_BATCH_ROWS = 122_880
"""Of a result as Arrow; DuckDB's own million is copied again and again while it grows."""


def open_state(*, spill: Path, memory_mb: int, threads: int) -> duckdb.DuckDBPyConnection:
    """An empty database; its cursors may be used by one thread each."""
    spill.mkdir(parents=True, exist_ok=True)
    con = duckdb.connect(":memory:")
    con.execute(f"SET memory_limit = '{memory_mb}MB'")
    con.execute(f"SET threads = {threads}")
    con.execute("SET temp_directory = ?", [str(spill)])
    con.execute("SET preserve_insertion_order = false")
    con.execute(f"ATTACH ':memory:' AS {_CATALOG} (COMPRESS)")
    con.execute(f"USE {_CATALOG}")
    return con


def compress(con: duckdb.DuckDBPyConnection, *, beyond_mb: int) -> None:
    """Compresses what the tables gained since the last time, if they hold more than this; nobody else may use them.

    Compressed tables take a tenth of the memory and twice the time to scan, which is far less than to read them from
    the spill folder. A table that was compressed costs milliseconds when little has changed.
    """
    used = con.sql(
        "SELECT memory_usage_bytes + temporary_storage_bytes FROM duckdb_memory() WHERE tag = 'IN_MEMORY_TABLE'"
    )
    if int(used.fetchall()[0][0]) > beyond_mb * 1_000_000:
        con.execute(f"CHECKPOINT {_CATALOG}")


def memory_of(con: duckdb.DuckDBPyConnection, *, budget_mb: int) -> StateMemory:
    """What the database takes of its memory and its disk."""
    ((used, spilled),) = con.sql(
        "SELECT sum(memory_usage_bytes), sum(temporary_storage_bytes) FROM duckdb_memory()"
    ).fetchall()
    return StateMemory(int(used), budget_mb * 1_000_000, int(spilled))


def cursor(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """A connection to the same database for another thread; times are UTC."""
    other = con.cursor()
    other.execute(f"USE {_CATALOG}")
    other.execute("SET TimeZone = 'UTC'")
    return other


_TYPES = {
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.date32(): "DATE",
    pa.binary(): "BLOB",
    pa.timestamp("us", tz="UTC"): "TIMESTAMPTZ",
}


def duckdb_type(kind: pa.DataType) -> str:
    """The DuckDB type of an Arrow type that the lake uses."""
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if pa.types.is_list(kind):
        return f"{duckdb_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return "STRUCT(" + ", ".join(f"{f.name} {duckdb_type(f.type)}" for f in kind) + ")"
    return _TYPES[kind]


def create_like(con: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema, *, without: Sequence[str] = ()) -> None:
    """Makes an empty table with the schema's columns."""
    columns = ", ".join(f"{f.name} {duckdb_type(f.type)}" for f in schema if f.name not in without)
    con.execute(f"CREATE OR REPLACE TABLE {name} ({columns})")


def to_arrow(con: duckdb.DuckDBPyConnection, query: str, schema: pa.Schema | None = None) -> pa.Table:
    """The query's rows with exactly this schema (names, order, types), or as they are."""
    table = con.sql(query).to_arrow_table(_BATCH_ROWS)
    return table if schema is None else table.select(schema.names).cast(schema)


def count_rows(con: duckdb.DuckDBPyConnection, relation: str) -> int:
    """How many rows a relation has."""
    return int(con.sql(f"SELECT count(*) FROM {relation}").fetchall()[0][0])
