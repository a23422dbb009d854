"""Stage `skus`, the row part: SKU events to merged SKU states, each with every price version ever seen.

Of a SKU the event with the greatest (row_order, row_offset) gives the current columns; a delete keeps the columns,
save the undeclared ones (`extra`), and the prices. Price versions are one per row_order (of equals the greatest
offset), whatever the order of arrival.
"""

import duckdb

from processors.lake_tables import SKU_LOG
from processors.state import count_rows, create_like

STATE = "sku_state"
ROWS = "sku_rows"
"""Temporary table of this epoch's log rows, columns of sku_log but known_date."""

_COLUMNS = tuple(n for n in SKU_LOG.schema.names if n != "known_date")


def create_state(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the empty state table."""
    create_like(con, STATE, SKU_LOG.schema, without=("known_date",))


def merge(con: duckdb.DuckDBPyConnection, *, events: str, owned: str) -> int:
    """Merges events into the state and leaves the changed states in `sku_rows`; returns their number.

    `events`: relation of `event_schema(SKUS)`; `owned(bucket, epoch)`: the epoch number of each bucket.
    """
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {ROWS} AS
        WITH latest AS (
          SELECT * FROM {events}
          QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY row_order DESC, row_offset DESC) = 1
        ),
        versions AS (
          SELECT item_id, row_order, row_offset, item_retail_price, source_ts FROM {events} WHERE NOT is_delete
          UNION ALL
          SELECT item_id, p.row_order, p.row_offset, p.item_retail_price, p.source_ts
          FROM (
            SELECT s.item_id, unnest(s.prices) AS p
            FROM {STATE} AS s SEMI JOIN {events} AS e ON s.item_id = e.item_id
          )
        ),
        prices AS (
          SELECT item_id,
                 list(struct_pack(row_order, row_offset, item_retail_price, source_ts) ORDER BY row_order) AS prices
          FROM (
            SELECT * FROM versions
            QUALIFY row_number() OVER (PARTITION BY item_id, row_order ORDER BY row_offset DESC) = 1
          )
          GROUP BY item_id
        ),
        merged AS (
          SELECT
            n AS new, s AS old, coalesce(p.prices, []) AS prices,
            s.item_id IS NULL OR n.row_order > s.row_order
              OR (n.row_order = s.row_order AND n.row_offset > s.row_offset) AS newer
          FROM latest AS n
          LEFT JOIN {STATE} AS s ON n.item_id = s.item_id
          LEFT JOIN prices AS p ON n.item_id = p.item_id
        )
        SELECT
          new.bucket AS bucket,
          o.epoch AS epoch,
          new.item_id AS item_id,
          CASE WHEN newer THEN coalesce(new.item_name, old.item_name) ELSE old.item_name END AS item_name,
          CASE WHEN newer THEN coalesce(new.item_description, old.item_description)
            ELSE old.item_description END AS item_description,
          CASE WHEN newer THEN coalesce(new.item_cost_price, old.item_cost_price)
            ELSE old.item_cost_price END AS item_cost_price,
          CASE WHEN newer THEN coalesce(new.item_retail_price, old.item_retail_price)
            ELSE old.item_retail_price END AS item_retail_price,
          CASE WHEN newer THEN new.is_delete ELSE old.deleted END AS deleted,
          CASE WHEN newer THEN new.row_order ELSE old.row_order END AS row_order,
          CASE WHEN newer THEN new.row_offset ELSE old.row_offset END AS row_offset,
          CASE WHEN newer THEN new.source_ts ELSE greatest(old.source_ts, new.source_ts) END AS source_ts,
          prices,
          CASE WHEN newer THEN new.extra ELSE old.extra END AS extra
        FROM merged JOIN {owned} AS o ON new.bucket = o.bucket
        WHERE newer OR prices IS DISTINCT FROM old.prices
    """)
    con.execute(f"DELETE FROM {STATE} USING {ROWS} AS r WHERE {STATE}.item_id = r.item_id")
    con.execute(f"INSERT INTO {STATE} BY NAME SELECT * FROM {ROWS}")
    return count_rows(con, ROWS)


def truncate_events(truncates: str) -> str:
    """Synthetic deletes for live SKUs below a truncate; `truncates(table_name, row_order, source_ts)`."""
    return f"""(
      SELECT s.bucket, -1::BIGINT AS row_offset, t.row_order, TRUE AS is_delete, FALSE AS is_create, t.source_ts,
             s.item_id, NULL::VARCHAR AS item_name, NULL::VARCHAR AS item_description,
             NULL::DECIMAL(20,10) AS item_cost_price, NULL::DECIMAL(20,10) AS item_retail_price,
             NULL::VARCHAR AS extra
      FROM {STATE} AS s JOIN {truncates} AS t ON t.table_name = 'skus'
      WHERE NOT s.deleted AND s.row_order < t.row_order
    )"""
