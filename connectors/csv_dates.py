"""Recognises the date format of a column from all its distinct values, or says why it cannot."""

from typing import Any

import duckdb

from connectors.source_rows import ISO_DATE, value_sql
from processors.errors import SourceError
from processors.tables import Column

FORMATS = (
    ISO_DATE,
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%d.%m.%Y",
    "%m.%d.%Y",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%Y%m%d",
    "%d %b %Y",
    "%d %B %Y",
    "%d-%b-%Y",
    "%b %d, %Y",
    "%B %d, %Y",
)
"""Formats that are recognised; two-digit years are not, because their century would be a guess."""


def recognise_format(con: duckdb.DuckDBPyConnection, column: Column, values: str, *, file: str, option: str) -> str:
    """The one format in which every date of the column can be read.

    `values` is SQL of a relation with the distinct cells in a column named as `column`. Cells that are a date in no
    format at all are left to be rejected one by one. Raises SourceError when no format fits all the others, or several
    fit and differ; the message names file, column and `option`.
    """
    parsed = ", ".join(f"{value_sql(column, f)} AS f{i}" for i, f in enumerate(FORMATS))
    any_format = f"coalesce({', '.join(f'f{i}' for i in range(len(FORMATS)))})"
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE date_formats AS SELECT {column.name} AS cell, {parsed}"
        f" FROM {values} WHERE trim({column.name}) != ''"
    )
    counts = ", ".join(f"count(f{i})" for i in range(len(FORMATS)))
    total, dates, *fits = _row(con, f"SELECT count(*), count({any_format}), {counts} FROM date_formats")
    if total == 0:
        return ISO_DATE
    if dates == 0:
        (sample,) = _row(con, "SELECT min(cell) FROM date_formats")
        raise SourceError(
            f"{file}: the dates of column {column.name} are not recognised (for example {sample!r})",
            hint=f"give their format: --date-format {option}=FORMAT, FORMAT as strptime takes it",
        )
    full = [i for i, fit in enumerate(fits) if fit == dates]
    if not full:
        best = max(range(len(FORMATS)), key=lambda i: fits[i])
        (other,) = _row(con, f"SELECT min(cell) FROM date_formats WHERE f{best} IS NULL AND {any_format} IS NOT NULL")
        raise SourceError(
            f"{file}: column {column.name} mixes date formats ({FORMATS[best]}, but also {other!r})",
            hint=f"give one: --date-format {option}={FORMATS[best]}; what does not fit it is rejected",
        )
    differing = [
        i for i in full[1:] if _row(con, f"SELECT count(*) FROM date_formats WHERE f{i} != f{full[0]}") != (0,)
    ]
    if differing:
        either = " or ".join(FORMATS[i] for i in (full[0], *differing))
        raise SourceError(
            f"{file}: the dates of column {column.name} are ambiguous ({either})",
            hint=f"say which: --date-format {option}={FORMATS[full[0]]}",
        )
    return FORMATS[full[0]]


def _row(con: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    (row,) = con.execute(query).fetchall()
    return tuple(row)
