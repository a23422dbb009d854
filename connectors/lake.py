"""Delta Lake: the tables' files for reading, fenced appends for the worker, the control log.

A *fenced* table is written through a handle that nothing but its own commits advances (R8). Every commit carries the
application ids of all buckets of the writer; Delta refuses a commit when another writer has committed one of the ids
since the handle's version, and that refusal is the fence.
"""

import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from processors.errors import (
    AccessDeniedError,
    FencedError,
    FullDiskError,
    RetryableError,
    StateUnknownError,
    TrsError,
    UnavailableError,
)
from processors.lake_tables import CONTROL_LOG, LAKE_TABLES, LakeTable
from processors.ports import ControlEntry, OpenRun
from processors.state import duckdb_type

COMMIT_RETRIES = 30
_CONTROL_APP = "control"
_HISTORY_DEPTH = 500
_TABLE_PROPERTIES = {
    "delta.checkpointInterval": "100",
    "delta.logRetentionDuration": "interval 30 days",
    "delta.deletedFileRetentionDuration": "interval 7 days",
}


@dataclass(frozen=True)
class LakeLocation:
    """Where a lake is: `s3://bucket/prefix` or a folder, and delta-rs storage options (empty on AWS with a role)."""

    uri: str
    storage_options: Mapping[str, str] = field(default_factory=dict)

    def table(self, name: str) -> str:
        return f"{self.uri}/{name}"


def wrap_error(error: Exception, what: str) -> TrsError:
    """A library's error as one of ours; the message names the table, never a credential."""
    text = str(error)
    lower = text.lower()
    if "no space left" in lower or "os error 28" in lower:
        return FullDiskError(f"{what}: no space left on the device", hint="free some, then start again")
    if any(word in lower for word in ("accessdenied", "invalidaccesskeyid", "signaturedoesnotmatch", "forbidden")):
        return AccessDeniedError(f"{what}: the object store refuses access", hint="check TRS_AWS_* or the task's role")
    if any(
        word in lower
        for word in ("error sending request", "connection refused", "timed out", "timeout", "nosuchbucket")
    ):
        return UnavailableError(
            f"{what}: the object store does not answer as expected", hint="check TRS_LAKE, TRS_AWS_ENDPOINT"
        )
    return RetryableError(f"{what}: {text.splitlines()[0] if text else type(error).__name__}")


class LakeStore:
    """The Delta tables below one location."""

    def __init__(self, location: LakeLocation) -> None:
        self.location = location
        self._options = dict(location.storage_options) or None

    def create(self) -> None:
        """Makes every declared table that is missing, and the first control entry (the lake's generation)."""
        for table in LAKE_TABLES.values():
            self._create_table(table)
        ControlLog(self).ensure_generation()

    def exists(self) -> bool:
        """Whether the lake was ever created."""
        try:
            return bool(DeltaTable.is_deltatable(self.location.table(CONTROL_LOG.name), self._options))
        except (DeltaError, OSError) as error:
            raise wrap_error(error, f"lake {self.location.uri}") from error

    def _create_table(self, table: LakeTable) -> None:
        uri = self.location.table(table.name)
        try:
            if DeltaTable.is_deltatable(uri, self._options):
                return
            DeltaTable.create(
                uri,
                schema=table.schema,
                mode="ignore",
                partition_by=list(table.partition_by) or None,
                name=table.name,
                description=table.doc,
                configuration=dict(_TABLE_PROPERTIES),
                storage_options=self._options,
            )
        except (DeltaError, OSError) as error:
            if isinstance(error, CommitFailedError) and DeltaTable.is_deltatable(uri, self._options):
                return  # another worker was first
            raise wrap_error(error, f"table {table.name} at {uri}") from error

    def open(self, name: str, version: int | None = None) -> DeltaTable:
        """A fresh handle on a table. Raises UnavailableError when the table or the store is not there."""
        uri = self.location.table(name)
        try:
            return DeltaTable(uri, version=version, storage_options=self._options)
        except TableNotFoundError as error:
            raise UnavailableError(f"no table {name} at {uri}", hint="`trs worker` creates the lake") from error
        except (DeltaError, OSError) as error:
            raise wrap_error(error, f"table {name} at {uri}") from error

    def fenced(self, name: str) -> "FencedTable":
        """A writer of one table; open it before the first append."""
        return FencedTable(self, name)

    def find_commit(self, name: str, matches: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any] | None:
        """The newest of the last 500 commits whose metadata matches, or None."""
        for commit in self.open(name).history(_HISTORY_DEPTH):
            if matches(commit):
                return commit
        return None


class FencedTable:
    """One worker's writer of one table (R5, R8). Not thread-safe: a stage is its only user."""

    def __init__(self, store: LakeStore, name: str) -> None:
        self._store = store
        self.name = name
        self._handle: DeltaTable | None = None
        self._ids: dict[str, int] = {}

    def stored(self, ids: tuple[str, ...]) -> dict[str, int]:
        """The values that a fresh look at the table shows for these ids; absent ids are left out."""
        fresh = self._store.open(self.name)
        found = {i: fresh.transaction_version(i) for i in ids}
        return {i: v for i, v in found.items() if v is not None}

    def open(self, ids: Mapping[str, int], metadata: Mapping[str, Any]) -> None:
        """Commits an opening: no rows, these ids (all that this writer owns). From here on they are fenced.

        Raises FencedError when another worker opens the same ids at the same moment.
        """
        self._handle = self._store.open(self.name)
        self._ids = {}
        self._commit(None, dict(ids), metadata)

    def append(self, rows: pa.Table | None, ids: Mapping[str, int], metadata: Mapping[str, Any] | None = None) -> str:
        """Appends rows (None: an empty commit) with the changed ids; the others go along at their last value.

        Returns the commit's unique id. Raises FencedError (not the owner any more), StateUnknownError (reload), or
        FullDiskError. Waits and retries while the table is busy.
        """
        if self._handle is None:
            raise StateUnknownError(f"table {self.name} was not opened")
        for app_id, last in self._ids.items():
            seen = self._handle.transaction_version(app_id)
            if seen != last:
                raise FencedError(f"{self.name}: {app_id} is at {seen}, we left it at {last}: another worker owns it")
        return self._commit(rows, self._ids | dict(ids), metadata or {})

    def _commit(self, rows: pa.Table | None, ids: dict[str, int], metadata: Mapping[str, Any]) -> str:
        if self._handle is None:
            raise StateUnknownError(f"table {self.name} was not opened")
        commit_id = uuid.uuid4().hex
        schema = LAKE_TABLES[self.name].schema
        table = schema.empty_table() if rows is None else rows
        properties = CommitProperties(
            custom_metadata={"commit_id": commit_id, "trs": json.dumps(dict(metadata))},
            max_commit_retries=COMMIT_RETRIES,
            app_transactions=[Transaction(i, v) for i, v in ids.items()],
        )
        while True:
            try:
                write_deltalake(self._handle, table, mode="append", commit_properties=properties)
                break
            except (DeltaError, OSError) as error:
                if self._outcome(error, commit_id) == "done":
                    break
                time.sleep(random.uniform(0.05, 0.5))  # noqa: S311 - jitter, not a secret
        self._ids = ids
        return commit_id

    def _outcome(self, error: Exception, commit_id: str) -> str:
        """'done' when the commit stands in the log in spite of the error, 'again' on a busy table; raises otherwise."""
        text = str(error)
        if "Concurrent transaction failed" in text:
            raise FencedError(f"{self.name}: another worker committed one of our ids since our last commit") from error
        if isinstance(error, CommitFailedError) and f"transaction: {COMMIT_RETRIES}" in text:
            return "again"
        wrapped = wrap_error(error, f"commit to {self.name}")
        if isinstance(wrapped, FullDiskError | AccessDeniedError):
            raise wrapped from error
        try:
            found = self._find_own(commit_id)
        except TrsError:
            raise StateUnknownError(f"commit to {self.name}: {wrapped.message}") from error
        if found is None:
            raise StateUnknownError(f"commit to {self.name} did not arrive: {wrapped.message}") from error
        self._handle = self._store.open(self.name, found)
        return "done"

    def _find_own(self, commit_id: str) -> int | None:
        commit = self._store.find_commit(self.name, lambda c: c.get("commit_id") == commit_id)
        return None if commit is None else int(commit["version"])


class TableFiles:
    """Follows the active files of one append-only table: each call tells which files are new since the last."""

    def __init__(self, store: LakeStore, name: str) -> None:
        self._store = store
        self._name = name
        self._handle: DeltaTable | None = None
        self._seen: set[str] = set()
        self._version = -1

    def new_files(self) -> list[str]:
        """Files not returned before; compaction may return old rows in new files, so filter by epoch."""
        if self._handle is None:
            self._handle = self._store.open(self._name)
        else:
            try:
                self._handle.update_incremental()
            except (DeltaError, OSError) as error:
                raise wrap_error(error, f"table {self._name}") from error
        if self._handle.version() == self._version:
            return []
        self._version = self._handle.version()
        files = self._handle.file_uris()
        new = [f for f in files if f not in self._seen]
        self._seen = set(files)
        return new


class ControlLog:
    """The control log: few rows, one total order by compare-and-set on its application id."""

    def __init__(self, store: LakeStore) -> None:
        self._store = store
        self._lock = threading.Lock()

    def _append(
        self, kind: str, build: Callable[[list[dict[str, Any]]], dict[str, Any] | None]
    ) -> dict[str, Any] | None:
        """Appends what `build` makes of the entries so far (None: nothing to do), retrying when another was first."""
        with self._lock:
            while True:
                handle = self._store.open(CONTROL_LOG.name)
                entries = _control_rows(handle)
                values = build(entries)
                if values is None:
                    return None
                number = (handle.transaction_version(_CONTROL_APP) or 0) + 1
                now = datetime.now(UTC)
                row = dict.fromkeys(CONTROL_LOG.schema.names) | {
                    "entry": number,
                    "kind": kind,
                    "at": now,
                    "known_date": now.date(),
                }
                row |= values
                try:
                    write_deltalake(
                        handle,
                        pa.Table.from_pylist([row], schema=CONTROL_LOG.schema),
                        mode="append",
                        commit_properties=CommitProperties(
                            max_commit_retries=COMMIT_RETRIES, app_transactions=[Transaction(_CONTROL_APP, number)]
                        ),
                    )
                except CommitFailedError:
                    time.sleep(random.uniform(0.01, 0.2))  # noqa: S311 - jitter, not a secret
                    continue
                except (DeltaError, OSError) as error:
                    raise wrap_error(error, "control_log") from error
                return row

    def entries(self) -> list[ControlEntry]:
        """All entries in order."""
        rows = _control_rows(self._store.open(CONTROL_LOG.name))
        return [
            ControlEntry(
                entry=r["entry"],
                kind=r["kind"],
                table_name=r["table_name"],
                row_order=None if r["row_order"] is None else int(r["row_order"]),
                run=r["run"],
                source_name=r["source_name"],
                detail=json.loads(r["detail"]) if r["detail"] else {},
            )
            for r in rows
        ]

    def ensure_generation(self) -> str:
        """The lake's generation id (R12), made on the first call."""

        def first(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
            if any(e["kind"] == "generation" for e in entries):
                return None
            return {"detail": json.dumps({"generation": uuid.uuid4().hex})}

        self._append("generation", first)
        return self.generation()

    def generation(self) -> str:
        """The latest generation id."""
        ids = [e.detail["generation"] for e in self.entries() if e.kind == "generation"]
        if not ids:
            raise UnavailableError("the lake has no generation entry", hint="`trs worker` creates the lake")
        return str(ids[-1])

    def truncate(self, table_name: str, row_order: int, source_ts_ms: int) -> None:
        """Records that rows of a table below an order are gone (R4); a repetition changes nothing."""

        def once(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
            if any(
                e["kind"] == "truncate" and e["table_name"] == table_name and int(e["row_order"]) == row_order
                for e in entries
            ):
                return None
            return {
                "table_name": table_name,
                "row_order": row_order,
                "detail": json.dumps({"source_ts_ms": source_ts_ms}),
            }

        self._append("truncate", once)

    def open_run(self, source_name: str, detail: Mapping[str, Any]) -> int:
        """Registers a bootstrap run (R3) and returns its number, 1 for the first."""

        def next_run(entries: list[dict[str, Any]]) -> dict[str, Any]:
            runs = [e["run"] for e in entries if e["run"] is not None]
            return {"run": max(runs, default=0) + 1, "source_name": source_name, "detail": json.dumps(dict(detail))}

        row = self._append("run_opened", next_run)
        if row is None:
            raise StateUnknownError("a run was not registered")
        return int(row["run"])

    def close_run(self, run: int, detail: Mapping[str, Any]) -> None:
        """Marks a run as ended; a repetition changes nothing."""

        def once(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
            if any(e["kind"] == "run_closed" and e["run"] == run for e in entries):
                return None
            return {"run": run, "detail": json.dumps(dict(detail))}

        self._append("run_closed", once)

    def open_runs(self) -> list[OpenRun]:
        """Runs that were registered and not ended, oldest first."""
        entries = self.entries()
        closed = {e.run for e in entries if e.kind == "run_closed"}
        return [
            OpenRun(run=e.run, source_name=e.source_name or "", detail=e.detail)
            for e in entries
            if e.kind == "run_opened" and e.run is not None and e.run not in closed
        ]


def _control_rows(handle: DeltaTable) -> list[dict[str, Any]]:
    """Few rows by nature, so they are read whole, sorted by entry."""
    from deltalake import QueryBuilder

    result = (
        QueryBuilder().register("control_log", handle).execute("SELECT * FROM control_log ORDER BY entry").read_all()
    )
    return pa.table(result).to_pylist()


class DeltaLake:
    """Implements `processors.ports.Lake`: the tables below one location, created when missing."""

    def __init__(self, location: LakeLocation) -> None:
        self.store = LakeStore(location)
        self.store.create()
        self.control = ControlLog(self.store)
        self.generation = self.control.generation()

    def prepare(self, con: Any) -> None:
        """Makes the lake's files readable from this DuckDB connection."""
        con.execute("SET TimeZone = 'UTC'")

    def relation(self, name: str, files: Sequence[str] | None = None) -> str:
        """SQL of a subquery over a table's active files as of now, or over the given files."""
        table = LAKE_TABLES[name]
        paths = self.store.open(name).file_uris() if files is None else list(files)
        if not paths:
            nulls = ", ".join(f"NULL::{duckdb_type(f.type)} AS {f.name}" for f in table.schema)
            return f"(SELECT {nulls} WHERE FALSE)"
        listed = ", ".join("'" + p.replace("'", "''") + "'" for p in paths)
        types = {f.name: duckdb_type(f.type) for f in table.schema if f.name in table.partition_by}
        return (
            f"(SELECT {', '.join(table.schema.names)} FROM read_parquet([{listed}], union_by_name = true,"
            f" hive_partitioning = true, hive_types = {types}))"
        )

    def fenced(self, name: str) -> FencedTable:
        """A new writer of a table."""
        return self.store.fenced(name)

    def follow(self, name: str) -> TableFiles:
        """A new follower of a table's files."""
        return TableFiles(self.store, name)

    def commit_metadata(self, name: str, stage: str, bucket: int, epoch: int | None) -> Mapping[str, Any] | None:
        """The metadata of the commit in which the bucket reached the epoch (None: its latest), or None if gone."""

        def matches(commit: Mapping[str, Any]) -> bool:
            ours = json.loads(commit.get("trs", "{}"))
            reached = ours.get("epochs", {}).get(str(bucket))
            if ours.get("stage") != stage or reached is None:
                return False
            return bool(ours.get("kind") == "epoch") if epoch is None else bool(reached == epoch)

        found = self.store.find_commit(name, matches)
        return None if found is None else dict(json.loads(found["trs"]))
