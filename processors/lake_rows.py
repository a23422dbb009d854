"""The rows of the source as the lake holds them: current rows of a declared table, deleted ones included.

Each has the declared columns, `deleted`, and `row_order`, its place in the source's history. Personal columns come from
the one table that keeps them. Of a log with several kinds one is picked before its tail and its fold are put together:
above that the condition would not reach the files.
"""

from collections.abc import Iterable, Mapping

from processors.keyed_table import KeyedTable, current_sql
from processors.lake_tables import ACCOUNTS_KEYED, ACCOUNTS_PRIVATE, INVOICES_KEYED, LAKE_TABLES, SKUS_KEYED
from processors.tables import ACCOUNTS, INVOICE_LINE_ITEMS, INVOICES, SKUS, Table

_KEPT: dict[str, tuple[KeyedTable, str | None]] = {
    SKUS.name: (SKUS_KEYED, None),
    ACCOUNTS.name: (ACCOUNTS_KEYED, "account"),
    INVOICES.name: (INVOICES_KEYED, "invoice"),
    INVOICE_LINE_ITEMS.name: (INVOICES_KEYED, "line"),
}


LOGS: tuple[str, ...] = tuple(dict.fromkeys(keyed.log for keyed, _ in _KEPT.values()))
"""The logs that hold all rows."""


def newest_order_sql(logs: Iterable[str]) -> str:
    """A query of one value: the greatest order that the relations of the logs hold, null without rows."""
    newest = " UNION ALL ".join(f"SELECT max(row_order) AS newest FROM {log}" for log in logs)
    return f"SELECT max(newest) FROM ({newest})"


def tables_read(table: Table) -> tuple[str, ...]:
    """The lake's tables that `lake_rows_sql` reads: the log first, as it must be opened last."""
    keyed, _ = _KEPT[table.name]
    private = (ACCOUNTS_PRIVATE.name,) if table is ACCOUNTS else ()
    return (keyed.log, keyed.folded, *private)


def lake_rows_sql(table: Table, relations: Mapping[str, str]) -> str:
    """A query of the rows; `relations` gives SQL in parentheses per name of `tables_read`."""
    keyed, kind = _KEPT[table.name]
    log, folded = relations[keyed.log], relations[keyed.folded]
    if kind is not None:
        log = f"(SELECT * FROM {log} WHERE kind = '{kind}')"
        folded = f"(SELECT * FROM {folded} WHERE kind = '{kind}' OR is_mark)"
    kept = [c.name for c in table.columns if c.name in LAKE_TABLES[keyed.log].schema.names]
    columns = tuple(dict.fromkeys((*keyed.key, *kept, "deleted", "row_order")))
    current = current_sql(keyed, columns=columns, log=log, folded=folded)
    if table is not ACCOUNTS:
        return f"SELECT {', '.join(table.column_names)}, deleted, row_order FROM {current}"
    values = ", ".join(f"{'p' if c.personal else 'a'}.{c.name}" for c in table.columns)
    personal = ", ".join(c.name for c in table.columns if c.personal)
    # Personal columns are committed before the log: they may be the newer ones.
    return f"""
        SELECT {values}, a.deleted, greatest(a.row_order, coalesce(p.row_order, a.row_order)) AS row_order
        FROM {current} AS a
        LEFT JOIN (
          SELECT account_id, {personal}, row_order
          FROM {relations[ACCOUNTS_PRIVATE.name]}
          QUALIFY row_number() OVER (PARTITION BY account_id ORDER BY row_order DESC, row_offset DESC) = 1
        ) AS p ON a.account_id = p.account_id
    """
