-- What was invoiced per month of issue. Months without an invoice are left out.
WITH dated AS (
  SELECT
    CAST(date_trunc('month', date_issued) AS DATE) AS month_start,
    account_id,
    inv_total,
    inv_items,
    unpriced_lines
  FROM invoices
)

SELECT
  -- First day of the month.
  month_start,
  -- Number of invoices.
  count(*) AS invoices,
  -- Number of accounts that were invoiced.
  count(DISTINCT account_id) AS accounts,
  -- Sum of inv_total.
  CAST(sum(inv_total) AS DECIMAL(38, 10)) AS revenue,
  -- Sum of inv_items.
  CAST(sum(inv_items) AS BIGINT) AS items,
  -- Revenue per invoice.
  CAST(sum(inv_total) AS DOUBLE) / count(*) AS revenue_per_invoice,
  -- Lines whose article is not known yet: their price is not in the revenue.
  CAST(sum(unpriced_lines) AS BIGINT) AS unpriced_lines
FROM dated
GROUP BY month_start
