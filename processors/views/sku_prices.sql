-- Every retail price ever seen, of removed articles too, because their lines were charged by it.
SELECT
  -- The article.
  s.item_id,
  -- What a customer paid for one.
  p.item_retail_price,
  -- When the source set it, UTC.
  p.source_ts AS valid_from,
  -- When the source replaced it; null for the latest.
  lead(p.source_ts) OVER (PARTITION BY s.item_id ORDER BY p.row_order) AS valid_to,
  -- The source no longer has the article.
  s.deleted AS sku_removed,
  -- Place of the price in the source's history (processors/order.py).
  p.row_order
FROM sku_states AS s
CROSS JOIN UNNEST_ROWS(s.prices) AS p (row_order, row_offset, item_retail_price, source_ts)
