"""Stage A, the part derived by article: charged lines of the invoices that an epoch touched.

Of each touched invoice every line is sent, live or deleted: what the line's article knows of it is then right, whatever
changed. Like a document a line carries the epoch of the invoice's bucket as its version, a total order per invoice.

    invoice                 line      what is sent
    none that is known      any       nothing: nothing was ever sent
    deleted                 any       a deleted line
    live                    deleted   a deleted line
    live                    live      the line with the price charged; null while the SKU is unknown
"""

from collections.abc import Iterator

import duckdb
import pyarrow as pa

from processors.block_codec import placed_rows
from processors.charging import charged_lines_sql
from processors.invoice_documents import INTERVALS, TOUCHED
from processors.invoice_rows import INVOICES, LINES
from processors.line_codec import LINE_BLOCKS

CHARGED_LINES = "charged_lines_out"


def touch_buckets(con: duckdb.DuckDBPyConnection, buckets: frozenset[int]) -> None:
    """Adds every invoice of these buckets to the touched ones, with the latest source time of it and its lines."""
    mine = ", ".join(map(str, sorted(buckets))) or "NULL"
    con.execute(f"""
        INSERT INTO {TOUCHED} BY NAME
        SELECT bucket, invoice_id, max(source_ts) AS source_ts, FALSE AS header
        FROM (
          SELECT bucket, invoice_id, source_ts FROM {INVOICES} WHERE bucket IN ({mine})
          UNION ALL SELECT bucket, invoice_id, source_ts FROM {LINES} WHERE bucket IN ({mine})
        )
        GROUP BY bucket, invoice_id
    """)


def derive(con: duckdb.DuckDBPyConnection, *, owned: str, partitions: int) -> Iterator[pa.Table]:
    """The lines of the touched invoices, as `encode_blocks` takes them, part by part.

    `owned(bucket, epoch)` gives the versions. The connection is in use until the last part was taken.
    """
    lines = f"""(
        SELECT l.invoice_id, l.item_id, l.quantity, l.created_order, l.deleted OR i.deleted AS deleted, i.bucket,
               i.account_id, i.date_issued, t.source_ts
        FROM (SELECT invoice_id, max(source_ts) AS source_ts FROM {TOUCHED} GROUP BY invoice_id) AS t
        JOIN {INVOICES} AS i ON t.invoice_id = i.invoice_id
        JOIN {LINES} AS l ON t.invoice_id = l.invoice_id
    )"""
    also = ("deleted", "bucket", "account_id", "date_issued", "source_ts")
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {CHARGED_LINES} AS
        SELECT
          c.item_id, c.invoice_id, c.deleted, o.epoch AS line_version, c.bucket AS invoice_bucket,
          CASE WHEN NOT c.deleted THEN c.account_id END AS account_id,
          CASE WHEN NOT c.deleted THEN c.date_issued END AS date_issued,
          CASE WHEN NOT c.deleted THEN c.quantity::BIGINT END AS quantity,
          CASE WHEN NOT c.deleted THEN c.price END AS price,
          c.source_ts
        FROM {charged_lines_sql(lines, INTERVALS, also=also)} AS c
        JOIN {owned} AS o ON c.bucket = o.bucket
    """)
    yield from placed_rows(con, LINE_BLOCKS, CHARGED_LINES, partitions=partitions)
