"""Stage A, the row part: events of invoices and lines to merged states, in tables.

    stored state   arriving event            merged state
    none           any                       the event; a delete is kept as a tombstone with its order
    some           greater (order, offset)   the event's columns
    some           smaller (order, offset)   unchanged, but see creates

Of a line the state also keeps the place (order, offset) of its last delete and the places of all creates after it,
whatever the order of arrival: the smallest of them is its creation order, by which it is charged. An older row that
loses but changes these is therefore logged too.
"""

import duckdb

from processors.lake_tables import INVOICE_LOG
from processors.newest import REPEATED_KEYS, find_repeated, newest_sql
from processors.state import count_rows, create_like

INVOICES = "invoice_state"
LINES = "line_state"
NEW_INVOICES = "new_invoices"
NEW_LINES = "new_lines"
LOG_ROWS = "invoice_rows"

_INVOICE_COLUMNS = (
    "bucket",
    "epoch",
    "invoice_id",
    "account_id",
    "account_since",
    "date_issued",
    "payment_dates",
    "deleted",
    "row_order",
    "row_offset",
    "source_ts",
    "extra",
)
_LINE_COLUMNS = (
    "bucket",
    "epoch",
    "invoice_id",
    "item_id",
    "quantity",
    "deleted",
    "row_order",
    "row_offset",
    "source_ts",
    "deleted_order",
    "deleted_offset",
    "created_order",
    "created_offset",
    "later_creates",
    "extra",
)
_PLACE = "STRUCT(row_order DECIMAL(38,0), row_offset BIGINT)"


def create_state(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the empty state tables."""
    names = INVOICE_LOG.schema.names
    create_like(con, INVOICES, INVOICE_LOG.schema, without=[n for n in names if n not in _INVOICE_COLUMNS])
    create_like(con, LINES, INVOICE_LOG.schema, without=[n for n in names if n not in _LINE_COLUMNS])


def load_queries(*, current: str) -> tuple[str, ...]:
    """Queries that add states from current rows of the invoice log (tombstones included)."""
    return tuple(
        f"INSERT INTO {state} BY NAME SELECT {', '.join(columns)} FROM {current} WHERE kind = '{kind}'"
        for state, kind, columns in ((INVOICES, "invoice", _INVOICE_COLUMNS), (LINES, "line", _LINE_COLUMNS))
    )


def drop_buckets(con: duckdb.DuckDBPyConnection, *, keep: str) -> None:
    """Removes the states of all buckets but those in the relation `keep(bucket)`."""
    for state in (INVOICES, LINES):
        con.execute(f"DELETE FROM {state} WHERE bucket NOT IN (SELECT bucket FROM {keep})")


def merge_invoices(con: duckdb.DuckDBPyConnection, *, events: str, owned: str) -> None:
    """Merges invoice events and leaves the changed states in `new_invoices`.

    Its columns: those of the state, `left_account_id`, and `was_deleted` (the state before was a deletion).

    `events`: relation of `event_schema(INVOICES)`; `owned(bucket, epoch)`: each bucket's epoch number.
    """
    latest = newest_sql(con, events, key=("invoice_id",), rank=("row_order", "row_offset"))
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {NEW_INVOICES} AS
        SELECT
          n.bucket, o.epoch, n.invoice_id,
          coalesce(n.account_id, s.account_id) AS account_id,
          CASE WHEN s.account_id = coalesce(n.account_id, s.account_id) AND NOT s.deleted THEN s.account_since
            ELSE o.epoch END AS account_since,
          coalesce(n.date_issued, s.date_issued) AS date_issued,
          CASE WHEN n.is_delete THEN coalesce(n.payment_dates, s.payment_dates)
            ELSE n.payment_dates END AS payment_dates,
          n.is_delete AS deleted, n.row_order, n.row_offset, n.source_ts,
          CASE WHEN s.account_id <> coalesce(n.account_id, s.account_id) THEN s.account_id END AS left_account_id,
          coalesce(s.deleted, FALSE) AS was_deleted, n.extra
        FROM {latest} AS n
        JOIN {owned} AS o ON n.bucket = o.bucket
        LEFT JOIN {INVOICES} AS s ON n.invoice_id = s.invoice_id
        WHERE s.invoice_id IS NULL OR n.row_order > s.row_order
          OR (n.row_order = s.row_order AND n.row_offset > s.row_offset)
    """)
    _replace(con, INVOICES, NEW_INVOICES, ("invoice_id",), _INVOICE_COLUMNS)


def merge_lines(con: duckdb.DuckDBPyConnection, *, events: str, owned: str) -> None:
    """Merges line events and leaves the changed states in `new_lines` (the state's columns)."""
    repeated = find_repeated(con, events, ("invoice_id", "item_id"))
    # A key with one event and no stored state needs no lists: the bulk of a catch-up takes this path. Rows are found by
    # their keys alone first: the other columns are read of those that match, not of all.
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE known_lines AS
        SELECT * FROM {LINES} WHERE rowid IN (
          SELECT s.rowid FROM {LINES} AS s
          SEMI JOIN {events} AS e ON s.invoice_id = e.invoice_id AND s.item_id = e.item_id
        )
    """)
    once = f"""
        SELECT
          e.bucket, o.epoch, e.invoice_id, e.item_id, e.quantity, e.is_delete AS deleted,
          e.row_order, e.row_offset, e.source_ts,
          CASE WHEN e.is_delete THEN e.row_order END AS deleted_order,
          CASE WHEN e.is_delete THEN e.row_offset END AS deleted_offset,
          CASE WHEN e.is_create AND NOT e.is_delete THEN e.row_order END AS created_order,
          CASE WHEN e.is_create AND NOT e.is_delete THEN e.row_offset END AS created_offset,
          NULL::{_PLACE}[] AS later_creates, e.extra
        FROM {events} AS e
        JOIN {owned} AS o ON e.bucket = o.bucket
        ANTI JOIN known_lines AS k ON e.invoice_id = k.invoice_id AND e.item_id = k.item_id
    """
    if repeated:
        once += f" ANTI JOIN {REPEATED_KEYS} AS r ON e.invoice_id = r.invoice_id AND e.item_id = r.item_id"
    con.execute(f"CREATE OR REPLACE TEMP TABLE {NEW_LINES} AS {once}")
    if repeated or count_rows(con, "known_lines"):
        con.execute(f"INSERT INTO {NEW_LINES} BY NAME {_merge_with_history(events, owned)}")
    _replace(con, LINES, NEW_LINES, ("invoice_id", "item_id"), _LINE_COLUMNS)


def _merge_with_history(events: str, owned: str) -> str:
    """The general merge of lines: of keys that are stored already or occur more than once."""
    return f"""
        WITH hard AS (
          SELECT * FROM {events} AS e
          SEMI JOIN known_lines AS k ON e.invoice_id = k.invoice_id AND e.item_id = k.item_id
          UNION
          SELECT * FROM {events} AS e
          SEMI JOIN {REPEATED_KEYS} AS r ON e.invoice_id = r.invoice_id AND e.item_id = r.item_id
        ),
        latest AS (
          SELECT * FROM hard
          QUALIFY row_number() OVER (PARTITION BY invoice_id, item_id ORDER BY row_order DESC, row_offset DESC) = 1
        ),
        places AS (
          SELECT
            invoice_id, item_id,
            max(struct_pack(row_order, row_offset)) FILTER (WHERE is_delete) AS last_delete,
            list(struct_pack(row_order, row_offset)) FILTER (WHERE is_create AND NOT is_delete) AS creates
          FROM hard GROUP BY invoice_id, item_id
        ),
        joined AS (
          SELECT
            n, s,
            s.invoice_id IS NULL OR n.row_order > s.row_order
              OR (n.row_order = s.row_order AND n.row_offset > s.row_offset) AS newer,
            CASE WHEN s.deleted_order IS NOT NULL
              THEN struct_pack(row_order := s.deleted_order, row_offset := s.deleted_offset) END AS old_delete,
            p.last_delete AS new_delete,
            list_concat(
              CASE WHEN s.created_order IS NULL THEN []
                ELSE [struct_pack(row_order := s.created_order, row_offset := s.created_offset)] END,
              coalesce(s.later_creates, []), coalesce(p.creates, [])
            )::{_PLACE}[] AS all_creates
          FROM latest AS n
          JOIN places AS p ON n.invoice_id = p.invoice_id AND n.item_id = p.item_id
          LEFT JOIN known_lines AS s ON n.invoice_id = s.invoice_id AND n.item_id = s.item_id
        ),
        deleted AS (
          SELECT *, CASE WHEN old_delete IS NULL OR new_delete > old_delete THEN new_delete
            ELSE old_delete END AS last_delete
          FROM joined
        ),
        merged AS (
          SELECT *, list_sort(list_distinct(
            list_filter(all_creates, lambda c: last_delete IS NULL OR c > last_delete)
          )) AS creates
          FROM deleted
        )
        SELECT
          n.bucket AS bucket, o.epoch AS epoch, n.invoice_id AS invoice_id, n.item_id AS item_id,
          CASE WHEN newer THEN coalesce(n.quantity, s.quantity) ELSE s.quantity END AS quantity,
          CASE WHEN newer THEN n.is_delete ELSE s.deleted END AS deleted,
          CASE WHEN newer THEN n.row_order ELSE s.row_order END AS row_order,
          CASE WHEN newer THEN n.row_offset ELSE s.row_offset END AS row_offset,
          CASE WHEN newer THEN n.source_ts ELSE greatest(s.source_ts, n.source_ts) END AS source_ts,
          last_delete.row_order AS deleted_order, last_delete.row_offset AS deleted_offset,
          creates[1].row_order AS created_order, creates[1].row_offset AS created_offset,
          CASE WHEN len(creates) > 1 THEN creates[2:] END AS later_creates,
          CASE WHEN newer THEN n.extra ELSE s.extra END AS extra
        FROM merged JOIN {owned} AS o ON n.bucket = o.bucket
        WHERE newer OR last_delete IS DISTINCT FROM old_delete
          OR creates[1].row_order IS DISTINCT FROM s.created_order
          OR creates[1].row_offset IS DISTINCT FROM s.created_offset
          OR CASE WHEN len(creates) > 1 THEN creates[2:] END IS DISTINCT FROM s.later_creates
    """


def _replace(
    con: duckdb.DuckDBPyConnection, state: str, new: str, key: tuple[str, ...], columns: tuple[str, ...]
) -> None:
    """Puts the new states in the place of the stored ones."""
    match = " AND ".join(f"{state}.{k} = n.{k}" for k in key)
    con.execute(f"DELETE FROM {state} USING {new} AS n WHERE {match}")
    con.execute(f"INSERT INTO {state} BY NAME SELECT {', '.join(columns)} FROM {new}")


def log_rows_sql() -> str:
    """This epoch's log rows; columns of invoice_log but known_date."""
    return f"""
        SELECT bucket, epoch, 'invoice' AS kind, invoice_id, '' AS item_id, account_id, left_account_id, account_since,
               date_issued, payment_dates, NULL::INTEGER AS quantity, deleted, row_order, row_offset, source_ts,
               NULL::DECIMAL(38,0) AS deleted_order, NULL::BIGINT AS deleted_offset,
               NULL::DECIMAL(38,0) AS created_order, NULL::BIGINT AS created_offset, NULL::{_PLACE}[] AS later_creates,
               extra
        FROM {NEW_INVOICES}
        UNION ALL
        SELECT bucket, epoch, 'line', invoice_id, item_id, NULL, NULL, NULL,
               NULL, NULL, quantity, deleted, row_order, row_offset, source_ts,
               deleted_order, deleted_offset, created_order, created_offset, later_creates, extra
        FROM {NEW_LINES}
    """


def truncate_invoice_events(truncates: str) -> str:
    """Synthetic deletes for live invoices below a truncate; `truncates(table_name, row_order, source_ts)`."""
    return f"""(
      SELECT s.bucket, -1::BIGINT AS row_offset, t.row_order, TRUE AS is_delete, FALSE AS is_create, t.source_ts,
             s.invoice_id, NULL::BIGINT AS account_id, NULL::DATE AS date_issued, NULL::DATE AS payment_dates,
             NULL::VARCHAR AS extra
      FROM {INVOICES} AS s JOIN {truncates} AS t ON t.table_name = 'invoices'
      WHERE NOT s.deleted AND s.row_order < t.row_order
    )"""


def truncate_line_events(truncates: str) -> str:
    """Synthetic deletes for lines that were live, or created, below a truncate."""
    return f"""(
      SELECT s.bucket, -1::BIGINT AS row_offset, t.row_order, TRUE AS is_delete, FALSE AS is_create, t.source_ts,
             s.invoice_id, s.item_id, NULL::INTEGER AS quantity, NULL::VARCHAR AS extra
      FROM {LINES} AS s JOIN {truncates} AS t ON t.table_name = 'invoice_line_items'
      WHERE (NOT s.deleted AND s.row_order < t.row_order) OR s.created_order < t.row_order
    )"""
