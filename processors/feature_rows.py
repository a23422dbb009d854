"""Stage B, the derived part: every feature set of the touched accounts, as differences against what is committed (R7).

derived row   committed row of (account, entity)   written
yes           none                                  the row
yes           other values                          the row
yes           the same values                       nothing
yes           the same, of an earlier stay          the row: the invoice was elsewhere in between
none          per-account set: one                  a tombstone
none          per-invoice set: one, document left   nothing (the other account writes it)
none          any, document deleted in this epoch   a tombstone with the document's version
"""

import duckdb

from processors.account_rows import ACCOUNTS, DOCUMENTS, NEW_ACCOUNTS, NEW_DOCUMENTS
from processors.features.declarations import FeatureSet
from processors.features.derive import derive_sql
from processors.state import count_rows, duckdb_type

TOUCHED = "touched_accounts"
AFFECTED = "affected_documents"
"""Live documents whose features are derived."""
COMMITTED = "committed_features"


def state_name(feature_set: FeatureSet) -> str:
    """The state table of committed features: declared columns, the log bucket, the document's version."""
    return f"{feature_set.name}_state"


def changes_table(feature_set: FeatureSet) -> str:
    """The temporary table that `derive` leaves: columns of the changes table but known_from and known_date."""
    return f"{feature_set.name}_new"


def create_state(con: duckdb.DuckDBPyConnection, feature_set: FeatureSet) -> None:
    """Makes the empty state table."""
    columns = ", ".join(f"{c.name} {duckdb_type(c.arrow_type)}" for c in feature_set.columns)
    con.execute(
        f"CREATE OR REPLACE TABLE {state_name(feature_set)} (bucket INTEGER, document_version BIGINT, {columns})"
    )


def load_query(feature_set: FeatureSet, *, current: str) -> str:
    """A query that adds committed features from current rows, once documents are loaded; of invoices only those that
    still live in the row's account.

    A row of an invoice that left since must not count as committed: it is written anew if the invoice comes back.
    """
    names = ", ".join(("bucket", "document_version", *feature_set.column_names))
    live = ""
    if feature_set.per_invoice:
        live = f"""SEMI JOIN (SELECT account_id, invoice_id FROM {DOCUMENTS} WHERE document_state = 'live') AS d
            ON c.{feature_set.account_column} = d.account_id AND c.{feature_set.entity_key[0]} = d.invoice_id"""
    return f"""
        INSERT INTO {state_name(feature_set)} BY NAME
        SELECT {names} FROM (SELECT * FROM {current} WHERE NOT deleted) AS c {live}
    """


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
        CREATE OR REPLACE TEMP TABLE deleted_documents AS
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
        CREATE OR REPLACE TEMP TABLE deleted_documents AS
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
        SELECT d.account_id, d.invoice_id, d.document_version, d.invoice_bucket, d.account_since FROM {_LIVE}
    """)
    committed = f"""
        SELECT s.* FROM {state_name(feature_set)} AS s
        SEMI JOIN {TOUCHED} AS t ON s.{feature_set.account_column} = t.account_id
    """
    if copied:
        con.execute(f"CREATE OR REPLACE TEMP TABLE {COMMITTED}_copy AS {committed}")
        committed = f"SELECT * FROM {COMMITTED}_copy"
    con.execute(f"CREATE OR REPLACE TEMP VIEW {COMMITTED} AS {committed}")
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
    match = f"s.{feature_set.account_column} = a.account_id AND s.{feature_set.entity_key[0]} = a.invoice_id"
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {COMMITTED}_copy AS
        SELECT s.* FROM {state_name(feature_set)} AS s SEMI JOIN (
          SELECT account_id, invoice_id FROM {AFFECTED} UNION SELECT account_id, invoice_id FROM {NEW_DOCUMENTS}
        ) AS a ON {match}
    """)
    con.execute(f"CREATE OR REPLACE TEMP VIEW {COMMITTED} AS SELECT * FROM {COMMITTED}_copy")
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
    con.execute(f"CREATE OR REPLACE TEMP TABLE derived AS SELECT * FROM {rows}")
    state, changes = state_name(feature_set), changes_table(feature_set)
    account = feature_set.account_column
    key = (*dict.fromkeys((*feature_set.entity_key, account)),)
    match = " AND ".join(f"d.{k} = f.{k}" for k in key)
    differs = " OR ".join(f"d.{c} IS DISTINCT FROM f.{c}" for c in feature_set.column_names if c not in key) or "FALSE"
    columns = ", ".join(f"d.{c}" for c in feature_set.column_names)
    if feature_set.per_invoice:
        version = f"""JOIN {AFFECTED} AS i
            ON d.{account} = i.account_id AND d.{feature_set.entity_key[0]} = i.invoice_id"""
        provenance = "i.invoice_bucket AS entity_bucket, i.document_version"
        differs = f"f.document_version < i.account_since OR {differs}"
    else:
        version, provenance = "", "t.bucket AS entity_bucket, 0::BIGINT AS document_version"
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {changes} AS
        SELECT {columns}, t.bucket, o.epoch, {provenance}, FALSE AS deleted,
               {feature_set.version}::INTEGER AS feature_version, t.source_ts AS valid_from
        FROM derived AS d
        JOIN {TOUCHED} AS t ON d.{account} = t.account_id
        JOIN {owned} AS o ON t.bucket = o.bucket
        {version}
        LEFT JOIN {COMMITTED} AS f ON {match}
        WHERE f.{key[0]} IS NULL OR {differs}
    """)
    con.execute(f"INSERT INTO {changes} BY NAME {_tombstones(feature_set, owned)}")
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE gone AS SELECT f.* FROM {COMMITTED} AS f ANTI JOIN derived AS d ON {match}"
    )
    for source in ("gone", f"(SELECT * FROM {changes} WHERE NOT deleted)"):
        con.execute(f"DELETE FROM {state} AS f USING {source} AS d WHERE {match}")
    con.execute(f"""
        INSERT INTO {state} BY NAME
        SELECT bucket, document_version, {", ".join(feature_set.column_names)} FROM {changes} WHERE NOT deleted
    """)
    return count_rows(con, changes)


def _tombstones(feature_set: FeatureSet, owned: str) -> str:
    if feature_set.per_invoice:
        return f"""
            SELECT d.invoice_id AS {feature_set.entity_key[0]}, d.account_id AS {feature_set.account_column},
                   d.bucket, o.epoch, d.invoice_bucket AS entity_bucket, d.document_version, TRUE AS deleted,
                   {feature_set.version}::INTEGER AS feature_version, d.source_ts AS valid_from
            FROM deleted_documents AS d JOIN {owned} AS o ON d.bucket = o.bucket
        """
    key = " AND ".join(f"d.{k} = f.{k}" for k in feature_set.entity_key)
    return f"""
        SELECT {", ".join(f"f.{k}" for k in feature_set.entity_key)},
               f.bucket, o.epoch, f.bucket AS entity_bucket, 0::BIGINT AS document_version, TRUE AS deleted,
               {feature_set.version}::INTEGER AS feature_version, t.source_ts AS valid_from
        FROM {COMMITTED} AS f
        JOIN {TOUCHED} AS t ON f.{feature_set.account_column} = t.account_id
        JOIN {owned} AS o ON f.bucket = o.bucket
        ANTI JOIN derived AS d ON {key}
    """


def rows_sql(feature_set: FeatureSet) -> str:
    """This epoch's rows, bucket-sorted."""
    return f"SELECT * FROM {changes_table(feature_set)} ORDER BY bucket"
