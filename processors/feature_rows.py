"""A feature set's rows, as differences against what is committed (R7), whatever they are derived by.

derived row   committed row of (owner, entity)        written
yes           none                                     the row
yes           other values                             the row
yes           the same values                          nothing
yes           the same, of an earlier stay             the row: the invoice was elsewhere in between
none          grain account or article: one            a tombstone
none          grain invoice: one, the invoice left     nothing (the other account writes it)
none          any, invoice deleted in this epoch       a tombstone with the document's version
"""

from dataclasses import dataclass

import duckdb

from processors.features.feature_set import FeatureSet
from processors.state import count_rows, duckdb_type

COMMITTED = "committed_features"
"""Committed rows of what is derived anew."""
AFFECTED = "affected_documents"
"""Live documents whose features are derived, of a set of grain invoice."""
DELETED = "deleted_documents"
"""Documents that were deleted in this epoch."""


@dataclass(frozen=True)
class Scope:
    """What of a set is derived anew, with `COMMITTED` there and, of grain invoice, `AFFECTED` and `DELETED`.

    `rows`: SQL in parentheses of the derived rows. `touched`: relation with a `bucket`, a `source_ts` and the columns
    in `on`, one row per touched entity: pairs of a column of the set and one of the relation.
    """

    rows: str
    touched: str
    on: tuple[tuple[str, str], ...]

    def match(self, rows: str, touched: str) -> str:
        """The condition that joins rows of the set to what was touched, by their aliases."""
        return " AND ".join(f"{rows}.{column} = {touched}.{other}" for column, other in self.on)


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


def load_query(feature_set: FeatureSet, *, current: str, of: str = "") -> str:
    """A query that adds committed features from current rows; `of`: a join that leaves only some, of alias `c`."""
    names = ", ".join(("bucket", "document_version", *feature_set.column_names))
    return f"""
        INSERT INTO {state_name(feature_set)} BY NAME
        SELECT {names} FROM (SELECT * FROM {current} WHERE NOT deleted) AS c {of}
    """


def show_committed(con: duckdb.DuckDBPyConnection, rows: str, *, copied: bool) -> None:
    """Makes `COMMITTED` of these rows of the state, which is about to change.

    `copied`: into a table; without, it is read whenever it is needed: for whole buckets, of which no copy should be
    made.
    """
    if copied:
        con.execute(f"CREATE OR REPLACE TEMP TABLE {COMMITTED}_copy AS {rows}")
        rows = f"SELECT * FROM {COMMITTED}_copy"
    con.execute(f"CREATE OR REPLACE TEMP VIEW {COMMITTED} AS {rows}")


def derive_changes(con: duckdb.DuckDBPyConnection, feature_set: FeatureSet, scope: Scope, *, owned: str) -> int:
    """Leaves what changed within the scope in `changes_table`, moves the state, returns the number of rows.

    `owned(bucket, epoch)`: each bucket's epoch number.
    """
    con.execute(f"CREATE OR REPLACE TEMP TABLE derived AS SELECT * FROM {scope.rows}")
    state, changes = state_name(feature_set), changes_table(feature_set)
    owner = feature_set.owner_column
    key = (*dict.fromkeys((*feature_set.entity_key, owner)),)
    match = " AND ".join(f"d.{k} = f.{k}" for k in key)
    differs = " OR ".join(f"d.{c} IS DISTINCT FROM f.{c}" for c in feature_set.column_names if c not in key) or "FALSE"
    columns = ", ".join(f"d.{c}" for c in feature_set.column_names)
    if feature_set.per_invoice:
        version = f"""JOIN {AFFECTED} AS i
            ON d.{owner} = i.account_id AND d.{feature_set.entity_key[0]} = i.invoice_id"""
        provenance = (
            "i.invoice_bucket AS entity_bucket, i.document_version,"
            " greatest(i.date_issued, i.payment_dates) AS dated_on"
        )
        differs = f"f.document_version < i.account_since OR {differs}"
    else:
        version = ""
        provenance = "t.bucket AS entity_bucket, 0::BIGINT AS document_version, NULL::DATE AS dated_on"
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {changes} AS
        SELECT {columns}, t.bucket, o.epoch, {provenance}, FALSE AS deleted,
               {feature_set.version}::INTEGER AS feature_version, t.source_ts AS valid_from
        FROM derived AS d
        JOIN {scope.touched} AS t ON {scope.match("d", "t")}
        JOIN {owned} AS o ON t.bucket = o.bucket
        {version}
        LEFT JOIN {COMMITTED} AS f ON {match}
        WHERE f.{key[0]} IS NULL OR {differs}
    """)
    con.execute(f"INSERT INTO {changes} BY NAME {_tombstones(feature_set, scope, owned)}")
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


def _tombstones(feature_set: FeatureSet, scope: Scope, owned: str) -> str:
    if feature_set.per_invoice:
        return f"""
            SELECT d.invoice_id AS {feature_set.entity_key[0]}, d.account_id AS {feature_set.owner_column},
                   d.bucket, o.epoch, d.invoice_bucket AS entity_bucket, d.document_version, TRUE AS deleted,
                   {feature_set.version}::INTEGER AS feature_version, d.source_ts AS valid_from
            FROM {DELETED} AS d JOIN {owned} AS o ON d.bucket = o.bucket
        """
    key = " AND ".join(f"d.{k} = f.{k}" for k in feature_set.entity_key)
    return f"""
        SELECT {", ".join(f"f.{k}" for k in feature_set.entity_key)},
               f.bucket, o.epoch, f.bucket AS entity_bucket, 0::BIGINT AS document_version, TRUE AS deleted,
               {feature_set.version}::INTEGER AS feature_version, t.source_ts AS valid_from
        FROM {COMMITTED} AS f
        JOIN {scope.touched} AS t ON {scope.match("f", "t")}
        JOIN {owned} AS o ON f.bucket = o.bucket
        ANTI JOIN derived AS d ON {key}
    """


def rows_sql(feature_set: FeatureSet) -> str:
    """This epoch's rows."""
    return f"SELECT * FROM {changes_table(feature_set)}"
