"""What a source at rest is read into: chunks of typed rows, and the rows that do not fit the declared table.

`type_rows` casts text to the declared types and only ever exactly: what does not cast without loss, is null where a
value must stand, or is longer than its column becomes a reject with a reason and, where known, its line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from processors.reasons import Reason
from processors.records import arrow_type
from processors.tables import EXTRA, Column, Kind, Table

ISO_DATE = "%Y-%m-%d"
_TEXT_BYTES = 65_535  # MySQL's TEXT


@dataclass(frozen=True)
class BinlogPosition:
    """A place in the source's binlog: everything committed before it is in a read that began after it."""

    file: str
    pos: int


@dataclass(frozen=True)
class Reject:
    """One row that is not sent. `line` is the physical line on which its record starts (1 is the first), if known.

    `reason` is one of processors/reasons.py.
    """

    table: str
    file: str | None
    line: int | None
    raw: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Finding:
    """One row that is sent although it is odd: `kind` is 'orphan' (a line without its invoice) or 'return'."""

    kind: str
    table: str
    file: str | None
    line: int | None
    detail: str


@dataclass(frozen=True)
class Chunk:
    """Rows of one table in the order of the source.

    `rows` has the declared columns and types, then `extra` where the source has others: a JSON object of these.
    `number` counts the table's chunks from 1. `position` was read before the chunk's own consistent read; None: the
    source has no binlog. `last_key` is the primary key of the last row read, from which a read can go on. `findings`
    shows the first few of the `orphans` and `returns` counted.
    """

    table: Table
    number: int
    rows: pa.Table
    rejects: list[Reject]
    position: BinlogPosition | None = None
    last_key: tuple[Any, ...] | None = None
    orphans: int = 0
    returns: int = 0
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class Resume:
    """Where a table's reading goes on: after `chunks` chunks, the last of which ended with `last_key`."""

    chunks: int
    last_key: tuple[Any, ...] | None


def declared_schema(table: Table) -> pa.Schema:
    """The declared columns as Arrow fields."""
    return pa.schema([(c.name, arrow_type(c.duckdb_type)) for c in table.columns])


@dataclass(frozen=True)
class Typed:
    """The outcome of `type_rows`: `rows` and, of equal length, `lines`; both without the rejects."""

    rows: pa.Table
    lines: pa.Array
    rejects: list[Reject]


def new_connection() -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB as all sources use it: UTC, input order kept."""
    con = duckdb.connect()
    con.execute("SET TimeZone='UTC'")
    con.execute("SET preserve_insertion_order=true")
    return con


def type_rows(
    con: duckdb.DuckDBPyConnection,
    table: Table,
    cells: pa.Table,
    *,
    file: str | None = None,
    date_formats: Mapping[str, str] | None = None,
    empty_is_null: bool = True,
) -> Typed:
    """Casts text cells to the declared types.

    `cells` has text columns named as declared (an optional one may be absent), `line` (BIGINT), and perhaps `extra`,
    which stays as it is. A null cell is null; so is an empty one, save in a text column that is not nullable, where it
    is the empty text; without `empty_is_null`, as databases tell the two apart, in any text column. `date_formats` maps
    a column's name to its strptime format; ISO by default.
    """
    formats = date_formats or {}
    present = [c for c in table.columns if c.name in cells.schema.names]
    values = [
        f"{value_sql(c, formats.get(c.name, ISO_DATE), empty_is_null=empty_is_null)} AS v{i}"
        for i, c in enumerate(present)
    ]
    problems = [problem_sql(c, f"v{i}", f"c.{c.name}") for i, c in enumerate(present)]
    columns = [
        f"v{present.index(c)} AS {c.name}" if c in present else f"NULL::{c.duckdb_type} AS {c.name}"
        for c in table.columns
    ]
    has_extra = EXTRA in cells.schema.names
    columns += [f"c.{EXTRA}"] if has_extra else []
    raw = ", ".join(f"{c.name} := c.{c.name}" for c in present)
    con.register("cells", cells)
    try:
        typed = con.sql(
            f"SELECT {', '.join(columns)}, c.line AS line, coalesce({', '.join(problems)}) AS problem,"
            f" CASE WHEN problem IS NOT NULL THEN to_json(struct_pack({raw}))::VARCHAR END AS raw"
            f" FROM (SELECT *, {', '.join(values)} FROM cells) AS c"
        ).to_arrow_table()
    finally:
        con.unregister("cells")
    problem = typed.column("problem")
    rejects = []
    if problem.null_count < len(problem):
        bad = typed.filter(problem.is_valid()).select(["line", "problem", "raw"]).to_pylist()
        rejects = [Reject(table.name, file, row["line"], row["raw"], *row["problem"].split(": ", 1)) for row in bad]
        typed = typed.filter(problem.is_null())
    rows = typed.select(list(table.column_names)).cast(declared_schema(table))
    if has_extra:
        rows = rows.append_column(EXTRA, typed[EXTRA].cast(pa.string()))
    return Typed(rows, typed.column("line").combine_chunks(), rejects)


def value_sql(column: Column, date_format: str = ISO_DATE, *, empty_is_null: bool = True) -> str:
    """The typed value of a text column as DuckDB SQL; null where it is null or does not cast exactly."""
    cell = column.name
    if column.kind is Kind.TEXT:
        return f"nullif({cell}, '')" if column.nullable and empty_is_null else cell
    text = f"trim({cell})"
    if column.kind is Kind.DATE:
        if date_format == ISO_DATE:  # a time of midnight is no loss
            iso = r"\d{4}-\d\d-\d\d([ T]00:00(:00(\.0+)?)?)?"
            parsed = _plain_or(cell, "DATE", f"regexp_full_match({text}, '{iso}')", f"left({text}, 10)")
        else:
            parsed = f"try_strptime({text}, {_literal(date_format)})::DATE"
        return f"CASE WHEN {parsed} BETWEEN DATE '1000-01-01' AND DATE '9999-12-31' THEN {parsed} END"
    exact = r"[+-]?(\d+(\.\d{0,10}0*)?|\.\d{1,10}0*)" if column.kind is Kind.DECIMAL else r"[+-]?\d+(\.0*)?"
    condition = f"regexp_full_match({text}, '{exact}')"
    if column.kind is Kind.DECIMAL:
        return f"CASE WHEN {condition} THEN try_cast({text} AS {column.duckdb_type}) END"
    return _plain_or(cell, column.duckdb_type, condition, text)


def _plain_or(cell: str, sql_type: str, condition: str, text: str) -> str:
    """The cell cast as it stands where that is written back as the same text, else `text` where `condition` holds.

    The first is what nearly all cells are, and much faster than the condition.
    """
    plain = f"try_cast({cell} AS {sql_type})"
    return f"CASE WHEN {plain}::VARCHAR = {cell} THEN {plain} WHEN {condition} THEN try_cast({text} AS {sql_type}) END"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def problem_sql(column: Column, value: str, cell: str) -> str:
    """'reason: detail' as DuckDB SQL where the cell cannot be taken, else null. Says nothing of personal values."""
    wanted = {
        Kind.BIGINT: "a whole number of 64 bits",
        Kind.INT: "a whole number of 32 bits",
        Kind.DECIMAL: "a number with at most 10 digits before and 10 after the point",
        Kind.DATE: "a date in the format of its column",
        Kind.TEXT: "text",
    }[column.kind]
    empty = "false" if column.kind is Kind.TEXT else f"trim({cell}) = ''"
    cases = []
    if not column.nullable:
        cases.append(f"WHEN {cell} IS NULL OR {empty} THEN '{Reason.NULL}: {column.name} has no value'")
    if column.kind is Kind.TEXT:
        if column.size is None:
            too_long, limit = f"strlen({value}) > {_TEXT_BYTES}", f"{_TEXT_BYTES} bytes"
        else:
            too_long, limit = f"length({value}) > {column.size}", f"{column.size} characters"
        cases.append(f"WHEN {too_long} THEN '{Reason.TOO_LONG}: {column.name} is longer than {limit}'")
    else:
        cases.append(
            f"WHEN {value} IS NULL AND {cell} IS NOT NULL AND NOT ({empty})"
            f" THEN '{Reason.BAD_VALUE}: {column.name} is not {wanted}'"
        )
    return f"CASE {' '.join(cases)} END" if cases else "NULL::VARCHAR"
