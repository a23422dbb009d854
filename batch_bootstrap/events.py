"""Rows at rest to row events: the messages that change data capture would send, made as tables.

Value: Debezium's envelope without schema; decimals are text, dates days since 1970. Key: JSON of the table's event key
as Kafka Connect's converter writes it (no spaces, characters beyond the basic plane escaped as surrogate pairs), so
that our rows and Debezium's of one key share a partition.
"""

import re
from dataclasses import dataclass
from typing import Literal

import duckdb
import pyarrow as pa

from processors.tables import Column, Kind, Table
from trs import __version__

Op = Literal["r", "c", "u", "d"]
_ASTRAL = re.compile(r"[\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Stamp:
    """Where and when rows were read: `file` and `pos` as R2 orders them, `ts_ms` the time of the read (UTC).

    `numbered`: rows get the numbers 0, 1, … within `pos` (sources without a binlog); else row 0.
    """

    source_name: str
    database: str
    file: str
    pos: int
    ts_ms: int
    numbered: bool = False


def connect() -> duckdb.DuckDBPyConnection:
    """A connection for `row_events`; its caller closes it."""
    con = duckdb.connect(":memory:")
    con.execute("SET TimeZone = 'UTC'")
    return con


def row_events(
    con: duckdb.DuckDBPyConnection,
    table: Table,
    rows: pa.Table,
    stamp: Stamp,
    *,
    op: Op = "r",
    numeric_keys: frozenset[str] = frozenset(),
) -> tuple[list[bytes], list[bytes]]:
    """Keys and values of the rows (declared columns, typed; the event key's at least), in their order.

    `op='d'` makes the rows the before image, which may hold the primary key only. `numeric_keys`: text columns that the
    source keeps as whole numbers.
    """
    con.register("rows_at_rest", rows)
    image = ", ".join(f"{c.name} := {_value(c, numeric_keys)}" for c in table.columns if c.name in rows.schema.names)
    key = ", ".join(f"{c.name} := {_value(c, numeric_keys)}" for c in table.columns if c.name in table.event_key)
    before, after = ("NULL", "image") if op != "d" else ("image", "NULL")
    snapshot = "true" if op == "r" else "false"
    number = "(row_number() OVER ()) - 1" if stamp.numbered else "0"
    found = con.sql(
        f"""
        SELECT
          encode(to_json(struct_pack({key}))::VARCHAR) AS key,
          encode(to_json(struct_pack(
            before := {before}, after := {after},
            source := struct_pack(
              version := '{__version__}', connector := 'trs-bootstrap', name := $name, ts_ms := {stamp.ts_ms}::BIGINT,
              snapshot := '{snapshot}', db := $db, "table" := '{table.name}', server_id := 0, gtid := NULL,
              file := $file, pos := {stamp.pos}::BIGINT, "row" := row_in_pos
            ),
            op := '{op}', ts_ms := {stamp.ts_ms}::BIGINT
          ))::VARCHAR) AS value
        FROM (SELECT *, struct_pack({image}) AS image, {number} AS row_in_pos FROM rows_at_rest)
        """,
        params={"name": stamp.source_name, "db": stamp.database, "file": stamp.file},
    ).to_arrow_table()
    con.unregister("rows_at_rest")
    keys = found["key"].to_pylist()
    if any(c.kind is Kind.TEXT for c in table.columns if c.name in table.event_key):
        keys = [_connect_key(k) for k in keys]
    return keys, found["value"].to_pylist()


def _value(column: Column, numeric_keys: frozenset[str]) -> str:
    if column.name in numeric_keys:
        return f"{column.name}::BIGINT"
    if column.kind is Kind.DECIMAL:
        # at least two decimals, further ones only if they are not zero
        return f"regexp_replace({column.name}::VARCHAR, '0{{1,8}}$', '')"
    if column.kind is Kind.DATE:
        return f"({column.name} - DATE '1970-01-01')"
    return column.name


def _connect_key(key: bytes) -> bytes:
    return key if key.isascii() else _ASTRAL.sub(_surrogates, key.decode()).encode()


def _surrogates(match: re.Match[str]) -> str:
    raw = match.group().encode("utf-16-be")
    return "".join(f"\\u{raw[i]:02X}{raw[i + 1]:02X}" for i in (0, 2))
