-- One row per live invoice. The contract of the relations and columns is in feature_set.py.
WITH dated_documents AS (
  SELECT
    *,
    -- A day as a number: frames over it sort once and need no calendar.
    date_diff('day', DATE '1970-01-01', date_issued) AS issue_day
  FROM documents
)

SELECT
  -- The invoice.
  d.invoice_id AS inv_id,
  -- Its account.
  d.account_id AS acct_id,
  -- Sum of quantity x price charged over the invoice's lines.
  d.inv_total,
  -- Sum of quantity over the invoice's lines.
  d.inv_items,
  -- Days from the account's joining to the issue: negative if issued before, null while the account is unknown.
  date_diff('day', a.joining_date, d.date_issued) AS acct_age,
  -- The account's invoices of the 120 days before the issue; those of the day itself do not count.
  count(*) OVER (
    PARTITION BY d.account_id
    ORDER BY d.issue_day
    RANGE BETWEEN 120 PRECEDING AND 1 PRECEDING
  ) AS num_inv_120d,
  -- Total of the account's invoices up to that day: this one and others of the same day included.
  sum(d.inv_total) OVER (
    PARTITION BY d.account_id
    ORDER BY d.issue_day
    RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
  ) AS cum_tot_inv_acct,
  -- Paid more than 30 days after the issue; an unpaid invoice is not late.
  CASE WHEN date_diff('day', d.date_issued, d.payment_dates) > 30 THEN 1 ELSE 0 END AS is_late
FROM dated_documents AS d
LEFT JOIN accounts AS a ON d.account_id = a.account_id
