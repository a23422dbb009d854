"""What one day of an append-only table takes as one compacted file, measured by writing some days in memory.

A file of few rows is mostly its footer, so bytes are reckoned as so many per file and so many per row.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from connectors.delta_lake import DeltaLake
from connectors.lake import wrapped_errors
from connectors.object_files import read_error
from processors.compaction import sort_columns
from processors.lake_tables import LAKE_TABLES

_SAMPLES = 5
_ROWS = 122_880


@dataclass(frozen=True)
class DaySizes:
    """Bytes of a file with one row, and of each further row."""

    file_bytes: float = 0.0
    row_bytes: float = 0.0

    def of(self, rows: float) -> float:
        """The size of a day with so many rows; one without rows has no file."""
        return self.file_bytes + (rows - 1) * self.row_bytes if rows >= 1 else 0.0


def day_sizes(
    lake: DeltaLake,
    con: duckdb.DuckDBPyConnection,
    name: str,
    handle: DeltaTable,
    days: Iterable[date],
    rows_sql: Callable[[str, date], str] = lambda relation, day: relation,
) -> DaySizes:
    """Writes up to five of these days, spread over them all, of each 122,880 rows at most.

    `rows_sql`: which rows of the relation of a day to write. Without any row the sizes are 0. `con` must be prepared.
    """
    chosen = _spread(sorted(days))
    with wrapped_errors(f"sizes of {name}"):
        try:
            written = [_write(lake, con, name, handle, day, rows_sql) for day in chosen]
        except duckdb.Error as error:
            raise read_error(error) or error from error
    samples = [sample for sample in written if sample is not None]
    further = sum(rows - 1 for rows, _, _ in samples)
    return DaySizes(
        file_bytes=sum(one for _, one, _ in samples) / max(1, len(samples)),
        row_bytes=sum(size - one for _, one, size in samples) / further if further else 0.0,
    )


def _spread(days: Sequence[date]) -> list[date]:
    if len(days) <= _SAMPLES:
        return list(days)
    return [days[number * (len(days) - 1) // (_SAMPLES - 1)] for number in range(_SAMPLES)]


def _write(
    lake: DeltaLake,
    con: duckdb.DuckDBPyConnection,
    name: str,
    handle: DeltaTable,
    day: date,
    rows_sql: Callable[[str, date], str],
) -> tuple[int, int, int] | None:
    """Rows, the size of a file with the first of them, the size of one with all."""
    table = LAKE_TABLES[name]
    relation = lake.relation_of(name, handle, lambda f: f["partition.known_date"] == day)
    schema = pa.schema([f.remove_metadata() for f in table.schema if f.name not in table.partition_by])
    names, order = ", ".join(f'"{n}"' for n in schema.names), ", ".join(f'"{n}"' for n in sort_columns(table))
    query = f"SELECT {names} FROM {rows_sql(relation, day)} AS r ORDER BY {order} LIMIT {_ROWS}"
    rows = con.sql(query).to_arrow_table().cast(schema)
    return (rows.num_rows, _size(rows.slice(0, 1)), _size(rows)) if rows.num_rows else None


def _size(rows: pa.Table) -> int:
    target = pa.BufferOutputStream()
    pq.write_table(rows, target, compression="zstd", compression_level=1)
    return int(target.getvalue().size)
