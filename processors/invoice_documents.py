"""Stage A, the derived part: invoice documents of the invoices that an epoch touched.

A document goes to the invoice's account ('live' or 'deleted') and to every account that it left ('left'). It carries
the epoch of the invoice's bucket as its version, a total order per invoice (R6), and the version as of which the
invoice is in its account without a break: what the account knew of it before is not current, though it looks alike.
"""

import math
from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa

from processors.block_codec import PART_ROWS, PLACES, place_owners
from processors.charging import PriceAt, charged_lines_sql, invoice_totals_sql, price_intervals_sql
from processors.document_codec import DOCUMENT_BLOCKS, DOCUMENT_SCHEMA
from processors.errors import InvariantError
from processors.invoice_rows import INVOICES, LINES, NEW_INVOICES, NEW_LINES
from processors.state import count_rows, to_arrow

PRICE_VERSIONS = "price_versions"
INTERVALS = "price_intervals"
REPRICED = "repriced"
TOUCHED = "touched"
LEFT = "left_accounts"
CHARGED = "charged"
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


def derive(con: duckdb.DuckDBPyConnection, *, owned: str, partitions: int) -> Iterator[pa.Table]:
    """The documents of the touched invoices, as `encode_blocks` takes them, part by part.

    An account that an invoice left gets a document too, unless the invoice is back there. `owned(bucket, epoch)` gives
    the versions. The connection is in use until the last part was taken.
    """
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE touched_once AS
        SELECT invoice_id, max(source_ts) AS source_ts, bool_or(header) AS header FROM {TOUCHED} GROUP BY invoice_id
    """)
    touched = f"{INVOICES} AS s JOIN touched_once AS t ON s.invoice_id = t.invoice_id"
    accounts = f"(SELECT s.account_id FROM {touched} UNION ALL SELECT account_id FROM {LEFT})"
    place_owners(con, DOCUMENT_BLOCKS, accounts, partitions=partitions)
    _derive_flat(con, touched, owned)
    parts = math.ceil(count_rows(con, DOCUMENTS) / PART_ROWS)
    yield from (_part(con, f"hash(invoice_id) % {parts} = {part}") for part in range(parts))


def _derive_flat(con: duckdb.DuckDBPyConnection, touched: str, owned: str) -> None:
    """Leaves the lines of the documents in `charged`, and the rest of them, places included, in `documents_out`."""
    lines = f"""(
        SELECT l.invoice_id, l.item_id, l.quantity, l.created_order
        FROM {LINES} AS l SEMI JOIN touched_once AS t ON l.invoice_id = t.invoice_id
        WHERE NOT l.deleted
    )"""
    con.execute(f"CREATE OR REPLACE TEMP TABLE {CHARGED} AS FROM {charged_lines_sql(lines, INTERVALS)}")
    columns = "s.invoice_id, s.account_since, s.date_issued, s.payment_dates, s.bucket AS invoice_bucket, t.source_ts"
    headers = f"(SELECT {columns}, s.account_id FROM {touched} WHERE NOT s.deleted)"
    gone = f"""(
        SELECT {columns}, s.account_id, 'deleted' AS document_state FROM {touched}
        WHERE s.deleted AND t.header AND s.account_id IS NOT NULL
        UNION ALL
        SELECT {columns}, a.account_id, 'left' FROM {touched}
        JOIN (SELECT DISTINCT invoice_id, account_id FROM {LEFT}) AS a
          ON a.invoice_id = s.invoice_id AND a.account_id <> s.account_id
    )"""
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {DOCUMENTS} AS
        SELECT d.*, o.epoch AS document_version, p.key, p.partition
        FROM (
          SELECT *, 'live' AS document_state FROM {invoice_totals_sql(headers, CHARGED)}
          UNION ALL BY NAME
          SELECT *, 0 AS inv_total, 0 AS inv_items, 0 AS unpriced_lines, 0 AS line_count FROM {gone}
        ) AS d
        JOIN {owned} AS o ON d.invoice_bucket = o.bucket
        JOIN {PLACES} AS p ON d.account_id IS NOT DISTINCT FROM p.account_id
    """)


def _part(con: duckdb.DuckDBPyConnection, chosen: str) -> pa.Table:
    """The chosen documents by partition. Their lists of lines are cut from the lines in the same order.

    DuckDB's own aggregate of structs into lists takes twice the time of all the rest.
    """
    rows = to_arrow(con, f"SELECT * FROM {DOCUMENTS} WHERE {chosen} ORDER BY partition, invoice_id")
    kind = DOCUMENT_SCHEMA.field("lines").type
    lines = to_arrow(
        con,
        f"""
        SELECT c.item_id, c.quantity, c.price
        FROM {CHARGED} AS c
        JOIN (FROM {DOCUMENTS} WHERE document_state = 'live' AND {chosen}) AS d ON c.invoice_id = d.invoice_id
        ORDER BY d.partition, c.invoice_id, c.item_id
        """,
        pa.schema(list(kind.value_type)),
    )
    bounds = np.cumsum(np.append(0, rows["line_count"].to_numpy()), dtype=np.int32)
    if bounds[-1] != lines.num_rows:
        raise InvariantError(f"documents were to have {bounds[-1]} lines, {lines.num_rows} were found")
    each = pa.StructArray.from_arrays([c.combine_chunks() for c in lines.columns], fields=list(kind.value_type))
    return rows.append_column("lines", pa.ListArray.from_arrays(pa.array(bounds), each, type=kind))
