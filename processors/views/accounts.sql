-- Live accounts, without personal data.
SELECT
  -- Identifies the account.
  account_id,
  -- The company's name.
  company_name,
  -- The day on which the account was opened.
  joining_date,
  -- When the source committed the latest change, UTC.
  source_ts
FROM account_states
WHERE kind = 'account' AND NOT deleted
