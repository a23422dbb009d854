"""The lake as the worker's stages see it: fenced tables, files to read and to follow, the control log."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import duckdb
from deltalake import DeltaTable

from connectors.control_log import ControlLog
from connectors.delta_log import last_commits
from connectors.lake import FencedTable, LakeLocation, LakeStore, wrapped_errors
from connectors.object_files import ActiveFile, LakeReader, active_files
from processors.keyed_table import KeyedTable
from processors.ports import KeyedFiles

FOLDED_LOG_ROWS_ID = "folded_log_rows"
"""Application id of folded tables: rows of the log up to the marks, as far as nothing was deleted from it."""


class TableFiles:
    """Follows the active files of one append-only table: each call tells which files are new since the last."""

    def __init__(self, store: LakeStore, reader: LakeReader, name: str) -> None:
        self._store = store
        self._reader = reader
        self._name = name
        self._handle: DeltaTable | None = None
        self._seen: set[str] = set()
        self._version = -1

    def new_files(self) -> list[str]:
        """Files not returned before; compaction may return old rows in new files, so filter by epoch."""
        if self._handle is None:
            self._handle = self._store.open(self._name)
        else:
            with wrapped_errors(f"table {self._name}"):
                self._handle.update_incremental()
        if self._handle.version() == self._version:
            return []
        self._version = self._handle.version()
        files = self._reader.files_of(self._name, self._handle)
        new = [f for f in files if f not in self._seen]
        self._seen = set(files)
        return new


class DeltaLake:
    """Implements `processors.ports.Lake`: the tables below one location.

    `create`: makes what is missing, columns of a newer version too, after which workers of an earlier one cannot write
    any more: for those who write. Others take the lake as it is.
    """

    def __init__(self, location: LakeLocation, *, create: bool = True) -> None:
        self.store = LakeStore(location)
        self._reader = LakeReader(location.uri, location.storage_options)
        self.control = ControlLog(self.store)
        if create:
            self.store.create()
            self.control.ensure_generation()

    @cached_property
    def generation(self) -> str:
        """The lake's generation (R12)."""
        return self.control.generation()

    @property
    def conflicts(self) -> Mapping[tuple[str, str], int]:
        """How often commits were refused, by table and outcome."""
        return dict(self.store.conflicts)

    def prepare(self, con: duckdb.DuckDBPyConnection) -> None:
        """Makes the lake's files readable from this DuckDB connection; its times are UTC."""
        self._reader.prepare(con)

    def relation(self, name: str, files: Sequence[str] | None = None) -> str:
        """SQL of a subquery over a table's active files as of now, or over the given files."""
        return self._reader.relation(name, None if files is None else list(files))

    def relation_of(self, name: str, handle: DeltaTable, wanted: Callable[[ActiveFile], bool] | None = None) -> str:
        """SQL of a subquery over the version of a table that this handle shows, or over the wanted files of it."""
        return self._reader.relation(name, self._reader.files_of(name, handle, wanted))

    def keyed(self, table: KeyedTable, homes: Collection[int] | None = None) -> KeyedFiles:
        """A keyed table as of now; of the folded one only the partitions of these buckets, if any are named."""
        with ThreadPoolExecutor(1) as pool:
            opened = pool.submit(self.store.open, table.log)
            folded = self.store.open(table.folded)
            with wrapped_errors(f"table {table.folded}"):
                rows_folded = log_rows_folded(folded)
            log = opened.result()
        log_files, column = active_files(log), f"partition.{table.home_bucket}"
        folded_files = [f for f in active_files(folded) if homes is None or f[column] in homes]
        return KeyedFiles(
            log=self._reader.relation(table.log, self._reader.addresses(table.log, log_files)),
            folded=self._reader.relation(table.folded, self._reader.addresses(table.folded, folded_files)),
            folded_rows=_rows(folded_files),
            log_rows=max(0, _rows(log_files) - rows_folded),
        )

    def fenced(self, name: str) -> FencedTable:
        """A new writer of a table."""
        return self.store.fenced(name)

    def follow(self, name: str) -> TableFiles:
        """A new follower of a table's files."""
        return TableFiles(self.store, self._reader, name)

    def recent_commits(self, name: str, limit: int) -> list[Mapping[str, Any]]:
        """What the stages wrote into the metadata of a table's last commits, newest first; one request per commit.

        Empty for a commit of another writer, upkeep's for example.
        """
        with wrapped_errors(f"table {name}"):
            commits = last_commits(self.store.open(name), limit)
        return [json.loads(c.get("trs", "{}")) for c in commits]


def log_rows_folded(folded: DeltaTable) -> int:
    """How many rows of its log the folded table has taken in.

    Every fold repeats its ids in its commit; to ask delta-rs for one would read the table's log anew.

    A few commits may follow that fold nothing: columns or properties that were set, a vacuum.
    """
    for limit in (2, 8):
        told = next((c["trs_ids"] for c in last_commits(folded, limit) if "trs_ids" in c), None)
        if told is not None:
            return int(json.loads(told).get(FOLDED_LOG_ROWS_ID, 0))
    return folded.transaction_version(FOLDED_LOG_ROWS_ID) or 0


def _rows(files: Sequence[ActiveFile]) -> int:
    return sum(int(f["num_records"]) for f in files)
