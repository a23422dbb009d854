-- What accounts owe today, by how long it is overdue. Accounts that owe nothing are left out; today is the query's day.
-- An invoice that bears a payment dated in the future is not paid yet.
WITH unpaid AS (
  SELECT
    account_id,
    date_due,
    inv_total,
    date_diff('day', date_due, current_date) AS days_overdue
  FROM invoices
  WHERE date_issued <= current_date AND (payment_dates IS NULL OR payment_dates > current_date)
)

SELECT
  -- The account that owes.
  u.account_id,
  -- The company's name; null while the account is unknown.
  a.company_name,
  -- Number of unpaid invoices.
  u.unpaid_invoices,
  -- What they come to.
  u.receivable,
  -- Of that, due today or later.
  u.not_due,
  -- Of that, 1 to 30 days overdue.
  u.overdue_1_30,
  -- Of that, 31 to 60 days overdue.
  u.overdue_31_60,
  -- Of that, 61 to 90 days overdue.
  u.overdue_61_90,
  -- Of that, more than 90 days overdue.
  u.overdue_over_90,
  -- The earliest day on which one of them was or is due.
  u.oldest_due
FROM (
  SELECT
    account_id,
    count(*) AS unpaid_invoices,
    CAST(sum(inv_total) AS DECIMAL(38, 10)) AS receivable,
    CAST(sum(CASE WHEN days_overdue <= 0 THEN inv_total ELSE 0 END) AS DECIMAL(38, 10)) AS not_due,
    CAST(sum(CASE WHEN days_overdue BETWEEN 1 AND 30 THEN inv_total ELSE 0 END) AS DECIMAL(38, 10)) AS overdue_1_30,
    CAST(sum(CASE WHEN days_overdue BETWEEN 31 AND 60 THEN inv_total ELSE 0 END) AS DECIMAL(38, 10)) AS overdue_31_60,
    CAST(sum(CASE WHEN days_overdue BETWEEN 61 AND 90 THEN inv_total ELSE 0 END) AS DECIMAL(38, 10)) AS overdue_61_90,
    CAST(sum(CASE WHEN days_overdue > 90 THEN inv_total ELSE 0 END) AS DECIMAL(38, 10)) AS overdue_over_90,
    min(date_due) AS oldest_due
  FROM unpaid
  GROUP BY account_id
) AS u
LEFT JOIN accounts AS a ON u.account_id = a.account_id
