"""A lake in memory with the rules of Delta's log, and a step before and after each commit at which a test may act.

Rows of a commit lie in a Parquet file, so that the stages read them as ever; commits, application ids and metadata are
kept in lists. A commit conflicts when a commit since its handle's version carries one of its ids.
"""

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from processors.errors import FencedError, MovedError
from processors.keyed_table import KeyedTable
from processors.lake_tables import LAKE_TABLES
from processors.ports import ControlEntry, KeyedFiles
from processors.state import duckdb_type

Step = Callable[[str], None]
"""Called with what is about to happen or just happened; may block, or raise to kill its worker."""


@dataclass(frozen=True)
class Commit:
    """One commit of a table."""

    ids: Mapping[str, int]
    metadata: Mapping[str, Any]
    file: str | None = None


@dataclass
class Disk:
    """What all workers share."""

    folder: Path
    tables: dict[str, list[Commit]] = field(default_factory=lambda: {name: [] for name in LAKE_TABLES})
    control: list[ControlEntry] = field(default_factory=list)

    def relation(self, name: str, files: Sequence[str] | None = None) -> str:
        found = [c.file for c in self.tables[name] if c.file is not None] if files is None else list(files)
        if not found:
            columns = ", ".join(f"NULL::{duckdb_type(f.type)} AS {f.name}" for f in LAKE_TABLES[name].schema)
            return f"(SELECT {columns} WHERE FALSE)"
        return f"(SELECT * FROM read_parquet({found}))"

    def rows(self, con: duckdb.DuckDBPyConnection, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = con.sql(f"FROM {self.relation(name)}").to_arrow_table().to_pylist()
        return found


class MemoryLake:
    """`processors.ports.Lake` of one worker; `generation` is the same for all."""

    generation = "memory"

    def __init__(self, disk: Disk, step: Step) -> None:
        self.disk = disk
        self.step = step
        self.control = MemoryControl(disk, step)

    def prepare(self, con: duckdb.DuckDBPyConnection) -> None:
        con.execute("SET TimeZone = 'UTC'")

    def relation(self, name: str, files: Sequence[str] | None = None) -> str:
        return self.disk.relation(name, files)

    def keyed(self, table: KeyedTable, homes: Collection[int] | None = None) -> KeyedFiles:
        files = [c.file for c in self.disk.tables[table.log] if c.file is not None]
        rows = sum(pq.read_metadata(file).num_rows for file in files)
        return KeyedFiles(self.relation(table.log), self.relation(table.folded), 0, rows)

    def fenced(self, name: str) -> "MemoryLog":
        return MemoryLog(self.disk, name, self.step)

    def follow(self, name: str) -> "Follower":
        return Follower(self.disk, name)

    def recent_commits(self, name: str, limit: int) -> Sequence[Mapping[str, Any]]:
        return [c.metadata or {} for c in reversed(self.disk.tables[name][-limit:])]


class MemoryLog:
    """`processors.ports.FencedLog`."""

    def __init__(self, disk: Disk, name: str, step: Step) -> None:
        self.name = name
        self._disk = disk
        self._commits = disk.tables[name]
        self._step = step
        self._version = 0
        self._ids: dict[str, int] = {}

    def _values(self, version: int) -> dict[str, int]:
        values: dict[str, int] = {}
        for commit in self._commits[:version]:
            values |= commit.ids
        return values

    def stored(self, ids: tuple[str, ...]) -> dict[str, int]:
        values = self._values(len(self._commits))
        self._step(f"after a look at {self.name}")
        return {i: values[i] for i in ids if i in values}

    def open(self, ids: Mapping[str, int], metadata: Mapping[str, Any], *, seen: Mapping[str, int]) -> None:
        self._version = len(self._commits)
        values = self._values(self._version)
        if {i: values[i] for i in {*ids, *seen} if i in values} != dict(seen):
            raise MovedError(f"{self.name}: ids moved")
        self._ids = {}
        try:
            self._commit(None, dict(ids), metadata)
        except FencedError as error:
            raise MovedError(f"{self.name}: ids moved") from error

    def append(self, rows: pa.Table | None, ids: Mapping[str, int], metadata: Mapping[str, Any] | None = None) -> str:
        stand = self._values(self._version)
        if any(stand.get(i) != last for i, last in self._ids.items()):
            raise FencedError(f"{self.name}: another worker owns an id")
        return self._commit(rows, self._ids | dict(ids), metadata or {})

    def _commit(self, rows: pa.Table | None, ids: dict[str, int], metadata: Mapping[str, Any]) -> str:
        self._step(f"before a commit to {self.name}")
        if any(i in commit.ids for commit in self._commits[self._version :] for i in ids):
            raise FencedError(f"{self.name}: another worker committed an id")
        commit_id, file = uuid.uuid4().hex, None
        if rows is not None and rows.num_rows:
            assert rows.schema.equals(LAKE_TABLES[self.name].schema)
            file = str(self._disk.folder / f"{self.name}-{commit_id}.parquet")
            pq.write_table(rows, file, compression="none")
        self._commits.append(Commit(dict(ids), dict(metadata), file))
        self._version, self._ids = len(self._commits), ids
        self._step(f"after a commit to {self.name}")
        return commit_id


class Follower:
    """`processors.ports.NewFiles`; of the control log a file stands for its entries."""

    def __init__(self, disk: Disk, name: str) -> None:
        self._disk = disk
        self._name = name
        self._seen = 0

    def new_files(self) -> list[str]:
        source: Sequence[Any] = self._disk.control if self._name == "control_log" else self._disk.tables[self._name]
        fresh, self._seen = source[self._seen :], len(source)
        if self._name == "control_log":
            return [str(entry.entry) for entry in fresh]
        return [commit.file for commit in fresh if commit.file is not None]


class MemoryControl:
    """`processors.ports.Control`."""

    def __init__(self, disk: Disk, step: Step) -> None:
        self._disk = disk
        self._step = step

    def entries(self) -> list[ControlEntry]:
        return list(self._disk.control)

    def truncate(self, table_name: str, row_order: int, source_ts_ms: int) -> None:
        self._step("before a truncate is recorded")
        if any((e.table_name, e.row_order) == (table_name, row_order) for e in self._disk.control):
            return
        detail = {"source_ts_ms": source_ts_ms}
        self._disk.control.append(
            ControlEntry(len(self._disk.control) + 1, "truncate", table_name, row_order, detail=detail)
        )
        self._step("after a truncate was recorded")


def utc(milliseconds: int) -> datetime:
    """A time of the simulation."""
    return datetime.fromtimestamp(1_704_067_200 + milliseconds / 1000, UTC)
