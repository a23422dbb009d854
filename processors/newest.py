"""Of rows with the same key the newest, in DuckDB.

Nearly always each key comes once in an epoch. A window sorts its rows with all columns, so that only those of keys that
come more often go through one.
"""

from collections.abc import Sequence

import duckdb

from processors.state import count_rows

REPEATED_KEYS = "repeated_keys"
"""Temporary table of the keys that `find_repeated` found; the next call replaces it."""


def find_repeated(con: duckdb.DuckDBPyConnection, rows: str, key: Sequence[str]) -> bool:
    """Leaves the keys that occur more than once in REPEATED_KEYS; whether there are any."""
    names = ", ".join(key)
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {REPEATED_KEYS} AS"
        f" SELECT {names} FROM {rows} GROUP BY {names} HAVING count(*) > 1"
    )
    return count_rows(con, REPEATED_KEYS) > 0


def newest_sql(con: duckdb.DuckDBPyConnection, rows: str, *, key: Sequence[str], rank: Sequence[str]) -> str:
    """A relation: of each key in `rows` the one with the greatest `rank`. It holds until the next call."""
    if not find_repeated(con, rows, key):
        return rows
    match = " AND ".join(f"e.{k} = r.{k}" for k in key)
    order = ", ".join(f"{column} DESC" for column in rank)
    return f"""(
      SELECT * FROM {rows} AS e ANTI JOIN {REPEATED_KEYS} AS r ON {match}
      UNION ALL
      SELECT * FROM (SELECT * FROM {rows} AS e SEMI JOIN {REPEATED_KEYS} AS r ON {match})
      QUALIFY row_number() OVER (PARTITION BY {", ".join(key)} ORDER BY {order}) = 1
    )"""
