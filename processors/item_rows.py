"""Stage C, the row part: charged lines to merged states by article.

Of a line, (article, invoice), the greatest version counts; what is not newer is dropped (R6). A line that is gone
stays, with its version, as a tombstone. A newer version that says the same as before is kept too, for its version; it
touches no feature.
"""

import duckdb

from processors.lake_tables import ITEM_LOG
from processors.line_codec import LINE_SCHEMA
from processors.newest import newest_sql
from processors.state import create_like

LINES = "item_line_state"
NEW_LINES = "new_item_lines"

_COLUMNS = tuple(n for n in ITEM_LOG.schema.names if n not in ("known_date", "row_offset", "invoice_bucket"))
_VALUES = ("account_id", "date_issued", "quantity", "price", "deleted")


def create_state(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the empty state table."""
    create_like(con, LINES, ITEM_LOG.schema, without=[n for n in ITEM_LOG.schema.names if n not in _COLUMNS])


def load_query(*, current: str) -> str:
    """A query that adds states from current rows of the item log (tombstones included)."""
    return f"INSERT INTO {LINES} BY NAME SELECT {', '.join(_COLUMNS)} FROM {current}"


def drop_buckets(con: duckdb.DuckDBPyConnection, *, keep: str) -> None:
    """Removes the states of all buckets but those in the relation `keep(bucket)`."""
    con.execute(f"DELETE FROM {LINES} WHERE bucket NOT IN (SELECT bucket FROM {keep})")


def merge_lines(con: duckdb.DuckDBPyConnection, *, lines: str, owned: str) -> None:
    """Merges charged lines and leaves the newer ones in `new_item_lines`.

    `changed`: whether its values are others than before; a tombstone of a line that was not there changes nothing.
    `old_day`: when its invoice was issued before, null if it was not there.
    """
    differs = " OR ".join(f"n.{c} IS DISTINCT FROM s.{c}" for c in _VALUES)
    names = ", ".join(f"n.{c}" for c in LINE_SCHEMA.names)
    # Rows are found by their keys alone first: the other columns are read of those that match, not of all.
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE known_item_lines AS
        SELECT * FROM {LINES} WHERE rowid IN (
          SELECT s.rowid FROM {LINES} AS s
          SEMI JOIN {lines} AS n ON s.item_id = n.item_id AND s.invoice_id = n.invoice_id
        )
    """)
    latest = newest_sql(con, lines, key=("item_id", "invoice_id"), rank=("line_version", "row_offset"))
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {NEW_LINES} AS
        SELECT {names}, o.epoch, s.date_issued AS old_day,
               CASE WHEN s.invoice_id IS NULL THEN NOT n.deleted ELSE {differs} END AS changed
        FROM {latest} AS n
        JOIN {owned} AS o ON n.bucket = o.bucket
        LEFT JOIN known_item_lines AS s ON n.item_id = s.item_id AND n.invoice_id = s.invoice_id
        WHERE s.invoice_id IS NULL OR n.line_version > s.line_version
    """)
    con.execute(f"""
        DELETE FROM {LINES} USING {NEW_LINES} AS n
        WHERE {LINES}.item_id = n.item_id AND {LINES}.invoice_id = n.invoice_id
    """)
    con.execute(f"INSERT INTO {LINES} BY NAME SELECT {', '.join(_COLUMNS)} FROM {NEW_LINES}")


def log_rows_sql() -> str:
    """This epoch's log rows; columns of item_log but known_date."""
    return f"SELECT * EXCLUDE (old_day, changed) FROM {NEW_LINES}"
