"""Folding on Delta: log and folded table are read at one version each, partitions are overwritten by compare-and-set.

Each partition is a commit of its own, streamed from DuckDB into its files. Two folds of a table at once cannot both go
on: each commit carries the application id `fold` through the handle that it read from (R8). `trs lake maintain` folds
what is due, as the worker that owns bucket 0 has it do; `trs lake fold` folds all that waits.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any

import duckdb
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from connectors.delta_lake import FOLDED_LOG_ROWS_ID, DeltaLake
from connectors.lake import COMMIT_RETRIES, WITHOUT_CLEANUP, WRITER, KnownIds, wrapped_errors
from connectors.object_files import active_files, read_error
from processors.errors import RetryableError
from processors.fold import (
    REACH,
    TAIL,
    WAITING,
    FoldPolicy,
    bounds_sql,
    first_marks,
    mark_pairs,
    marks_sql,
    reach,
    reach_sql,
    states_sql,
    waiting_sql,
    within_reach_sql,
)
from processors.keyed_table import KeyedTable
from processors.lake_tables import (
    KEYED_TABLES,
    LAKE_TABLES,
    STAGE_LOGS,
    changes_of_stage,
    outputs_of_invoices,
    stage_of_log,
)

_APP_ID = "fold"
_FOLDED_AT_ID = "folded_at_s"
"""`folded_at_s:BUCKET`: when a partition was last rewritten, in seconds since 1970."""
_BATCH_ROWS = 16_384

Query = tuple[str, Mapping[str, Any]]
"""A statement and its parameters."""


@dataclass(frozen=True)
class Folded:
    """What one fold did: rows of the log beyond the old marks, rows of the folded table now, partitions rewritten.

    Not `committed`: another fold came in between, the partitions before it are folded; or, with the reason in `held`,
    a check of the data failed and nothing is.
    """

    table: str
    tail_rows: int
    rows: int
    buckets: int
    committed: bool
    held: str | None = None


Gate = Callable[[KeyedTable], str | None]
"""Asked before a table is folded: None, or why its data should not be."""


def fold_all(
    lake: DeltaLake,
    con: duckdb.DuckDBPyConnection,
    partitions: int,
    policy: FoldPolicy,
    gate: Gate = lambda keyed: None,
) -> list[Folded]:
    """Folds what is due of every keyed table and may pass the gate; `con` must be prepared for the lake."""
    outcomes = (fold(lake, con, keyed, partitions, policy, gate) for keyed in KEYED_TABLES)
    return [outcome for outcome in outcomes if outcome is not None]


def fold(
    lake: DeltaLake,
    con: duckdb.DuckDBPyConnection,
    keyed: KeyedTable,
    partitions: int,
    policy: FoldPolicy,
    gate: Gate = lambda keyed: None,
) -> Folded | None:
    """Folds what is due of one keyed table; None: nothing is."""
    with wrapped_errors(f"fold of {keyed.folded}"):
        try:
            return _Folding(lake, con, keyed, partitions).run(policy, gate)
        except duckdb.Error as error:
            raise read_error(error) or error from error
        finally:
            for name in (REACH, WAITING, TAIL):
                con.execute(f"DROP TABLE IF EXISTS {name}")


def rows_due(
    lake: DeltaLake, con: duckdb.DuckDBPyConnection, keyed: KeyedTable, partitions: int, policy: FoldPolicy
) -> int | None:
    """How many rows wait for a fold that is due, as Delta's log counts them; None: none is due."""
    with wrapped_errors(f"fold of {keyed.folded}"):
        return _Folding(lake, con, keyed, partitions).rows_due(policy)


def folded_at(lake: DeltaLake, keyed: KeyedTable, partitions: int) -> datetime | None:
    """When the partition was folded that was not for longest; None: one never was."""
    ids = [f"{_FOLDED_AT_ID}:{home}" for home in range(partitions)]
    stand = KnownIds().read(lake.store.open(keyed.folded), ids)
    return datetime.fromtimestamp(min(stand.values()), UTC) if len(stand) == partitions else None


class _Folding:
    """One fold of one table: handles at the versions that it reads, and how far the buckets go."""

    def __init__(self, lake: DeltaLake, con: duckdb.DuckDBPyConnection, keyed: KeyedTable, partitions: int) -> None:
        self._lake = lake
        self._con = con
        self._keyed = keyed
        self._partitions = partitions
        self._log, self._folded = lake.store.open(keyed.log), lake.store.open(keyed.folded)
        self._log_rows = sum(f["num_records"] for f in active_files(self._log))
        self._serial = self._folded.transaction_version(_APP_ID) or 0
        self._waiting = self._log_rows - (self._folded.transaction_version(FOLDED_LOG_ROWS_ID) or 0)
        self._now = datetime.now(UTC)
        at = {f"{_FOLDED_AT_ID}:{home}": home for home in range(partitions)}
        made_s = (self._folded.metadata().created_time or 0) // 1000
        stand = KnownIds().read(self._folded, at)
        self._folded_at_s = {home: stand.get(app_id, made_s) for app_id, home in at.items()}

    def _ages_s(self) -> dict[int, float]:
        """Seconds since each partition was folded."""
        return {home: self._now.timestamp() - at_s for home, at_s in self._folded_at_s.items()}

    def rows_due(self, policy: FoldPolicy) -> int | None:
        """Rows that wait, if the table is due or has to be looked at."""
        return max(0, self._waiting) if self._may_be_due(policy) else None

    def _may_be_due(self, policy: FoldPolicy) -> bool:
        """By Delta's counts alone. They are below zero while rows leave the log unnoticed: then a look must tell."""
        folded, oldest_s = sum(self._rows_per_home().values()), max(self._ages_s().values())
        return self._waiting < 0 or policy.table_is_due(waiting=self._waiting, folded=folded, age_s=oldest_s)

    def run(self, policy: FoldPolicy, gate: Gate) -> Folded | None:
        """Folds the buckets that are due, one commit each, if the gate has nothing against it."""
        ages_s = self._ages_s()
        oldest_s = max(ages_s.values())
        rows = self._rows_per_home()
        found = self._waiting
        if not self._may_be_due(policy):
            return None
        if not self._complete_marks():
            return Folded(self._keyed.folded, found, sum(rows.values()), 0, committed=False)
        foldable = self._look()
        due = [h for h in rows if policy.bucket_is_due(waiting=foldable[h], folded=rows[h], age_s=ages_s[h])]
        if not due or not policy.table_is_due(
            waiting=sum(foldable.values()), folded=sum(rows.values()), age_s=oldest_s
        ):
            return None
        held = gate(self._keyed)
        if held is not None:
            return Folded(self._keyed.folded, found, sum(rows.values()), 0, committed=False, held=held)
        query = within_reach_sql(self._keyed, **self._tail(), homes=due)
        self._con.execute(f"CREATE TEMP TABLE {TAIL} AS {query}")
        done = 0
        for home in due:
            self._waiting -= foldable[home]
            if not self._fold_bucket(home, foldable[home]):
                break
            done += 1
        rows_now = sum(self._rows_per_home().values())
        return Folded(self._keyed.folded, found, rows_now, done, committed=done == len(due))

    def _rows_per_home(self) -> dict[int, int]:
        """Rows of each partition without its marks."""
        rows = dict.fromkeys(range(self._partitions), 0)
        for file in active_files(self._folded):
            rows[file[f"partition.{self._keyed.home_bucket}"]] += file["num_records"]
        marks = len(mark_pairs(self._keyed, self._partitions)) // self._partitions
        return {home: max(0, n - marks) for home, n in rows.items()}

    def _complete_marks(self) -> bool:
        """Adds the marks that are missing, before any partition moves its own; False: another fold was first.

        The oldest mark tells readers from which day on they need the log, so no pair may be without one.
        """
        folded = self._relation()
        names = f"{self._keyed.home_bucket}, mark_bucket"
        there = set(self._con.sql(f"SELECT {names} FROM {folded} WHERE is_mark").fetchall())
        missing = [pair for pair in mark_pairs(self._keyed, self._partitions) if pair not in there]
        return not missing or self._commit(first_marks(self._keyed, missing), {})

    def _look(self) -> dict[int, int]:
        """Makes `REACH` and `WAITING`; the number of rows that each partition can take in."""
        epochs = _reach(self._lake, self._keyed, self._log, self._partitions)
        arrow = pa.table({"bucket": pa.array(epochs, pa.int32()), "epoch": pa.array(epochs.values(), pa.int64())})
        self._con.register("log_reach", arrow)
        query = reach_sql(self._keyed, folded=self._relation(), reach="log_reach")
        self._con.execute(f"CREATE OR REPLACE TEMP TABLE {REACH} AS {query}")
        self._con.unregister("log_reach")
        query = waiting_sql(self._keyed, **self._tail())
        self._con.execute(f"CREATE OR REPLACE TEMP TABLE {WAITING} AS {query}")
        # Counted exactly, whatever was deleted from the log since the last fold.
        self._waiting = int(self._con.sql(f"SELECT coalesce(sum(rows), 0) FROM {WAITING}").fetchall()[0][0])
        per_home = dict(self._con.sql(f"SELECT home, sum(foldable) FROM {WAITING} GROUP BY home").fetchall())
        return {home: int(per_home.get(home, 0)) for home in range(self._partitions)}

    def _tail(self) -> dict[str, str]:
        """The relations that `tail_sql` reads: the log's files since the oldest mark, the folded table."""
        folded = self._relation()
        since: date = self._con.sql(f"SELECT min(mark_date) FROM {folded} WHERE is_mark").fetchall()[0][0]
        name = self._keyed.log
        return {
            "log": self._lake.relation_of(name, self._log, lambda f: f["partition.known_date"] >= since),
            "folded": folded,
        }

    def _relation(self, home: int | None = None) -> str:
        """The folded table, or one partition of it."""
        column = f"partition.{self._keyed.home_bucket}"
        return self._lake.relation_of(self._keyed.folded, self._folded, lambda f: home in (None, f[column]))

    def _fold_bucket(self, home: int, rows: int) -> bool:
        """Rewrites one partition, which takes in so many rows; False: another fold was first."""
        keyed, folded = self._keyed, self._relation(home)
        bounds = self._con.sql(bounds_sql(keyed, home=home, rows=rows)).fetchall()[0][0] or []
        queries: list[Query] = []
        for above, below in pairwise([None, *bounds, None]):
            limits = {"above": above, "below": below}
            limits = {name: value for name, value in limits.items() if value is not None}
            query = states_sql(keyed, home=home, folded=folded, above=above is not None, below=below is not None)
            queries.append((query, limits))
        queries.append((marks_sql(keyed, home=home, today=self._now.date().isoformat()), {}))
        stream = _Stream(self._con, queries, LAKE_TABLES[keyed.folded].schema)
        self._folded_at_s[home] = int(time.time())
        try:
            return self._commit(stream.reader, {"mode": "overwrite", "predicate": f"{keyed.home_bucket} = {home}"})
        except Exception:
            if stream.failure is not None:
                raise stream.failure from None  # delta-rs would tell it as text of an error of its own
            raise

    def _commit(self, rows: pa.Table | pa.RecordBatchReader, how: Mapping[str, Any]) -> bool:
        """One commit through the handle; False: another fold was first."""
        self._serial += 1
        at = {f"{_FOLDED_AT_ID}:{home}": at_s for home, at_s in self._folded_at_s.items()}
        ids = {_APP_ID: self._serial, FOLDED_LOG_ROWS_ID: self._log_rows - self._waiting, **at}
        properties = CommitProperties(
            custom_metadata={"trs_ids": json.dumps(ids)}, app_transactions=[Transaction(i, v) for i, v in ids.items()]
        )
        try:
            write_deltalake(
                self._folded,
                rows,
                **{"mode": "append", **how},
                commit_properties=properties,
                writer_properties=WRITER,
                post_commithook_properties=WITHOUT_CLEANUP,
            )
        except CommitFailedError:
            return False
        return True


def forget_log_rows(lake: DeltaLake, keyed: KeyedTable, rows: int) -> None:
    """Tells the folded table that so many rows up to its marks leave the log, by a commit without rows.

    Without it a fold would seem to be due that many rows later. Raises RetryableError where folds are always first.
    """
    with wrapped_errors(f"fold of {keyed.folded}"):
        _forget_log_rows(lake, keyed, rows)


def _forget_log_rows(lake: DeltaLake, keyed: KeyedTable, rows: int) -> None:
    for _ in range(COMMIT_RETRIES):
        handle = lake.store.open(keyed.folded)
        stand = KnownIds().read(handle, [_APP_ID, FOLDED_LOG_ROWS_ID])
        if FOLDED_LOG_ROWS_ID not in stand:
            return
        ids = {
            _APP_ID: stand.get(_APP_ID, 0) + 1,
            FOLDED_LOG_ROWS_ID: max(0, stand[FOLDED_LOG_ROWS_ID] - rows),
        }
        properties = CommitProperties(
            custom_metadata={"trs_ids": json.dumps(ids)},
            app_transactions=[Transaction(i, v) for i, v in ids.items()],
        )
        with suppress(CommitFailedError):
            empty = LAKE_TABLES[keyed.folded].schema.empty_table()
            write_deltalake(
                handle,
                empty,
                mode="append",
                commit_properties=properties,
                writer_properties=WRITER,
                post_commithook_properties=WITHOUT_CLEANUP,
            )
            return
    raise RetryableError(f"{keyed.folded}: folds are always first, try again")


class _Stream:
    """The rows of queries, one after the other, as batches of this schema; `failure`: how DuckDB ended it early."""

    def __init__(self, con: duckdb.DuckDBPyConnection, queries: Sequence[Query], schema: pa.Schema) -> None:
        self.failure: duckdb.Error | None = None
        self.reader = pa.RecordBatchReader.from_batches(schema, self._batches(con, queries, schema))

    def _batches(
        self, con: duckdb.DuckDBPyConnection, queries: Sequence[Query], schema: pa.Schema
    ) -> Iterator[pa.RecordBatch]:
        try:
            for query, parameters in queries:
                for batch in con.sql(query, params=parameters or None).to_arrow_reader(_BATCH_ROWS):
                    yield batch.select(schema.names).cast(schema)
        except duckdb.Error as error:
            self.failure = error
            raise


def _reach(lake: DeltaLake, keyed: KeyedTable, log: DeltaTable, partitions: int) -> dict[int, int]:
    stage = stage_of_log(keyed.log)
    buckets = range(partitions)
    epochs = _per_bucket(log, {f"epoch:{stage}:{b}": b for b in buckets})
    outputs = []
    if keyed is STAGE_LOGS["invoices"]:
        outputs = [_per_bucket(log, {f"{output}:{b}": b for b in buckets}) for output in outputs_of_invoices()]
    elif keyed is STAGE_LOGS.get(stage):
        cursors = {f"cursor:{b}": b for b in buckets}
        outputs = [_per_bucket(lake.store.open(name), cursors) for name in changes_of_stage(stage)]
    return reach(epochs, {b: min(o[b] for o in outputs) for b in buckets} if outputs else None)


def _per_bucket(table: DeltaTable, ids: Mapping[str, int]) -> dict[int, int]:
    stand = KnownIds().read(table, ids)
    return {bucket: stand.get(app_id, 0) for app_id, bucket in ids.items()}
