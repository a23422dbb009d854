"""The rows of a source against those of the lake, table by table, in bounded memory.

The lake's rows of a table are read once, at one version, into a DuckDB file; so is a source that makes no digests. A
source that makes them is read part by part, and only where the digests differ. Either way a row differs if its key is
on one side only or a typed value is not the same; what is found is the change that makes the lake's row the source's.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batch_bootstrap.events import Op
from batch_bootstrap.order_checks import order_at, set_back
from batch_bootstrap.source import Source
from connectors.row_digests import Digests, Parts, PartsRead, duckdb_digests
from connectors.source_rows import BinlogPosition, Reject, declared_schema
from processors.errors import SourceError
from processors.lake_rows import LOGS, lake_rows_sql, newest_order_sql, tables_read
from processors.order import RowOrder
from processors.tables import EXTRA, Kind, Table

PART_ROWS = 30
"""About how many rows a part has: many make few digests, few make few rows to read around each change."""
_FEW_ROWS = 10_000
_SMALL_WIDTH = 5
_STRETCHES = 64


class PartsReader(Protocol):
    """Consistent reads of a table's parts."""

    bytes_read: int

    def read(self, first: int | None, end: int | None, lake: Digests) -> PartsRead:
        """Compares the parts [`first`, `end`), or fewer, with the lake's digests."""

    def rows_of(self, keys: pa.Table) -> PartsRead:
        """The rows of these primary keys that exist, in one consistent read."""


@runtime_checkable
class DigestSource(Protocol):
    """A source at which digests are made, with what its positions are good for."""

    def position(self) -> BinlogPosition | None:
        """The end of the binlog now."""

    def settled_position(self) -> BinlogPosition | None:
        """A position everything before which later reads will see."""

    def is_empty(self, table: Table) -> bool:
        """Whether the table has no row."""

    def by_digests(self, table: Table) -> str | None:
        """None, or why its rows must be read whole."""

    def reader(self, table: Table, parts: Parts, *, most_rows: int) -> AbstractContextManager[PartsReader]:
        """Opens reads of the table."""


class LakeTables(Protocol):
    """The lake, for reading."""

    def prepare(self, con: duckdb.DuckDBPyConnection) -> None:
        """Makes its files readable from this connection."""

    def relations(self, names: list[str]) -> Mapping[str, str]:
        """SQL in parentheses per table, each at one version."""


@dataclass(frozen=True)
class Found:
    """What one step of comparing found; a step without changes tells of progress alone.

    `position` and `read_ms` (UTC) were taken before the read. `changes`: rows as declared per op (of `d` the primary
    key only), without the `newer` ones, of which the lake has a later state. `compared`: rows, on the side that has
    more. `read`: rows that travelled. `steps`, `steps_read`: chunks in all, and those of which rows had to be read.
    """

    table: Table
    position: BinlogPosition | None
    read_ms: int
    changes: Mapping[Op, pa.Table] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    newer: int = 0
    compared: int = 0
    read: int = 0
    steps: int = 0
    steps_read: int = 0
    bytes_read: int = 0

    @property
    def changed(self) -> int:
        """Rows that differ."""
        return sum(rows.num_rows for rows in self.changes.values())


class Workspace:
    """A DuckDB file that holds the rows being compared; made in a folder of its owner's. A context manager."""

    def __init__(self, folder: Path, lake: LakeTables, *, memory_mb: int, threads: int) -> None:
        self._con = duckdb.connect(str(folder / "rows.duckdb"))
        lake.prepare(self._con)
        self._con.execute(f"SET memory_limit = '{memory_mb}MB'")
        self._con.execute(f"SET threads = {threads}")
        self._con.execute("SET temp_directory = ?", [str(folder / "spill")])
        self._con.execute("SET preserve_insertion_order = false")
        self._lake = lake

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._con.close()

    def lake_rows(self, table: Table, keys: pa.Table | None = None) -> "LakeRows":
        """Reads the lake's rows of a table, or of some primary keys, deleted ones included, as they are now."""
        con = self._con.cursor()
        con.execute("SET TimeZone = 'UTC'")
        relations = self._lake.relations(list(tables_read(table)))
        name = f"lake_{table.name}"
        rows = lake_rows_sql(table, relations)
        if keys is not None:
            con.register("wanted_keys", keys)
            rows = f"SELECT r.* FROM ({rows}) AS r SEMI JOIN wanted_keys AS k USING ({', '.join(table.key)})"
        con.execute(f"CREATE OR REPLACE TABLE {name} AS {rows}")
        return LakeRows(con, table, name)

    def newest_order(self) -> int:
        """The greatest order that the lake's logs hold now, 0 in an empty lake."""
        relations = self._lake.relations(list(LOGS))
        ((found,),) = self._con.cursor().sql(newest_order_sql(relations.values())).fetchall()
        return 0 if found is None else int(found)

    def both(self, first: pa.Table, second: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Rows of `second` that `first` has as well, and the others; nulls count as equal, `extra` does not count."""
        con = self._con.cursor()
        con.register("first_rows", first)
        con.register("second_rows", second)
        same = " AND ".join(f"s.{c} IS NOT DISTINCT FROM f.{c}" for c in first.schema.names if c != EXTRA)
        shared, others = (
            con.sql(f"SELECT s.* FROM second_rows AS s {kind} JOIN first_rows AS f ON {same}").to_arrow_table()
            for kind in ("SEMI", "ANTI")
        )
        return shared, others


class LakeRows:
    """The lake's rows of one table in the workspace; used by one thread. A context manager that drops them."""

    def __init__(self, con: duckdb.DuckDBPyConnection, table: Table, name: str) -> None:
        self._con = con
        self.table = table
        self.name = name
        ((self.live,),) = con.sql(f"SELECT count(*) FROM {name} WHERE NOT deleted").fetchall()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self.name, self._source):
            self._con.execute(f"DROP TABLE IF EXISTS {name}")
        self._con.close()

    @property
    def _source(self) -> str:
        return f"source_{self.table.name}"

    def newest_order(self, source_epoch: int) -> int | None:
        """The greatest order of a source epoch in the table."""
        low, high = RowOrder(source_epoch, 0, 0, 0).packed(), RowOrder(source_epoch + 1, 0, 0, 0).packed()
        ((found,),) = self._con.sql(
            f"SELECT max(row_order) FROM {self.name} WHERE row_order >= {low} AND row_order < {high}"
        ).fetchall()
        return None if found is None else int(found)

    def parts(self) -> Parts:
        """How the table is cut: so that nowhere in the lake a part has many more rows than PART_ROWS."""
        key = self.table.key[0]
        column = self.table.column(key)
        width = _SMALL_WIDTH
        if column is not None and column.kind is not Kind.TEXT and self.live >= _FEW_ROWS:
            steps = [i / _STRETCHES for i in range(_STRETCHES + 1)]
            ((borders,),) = self._con.sql(
                f"SELECT quantile_disc({key}, {steps}) FROM {self.name} WHERE NOT deleted"
            ).fetchall()
            narrowest = min(high - low for low, high in pairwise(borders))
            width = narrowest * _STRETCHES * PART_ROWS // self.live
        return Parts.of(self.table, width=width, count=self.live // PART_ROWS)

    def digests(self, parts: Parts) -> Digests:
        """The digests of the rows that are not deleted."""
        found = self._con.execute(duckdb_digests(self.table, parts, f"{self.name} WHERE NOT deleted")).fetchnumpy()
        return Digests.sorted(
            np.asarray(found["part"]).astype(np.int64),
            np.asarray(found["rows"]).astype(np.int64),
            np.asarray(found["hash"]).astype(np.uint64),
        )

    def of_parts(self, parts: Parts, wanted: npt.NDArray[np.int64]) -> str:
        """The relation of the rows of some parts, deleted ones included; the range around them skips most blocks."""
        key, part = parts.column.name, parts.duckdb()
        around = parts.within(key, part, int(wanted[0]), int(wanted[-1]) + 1)
        self._con.register("wanted_parts", pa.table({"part": wanted}))
        return f"(SELECT * FROM {self.name} WHERE {around} AND {part} IN (SELECT part FROM wanted_parts))"

    def differences(self, rows: pa.Table, rejected_keys: pa.Table, lake: str, order: int) -> tuple[pa.Table, int]:
        """Rows (op, columns) in which `rows` and the relation `lake` differ, and how many more the lake knows newer.

        Keys of rejects do not count as missing at the source.
        """
        self._con.register("source_part", rows)
        self._con.register("rejected_keys", rejected_keys)
        extra = EXTRA in rows.schema.names
        sql = _difference_sql(self.table, "source_part", lake, "rejected_keys", order, extra=extra)
        found = self._con.sql(sql).to_arrow_table()
        self._con.unregister("source_part")
        self._con.unregister("rejected_keys")
        kept = found.filter(pc.invert(found["newer"])).drop_columns("newer")
        return kept, found.num_rows - kept.num_rows

    def stage_source(self, rows: pa.Table) -> None:
        """Adds rows of a source that is read whole."""
        self._con.register("staged", rows)
        self._con.execute(f"CREATE TABLE IF NOT EXISTS {self._source} AS SELECT * FROM staged LIMIT 0")
        self._con.execute(f"INSERT INTO {self._source} SELECT * FROM staged")
        self._con.unregister("staged")

    def staged_differences(self, order: int, batch_rows: int) -> Iterator[tuple[pa.Table, int]]:
        """The same over all rows that were staged, some at a time."""
        no_keys = pa.table({n: pa.array([], pa.null()) for n in self.table.key})
        self._con.register("rejected_keys", no_keys)
        extra = EXTRA in self._con.sql(f"FROM {self._source} LIMIT 0").columns
        sql = _difference_sql(self.table, self._source, self.name, "rejected_keys", order, extra=extra)
        for batch in self._con.sql(sql).to_arrow_reader(batch_rows):
            found = pa.Table.from_batches([batch])
            kept = found.filter(pc.invert(found["newer"])).drop_columns("newer")
            yield kept, found.num_rows - kept.num_rows


def _difference_sql(table: Table, source: str, lake: str, rejected_keys: str, order: int, *, extra: bool) -> str:
    """`extra`: the source has columns that are not declared; they go along with a change, and make none."""
    keys = " AND ".join(f"s.{k} = l.{k}" for k in table.key)
    rejected = " AND ".join(f"r.{k} = l.{k}" for k in table.key)
    values = [c for c in table.column_names if c not in table.key]
    columns = ", ".join(f"coalesce(s.{c}, l.{c}) AS {c}" if c in table.key else f"s.{c}" for c in table.column_names)
    columns += f", s.{EXTRA}" if extra else ""
    changed = " OR ".join(f"s.{c} IS DISTINCT FROM l.{c}" for c in values)
    return f"""
        SELECT
          CASE WHEN s.here IS NULL THEN 'd' WHEN l.here IS NULL OR l.deleted THEN 'c' ELSE 'u' END AS op,
          coalesce(l.row_order > {order}, false) AS newer,
          {columns}
        FROM (SELECT *, true AS here FROM {source}) AS s
        FULL JOIN (SELECT *, true AS here FROM {lake}) AS l ON {keys}
        WHERE CASE
          WHEN s.here IS NULL THEN
            NOT l.deleted AND NOT EXISTS (SELECT 1 FROM {rejected_keys} AS r WHERE {rejected})
          WHEN l.here IS NULL OR l.deleted THEN true
          ELSE {changed}
        END
    """


@dataclass(frozen=True)
class Comparison:
    """What the comparing of tables needs. `source_epoch`: of positions (R2). `run`: orders rows without a position.

    `accept_empty`: a table without a row at the source is believed. `announce` tells a person what takes a while.
    """

    source: Source
    workspace: Workspace
    source_epoch: int
    run: int
    chunk_rows: int
    accept_empty: bool = False
    announce: Callable[[str], None] = lambda line: None

    def of_table(self, table: Table) -> Iterator[Found]:
        """Everything in which the table's rows differ, step by step; SourceError for a source that cannot be meant."""
        with self.workspace.lake_rows(table) as lake:
            source = self.source
            if isinstance(source, DigestSource):
                self._check_position(source, lake)
                self._check_not_empty(lake, empty=source.is_empty(table))
                reason = source.by_digests(table)
                if reason is None:
                    yield from self._by_digests(source, lake)
                    return
                self.announce(f"{reason}: its rows are read whole")
            yield from self._whole(lake)

    def _check_position(self, source: DigestSource, lake: LakeRows) -> None:
        """The lake was read before: it cannot know what the source has not written yet."""
        newest, position = lake.newest_order(self.source_epoch), source.position()
        if newest is not None and position is not None and newest > self.order(position):
            raise set_back(self.source, position, f"rows of {lake.table.name}")

    def _check_not_empty(self, lake: LakeRows, *, empty: bool) -> None:
        if empty and lake.live and not self.accept_empty:
            raise SourceError(
                f"{self.source.description}: {lake.table.name} has no rows, but the lake has {lake.live:,}",
                hint="if they are really gone, --accept-empty deletes them",
            )

    def order(self, position: BinlogPosition | None) -> int:
        """The order of rows that were read there (R2)."""
        if position is None:
            return RowOrder(0, self.run, 0, 0).packed()
        return order_at(position, self.source_epoch)

    def _by_digests(self, source: DigestSource, lake: LakeRows) -> Iterator[Found]:
        table, parts = lake.table, lake.parts()
        digests = lake.digests(parts)
        with source.reader(table, parts, most_rows=2 * self.chunk_rows) as reader:
            first: int | None = None
            bytes_read = 0
            for border in (*_borders(digests, self.chunk_rows), None):
                while True:
                    read = reader.read(first, border, digests)
                    changes, newer = pa.table({}), 0
                    if len(read.differing):
                        changes, newer = lake.differences(
                            read.rows,
                            read.rejected_keys,
                            lake.of_parts(parts, read.differing),
                            self.order(read.position),
                        )
                    yield Found(
                        table,
                        read.position,
                        read.read_ms,
                        by_op(table, changes),
                        read.rejects,
                        newer,
                        compared=max(read.compared, int(digests.between(first, read.end).rows.sum())),
                        read=read.rows.num_rows,
                        steps=1,
                        steps_read=int(len(read.differing) > 0),
                        bytes_read=reader.bytes_read - bytes_read,
                    )
                    bytes_read = reader.bytes_read
                    if read.end == border:
                        break
                    first = read.end
                first = border

    def _whole(self, lake: LakeRows) -> Iterator[Found]:
        table, source = lake.table, self.source
        position = source.settled_position() if isinstance(source, DigestSource) else None
        staged, rejected = 0, 0
        for chunk in source.chunks(table):
            lake.stage_source(chunk.rows)
            staged += chunk.rows.num_rows
            rejected += len(chunk.rejects)
            size = int(chunk.rows.nbytes)
            yield Found(
                table,
                position,
                _now_ms(),
                rejects=chunk.rejects,
                compared=chunk.rows.num_rows,
                read=chunk.rows.num_rows,
                steps=1,
                steps_read=1,
                bytes_read=size,
            )
        self._check_not_empty(lake, empty=staged + rejected == 0)
        if not staged:
            lake.stage_source(declared_schema(table).empty_table())
        read_ms = _now_ms()
        for changes, newer in lake.staged_differences(self.order(position), self.chunk_rows):
            sent = dict(by_op(table, changes))
            if rejected and "d" in sent:
                # Which keys the rejected rows have cannot be told: a row that is only damaged must not be deleted.
                withheld = sent.pop("d").num_rows
                self.announce(f"{table.name}: {withheld:,} deletions wait until no row is rejected any more")
            yield Found(table, position, read_ms, sent, newer=newer)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _borders(digests: Digests, chunk_rows: int) -> list[int]:
    """Parts at which a new chunk begins, so that each has about so many rows of the lake."""
    chunk = (np.cumsum(digests.rows) - digests.rows) // chunk_rows
    starts = np.flatnonzero(np.diff(chunk)) + 1
    return [int(p) for p in digests.parts[starts]]


def by_op(table: Table, changes: pa.Table) -> Mapping[Op, pa.Table]:
    """The changes by op, empty ones left out; of deletions the key only."""
    if not changes.num_rows:
        return {}
    ops: tuple[Op, ...] = ("d", "u", "c")
    parts = {op: changes.filter(pc.equal(changes["op"], op)) for op in ops}
    others = [EXTRA] if EXTRA in changes.schema.names else []
    columns = {op: list(table.key) if op == "d" else [*table.column_names, *others] for op in ops}
    return {op: part.select(columns[op]) for op, part in parts.items() if part.num_rows}
