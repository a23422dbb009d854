"""A feature set over everything: the inputs of its SQL from a bare source's tables or from the lake's logs."""

import duckdb
import pyarrow as pa

from processors.charging import PriceAt, charged_lines_of_invoices_sql, documents_sql, price_intervals_sql
from processors.errors import InvariantError
from processors.order import ORDER_SQL_TYPE
from processors.tables import ACCOUNTS, INVOICE_LINE_ITEMS, INVOICES, SKUS, TABLES, Table

_COLUMNS = {
    ACCOUNTS.name: ("account_id", "company_name", "joining_date"),
    SKUS.name: ("item_id", "item_retail_price"),
    INVOICES.name: INVOICES.column_names,
    INVOICE_LINE_ITEMS.name: INVOICE_LINE_ITEMS.column_names,
}
"""What features need of each table: no personal data."""

LAKE_VIEWS = ("accounts", "invoice_states", "sku_states")
"""The views of the lake that `inputs_from_lake` reads."""


def create_source_tables(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the empty tables that `add_rows` fills."""
    for table in TABLES:
        columns = ", ".join(f"{c.name} {c.duckdb_type}" for c in table.columns if c.name in _COLUMNS[table.name])
        con.execute(f"CREATE TABLE source_{table.name} ({columns})")


def add_rows(con: duckdb.DuckDBPyConnection, table: Table, rows: pa.Table) -> None:
    """Adds rows of the table's declared columns and types."""
    names = ", ".join(_COLUMNS[table.name])
    con.register("chunk", rows)
    try:
        con.execute(f"INSERT INTO source_{table.name} ({names}) SELECT {names} FROM chunk")
    finally:
        con.unregister("chunk")


def inputs_from_source(con: duckdb.DuckDBPyConnection) -> None:
    """Makes `accounts`, `documents` and `charged_lines` from the source tables.

    A bare source knows only today's prices, so both price modes give the same. Raises InvariantError when the source
    gave a key twice.
    """
    for table in TABLES:
        _check_keys(con, table)
    con.execute("CREATE VIEW accounts AS FROM source_accounts")
    versions = "(SELECT item_id, 0 AS row_order, item_retail_price AS price FROM source_skus)"
    lines = f"(SELECT *, CAST(NULL AS {ORDER_SQL_TYPE}) AS created_order FROM source_invoice_line_items)"
    _create_inputs(con, "source_invoices", lines, versions, "current")


def inputs_from_lake(con: duckdb.DuckDBPyConnection, *, price_at: PriceAt) -> None:
    """Makes `documents` and `charged_lines` afresh from the logs of invoices, lines and prices.

    `LAKE_VIEWS` are there already.
    """
    invoices = """(
  SELECT invoice_id, account_id, date_issued, payment_dates
  FROM invoice_states
  WHERE kind = 'invoice' AND NOT deleted
)"""
    lines = """(
  SELECT invoice_id, item_id, quantity, created_order
  FROM invoice_states
  WHERE kind = 'line' AND NOT deleted
)"""
    versions = """(
  SELECT s.item_id, p.price.row_order AS row_order, p.price.item_retail_price AS price
  FROM sku_states AS s
  CROSS JOIN UNNEST(s.prices) AS p (price)
)"""
    _create_inputs(con, invoices, lines, versions, price_at)


def _create_inputs(con: duckdb.DuckDBPyConnection, invoices: str, lines: str, versions: str, price_at: PriceAt) -> None:
    intervals = price_intervals_sql(versions, price_at=price_at)
    documents = documents_sql(invoices, lines, intervals)
    con.execute(f"CREATE TABLE documents AS SELECT * EXCLUDE (lines) FROM {documents}")
    # A view: sets by account do not read it.
    con.execute(f"CREATE VIEW charged_lines AS FROM {charged_lines_of_invoices_sql(invoices, lines, intervals)}")


def _check_keys(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    key = ", ".join(table.key)
    twice = con.sql(f"SELECT {key} FROM source_{table.name} GROUP BY {key} HAVING count(*) > 1 LIMIT 1").fetchall()
    if twice:
        raise InvariantError(f"the source gave the key {twice[0]} of {table.name} twice")
