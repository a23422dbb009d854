-- Lines of live invoices with the price charged.
SELECT
  -- The invoice.
  d.invoice_id,
  -- The article.
  l.item_id,
  -- How many; below 1 for a return.
  l.quantity,
  -- Price charged for one; null while the article is unknown.
  l.price,
  -- Quantity x price.
  CAST(CAST(l.quantity AS DECIMAL(10, 0)) * l.price AS DECIMAL(38, 10)) AS amount,
  -- The account that was invoiced.
  d.account_id,
  -- The day of issue of the invoice.
  d.date_issued
FROM live_documents AS d
CROSS JOIN UNNEST_ROWS(d.lines) AS l (item_id, quantity, price)
