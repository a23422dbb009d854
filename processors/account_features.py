"""Stage B, the derived part: what an epoch touched of accounts and documents, and each set's inputs over it."""

import duckdb

from processors.account_rows import ACCOUNTS, DOCUMENTS, NEW_ACCOUNTS, NEW_DOCUMENTS
from processors.feature_rows import AFFECTED, DELETED, Scope, derive_changes, load_query, show_committed, state_name
from processors.features.derive import derive_sql
from processors.features.feature_set import FeatureSet

TOUCHED = "touched_accounts"


def load_committed(feature_set: FeatureSet, *, current: str) -> str:
    """A query that adds committed features from current rows, once documents are loaded; of invoices only those that
    still live in the row's account.

    A row of an invoice that left since must not count as committed: it is written anew if the invoice comes back.
    """
    live = ""
    if feature_set.per_invoice:
        live = f"""SEMI JOIN (SELECT account_id, invoice_id FROM {DOCUMENTS} WHERE document_state = 'live') AS d
            ON c.{feature_set.owner_column} = d.account_id AND c.{feature_set.entity_key[0]} = d.invoice_id"""
    return load_query(feature_set, current=current, of=live)


def touch_changed(con: duckdb.DuckDBPyConnection) -> None:
    """Lists the accounts of this epoch in `touched_accounts(bucket, account_id, source_ts, since)`, for `derive`.

    `since`: the first day on which an invoice of the account changed; -infinity when the account itself did.
    """
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {TOUCHED} AS
        SELECT bucket, account_id, max(source_ts) AS source_ts, coalesce(min(since), DATE '-infinity') AS since
        FROM (
          SELECT bucket, account_id, source_ts, DATE '-infinity' AS since FROM {NEW_ACCOUNTS}
          UNION ALL SELECT bucket, account_id, source_ts, first_day FROM {NEW_DOCUMENTS}
        )
        GROUP BY bucket, account_id
    """)
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {DELETED} AS
        SELECT bucket, account_id, invoice_id, document_version, invoice_bucket, source_ts
        FROM {NEW_DOCUMENTS} WHERE document_state = 'deleted'
    """)


def touch_buckets(con: duckdb.DuckDBPyConnection, *, cursors: str) -> None:
    """Lists every account of the given buckets, whole; `cursors(bucket, epoch)`: last epoch through which the set is
    derived.

    `source_ts` is the greatest among the inputs beyond the cursor, else among all of the account.
    """
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {TOUCHED} AS
        SELECT i.bucket, i.account_id,
               coalesce(max(i.source_ts) FILTER (WHERE i.epoch > c.epoch), max(i.source_ts)) AS source_ts,
               DATE '-infinity' AS since
        FROM (
          SELECT bucket, account_id, source_ts, epoch FROM {ACCOUNTS}
          UNION ALL SELECT bucket, account_id, source_ts, epoch FROM {DOCUMENTS}
        ) AS i JOIN {cursors} AS c ON i.bucket = c.bucket
        GROUP BY i.bucket, i.account_id
    """)
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {DELETED} AS
        SELECT d.bucket, d.account_id, d.invoice_id, d.document_version, d.invoice_bucket, d.source_ts
        FROM {DOCUMENTS} AS d JOIN {cursors} AS c ON d.bucket = c.bucket
        WHERE d.document_state = 'deleted' AND d.epoch > c.epoch
    """)


_LIVE = f"{DOCUMENTS} AS d JOIN {TOUCHED} AS t ON d.account_id = t.account_id AND d.document_state = 'live'"
_READ = "d.account_id, d.invoice_id, d.date_issued, d.payment_dates, d.inv_total, d.inv_items, d.unpriced_lines"


def _prepare_whole(con: duckdb.DuckDBPyConnection, feature_set: FeatureSet, *, copied: bool) -> str:
    """Whole accounts are derived: makes `documents`, `affected_documents`, `committed_features`; returns the rows."""
    con.execute(f"CREATE OR REPLACE TEMP VIEW documents AS SELECT {_READ} FROM {_LIVE}")
    con.execute(f"""
        CREATE OR REPLACE TEMP VIEW {AFFECTED} AS
        SELECT d.account_id, d.invoice_id, d.document_version, d.invoice_bucket, d.account_since, d.date_issued,
               d.payment_dates
        FROM {_LIVE}
    """)
    committed = f"""
        SELECT s.* FROM {state_name(feature_set)} AS s
        SEMI JOIN {TOUCHED} AS t ON s.{feature_set.owner_column} = t.account_id
    """
    show_committed(con, committed, copied=copied)
    return derive_sql(feature_set)


def _prepare_window(con: duckdb.DuckDBPyConnection, feature_set: FeatureSet) -> str:
    """The same of a set with `window_days`: only invoices from an account's first changed day on are derived.

    What is older than the window before that day comes as one document with the sums.
    """
    begin = f"t.since - {feature_set.window_days}"
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE recent_documents AS
        SELECT {_READ}, d.document_version, d.invoice_bucket, d.account_since, d.date_issued >= t.since AS affected
        FROM {_LIVE} WHERE d.date_issued >= {begin}
    """)
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE older_documents AS
        SELECT d.account_id, max(d.date_issued) AS date_issued, sum(d.inv_total) AS inv_total,
               sum(d.inv_items)::BIGINT AS inv_items, sum(d.unpriced_lines)::BIGINT AS unpriced_lines
        FROM {_LIVE} WHERE d.date_issued < {begin} GROUP BY d.account_id
    """)
    con.execute(f"""
        CREATE OR REPLACE TEMP VIEW documents AS
        SELECT {_READ} FROM recent_documents AS d UNION ALL BY NAME SELECT * FROM older_documents
    """)
    con.execute(f"CREATE OR REPLACE TEMP VIEW {AFFECTED} AS SELECT * FROM recent_documents WHERE affected")
    match = f"s.{feature_set.owner_column} = a.account_id AND s.{feature_set.entity_key[0]} = a.invoice_id"
    committed = f"""
        SELECT s.* FROM {state_name(feature_set)} AS s SEMI JOIN (
          SELECT account_id, invoice_id FROM {AFFECTED} UNION SELECT account_id, invoice_id FROM {NEW_DOCUMENTS}
        ) AS a ON {match}
    """
    show_committed(con, committed, copied=True)
    return f"(SELECT * FROM {derive_sql(feature_set)} AS s SEMI JOIN {AFFECTED} AS a ON {match})"


def derive(con: duckdb.DuckDBPyConnection, feature_set: FeatureSet, *, owned: str, whole: bool = False) -> int:
    """Leaves what changed in the touched accounts in `changes_table`, moves the state, returns the number of rows.

    `whole`: these are all accounts of a bucket, of which no copies should be made.
    """
    con.execute(f"""
        CREATE OR REPLACE TEMP VIEW accounts AS
        SELECT a.account_id, a.company_name, a.joining_date
        FROM {ACCOUNTS} AS a SEMI JOIN {TOUCHED} AS t ON a.account_id = t.account_id
        WHERE NOT a.deleted
    """)
    if whole or feature_set.window_days is None:
        rows = _prepare_whole(con, feature_set, copied=not whole)
    else:
        rows = _prepare_window(con, feature_set)
    scope = Scope(rows, TOUCHED, ((feature_set.owner_column, "account_id"),))
    return derive_changes(con, feature_set, scope, owned=owned)
