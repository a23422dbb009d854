-- Live invoices: header and totals.
SELECT
  -- Identifies the invoice.
  invoice_id,
  -- The account that was invoiced.
  account_id,
  -- The day of issue.
  date_issued,
  -- The day on which it should be paid: 30 days later.
  CAST(date_issued + INTERVAL '30' DAY AS DATE) AS date_due,
  -- The day of payment, null while unpaid.
  payment_dates,
  -- Days from issue to payment, null while unpaid.
  date_diff('day', date_issued, payment_dates) AS days_to_pay,
  -- 1 when paid more than 30 days after the issue, else 0; unpaid is 0.
  CASE WHEN date_diff('day', date_issued, payment_dates) > 30 THEN 1 ELSE 0 END AS is_late,
  -- 1 when it is unpaid today and was due before today, else 0. Today is the day of the query.
  CASE
    WHEN payment_dates <= current_date THEN 0
    WHEN date_diff('day', date_issued, current_date) > 30 THEN 1
    ELSE 0
  END AS is_overdue,
  -- Sum of quantity x price charged over priced lines.
  inv_total,
  -- Sum of quantity over all lines.
  inv_items,
  -- Number of lines.
  CAST(cardinality(lines) AS BIGINT) AS num_lines,
  -- Lines whose article is not known yet; they add nothing to inv_total.
  unpriced_lines,
  -- When the source committed the latest change of invoice, lines or prices, UTC.
  source_ts
FROM live_documents
