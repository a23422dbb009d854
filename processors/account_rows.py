"""Stage B, the row part: account events and invoice documents to merged states.

Accounts merge like every row: the greatest (row_order, row_offset) counts. What a source adds to them may be personal:
their `extra` goes to accounts_private_changes, never into the log. Of a document the greatest version counts;
what is not newer is dropped (R6). A document that left the account or was deleted stays, with its version, as a
tombstone.
"""

import duckdb

from processors.lake_tables import ACCOUNT_LOG
from processors.newest import newest_sql
from processors.state import create_like

ACCOUNTS = "account_state"
DOCUMENTS = "document_state"
NEW_ACCOUNTS = "new_accounts"
NEW_DOCUMENTS = "new_documents"

_ACCOUNT_COLUMNS = (
    "bucket",
    "epoch",
    "account_id",
    "company_name",
    "joining_date",
    "deleted",
    "row_order",
    "row_offset",
    "source_ts",
)
_DOCUMENT_COLUMNS = (
    "bucket",
    "epoch",
    "account_id",
    "invoice_id",
    "document_state",
    "document_version",
    "account_since",
    "invoice_bucket",
    "date_issued",
    "payment_dates",
    "inv_total",
    "inv_items",
    "unpriced_lines",
    "source_ts",
)


def create_state(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the empty state tables; documents without their lines, which features do not read."""
    names = ACCOUNT_LOG.schema.names
    create_like(con, ACCOUNTS, ACCOUNT_LOG.schema, without=[n for n in names if n not in _ACCOUNT_COLUMNS])
    create_like(con, DOCUMENTS, ACCOUNT_LOG.schema, without=[n for n in names if n not in _DOCUMENT_COLUMNS])


def load_queries(*, current: str) -> tuple[str, ...]:
    """Queries that add states from current rows of the account log (tombstones included)."""
    return tuple(
        f"INSERT INTO {state} BY NAME SELECT {', '.join(columns)} FROM {current} WHERE kind = '{kind}'"
        for state, kind, columns in (
            (ACCOUNTS, "account", _ACCOUNT_COLUMNS),
            (DOCUMENTS, "document", _DOCUMENT_COLUMNS),
        )
    )


def drop_buckets(con: duckdb.DuckDBPyConnection, *, keep: str) -> None:
    """Removes the states of all buckets but those in the relation `keep(bucket)`."""
    for state in (ACCOUNTS, DOCUMENTS):
        con.execute(f"DELETE FROM {state} WHERE bucket NOT IN (SELECT bucket FROM {keep})")


def merge_accounts(con: duckdb.DuckDBPyConnection, *, events: str, owned: str) -> None:
    """Merges account events and leaves the changed states in `new_accounts`.

    `events`: relation of `event_schema(ACCOUNTS)`; `owned(bucket, epoch)`: each bucket's epoch number.
    """
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {NEW_ACCOUNTS} AS
        WITH latest AS (
          SELECT * FROM {events}
          QUALIFY row_number() OVER (PARTITION BY account_id ORDER BY row_order DESC, row_offset DESC) = 1
        )
        SELECT n.bucket, o.epoch, n.account_id, coalesce(n.company_name, s.company_name) AS company_name,
               coalesce(n.joining_date, s.joining_date) AS joining_date, n.is_delete AS deleted,
               n.row_order, n.row_offset, n.source_ts
        FROM latest AS n
        JOIN {owned} AS o ON n.bucket = o.bucket
        LEFT JOIN {ACCOUNTS} AS s ON n.account_id = s.account_id
        WHERE s.account_id IS NULL OR n.row_order > s.row_order
          OR (n.row_order = s.row_order AND n.row_offset > s.row_offset)
    """)
    con.execute(f"DELETE FROM {ACCOUNTS} USING {NEW_ACCOUNTS} AS n WHERE {ACCOUNTS}.account_id = n.account_id")
    con.execute(f"INSERT INTO {ACCOUNTS} BY NAME SELECT {', '.join(_ACCOUNT_COLUMNS)} FROM {NEW_ACCOUNTS}")


def merge_documents(con: duckdb.DuckDBPyConnection, *, documents: str, owned: str) -> None:
    """Merges documents and leaves the newer ones in `new_documents`, with their lines.

    `first_day`: the earlier of the days on which the document was and is issued, null if it has none.
    """
    latest = newest_sql(con, documents, key=("account_id", "invoice_id"), rank=("document_version", "row_offset"))
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {NEW_DOCUMENTS} AS
        SELECT n.*, o.epoch, least(n.date_issued, s.date_issued) AS first_day
        FROM {latest} AS n
        JOIN {owned} AS o ON n.bucket = o.bucket
        LEFT JOIN {DOCUMENTS} AS s ON n.account_id = s.account_id AND n.invoice_id = s.invoice_id
        WHERE s.invoice_id IS NULL OR n.document_version > s.document_version
    """)
    con.execute(f"""
        DELETE FROM {DOCUMENTS} USING {NEW_DOCUMENTS} AS n
        WHERE {DOCUMENTS}.account_id = n.account_id AND {DOCUMENTS}.invoice_id = n.invoice_id
    """)
    con.execute(f"INSERT INTO {DOCUMENTS} BY NAME SELECT {', '.join(_DOCUMENT_COLUMNS)} FROM {NEW_DOCUMENTS}")


def log_rows_sql() -> str:
    """This epoch's log rows; columns of account_log but known_date."""
    return f"""
        SELECT bucket, epoch, 'account' AS kind, account_id, -1::BIGINT AS invoice_id, company_name, joining_date,
               NULL::VARCHAR AS document_state, NULL::BIGINT AS document_version, NULL::BIGINT AS account_since,
               NULL::INTEGER AS invoice_bucket, NULL::DATE AS date_issued, NULL::DATE AS payment_dates,
               NULL::DECIMAL(38,10) AS inv_total, NULL::BIGINT AS inv_items, NULL::INTEGER AS unpriced_lines,
               NULL::STRUCT(item_id VARCHAR, quantity BIGINT, price DECIMAL(20,10))[] AS lines,
               deleted, row_order, row_offset, source_ts
        FROM {NEW_ACCOUNTS}
        UNION ALL
        SELECT bucket, epoch, 'document', account_id, invoice_id, NULL, NULL,
               document_state, document_version, account_since, invoice_bucket, date_issued, payment_dates, inv_total,
               inv_items, unpriced_lines, lines,
               document_state <> 'live', NULL, row_offset, source_ts
        FROM {NEW_DOCUMENTS}
    """


def truncate_events(truncates: str) -> str:
    """Synthetic deletes for live accounts below a truncate; `truncates(table_name, row_order, source_ts)`."""
    return f"""(
      SELECT s.bucket, -1::BIGINT AS row_offset, t.row_order, TRUE AS is_delete, FALSE AS is_create, t.source_ts,
             s.account_id, NULL::VARCHAR AS company_name, NULL::VARCHAR AS company_address,
             NULL::VARCHAR AS contact_person, NULL::VARCHAR AS contact_phone, NULL::VARCHAR AS gender,
             NULL::DATE AS joining_date, NULL::VARCHAR AS extra
      FROM {ACCOUNTS} AS s JOIN {truncates} AS t ON t.table_name = 'accounts'
      WHERE NOT s.deleted AND s.row_order < t.row_order
    )"""
