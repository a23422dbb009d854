"""Rows at rest to row events: the messages that change data capture would send, made as tables.

Value: Debezium's envelope without schema; decimals are text, dates days since 1970. Key: JSON of the table's event key
as Kafka Connect's converter writes it (no spaces, characters beyond the basic plane escaped as surrogate pairs), so
that our rows and Debezium's of one key share a partition.
"""

import json
import re
from dataclasses import dataclass
from typing import Literal

import duckdb
import pyarrow as pa

from processors.tables import EXTRA, Column, Kind, Table
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

    What a column `extra` holds, a JSON object or null, goes into the image as columns of the row.

    `op='d'` makes the rows the before image, which may hold the primary key only. `numeric_keys`: text columns that the
    source keeps as whole numbers.
    """
    image = _object([(c.name, _value(c, numeric_keys)) for c in table.columns if c.name in rows.schema.names])
    if EXTRA in rows.schema.names:
        others = f"CASE WHEN {EXTRA} IS NULL OR {EXTRA} = '{{}}' THEN '}}' ELSE ',' || substr({EXTRA}, 2) END"
        image = image.removesuffix("'}'") + others
    key = _object([(c.name, _value(c, numeric_keys)) for c in table.columns if c.name in table.event_key])
    source = {
        "version": __version__,
        "connector": "trs-bootstrap",
        "name": stamp.source_name,
        "ts_ms": stamp.ts_ms,
        "snapshot": "true" if op == "r" else "false",
        "db": stamp.database,
        "table": table.name,
        "server_id": 0,
        "gtid": None,
        "file": stamp.file,
        "pos": stamp.pos,
    }
    head = '{"before":null,"after":' if op != "d" else '{"before":'
    middle = ("" if op != "d" else ',"after":null') + f',"source":{_json(source)[:-1]},"row":'
    number = "(row_number() OVER ()) - 1" if stamp.numbered else "0"
    con.register("rows_at_rest", rows)
    found = con.sql(
        f"""
        SELECT
          encode(concat({key})) AS key,
          encode(concat($head, {image}, $middle, row_in_pos, $tail)) AS value
        FROM (SELECT *, {number} AS row_in_pos FROM rows_at_rest)
        """,
        params={"head": head, "middle": middle, "tail": f'}},"op":"{op}","ts_ms":{stamp.ts_ms}}}'},
    ).to_arrow_table()
    con.unregister("rows_at_rest")
    keys = found["key"].to_pylist()
    if any(c.kind is Kind.TEXT for c in table.columns if c.name in table.event_key):
        keys = [_connect_key(k) for k in keys]
    return keys, found["value"].to_pylist()


def _json(values: dict[str, object]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def _object(fields: list[tuple[str, str]]) -> str:
    """The arguments of a concat that writes a JSON object; assembled as text, which is faster than DuckDB's structs."""
    parts = [
        f"'{'{' if place == 0 else ','}\"{name}\":', coalesce({value}, 'null')"
        for place, (name, value) in enumerate(fields)
    ]
    return ", ".join([*parts, "'}'"])


def _value(column: Column, numeric_keys: frozenset[str]) -> str:
    """A column's value as JSON text."""
    if column.kind is Kind.DECIMAL:
        # at least two decimals, further ones only if they are not zero
        return f"'\"' || regexp_replace({column.name}::VARCHAR, '0{{1,8}}$', '') || '\"'"
    if column.kind is Kind.DATE:
        return f"({column.name} - DATE '1970-01-01')::VARCHAR"
    if column.kind is Kind.TEXT and column.name not in numeric_keys:
        return f"to_json({column.name})::VARCHAR"
    return f"{column.name}::VARCHAR"


def _connect_key(key: bytes) -> bytes:
    return key if key.isascii() else _ASTRAL.sub(_surrogates, key.decode()).encode()


def _surrogates(match: re.Match[str]) -> str:
    raw = match.group().encode("utf-16-be")
    return "".join(f"\\u{raw[i]:02X}{raw[i + 1]:02X}" for i in (0, 2))
