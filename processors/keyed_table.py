"""The keyed table: a log of merged states plus its fold, read as one table of current rows.

A *log* is an append-only table whose rows are states of keys; of one key the row with the greatest `rank` counts. A
*folded* table holds the rows that counted when each of its partitions was last folded, tombstones included, and in
each partition one *mark* row per log bucket of its keys (`is_mark`): up to which epoch of that bucket the partition is
folded. Where keys live in the partition of their log bucket that is one mark, else one per bucket of the log. The
current rows are the tail's latest plus the folded rows that the tail does not beat: an anti join and a union, no window
over everything.

The functions return SQL over relations named by the caller (a table, a view, a subquery in parentheses), in the words
that DuckDB, Trino and Athena share: views are made of it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class KeyedTable:
    """How one log is folded and read.

    `rank`: columns of which the greatest tuple wins among the rows of a key.
    `log_bucket`: the column that names the bucket whose epochs the log counts.
    `home_bucket`: the column that names the bucket of the key itself; folded tables are partitioned by it.
    """

    log: str
    folded: str
    key: tuple[str, ...]
    rank: tuple[str, ...] = ("epoch",)
    log_bucket: str = "bucket"
    home_bucket: str = "bucket"

    @property
    def entity(self) -> str:
        """The column of the key that tells most rows apart in ranges: the first that names an entity."""
        return next(column for column in self.key if column != "kind")


def tail_sql(table: KeyedTable, *, log: str, folded: str) -> str:
    """The log rows beyond the fold's marks; whole days before the oldest mark are pruned by partition."""
    return f"""(
  SELECT l.*
  FROM {log} AS l
  LEFT JOIN (
    SELECT {table.home_bucket} AS mark_home, mark_bucket, epoch AS mark_epoch FROM {folded} WHERE is_mark
  ) AS m
    ON l.{table.log_bucket} = m.mark_bucket AND l.{table.home_bucket} = m.mark_home
  WHERE l.epoch > coalesce(m.mark_epoch, -1)
    AND l.known_date >= coalesce((SELECT min(mark_date) FROM {folded} WHERE is_mark), DATE '1970-01-01')
)"""


def latest_sql(table: KeyedTable, *, rows: str, columns: tuple[str, ...]) -> str:
    """Of each key in `rows` these columns of the row with the greatest rank."""
    rank = ", ".join(f"{column} DESC" for column in table.rank)
    return f"""(
  SELECT {", ".join(columns)}
  FROM (
    SELECT r.*, row_number() OVER (PARTITION BY {", ".join(table.key)} ORDER BY {rank}) AS rank_in_key
    FROM {rows} AS r
  ) AS ranked
  WHERE rank_in_key = 1
)"""


def current_sql(table: KeyedTable, *, columns: tuple[str, ...], log: str, folded: str) -> str:
    """The current rows, tombstones included: the latest of the tail, and folded rows whose key the tail lacks.

    Where a key may live in several log buckets (`log_bucket` is not `home_bucket`), the rows of the tail and of the
    fold are compared by rank, because a late row of one bucket may be older than a folded row of another.
    """
    names = ", ".join(columns)
    key = ", ".join(table.key)
    tail = tail_sql(table, log=log, folded=folded)
    if table.log_bucket == table.home_bucket:
        match = " AND ".join(f"t.{k} IS NOT DISTINCT FROM f.{k}" for k in table.key)
        return f"""(
  WITH tail AS (SELECT {names} FROM {latest_sql(table, rows=tail, columns=columns)} AS latest)
  SELECT {names} FROM tail
  UNION ALL
  SELECT {names} FROM {folded} AS f
  WHERE NOT f.is_mark AND NOT EXISTS (SELECT 1 FROM tail AS t WHERE {match})
)"""
    match = " AND ".join(f"touched.{k} IS NOT DISTINCT FROM f.{k}" for k in table.key)
    rival = f"""(
    SELECT {names} FROM tail
    UNION ALL
    SELECT {names} FROM {folded} AS f
    WHERE NOT f.is_mark AND EXISTS (SELECT 1 FROM touched WHERE {match})
  )"""
    return f"""(
  WITH tail AS (SELECT * FROM {tail} AS beyond), touched AS (SELECT DISTINCT {key} FROM tail)
  SELECT {names} FROM {latest_sql(table, rows=rival, columns=columns)} AS latest
  UNION ALL
  SELECT {names} FROM {folded} AS f
  WHERE NOT f.is_mark AND NOT EXISTS (SELECT 1 FROM touched WHERE {match})
)"""
