-- Every retail price ever seen, of removed articles too, because their lines were charged by it.
WITH versions AS (
  SELECT
    s.item_id,
    s.deleted,
    p.price.row_order AS row_order,
    p.price.item_retail_price AS item_retail_price,
    p.price.source_ts AS source_ts
  FROM sku_states AS s
  CROSS JOIN UNNEST(s.prices) AS p (price)
)

SELECT
  -- The article.
  item_id,
  -- What a customer paid for one.
  item_retail_price,
  -- When the source set it, UTC.
  source_ts AS valid_from,
  -- When the source replaced it; null for the latest.
  lead(source_ts) OVER (PARTITION BY item_id ORDER BY row_order) AS valid_to,
  -- The source no longer has the article.
  deleted AS sku_removed,
  -- Place of the price in the source's history (processors/order.py).
  row_order
FROM versions
