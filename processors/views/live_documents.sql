-- Live invoices with their charged lines, one row each.
-- An invoice that moved has a document under each account: the greatest version tells, in whatever order they arrived.
SELECT
  -- Identifies the invoice.
  invoice_id,
  -- The account that was invoiced.
  account_id,
  -- The day of issue.
  date_issued,
  -- The day of payment, null while unpaid.
  payment_dates,
  -- Sum of quantity x price charged over priced lines.
  inv_total,
  -- Sum of quantity over all lines.
  inv_items,
  -- Lines whose article is not known yet; they add nothing to inv_total.
  unpriced_lines,
  -- Lines with the price charged; the price is null while the article is unknown.
  lines,
  -- When the source committed the latest change of invoice, lines or prices, UTC.
  source_ts
FROM (
  SELECT
    s.*,
    row_number() OVER (
      PARTITION BY s.invoice_id
      ORDER BY s.document_version DESC, CASE WHEN s.document_state = 'live' THEN 0 ELSE 1 END
    ) AS rank_in_invoice
  FROM account_states AS s
  WHERE s.kind = 'document'
) AS ranked
WHERE rank_in_invoice = 1 AND document_state = 'live' AND NOT deleted
