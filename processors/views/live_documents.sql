-- Live invoices with their charged lines, one row each.
-- An invoice that moved has a document under each account: the greatest version tells, in whatever order they arrived.
SELECT * EXCLUDE (rank_in_invoice)
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
