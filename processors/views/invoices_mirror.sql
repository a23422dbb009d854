-- Invoices as the source has them, those without lines or account too.
SELECT
  -- Identifies the invoice.
  invoice_id,
  -- The account that was invoiced.
  account_id,
  -- The day of issue.
  date_issued,
  -- The day of payment, null while unpaid.
  payment_dates,
  -- Columns of the source that are not declared, as one JSON object; null without any.
  extra,
  -- When the source committed the latest change, UTC.
  source_ts
FROM invoice_states
WHERE kind = 'invoice' AND NOT deleted
