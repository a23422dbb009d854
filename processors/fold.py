"""Folding: the tail of a log merged into its folded table, so that readers and recovery need not read the whole log.

A fold reaches, per log bucket, to the last epoch through which every output is derived (R6): what is derived again
after a crash must still stand in the log's tail.
"""

from collections.abc import Mapping

from processors.keyed_table import KeyedTable, current_sql
from processors.lake_tables import LAKE_TABLES


def fold_sql(keyed: KeyedTable, *, log: str, folded: str, reach: str, today: str) -> str:
    """The rows of the next folded table: current rows through `reach`, tombstones included, and one mark per bucket.

    `log`, `folded`: relations of the tables; `reach(bucket, epoch)`: how far to fold each log bucket; `today`: ISO day.
    A bucket without rows beyond its mark promises that later ones are dated yesterday or later: clocks may differ.
    """
    table = LAKE_TABLES[keyed.folded]
    states = tuple(n for n in LAKE_TABLES[keyed.log].schema.names)
    within = f"""(
      SELECT l.* FROM {log} AS l JOIN {reach} AS r ON l.{keyed.log_bucket} = r.bucket WHERE l.epoch <= r.epoch
    )"""
    current = current_sql(keyed, columns=states, log=within, folded=folded)
    mark_columns = {
        keyed.log_bucket: "r.bucket",
        keyed.home_bucket: "r.bucket",
        "epoch": "r.epoch",
        "is_mark": "TRUE",
        "mark_bucket": "r.bucket",
        "mark_date": f"coalesce(b.oldest, DATE '{today}' - 1)",
    }
    marks = ", ".join(f"{mark_columns.get(f.name, 'NULL')} AS {f.name}" for f in table.schema)
    return f"""
      SELECT {", ".join(states)}, FALSE AS is_mark, NULL AS mark_bucket, NULL AS mark_date FROM {current}
      UNION ALL BY NAME
      SELECT {marks}
      FROM {reach} AS r
      LEFT JOIN (
        SELECT l.{keyed.log_bucket} AS bucket, min(l.known_date) AS oldest
        FROM {log} AS l JOIN {reach} AS r ON l.{keyed.log_bucket} = r.bucket
        WHERE l.epoch > r.epoch GROUP BY 1
      ) AS b ON r.bucket = b.bucket
    """


def reach(epochs: Mapping[int, int], cursors: Mapping[int, int] | None) -> dict[int, int]:
    """Per bucket how far its log may be folded: the cursor of its slowest output, or all of it without outputs."""
    if cursors is None:
        return dict(epochs)
    return {bucket: min(epoch, cursors.get(bucket, 0)) for bucket, epoch in epochs.items()}
