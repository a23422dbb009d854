"""Through when the lake is complete: the least `known_through` over all stages and buckets.

Of a stage that this installation has not (any more) nothing is awaited: its rows of `epochs` do not count.
"""

from processors.lake_tables import STAGE_LOGS

_OURS = "stage IN ({})".format(", ".join(f"'{stage}'" for stage in STAGE_LOGS))


def latest_epochs_sql(epochs: str) -> str:
    """SQL in parentheses: of each of our stages and each bucket the row of its last epoch."""
    return f"""(
  SELECT * EXCLUDE (rank_in_bucket)
  FROM (
    SELECT e.*, row_number() OVER (PARTITION BY stage, bucket ORDER BY epoch DESC) AS rank_in_bucket
    FROM {epochs} AS e
    WHERE {_OURS}
  )
  WHERE rank_in_bucket = 1
)"""


def watermark_sql(epochs: str) -> str:
    """A query of one row and column: the watermark, null while nothing is committed.

    `known_through` never decreases within a bucket, so its greatest value is the last epoch's: no need to look for it.
    """
    return f"""
SELECT min(known_through)
FROM (SELECT max(known_through) AS known_through FROM {epochs} WHERE {_OURS} GROUP BY stage, bucket)
"""
