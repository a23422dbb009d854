-- The invoice features of all `touched` invoices; a touched account has all its invoices there. Days are numbers since
-- 1970, as change data capture sends them. Columns and meanings are those of processors/features/invoice_features.sql.
WITH documents AS (
  SELECT
    i.invoice_id,
    i.account_id,
    i.date_issued,
    i.payment_dates,
    CAST(coalesce(sum(l.quantity * s.item_retail_price), 0) AS DECIMAL(38, 10)) AS inv_total,
    coalesce(sum(l.quantity), 0) AS inv_items
  FROM touched AS i
  LEFT JOIN invoice_line_items AS l ON i.invoice_id = l.invoice_id
  LEFT JOIN skus AS s ON l.item_id = s.item_id
  GROUP BY i.invoice_id, i.account_id, i.date_issued, i.payment_dates
)

SELECT
  d.invoice_id AS inv_id,
  d.account_id AS acct_id,
  d.inv_total,
  d.inv_items,
  d.date_issued - a.joining_date AS acct_age,
  count(*) OVER (
    PARTITION BY d.account_id
    ORDER BY d.date_issued
    RANGE BETWEEN 120 PRECEDING AND 1 PRECEDING
  ) AS num_inv_120d,
  CAST(sum(d.inv_total) OVER (
    PARTITION BY d.account_id
    ORDER BY d.date_issued
    RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
  ) AS DECIMAL(38, 10)) AS cum_tot_inv_acct,
  CASE WHEN d.payment_dates - d.date_issued > 30 THEN 1 ELSE 0 END AS is_late
FROM documents AS d
LEFT JOIN accounts AS a ON d.account_id = a.account_id
