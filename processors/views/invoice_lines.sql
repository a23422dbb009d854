-- Lines of live invoices with the price charged.
SELECT
  -- The invoice.
  d.invoice_id,
  -- The article.
  u.line.item_id AS item_id,
  -- How many; below 1 for a return.
  u.line.quantity AS quantity,
  -- Price charged for one; null while the article is unknown.
  u.line.price AS price,
  -- Quantity x price.
  CAST(CAST(u.line.quantity AS DECIMAL(10, 0)) * u.line.price AS DECIMAL(38, 10)) AS amount,
  -- The account that was invoiced.
  d.account_id,
  -- The day of issue of the invoice.
  d.date_issued
FROM live_documents AS d
CROSS JOIN UNNEST(d.lines) AS u (line)
