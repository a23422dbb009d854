-- Lines as the source has them, those without their invoice too.
SELECT
  -- The invoice.
  invoice_id,
  -- The article.
  item_id,
  -- How many; below 1 for a return.
  quantity,
  -- Columns of the source that are not declared, as one JSON object; null without any.
  extra,
  -- When the source committed the latest change, UTC.
  source_ts
FROM invoice_states
WHERE kind = 'line' AND NOT deleted
