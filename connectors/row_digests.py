"""Digests of ranges of rows that a MySQL-family database and DuckDB compute alike, so that equal rows need not travel.

A row has one canonical text, the same in both dialects, if and only if its typed values are the same:

    column   text
    null     ~
    number   its decimal digits; a DECIMAL always with ten places
    date     YYYY-MM-DD
    text     its length in UTF-8 bytes, a colon, the text: so neither a separator nor a space at its end can hide

joined by commas. A row's hash is the first 64 bits of the md5 of that text; the hash of some rows is the xor of theirs,
which knows no order. Rows are told apart by primary key, so no two of one table cancel each other.

Rows are cut into small *parts* by their key: by ranges of a whole number, or by the hash of a text, because servers
order texts by collations that nobody else has. A digest is (part, rows, hash).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.source_rows import BinlogPosition, Reject
from processors.tables import Column, Kind, Table

_PARTS_PER_HASH = 1 << 32


@dataclass(frozen=True)
class Parts:
    """How the rows of a table are cut: `width` keys to a part where the key is a number, else `count` parts by hash.

    Part p of a numeric key covers [p * width, (p + 1) * width).
    """

    column: Column
    width: int = 0
    count: int = 0

    @classmethod
    def of(cls, table: Table, *, width: int, count: int) -> "Parts":
        """Parts by the first column of the primary key."""
        column = table.column(table.key[0])
        assert column is not None
        return cls(column, count=max(1, count)) if column.kind is Kind.TEXT else cls(column, width=max(1, width))

    @property
    def by_range(self) -> bool:
        """Whether a part is a range of keys, which an index finds."""
        return self.width > 0

    def part_of(self, key: int) -> int:
        """The part of a numeric key."""
        return key // self.width

    def duckdb(self) -> str:
        """The part of a row as DuckDB SQL over the declared columns."""
        key = self.column.name
        if self.by_range:  # // rounds to zero
            return f"({key} // {self.width} - ({key} % {self.width} < 0)::BIGINT)"
        return f"(('0x' || left(md5({key}), 8))::BIGINT % {self.count})"

    def mysql(self, name: str) -> str:
        """The same in MySQL's dialect; `name` is the database's own name of the column."""
        if self.by_range:
            return f"(`{name}` DIV {self.width} - (`{name}` % {self.width} < 0))"
        return f"(CAST(CONV(LEFT(MD5(CAST(`{name}` AS CHAR)), 8), 16, 10) AS UNSIGNED) % {self.count})"

    def within(self, key: str, part: str, first: int | None, end: int | None) -> str:
        """Rows of the parts [`first`, `end`), None being open, as SQL of both dialects."""
        low, high = (f"{key} >= {{}}", f"{key} < {{}}") if self.by_range else (f"{part} >= {{}}", f"{part} < {{}}")
        scale = self.width if self.by_range else 1
        conditions = []
        if first is not None:
            conditions.append(low.format(first * scale))
        if end is not None:
            conditions.append(high.format(end * scale))
        return " AND ".join(conditions) or "TRUE"

    def among(self, key: str, part: str, wanted: Iterable[int]) -> str:
        """Rows of these parts, ascending, as SQL of both dialects; at least one is wanted."""
        if not self.by_range:
            return f"{part} IN ({', '.join(str(int(p)) for p in wanted)})"
        runs: list[list[int]] = []
        for p in wanted:
            if runs and runs[-1][1] == p:
                runs[-1][1] = int(p) + 1
            else:
                runs.append([int(p), int(p) + 1])
        return "(" + " OR ".join(f"({self.within(key, part, first, end)})" for first, end in runs) + ")"


@dataclass(frozen=True)
class Digests:
    """Digests of some parts, by part in ascending order; the three have equal length."""

    parts: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]

    @classmethod
    def sorted(
        cls, parts: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint64]
    ) -> "Digests":
        """Digests in any order."""
        order = np.argsort(parts, kind="stable")
        return cls(parts[order], rows[order], hashes[order])

    def between(self, first: int | None, end: int | None) -> "Digests":
        """Those of the parts [`first`, `end`)."""
        low = 0 if first is None else int(np.searchsorted(self.parts, first))
        high = len(self.parts) if end is None else int(np.searchsorted(self.parts, end))
        return Digests(self.parts[low:high], self.rows[low:high], self.hashes[low:high])

    def differing(self, other: "Digests") -> npt.NDArray[np.int64]:
        """The parts that the two do not tell alike, ascending; a part that one lacks has no rows there."""
        parts = np.union1d(self.parts, other.parts)
        alike = np.ones(len(parts), dtype=bool)
        for mine, its in ((self.rows, other.rows), (self.hashes, other.hashes)):
            left, right = np.zeros(len(parts), mine.dtype), np.zeros(len(parts), its.dtype)
            left[np.searchsorted(parts, self.parts)] = mine
            right[np.searchsorted(parts, other.parts)] = its
            alike &= left == right
        return parts[~alike]


@dataclass(frozen=True)
class PartsRead:
    """One consistent read of the parts before `end` (None: all that were asked for and beyond).

    `compared`: the rows that digests were made of. `differing`: the parts that differ, ascending; `rows` are all their
    rows as declared, without `rejects`. `rejected_keys`: the primary keys of rejects, as declared.
    """

    position: BinlogPosition | None
    read_ms: int
    end: int | None
    compared: int
    differing: npt.NDArray[np.int64]
    rows: pa.Table
    rejects: list[Reject]
    rejected_keys: pa.Table


def duckdb_text(table: Table) -> str:
    """The canonical text of a row as DuckDB SQL over the declared columns and types."""

    def text(column: Column) -> str:
        if column.kind is Kind.TEXT:
            return f"coalesce(strlen({column.name})::VARCHAR || ':' || {column.name}, '~')"
        return f"coalesce({column.name}::VARCHAR, '~')"

    return f"concat_ws(',', {', '.join(text(c) for c in table.columns)})"


def mysql_text(table: Table, names: Mapping[str, str]) -> str:
    """The same in MySQL's dialect; `names`: the database's names by declared name, an absent column is null."""

    def text(column: Column) -> str:
        name = names.get(column.name)
        if name is None:
            return "'~'"
        if column.kind is Kind.TEXT:
            cell = f"CAST(`{name}` AS CHAR)"
            return f"COALESCE(CONCAT(LENGTH({cell}), ':', {cell}), '~')"
        if column.kind is Kind.DECIMAL:
            return f"COALESCE(CAST(CAST(`{name}` AS DECIMAL(40,10)) AS CHAR), '~')"
        if column.kind is Kind.DATE:
            return f"COALESCE(CAST(`{name}` AS CHAR), '~')"
        return f"COALESCE(CAST(CAST(`{name}` AS SIGNED) AS CHAR), '~')"  # a ZEROFILL column prints its zeros

    return f"CONCAT_WS(',', {', '.join(text(c) for c in table.columns)})"


def duckdb_digests(table: Table, parts: Parts, rows: str) -> str:
    """A query of (part, rows, hash) over a relation of the declared columns."""
    return (
        f"SELECT {parts.duckdb()} AS part, count(*) AS rows,"
        f" bit_xor(('0x' || left(md5({duckdb_text(table)}), 16))::UBIGINT) AS hash FROM {rows} GROUP BY part"
    )


def mysql_digests(table: Table, parts: Parts, names: Mapping[str, str], where: str) -> str:
    """The same in MySQL's dialect over the table itself."""
    hashed = f"CAST(CONV(LEFT(MD5({mysql_text(table, names)}), 16), 16, 10) AS UNSIGNED)"
    return (
        f"SELECT {parts.mysql(names[parts.column.name])} AS part, COUNT(*), BIT_XOR({hashed})"
        f" FROM `{table.name}` WHERE {where} GROUP BY part ORDER BY NULL"
    )
