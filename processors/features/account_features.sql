-- One row per account that has live invoices, known to `accounts` or not. The contract is in feature_set.py.
-- Doubles are one division of two exact integers, so that they do not depend on the order of rows.
WITH totals AS (
  SELECT
    account_id,
    count(*) AS num_inv,
    sum(inv_total) AS revenue,
    count(payment_dates) AS num_paid,
    sum(date_diff('day', date_issued, payment_dates)) AS days_to_pay,
    sum(CASE WHEN date_diff('day', date_issued, payment_dates) > 30 THEN 1 ELSE 0 END) AS num_late,
    min(date_issued) AS first_invoice,
    max(date_issued) AS last_invoice
  FROM documents
  GROUP BY account_id
),

counted AS (
  SELECT
    *,
    -- Revenue as a whole number of its 10th decimals, because DuckDB divides decimals as doubles.
    -- On Trino: CAST(... AS DECIMAL(38, 0)).
    CAST(replace(CAST(CAST(revenue AS DECIMAL(38, 10)) AS VARCHAR), '.', '') AS HUGEINT) AS revenue_units
  FROM totals
),

divided AS (
  SELECT
    *,
    -- Magnitude of the mean, half a unit rounded up.
    abs(revenue_units) // num_inv
    + CASE WHEN 2 * (abs(revenue_units) % num_inv) >= num_inv THEN 1 ELSE 0 END AS basket_units
  FROM counted
)

SELECT
  -- The account.
  account_id AS acct_id,
  -- Number of invoices.
  num_inv,
  -- Total of all invoices.
  revenue,
  -- Revenue per invoice, rounded half up (away from zero) to 10 decimals.
  CAST(CASE WHEN revenue_units < 0 THEN -basket_units ELSE basket_units END AS DECIMAL(38, 0))
  * CAST('0.0000000001' AS DECIMAL(10, 10)) AS avg_basket,
  -- Share of invoices that were paid more than 30 days after the issue; unpaid ones count as not late.
  CAST(num_late AS DOUBLE) / num_inv AS share_late,
  -- Mean days from issue to payment of paid invoices, null when none is paid.
  CAST(days_to_pay AS DOUBLE) / nullif(num_paid, 0) AS avg_days_to_pay,
  -- Day of the first invoice.
  first_invoice,
  -- Day of the last invoice.
  last_invoice,
  -- Mean days between an invoice and the next, null for fewer than two.
  CAST(date_diff('day', first_invoice, last_invoice) AS DOUBLE) / nullif(num_inv - 1, 0) AS days_between_inv
FROM divided
