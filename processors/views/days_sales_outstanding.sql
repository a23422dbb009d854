-- Per month the receivables at its end and the days of sales that they stand for (DSO).
-- DSO = receivables at the end / revenue of the month x days of the month, the days up to today in the current month.
-- Months in which nothing was issued or paid are left out. Payments are those known today; one that is dated before its
-- invoice's issue counts in the month of issue; one that is dated in the future is not paid yet.
WITH moved AS (
  SELECT
    CAST(date_trunc('month', date_issued) AS DATE) AS month_start,
    inv_total AS issued,
    CAST(0 AS DECIMAL(38, 10)) AS paid
  FROM invoices
  WHERE date_issued <= current_date
  UNION ALL
  SELECT
    CAST(date_trunc('month', CASE WHEN payment_dates < date_issued THEN date_issued ELSE payment_dates END) AS DATE),
    CAST(0 AS DECIMAL(38, 10)),
    inv_total
  FROM invoices
  WHERE date_issued <= current_date AND payment_dates <= current_date
),

monthly AS (
  SELECT
    month_start,
    CAST(sum(issued) AS DECIMAL(38, 10)) AS revenue,
    CAST(sum(paid) AS DECIMAL(38, 10)) AS paid,
    CASE
      WHEN month_start = CAST(date_trunc('month', current_date) AS DATE)
        THEN date_diff('day', month_start, current_date) + 1
      ELSE date_diff('day', month_start, CAST(month_start + INTERVAL '1' MONTH AS DATE))
    END AS days
  FROM moved
  GROUP BY month_start
),

balanced AS (
  SELECT
    month_start,
    revenue,
    paid,
    days,
    CAST(sum(revenue - paid) OVER (ORDER BY month_start) AS DECIMAL(38, 10)) AS receivable
  FROM monthly
)

SELECT
  -- First day of the month.
  month_start,
  -- What was invoiced in the month.
  revenue,
  -- Invoices that were paid in the month, whenever issued.
  paid,
  -- What was issued and not paid at the end of the month, or today in the current one.
  receivable,
  -- Days of the month, up to today in the current one.
  days,
  -- Days of sales that the receivables stand for; null without revenue.
  CASE WHEN revenue <> 0 THEN CAST(receivable AS DOUBLE) / CAST(revenue AS DOUBLE) * days END AS dso
FROM balanced
