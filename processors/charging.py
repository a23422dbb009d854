"""What a line is charged and what an invoice adds up to: one SQL text for the batch job and for the stream.

Default `price_at="creation"`: the charged price is the latest price version whose order is not above the line's
creation order, else the earliest known one; a price change never rewrites an issued invoice. `price_at="current"`: the
latest version, whatever the line's order, as the old batch job did.

    price versions of an item    line created at    creation    current
    5: 1.00, 9: 2.00             3                  1.00        2.00
                                 5..8               1.00        2.00
                                 9 or later         2.00        2.00
                                 unknown (null)     1.00        2.00
    none                         any                null: the line is unpriced

The functions return SQL in parentheses over relations named by the caller (a table, a view, a subquery in parentheses).
Orders are `processors.order.ORDER_SQL_TYPE`.
"""

from typing import Literal

from processors.order import ORDER_SQL_TYPE

PriceAt = Literal["creation", "current"]

# An INT has at most 10 digits: DECIMAL(10,0) x DECIMAL(20,10) is DECIMAL(30,10), exact and without overflow.
_AMOUNT = "CAST(quantity AS DECIMAL(10,0)) * price"
AMOUNT_SQL = f"CAST({_AMOUNT} AS DECIMAL(38,10))"
"""What a line with a `quantity` and a `price` comes to; null while the price is unknown."""

_TOTALS = f"""CAST(sum({_AMOUNT}) AS DECIMAL(38,10)) AS inv_total,
      CAST(sum(quantity) AS BIGINT) AS inv_items,
      CAST(count(*) - count(price) AS INTEGER) AS unpriced_lines"""
_TOTALS_OF_INVOICE = """coalesce(t.inv_total, CAST(0 AS DECIMAL(38,10))) AS inv_total,
    coalesce(t.inv_items, 0) AS inv_items,
    coalesce(t.unpriced_lines, 0) AS unpriced_lines"""

LINES_SQL_TYPE = "STRUCT(item_id VARCHAR, quantity BIGINT, price DECIMAL(20,10))[]"
"""DuckDB's type of the column `lines` of a document."""


def price_intervals_sql(versions: str, *, price_at: PriceAt) -> str:
    """Which price of an item holds for lines created in [`from_order`, `to_order`); a null `to_order` is open.

    `versions(item_id, row_order, price)`: every known retail price, (item_id, row_order) unique. Returns
    `(item_id, from_order, to_order, price)`; the intervals of an item do not overlap and begin at 0.
    """
    following = f"CAST(NULL AS {ORDER_SQL_TYPE})" if price_at == "current" else "to_order"
    begins_history = "to_order IS NULL" if price_at == "current" else "previous_order IS NULL"
    chosen = "WHERE to_order IS NULL" if price_at == "current" else ""
    return f"""(
  SELECT
    item_id,
    CASE WHEN {begins_history} THEN CAST(0 AS {ORDER_SQL_TYPE}) ELSE row_order END AS from_order,
    {following} AS to_order,
    price
  FROM (
    SELECT
      item_id,
      row_order,
      lag(row_order) OVER (PARTITION BY item_id ORDER BY row_order) AS previous_order,
      lead(row_order) OVER (PARTITION BY item_id ORDER BY row_order) AS to_order,
      CAST(price AS DECIMAL(20,10)) AS price
    FROM {versions}
  ) AS ordered_versions
  {chosen}
)"""


def charged_lines_sql(lines: str, intervals: str, *, also: tuple[str, ...] = ()) -> str:
    """The lines with the price charged: `(invoice_id, item_id, quantity, price)`; null while the SKU is unknown.

    `lines(invoice_id, item_id, quantity, created_order)`: live lines; a null `created_order` counts as 0. `also`:
    further columns of `lines`, which come last.
    """
    further = "".join(f", l.{column}" for column in also)
    return f"""(
  SELECT l.invoice_id, l.item_id, l.quantity, p.price{further}
  FROM {lines} AS l
  LEFT JOIN {intervals} AS p
    ON l.item_id = p.item_id
    AND coalesce(l.created_order, 0) >= p.from_order
    AND (p.to_order IS NULL OR coalesce(l.created_order, 0) < p.to_order)
)"""


def documents_sql(invoices: str, lines: str, intervals: str) -> str:
    """The invoices with what their lines add up to: all columns of `invoices`, then

    - `inv_total DECIMAL(38,10)`: exact sum of quantity x price over priced lines; 0 without any;
    - `inv_items BIGINT`: sum of quantity over all lines; 0 without any;
    - `unpriced_lines INTEGER`: lines whose SKU is unknown;
    - `lines` of `LINES_SQL_TYPE`: ordered by item_id; empty, never null, without lines.

    `invoices(invoice_id, …)`: live invoices, one row each; `lines` as for `charged_lines_sql`, `intervals` from
    `price_intervals_sql`. A line without its invoice yields nothing. Sums beyond 38 digits are DuckDB's error.
    """
    return f"""(
  SELECT
    i.*,
    {_TOTALS_OF_INVOICE},
    coalesce(t.lines, CAST([] AS {LINES_SQL_TYPE})) AS lines
  FROM {invoices} AS i
  LEFT JOIN (
    SELECT
      invoice_id,
      {_TOTALS},
      list_sort(list(struct_pack(item_id := item_id, quantity := CAST(quantity AS BIGINT), price := price))) AS lines
    FROM {charged_lines_sql(lines, intervals)} AS charged
    GROUP BY invoice_id
  ) AS t ON i.invoice_id = t.invoice_id
)"""


def invoice_totals_sql(invoices: str, charged: str) -> str:
    """The same as `documents_sql`, with `line_count BIGINT` in place of `lines`.

    `charged`: from `charged_lines_sql`. Lists cost twice what all the rest does; who has another way to make them takes
    this.
    """
    return f"""(
  SELECT
    i.*,
    {_TOTALS_OF_INVOICE},
    coalesce(t.line_count, 0) AS line_count
  FROM {invoices} AS i
  LEFT JOIN (
    SELECT invoice_id, {_TOTALS}, count(*) AS line_count FROM {charged} AS charged GROUP BY invoice_id
  ) AS t ON i.invoice_id = t.invoice_id
)"""


def charged_lines_of_invoices_sql(invoices: str, lines: str, intervals: str) -> str:
    """The relation `charged_lines` of feature sets by article, in the columns of `feature_set.INPUTS`.

    `invoices(invoice_id, account_id, date_issued, …)`: live invoices; the others as for `documents_sql`. A line without
    its invoice yields nothing.
    """
    return f"""(
  SELECT
    c.item_id,
    c.invoice_id,
    i.account_id,
    i.date_issued,
    CAST(c.quantity AS BIGINT) AS quantity,
    c.price,
    {AMOUNT_SQL} AS amount
  FROM {charged_lines_sql(lines, intervals)} AS c
  JOIN {invoices} AS i ON c.invoice_id = i.invoice_id
)"""
