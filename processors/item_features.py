"""Stage C, the derived part: what an epoch touched of articles and their months, and each set's input over it."""

import duckdb

from processors.charging import AMOUNT_SQL
from processors.errors import UsageError
from processors.feature_rows import Scope, derive_changes, show_committed, state_name
from processors.features.derive import derive_sql
from processors.features.feature_set import FeatureSet
from processors.item_rows import LINES, NEW_LINES
from processors.state import count_rows

TOUCHED = "touched_items"
TOUCHED_MONTHS = "touched_item_months"
_MONTH = "CAST(date_trunc('month', {}) AS DATE)"


def touch_changed(con: duckdb.DuckDBPyConnection) -> None:
    """Lists the articles of this epoch in `touched_items(bucket, item_id, source_ts)`, and the same by month in
    `touched_item_months(…, month, …)`: the months of issue of each line that changed, before and after.
    """
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {TOUCHED_MONTHS} AS
        SELECT bucket, item_id, month, max(source_ts) AS source_ts
        FROM (
          SELECT bucket, item_id, {_MONTH.format("unnest([date_issued, old_day])")} AS month, source_ts
          FROM {NEW_LINES} WHERE changed
        )
        WHERE month IS NOT NULL
        GROUP BY bucket, item_id, month
    """)
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {TOUCHED} AS
        SELECT bucket, item_id, max(source_ts) AS source_ts FROM {TOUCHED_MONTHS} GROUP BY bucket, item_id
    """)


def touch_buckets(con: duckdb.DuckDBPyConnection, feature_set: FeatureSet, *, cursors: str) -> None:
    """Lists everything of the given buckets; `cursors(bucket, epoch)`: last epoch through which the set is derived.

    `source_ts` is the greatest among the article's lines beyond the cursor, if the set was derived before, else that of
    its lines, or its lines of the month.
    """
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {TOUCHED} AS
        SELECT l.bucket, l.item_id, max(l.source_ts) AS source_ts,
               max(l.source_ts) FILTER (WHERE l.epoch > c.epoch AND c.epoch > 0) AS news_ts
        FROM {LINES} AS l JOIN {cursors} AS c ON l.bucket = c.bucket
        GROUP BY l.bucket, l.item_id
    """)
    if feature_set.month_column is None:
        con.execute(f"UPDATE {TOUCHED} SET source_ts = coalesce(news_ts, source_ts)")
        return
    owner, month = feature_set.owner_column, feature_set.month_column
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {TOUCHED_MONTHS} AS
        SELECT t.bucket, t.item_id, m.month, coalesce(t.news_ts, max(m.source_ts), t.source_ts) AS source_ts
        FROM (
          SELECT item_id, {_MONTH.format("date_issued")} AS month, source_ts FROM {LINES} WHERE NOT deleted
          UNION ALL SELECT {owner}, {month}, NULL FROM {state_name(feature_set)}
        ) AS m JOIN {TOUCHED} AS t ON m.item_id = t.item_id
        GROUP BY t.bucket, t.item_id, m.month, t.news_ts, t.source_ts
    """)


def derive(con: duckdb.DuckDBPyConnection, feature_set: FeatureSet, *, owned: str, whole: bool = False) -> int:
    """Leaves what changed of the touched articles in `changes_table`, moves the state, returns the number of rows.

    `whole`: these are all articles of a bucket, of which no copies should be made. Raises UsageError when rows of a set
    with `month_column` do not follow from lines of their month.
    """
    on: tuple[tuple[str, str], ...] = ((feature_set.owner_column, "item_id"),)
    touched, lines_on = TOUCHED, "l.item_id = t.item_id"
    if feature_set.month_column is not None:
        on = (*on, (feature_set.month_column, "month"))
        touched, lines_on = TOUCHED_MONTHS, f"{lines_on} AND {_MONTH.format('l.date_issued')} = t.month"
    con.execute(f"""
        CREATE OR REPLACE TEMP VIEW charged_lines AS
        SELECT l.item_id, l.invoice_id, l.account_id, l.date_issued, l.quantity, l.price, {AMOUNT_SQL} AS amount
        FROM {LINES} AS l SEMI JOIN {touched} AS t ON {lines_on}
        WHERE NOT l.deleted
    """)
    scope = Scope(derive_sql(feature_set), touched, on)
    committed = f"SELECT s.* FROM {state_name(feature_set)} AS s SEMI JOIN {touched} AS t ON {scope.match('s', 't')}"
    show_committed(con, committed, copied=not whole)
    count = derive_changes(con, feature_set, scope, owned=owned)
    if feature_set.month_column is not None:
        stray = f"(SELECT * FROM derived AS d ANTI JOIN {touched} AS t ON {scope.match('d', 't')})"
        if count_rows(con, stray):
            raise UsageError(
                f"{feature_set.name}: the SQL gives rows whose `{feature_set.month_column}` is not the first day of a"
                " month of their lines",
                hint="correct the SQL and raise its version, or leave `month_column` out",
            )
    return count
