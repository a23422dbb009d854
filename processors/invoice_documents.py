"""Stage A, the derived part: invoice documents of the invoices that an epoch touched.

A document goes to the invoice's account ('live' or 'deleted') and to every account that it left ('left'). It carries
the epoch of the invoice's bucket as its version, a total order per invoice (R6), and the version as of which the
invoice is in its account without a break: what the account knew of it before is not current, though it looks alike.
"""

import duckdb

from processors.charging import PriceAt, documents_sql, price_intervals_sql
from processors.invoice_rows import INVOICES, LINES, NEW_INVOICES, NEW_LINES
from processors.state import count_rows

PRICE_VERSIONS = "price_versions"
INTERVALS = "price_intervals"
REPRICED = "repriced"
TOUCHED = "touched"
LEFT = "left_accounts"
DOCUMENTS = "documents_out"


def create_state(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the empty price tables."""
    con.execute(
        f"CREATE OR REPLACE TABLE {PRICE_VERSIONS} (bucket INTEGER, epoch BIGINT, item_id VARCHAR,"
        " row_order DECIMAL(38,0), price DECIMAL(20,10), source_ts TIMESTAMPTZ)"
    )
    con.execute(
        f"CREATE OR REPLACE TABLE {INTERVALS} (item_id VARCHAR, from_order DECIMAL(38,0), to_order DECIMAL(38,0),"
        " price DECIMAL(20,10))"
    )
    forget_touched(con)


def forget_touched(con: duckdb.DuckDBPyConnection) -> None:
    """Empties the lists of invoices whose documents are to be derived, and of the accounts that they left."""
    con.execute(f"CREATE OR REPLACE TEMP TABLE {REPRICED} (bucket INTEGER, invoice_id BIGINT, source_ts TIMESTAMPTZ)")
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {TOUCHED}"
        " (bucket INTEGER, invoice_id BIGINT, source_ts TIMESTAMPTZ, header BOOLEAN)"
    )
    con.execute(f"CREATE OR REPLACE TEMP TABLE {LEFT} (invoice_id BIGINT, account_id BIGINT)")


def apply_prices(con: duckdb.DuckDBPyConnection, *, sku_rows: str, price_at: PriceAt) -> None:
    """Takes new states of SKUs and adds to `repriced` the invoices of which a line is charged differently now.

    `sku_rows`: rows of sku_log, possibly several per item (the highest epoch counts) or older than what is known.
    """
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE new_skus AS
        SELECT s.bucket, s.epoch, s.item_id, s.prices FROM {sku_rows} AS s
        LEFT JOIN (SELECT item_id, max(epoch) AS known_epoch FROM {PRICE_VERSIONS} GROUP BY item_id) AS k
          ON s.item_id = k.item_id
        WHERE s.epoch > coalesce(k.known_epoch, -1)
        QUALIFY row_number() OVER (PARTITION BY s.item_id ORDER BY s.epoch DESC) = 1
    """)
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE old_intervals AS SELECT * FROM {INTERVALS} SEMI JOIN new_skus USING (item_id)"
    )
    con.execute(f"DELETE FROM {PRICE_VERSIONS} WHERE item_id IN (SELECT item_id FROM new_skus)")
    con.execute(f"""
        INSERT INTO {PRICE_VERSIONS} BY NAME
        SELECT bucket, epoch, item_id, p.row_order, p.item_retail_price AS price, p.source_ts
        FROM (SELECT bucket, epoch, item_id, unnest(prices) AS p FROM new_skus)
    """)
    con.execute(f"DELETE FROM {INTERVALS} WHERE item_id IN (SELECT item_id FROM new_skus)")
    versions = f"(SELECT item_id, row_order, price FROM {PRICE_VERSIONS} SEMI JOIN new_skus USING (item_id))"
    con.execute(f"INSERT INTO {INTERVALS} BY NAME SELECT * FROM {price_intervals_sql(versions, price_at=price_at)}")
    con.execute(f"""
        INSERT INTO {REPRICED}
        WITH lines AS (
          SELECT l.bucket, l.invoice_id, l.item_id, coalesce(l.created_order, 0) AS created_order
          FROM {LINES} AS l SEMI JOIN new_skus AS n ON l.item_id = n.item_id
          WHERE NOT l.deleted
        ),
        changed AS (
          SELECT item_id, max(source_ts) AS source_ts
          FROM {PRICE_VERSIONS} SEMI JOIN new_skus USING (item_id) GROUP BY item_id
        )
        SELECT l.bucket, l.invoice_id, max(c.source_ts)
        FROM lines AS l
        JOIN changed AS c ON l.item_id = c.item_id
        LEFT JOIN old_intervals AS o ON l.item_id = o.item_id AND l.created_order >= o.from_order
          AND (o.to_order IS NULL OR l.created_order < o.to_order)
        LEFT JOIN {INTERVALS} AS p ON l.item_id = p.item_id AND l.created_order >= p.from_order
          AND (p.to_order IS NULL OR l.created_order < p.to_order)
        WHERE o.price IS DISTINCT FROM p.price
        GROUP BY l.bucket, l.invoice_id
    """)


def touch_changed(con: duckdb.DuckDBPyConnection) -> None:
    """Adds to `touched` the invoices of this epoch: changed headers, changed lines, repriced lines.

    A deletion that is told again (by a diff and a connector, say) touches nothing: its document went out before. One
    that names another account is news for both.
    """
    con.execute(f"""
        INSERT INTO {TOUCHED} BY NAME
        SELECT bucket, invoice_id, max(source_ts) AS source_ts, bool_or(header) AS header
        FROM (
          SELECT bucket, invoice_id, source_ts, TRUE AS header FROM {NEW_INVOICES}
          WHERE NOT (deleted AND was_deleted AND left_account_id IS NULL)
          UNION ALL SELECT bucket, invoice_id, source_ts, FALSE FROM {NEW_LINES}
          UNION ALL SELECT bucket, invoice_id, source_ts, FALSE FROM {REPRICED}
        )
        GROUP BY bucket, invoice_id
    """)
    con.execute(f"""
        INSERT INTO {LEFT} BY NAME
        SELECT invoice_id, left_account_id AS account_id FROM {NEW_INVOICES} WHERE left_account_id IS NOT NULL
    """)


def touch_beyond_cursor(con: duckdb.DuckDBPyConnection, *, log: str, cursors: str) -> None:
    """Adds to `touched` the invoices named in log rows beyond each bucket's cursor, and the accounts that they left.

    `log`: rows of invoice_log; `cursors(bucket, epoch)`: last epoch whose documents were all acknowledged.
    """
    beyond = f"(SELECT l.* FROM {log} AS l JOIN {cursors} AS c ON l.bucket = c.bucket WHERE l.epoch > c.epoch)"
    con.execute(f"""
        INSERT INTO {TOUCHED} BY NAME
        SELECT bucket, invoice_id, max(source_ts) AS source_ts, bool_or(header) AS header
        FROM (
          SELECT bucket, invoice_id, source_ts, kind = 'invoice' AS header FROM {beyond}
          UNION ALL SELECT bucket, invoice_id, source_ts, FALSE FROM {REPRICED}
        )
        GROUP BY bucket, invoice_id
    """)
    con.execute(f"""
        INSERT INTO {LEFT} BY NAME
        SELECT b.invoice_id, a.account_id
        FROM {beyond} AS b, LATERAL (SELECT unnest([b.left_account_id, b.account_id]) AS account_id) AS a
        WHERE a.account_id IS NOT NULL
    """)


def derive(con: duckdb.DuckDBPyConnection, *, owned: str) -> int:
    """Leaves the documents of the touched invoices in `documents_out`; returns their number.

    An account that an invoice left gets a document too, unless the invoice is back there.

    Columns as `document_codec.DOCUMENT_BLOCKS` sends them. `owned(bucket, epoch)` gives the versions.
    """
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE touched_once AS
        SELECT invoice_id, max(source_ts) AS source_ts, bool_or(header) AS header FROM {TOUCHED} GROUP BY invoice_id
    """)
    headers = f"""(
        SELECT s.invoice_id, s.account_id, s.account_since, s.date_issued, s.payment_dates, s.bucket AS invoice_bucket,
               t.source_ts
        FROM {INVOICES} AS s JOIN touched_once AS t ON s.invoice_id = t.invoice_id
        WHERE NOT s.deleted
    )"""
    lines = f"""(
        SELECT l.invoice_id, l.item_id, l.quantity, l.created_order
        FROM {LINES} AS l SEMI JOIN touched_once AS t ON l.invoice_id = t.invoice_id
        WHERE NOT l.deleted
    )"""
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {DOCUMENTS} AS
        SELECT
          d.account_id, d.invoice_id, 'live' AS document_state, o.epoch AS document_version, d.account_since,
          d.invoice_bucket, d.date_issued, d.payment_dates, d.inv_total, d.inv_items, d.unpriced_lines, d.lines,
          d.source_ts
        FROM {documents_sql(headers, lines, INTERVALS)} AS d
        JOIN {owned} AS o ON d.invoice_bucket = o.bucket
    """)
    gone = f"""
        SELECT s.account_id, s.invoice_id, 'deleted' AS document_state, s.account_since, s.bucket, s.date_issued,
               s.payment_dates, t.source_ts
        FROM {INVOICES} AS s JOIN touched_once AS t ON s.invoice_id = t.invoice_id
        WHERE s.deleted AND t.header AND s.account_id IS NOT NULL
        UNION ALL
        SELECT a.account_id, s.invoice_id, 'left', s.account_since, s.bucket, s.date_issued, s.payment_dates,
               t.source_ts
        FROM (SELECT DISTINCT invoice_id, account_id FROM {LEFT}) AS a
        JOIN {INVOICES} AS s ON a.invoice_id = s.invoice_id AND a.account_id <> s.account_id
        JOIN touched_once AS t ON a.invoice_id = t.invoice_id
    """
    con.execute(f"""
        INSERT INTO {DOCUMENTS} BY NAME
        SELECT g.account_id, g.invoice_id, g.document_state, o.epoch AS document_version, g.account_since,
               g.bucket AS invoice_bucket, g.date_issued, g.payment_dates, 0 AS inv_total, 0 AS inv_items,
               0 AS unpriced_lines, [] AS lines, g.source_ts
        FROM ({gone}) AS g JOIN {owned} AS o ON g.bucket = o.bucket
    """)
    return count_rows(con, DOCUMENTS)
