"""Through when the lake is complete: the least `known_through` over all stages and buckets."""


def latest_epochs_sql(epochs: str) -> str:
    """SQL in parentheses: of each stage and bucket the row of its last epoch."""
    return f"""(
  SELECT * EXCLUDE (rank_in_bucket)
  FROM (
    SELECT e.*, row_number() OVER (PARTITION BY stage, bucket ORDER BY epoch DESC) AS rank_in_bucket
    FROM {epochs} AS e
  )
  WHERE rank_in_bucket = 1
)"""


def watermark_sql(epochs: str) -> str:
    """A query of one row and column: the watermark, null while nothing is committed.

    `known_through` never decreases within a bucket, so its greatest value is the last epoch's: no need to look for it.
    """
    return f"""
SELECT min(known_through)
FROM (SELECT max(known_through) AS known_through FROM {epochs} GROUP BY stage, bucket)
"""
