"""Answers for people and pipes: tables on a terminal, CSV and JSON on stdout, messages on stderr."""

import csv
import json
import sys
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from app.lake_session import query_error
from app.output import as_text
from processors.features.as_of import format_time
from processors.features.compare import ColumnChange, Comparison, Number
from processors.features.text import quoted

Form = Literal["table", "csv", "json"]
_BATCH_ROWS = 50_000


def message(text: str, *, warning: bool = False) -> None:
    """A line on stderr."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(text, style="yellow" if warning else None, markup=False)


def plain(value: object) -> object:
    """A value as JSON holds it: decimals as text (exact, at least 2 decimals), times in ISO-8601 UTC."""
    if isinstance(value, Decimal):
        text = f"{value:f}"
        whole, _, decimals = text.partition(".")
        return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}" if decimals else text
    if isinstance(value, datetime):
        return format_time(value) if value.tzinfo is not None else value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace")
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def print_query(con: duckdb.DuckDBPyConnection, query: str, *, form: Form, limit: int) -> int:
    """Prints the query's rows on stdout, tables at most `limit` rows, and returns how many rows the query has.

    Raises UsageError for what the query does wrong.
    """
    try:
        if form == "csv":
            return _print_csv(con, query)
        if form == "json":
            return _print_json(con, query)
        return _print_table(con, query, limit)
    except duckdb.Error as error:
        raise query_error(error) from None


def _print_csv(con: duckdb.DuckDBPyConnection, query: str) -> int:
    rows = 0
    text = as_text(con, query)
    columns = con.sql(text).columns
    casts = ", ".join(f"CAST({quoted(c)} AS VARCHAR)" for c in columns)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for batch in con.sql(f"SELECT {casts} FROM (\n{text}\n)").to_arrow_reader(_BATCH_ROWS):
        writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        rows += int(batch.num_rows)
    return rows


def _print_json(con: duckdb.DuckDBPyConnection, query: str) -> int:
    rows = 0
    sys.stdout.write("[")
    for batch in con.sql(query).to_arrow_reader(_BATCH_ROWS):
        for row in batch.to_pylist():
            sys.stdout.write(("," if rows else "") + "\n" + json.dumps(plain(row), ensure_ascii=False))
            rows += 1
    sys.stdout.write("\n]\n" if rows else "]\n")
    sys.stdout.flush()
    return rows


def _print_table(con: duckdb.DuckDBPyConnection, query: str, limit: int) -> int:
    shown = con.sql(f"FROM (\n{as_text(con, query)}\n) LIMIT {limit + 1}").to_arrow_table()
    rows = int(shown.num_rows)
    kinds = [str(t) for t in con.sql(query).types]
    table = Table(box=None, header_style="bold")
    for name, kind in zip(shown.schema.names, kinds, strict=True):
        number = kind.startswith(("DECIMAL", "DOUBLE", "BIGINT", "INTEGER", "HUGEINT", "FLOAT"))
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in shown.slice(0, limit).to_pylist():
        table.add_row(*("" if v is None else _cell(plain(v)) for v in row.values()))
    wide_console().print(table, markup=False)
    if rows <= limit:
        return rows
    rows = int(con.sql(f"SELECT count(*) FROM (\n{query}\n)").fetchall()[0][0])
    message(f"the first {limit} of {rows} rows; --limit shows more, --format csv or --out all", warning=True)
    return rows


def _cell(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def wide_console() -> Console:
    """As wide as the terminal; where there is none, wide enough not to break a line."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=240)


def print_comparison(comparison: Comparison, before: datetime, after: datetime, *, limit: int) -> None:
    """Prints counts, a table per column, and the first rows that changed, old beside new."""
    console = wide_console()
    console.print(f"{comparison.feature_set.name}: {format_time(before)}  →  {format_time(after)}", style="bold")
    console.print(
        f"{comparison.before} → {comparison.after} rows:"
        f" {comparison.added} added, {comparison.removed} removed, {comparison.changed} changed"
    )
    table = Table(header_style="bold", box=None)
    table.add_column("column")
    for name in ("changed", "sum before", "sum after", "difference", "mean before", "mean after"):
        table.add_column(name, justify="right")
    for column in comparison.columns:
        table.add_row(*_column_cells(column))
    console.print(table)
    changed = comparison.rows.filter(pc.equal(comparison.rows["change"], "changed"))
    if changed.num_rows:
        console.print()
        console.print(_changed_rows(comparison, changed.slice(0, limit)))
        if changed.num_rows > limit:
            message(f"the first {limit} of {changed.num_rows} changed rows; --out writes all", warning=True)


def _column_cells(column: ColumnChange) -> tuple[str, ...]:
    difference: Number | None = None
    if column.sum_before is not None and column.sum_after is not None:
        difference = column.sum_after - column.sum_before
    means = ("" if m is None else f"{m:,.4f}" for m in (column.mean_before, column.mean_after))
    sums = ("" if v is None else str(plain(v)) for v in (column.sum_before, column.sum_after, difference))
    return (column.name, str(column.changed) if column.changed else "", *sums, *means)


def _changed_rows(comparison: Comparison, rows: pa.Table) -> Table:
    key = comparison.feature_set.entity_key
    table = Table(*key, "column", header_style="bold", box=None)
    table.add_column("before", justify="right", style="red")
    table.add_column("after", justify="right", style="green")
    for row in rows.to_pylist():
        label = [str(row[k]) for k in key]
        for column in comparison.columns:
            old, new = row[f"{column.name}_before"], row[f"{column.name}_after"]
            if old != new:
                table.add_row(*label, column.name, _shown(old), _shown(new))
                label = [""] * len(key)
    return table


def _shown(value: object) -> str:
    return "null" if value is None else str(plain(value))
