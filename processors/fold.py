"""Folding: the tail of a log merged into its folded table, so that readers and recovery need not read the whole log.

A fold goes partition by partition of the folded table, so that its work and its memory are those of one bucket. Per
log bucket it reaches to the last epoch through which every output is derived (R6): what is derived again after a crash
must still stand in the log's tail.

The SQL works on relations of one connection: `REACH(home, bucket, epoch)`, the next mark of each pair of partition and
log bucket; `WAITING(home, bucket, rows, foldable, oldest)`, what lies beyond the marks; `TAIL`, rows to be folded.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from processors.keyed_table import KeyedTable, current_sql, tail_sql
from processors.lake_tables import LAKE_TABLES

REACH = "fold_reach"
WAITING = "fold_waiting"
TAIL = "fold_tail"
BEFORE_ALL_EPOCHS = -1
SLICE_ROWS = 250_000
"""Rows of a tail that are merged at a time: what their window and the keys of an anti join may take of memory."""
_SAMPLE = 20_000
"""Keys of a tail from which its slices are estimated."""


@dataclass(frozen=True)
class FoldPolicy:
    """When it pays to fold: a rewrite of n rows for every share of n that is new, and no tail older than `max_age_s`.

    table: rows wait?   and they are >= min_rows and >= share of the folded rows, or a bucket's fold is too old
    bucket of such:     those that wait are >= share of its own folded rows, or its own fold is too old

    If a share of the table waits, so does that share of one bucket at least. A bucket whose fold is too old is folded
    though nothing of its own waits: the oldest mark says from which day on queries read the log.
    """

    min_rows: int = 100_000
    share_percent: float = 25.0
    max_age_s: float = 86_400.0

    def table_is_due(self, *, waiting: int, folded: int, age_s: float) -> bool:
        """Whether to fold any bucket. `age_s`: since the bucket that was not folded for longest was."""
        enough = waiting >= self.min_rows and self._is_share(waiting, folded)
        return waiting > 0 and (enough or age_s >= self.max_age_s)

    def bucket_is_due(self, *, waiting: int, folded: int, age_s: float) -> bool:
        """Whether to fold this bucket of a table that is due."""
        return self._is_share(waiting, folded) or age_s >= self.max_age_s

    def _is_share(self, waiting: int, folded: int) -> bool:
        return waiting * 100 >= folded * self.share_percent


def all_that_waits(min_rows: int = 1) -> FoldPolicy:
    """Every bucket of every table with so many new rows."""
    return FoldPolicy(min_rows=min_rows, share_percent=0.0, max_age_s=float("inf"))


def mark_pairs(keyed: KeyedTable, partitions: int) -> list[tuple[int, int]]:
    """(home, log bucket) of every mark: where keys live in the log bucket's own partition, one per bucket."""
    homes = range(partitions)
    if keyed.log_bucket == keyed.home_bucket:
        return [(home, home) for home in homes]
    return [(home, bucket) for home in homes for bucket in homes]


def first_marks(keyed: KeyedTable, pairs: list[tuple[int, int]]) -> pa.Table:
    """Marks of pairs that were never folded: all of their log is tail, from the first day on."""
    schema = LAKE_TABLES[keyed.folded].schema
    columns = {
        keyed.log_bucket: [bucket for _, bucket in pairs],
        keyed.home_bucket: [home for home, _ in pairs],
        "epoch": [BEFORE_ALL_EPOCHS] * len(pairs),
        "is_mark": [True] * len(pairs),
        "mark_bucket": [bucket for _, bucket in pairs],
        "mark_date": [0] * len(pairs),
    }
    return pa.table([pa.array(columns.get(f.name, [None] * len(pairs)), f.type) for f in schema], schema=schema)


def reach_sql(keyed: KeyedTable, *, folded: str, reach: str) -> str:
    """`REACH`: the marks, moved up to `reach(bucket, epoch)`; a mark never steps back."""
    return f"""
      SELECT m.{keyed.home_bucket} AS home, m.mark_bucket AS bucket, greatest(m.epoch, r.epoch) AS epoch
      FROM {folded} AS m JOIN {reach} AS r ON m.mark_bucket = r.bucket
      WHERE m.is_mark
    """


def waiting_sql(keyed: KeyedTable, *, log: str, folded: str) -> str:
    """`WAITING`: per pair the rows beyond its mark, those of them within reach, the oldest day of the others."""
    return f"""
      SELECT r.home, r.bucket, count(*) AS rows, count(*) FILTER (t.epoch <= r.epoch) AS foldable,
             min(t.known_date) FILTER (t.epoch > r.epoch) AS oldest
      FROM {tail_sql(keyed, log=log, folded=folded)} AS t
      JOIN {REACH} AS r ON t.{keyed.home_bucket} = r.home AND t.{keyed.log_bucket} = r.bucket
      GROUP BY r.home, r.bucket
    """


def within_reach_sql(keyed: KeyedTable, *, log: str, folded: str, homes: list[int]) -> str:
    """`TAIL`: the rows to be folded into these partitions."""
    return f"""
      SELECT t.*
      FROM {tail_sql(keyed, log=log, folded=folded)} AS t
      JOIN {REACH} AS r ON t.{keyed.home_bucket} = r.home AND t.{keyed.log_bucket} = r.bucket
      WHERE t.epoch <= r.epoch AND r.home IN ({", ".join(map(str, homes))})
      ORDER BY r.home
    """


def bounds_sql(keyed: KeyedTable, *, home: int, rows: int) -> str:
    """One list: where the partition, which takes in so many rows, is cut by the entities of its keys.

    Each slice between two bounds has some SLICE_ROWS of the tail; they are merged one after the other.
    """
    slices = -(-rows // SLICE_ROWS)
    shares = ", ".join(str(n / slices) for n in range(1, slices))
    entity = keyed.entity
    return f"""
      SELECT list_sort(list_distinct(quantile_disc({entity}, [{shares}]::DOUBLE[])))
      FROM (SELECT {entity} FROM {TAIL} WHERE {keyed.home_bucket} = {home}) USING SAMPLE reservoir({_SAMPLE} ROWS)
    """


def states_sql(keyed: KeyedTable, *, home: int, folded: str, above: bool, below: bool) -> str:
    """The states of one slice of the next partition `home`: current rows through the reach, tombstones included.

    `folded`: relation of the partition as it is. The slice begins at the entity `$above`, unless it is the first, and
    ends before `$below`. Its rows are sorted: who looks for some entities, the recent ones above all, skips most row
    groups of the files, and of the worker's state that is filled from them.
    """
    states = tuple(LAKE_TABLES[keyed.log].schema.names)
    limits = [f"{keyed.entity} >= $above"] * above + [f"{keyed.entity} < $below"] * below
    inside = " AND ".join(limits) or "TRUE"
    tail = f"(SELECT * FROM {TAIL} WHERE {keyed.home_bucket} = {home} AND {inside})"
    there = f"(SELECT * FROM {folded} WHERE is_mark OR ({inside}))"
    return f"""
      SELECT {", ".join(states)}, FALSE AS is_mark, NULL AS mark_bucket, NULL AS mark_date
      FROM {current_sql(keyed, columns=states, log=tail, folded=there)}
      ORDER BY {", ".join(keyed.key)}
    """


def marks_sql(keyed: KeyedTable, *, home: int, today: str) -> str:
    """The marks of the next partition `home`; `today`: ISO day.

    A mark promises no more of rows to come than that they are dated yesterday or later: clocks may differ.
    """
    table = LAKE_TABLES[keyed.folded]
    mark_columns = {
        keyed.log_bucket: "r.bucket",
        keyed.home_bucket: "r.home",
        "epoch": "r.epoch",
        "is_mark": "TRUE",
        "mark_bucket": "r.bucket",
        "mark_date": f"least(w.oldest, DATE '{today}' - 1)",
    }
    marks = ", ".join(f"{mark_columns.get(f.name, 'NULL')} AS {f.name}" for f in table.schema)
    return f"""
      SELECT {marks}
      FROM {REACH} AS r LEFT JOIN {WAITING} AS w ON r.home = w.home AND r.bucket = w.bucket
      WHERE r.home = {home}
    """


def reach(epochs: Mapping[int, int], cursors: Mapping[int, int] | None) -> dict[int, int]:
    """Per bucket how far its log may be folded: the cursor of its slowest output, or all of it without outputs."""
    if cursors is None:
        return dict(epochs)
    return {bucket: min(epoch, cursors.get(bucket, 0)) for bucket, epoch in epochs.items()}
