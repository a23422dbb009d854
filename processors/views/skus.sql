-- Live articles with their latest prices.
SELECT
  -- Identifies the article.
  item_id,
  -- The article's name.
  item_name,
  -- The article's description.
  item_description,
  -- What TRS pays for one.
  item_cost_price,
  -- What a customer pays for one today.
  item_retail_price,
  -- When the source committed the latest change, UTC.
  source_ts,
  -- Columns of the source that are not declared, as one JSON object; null without any.
  extra
FROM sku_states
WHERE NOT deleted
