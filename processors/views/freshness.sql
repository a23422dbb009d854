-- Through when the lake is complete: one row, none while nothing is committed.
SELECT
  -- Everything that the lake knew by then is in it: answers about that time and before never change, UTC.
  min(known_through) AS complete_through,
  -- When a worker committed last, UTC.
  max(committed_at) AS last_commit
FROM (
  SELECT
    max(known_through) AS known_through,
    max(committed_at) AS committed_at
  FROM epochs
  GROUP BY stage, bucket
) AS latest
HAVING count(*) > 0
