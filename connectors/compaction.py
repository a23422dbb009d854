"""Compaction on Delta: files of one day become few, sorted by bucket and key, by a commit that changes no row.

`dataChange` is false in every action, so readers of the table as a stream take no notice. The commit is made on top of
the very version at which all its inputs were seen to be active, without the retries of delta-rs: these would let a
commit pass that removes a file which another one has removed meanwhile, and the rows would stand there twice (measured
with deltalake 1.6.6, for its own `optimize` too). A worker's appends do not conflict: they only let us look again.
"""

import json
import logging
import math
import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from connectors.delta_lake import DeltaLake
from connectors.lake import COMMIT_RETRIES, WITHOUT_CLEANUP, wrap_error, wrapped_errors
from connectors.object_files import active_files, read_error
from connectors.table_folder import TableFolder
from processors.compaction import DataFile, FileGroup, sort_columns
from processors.errors import InvariantError, RetryableError
from processors.lake_tables import LakeTable

log = logging.getLogger(__name__)

UPKEEP_ID = "upkeep"
"""Application id of commits that rewrite files of append-only tables: compare-and-set (R8)."""
DAY = "known_date"
"""The partition column of append-only tables."""
_ROW_GROUP = 122_880
"""As `connectors.lake.WRITER`; a multiple of DuckDB's vectors, so that batches come in this size."""


@dataclass(frozen=True)
class Compacted:
    """What became of one group. Not `committed`: another rewrite of the table was first, nothing has changed."""

    table: str
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    committed: bool


def data_files(handle: DeltaTable) -> list[DataFile]:
    """The active files of an append-only table; those of rows without a day are left out of a table with days."""
    partitioned = handle.metadata().partition_columns
    return [
        DataFile(f["path"], f["size_bytes"], f["num_records"], f["modification_time"], f.get(f"partition.{DAY}"))
        for f in active_files(handle)
        if f["num_records"] is not None and (not partitioned or f.get(f"partition.{DAY}") is not None)
    ]


def unknown_columns(handle: DeltaTable, table: LakeTable) -> list[str]:
    """Columns that a newer version of the program has added: a rewrite by this one would lose them."""
    return [f.name for f in handle.schema().fields if f.name not in table.schema.names]


def compact(lake: DeltaLake, con: duckdb.DuckDBPyConnection, table: LakeTable, group: FileGroup) -> Compacted:
    """Rewrites one group; `con` must be prepared for the lake. Memory is that of `con` and of one row group."""
    with wrapped_errors(f"compaction of {table.name}"):
        try:
            return FileRewrite(lake, con, table, group).run()
        except duckdb.Error as error:
            raise read_error(error) or error from error


class FileRewrite:
    """Puts new files with the rows of a group in the place of its files, by one commit.

    A subclass may leave out rows (`rows_sql`, `expected_rows`), and have application ids of its own (`own_ids`), which
    it looks at in `is_as_planned`.
    """

    note = "compact"

    def __init__(self, lake: DeltaLake, con: duckdb.DuckDBPyConnection, table: LakeTable, group: FileGroup) -> None:
        self._lake = lake
        self._con = con
        self._table = table
        self._group = group
        self._folder = TableFolder(lake.store.location, table.name)
        self._written: list[AddAction] = []
        self._begun: list[str] = []
        self._in_doubt = False
        """A commit was begun whose outcome is not known: our files may be the table's."""

    def run(self) -> Compacted:
        handle = self._lake.store.open(self._table.name)
        serial = self._serial(handle)
        committed = False
        try:
            if self.is_as_planned(handle, serial):
                self._write(handle)
                committed = self._commit(serial)
        finally:
            if not committed and not self._in_doubt:
                self._drop()
        return Compacted(
            self._table.name,
            files_before=len(self._group.files),
            files_after=len(self._written),
            bytes_before=self._group.size_bytes,
            bytes_after=sum(a.size for a in self._written),
            committed=committed,
        )

    def _serial(self, handle: DeltaTable) -> int:
        return handle.transaction_version(UPKEEP_ID) or 0

    def is_as_planned(self, handle: DeltaTable, serial: int) -> bool:
        """Whether all inputs are active, and nobody has rewritten files since we looked."""
        active = {f["path"] for f in active_files(handle)}
        return self._serial(handle) == serial and all(f.path in active for f in self._group.files)

    # --- the new files -------------------------------------------------------------------------------------------

    def _write(self, handle: DeltaTable) -> None:
        paths = {f.path for f in self._group.files}
        relation = self._lake.relation_of(self._table.name, handle, lambda f: f["path"] in paths)
        schema = pa.schema([f.remove_metadata() for f in self._table.schema if f.name not in self._table.partition_by])
        names = ", ".join(f'"{n}"' for n in schema.names)
        order = ", ".join(f'"{n}"' for n in sort_columns(self._table))
        rows = self._con.sql(f"SELECT {names} FROM {self.rows_sql(relation)} AS r ORDER BY {order}")
        part_rows = math.ceil(self.expected_rows / self._group.parts)
        batches = (b.cast(schema) for b in rows.to_arrow_reader(_ROW_GROUP))
        for part in _parts(batches, part_rows):
            self._write_part(schema, part)
        written = sum(json.loads(a.stats)["numRecords"] for a in self._written)
        if written != self.expected_rows:
            raise InvariantError(f"{self._table.name}: {written} rows would be left and not {self.expected_rows}")

    def rows_sql(self, relation: str) -> str:
        """The relation of the rows that stay."""
        return relation

    @property
    def own_ids(self) -> dict[str, int]:
        """Application ids that the commit carries besides."""
        return {}

    @property
    def expected_rows(self) -> int:
        """How many rows stay."""
        return self._group.rows

    def _write_part(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        folder = "" if self._group.day is None else f"{DAY}={self._group.day}/"
        path = f"{folder}compacted-{uuid.uuid4()}.zstd.parquet"
        self._begun.append(path)
        facts: list[pq.FileMetaData] = []
        with self._folder.writer(path) as target:
            how = {"compression": "zstd", "compression_level": 1, "metadata_collector": facts}
            with pq.ParquetWriter(pa.PythonFile(target, mode="w"), schema, **how) as writer:
                for batch in batches:
                    writer.write_batch(batch, row_group_size=_ROW_GROUP)
        self._written.append(
            AddAction(
                path=path,
                size=self._folder.size_bytes(path),
                partition_values={} if self._group.day is None else {DAY: self._group.day.isoformat()},
                modification_time=int(time.time() * 1000),
                data_change=False,
                stats=json.dumps(file_stats(facts[0])),
            )
        )

    def _drop(self) -> None:
        """Takes away what was written in vain; what cannot be is left to the next vacuum."""
        try:
            self._folder.delete(self._begun)
        except OSError as error:
            log.warning("%s: files written in vain stay until the next vacuum: %s", self._table.name, error)

    # --- the commit ----------------------------------------------------------------------------------------------

    def _commit(self, serial: int) -> bool:
        """False: another rewrite was first. Raises RetryableError while the table is too busy."""
        for _ in range(COMMIT_RETRIES):
            handle = self._lake.store.open(self._table.name)
            if not self.is_as_planned(handle, serial):
                return False
            self._in_doubt = True
            try:
                self._commit_on(handle, serial + 1)
                return True
            except (DeltaError, OSError) as error:
                if self._stands():
                    return True
                if not isinstance(error, CommitFailedError):  # it may still arrive
                    raise wrap_error(error, f"compaction of {self._table.name}") from error
            self._in_doubt = False
            time.sleep(random.uniform(0.02, 0.3))  # noqa: S311 - jitter, not a secret
        raise RetryableError(f"compaction of {self._table.name}: the table is too busy, it is tried again later")

    def _stands(self) -> bool:
        """Whether our files are part of the table: a commit may have arrived though its answer did not."""
        active = {f["path"] for f in active_files(self._lake.store.open(self._table.name))}
        gone = not any(f.path in active for f in self._group.files)
        return gone and all(add.path in active for add in self._written)

    def _commit_on(self, handle: DeltaTable, serial: int) -> None:
        now_ms = int(time.time() * 1000)
        day: dict[str, str | None] | None = None if self._group.day is None else {DAY: self._group.day.isoformat()}
        removed = [
            RemoveAction(
                f.path,
                data_change=False,
                deletion_timestamp=now_ms,
                size=f.size_bytes,
                partition_values=day,
            )
            for f in self._group.files
        ]
        handle.create_write_transaction(
            [*self._written, *removed],
            "append",
            handle.schema(),
            list(self._table.partition_by) or None,
            commit_properties=CommitProperties(
                custom_metadata={"trs_upkeep": self.note},
                app_transactions=[Transaction(i, v) for i, v in {UPKEEP_ID: serial, **self.own_ids}.items()],
                max_commit_retries=0,
            ),
            post_commithook_properties=WITHOUT_CLEANUP,
        )


def _parts(batches: Iterator[pa.RecordBatch], part_rows: int) -> Iterator[Iterator[pa.RecordBatch]]:
    """Cuts a stream of batches after so many rows each, as streams to be read one after the other."""
    held = next(batches, None)

    def one() -> Iterator[pa.RecordBatch]:
        nonlocal held
        left = part_rows
        while held is not None and left > 0:
            batch, rest = held.slice(0, left), held.slice(left)
            held = rest if rest.num_rows else next(batches, None)
            left -= batch.num_rows
            yield batch

    while held is not None:
        yield one()


def file_stats(facts: pq.FileMetaData) -> dict[str, Any]:
    """Delta's statistics of a file: rows; nulls, least and greatest of its plain columns of integers and times.

    Decimals are left out: Delta holds them as JSON numbers, in which large ones lose digits.
    """
    stats: dict[str, Any] = {"numRecords": facts.num_rows, "minValues": {}, "maxValues": {}, "nullCount": {}}
    for place in range(facts.num_columns):
        groups = [facts.row_group(g).column(place) for g in range(facts.num_row_groups)]
        name = facts.schema.column(place).path
        told = [g.statistics for g in groups]
        if "." in name or any(s is None or not s.has_null_count for s in told):
            continue
        stats["nullCount"][name] = sum(s.null_count for s in told)
        known = [s for s in told if s.has_min_max]
        if not known or any(not s.has_min_max and s.null_count < s.num_values + s.null_count for s in told):
            continue
        least, greatest = min(s.min for s in known), max(s.max for s in known)
        if isinstance(least, datetime):
            stats["minValues"][name], stats["maxValues"][name] = _millis(least), _millis(greatest, up=True)
        elif isinstance(least, int) and not isinstance(least, bool):
            stats["minValues"][name], stats["maxValues"][name] = least, greatest
    return stats


def _millis(at: datetime, *, up: bool = False) -> str:
    """Statistics hold whole milliseconds: a least time is rounded down, a greatest one up."""
    cut = at.astimezone(UTC).replace(microsecond=at.microsecond // 1000 * 1000)
    if up and cut != at:
        cut += timedelta(milliseconds=1)
    return cut.isoformat(timespec="milliseconds").replace("+00:00", "Z")
