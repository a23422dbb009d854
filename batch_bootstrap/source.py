"""Sources at rest behind one Protocol: a folder of CSV extracts, a MySQL-family database, a snapshot's export on S3."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from connectors.source_rows import BinlogPosition, Chunk, Finding, Reject, Resume
from processors.errors import UsageError
from processors.tables import TABLES, TABLES_BY_NAME, Table

__all__ = ["BinlogPosition", "Chunk", "Finding", "Reject", "Resume", "Source", "open_source"]

DEFAULT_CHUNK_ROWS = 50_000


class Source(Protocol):
    """Tables read in chunks, in bounded memory."""

    @property
    def description(self) -> str:
        """What is read, without secrets: identifies the source when a run is resumed."""

    @property
    def origin(self) -> str:
        """'csv', 'mysql' or 's3-export'."""

    @property
    def database(self) -> str:
        """The database's name, as row events carry it."""

    @property
    def has_binlog(self) -> bool:
        """Whether chunks carry a binlog position; known after `preflight`."""

    @property
    def notices(self) -> list[str]:
        """What `preflight` noticed and a person should know, one line each."""

    def preflight(self) -> None:
        """Checks everything that can be checked before the first row. Raises SourceError with what to do."""

    def fingerprint(self) -> str:
        """Changes when a resumed read would not continue the same data."""

    def tables(self) -> tuple[Table, ...]:
        """The tables, in the order in which they must be read."""

    def row_estimate(self, table: Table) -> int | None:
        """About how many rows the table has, for progress bars."""

    def numeric_keys(self, table: Table) -> frozenset[str]:
        """Columns declared as text that are whole numbers in the source: change data capture keys them as numbers."""

    def chunks(self, table: Table, resume: Resume | None = None) -> Iterator[Chunk]:
        """The table's chunks, in key order (MySQL) or file order (CSV), after those that `resume` says were read."""

    def close(self) -> None:
        """Releases files and connections."""


def open_source(
    spec: str,
    *,
    database: str | None = None,
    date_formats: Mapping[str, str] | None = None,
    chunk_rows: int = DEFAULT_CHUNK_ROWS,
    tables: Sequence[str] | None = None,
    s3_options: Mapping[str, str] | None = None,
    database_ca_file: str | None = None,
) -> Source:
    """The source that `spec` names: `csv:FOLDER`, `mysql://user:password@host:port/database`, `mysql` (`database`), or
    `s3-export:s3://BUCKET/PREFIX/EXPORT` (a folder will do too), with `?database=NAME` if it has several.

    `tables` names the tables wanted, by default all. `s3_options`: how S3 is reached, as delta-rs names them.
    `database_ca_file`: the certificates that a database's one chains to, by default those that the system trusts.
    `date_formats` maps `table.column` to a strptime format (CSV only). Raises UsageError for a wrong `spec`.
    """
    wanted = select_tables(tables)
    if spec.startswith("csv:"):
        from connectors.csv_extracts import CsvSource

        return CsvSource(spec.removeprefix("csv:"), wanted, date_formats=date_formats or {}, chunk_rows=chunk_rows)
    if date_formats:
        raise UsageError("--date-format is for CSV extracts; databases and exports have real dates")
    if spec.startswith("s3-export:"):
        from connectors.s3_export import ExportSource

        return ExportSource(
            spec.removeprefix("s3-export:"), wanted, storage_options=s3_options or {}, chunk_rows=chunk_rows
        )
    if spec == "mysql":
        if database is None:
            raise UsageError("no source database is set", hint="set TRS_DATABASE, or give --source")
        spec = database
    if spec.startswith("mysql://"):
        from connectors.mysql_source import MySqlSource

        return MySqlSource(spec, wanted, chunk_rows=chunk_rows, ca_file=database_ca_file)
    raise UsageError(
        f"--source {spec.split('@')[-1]!r} is none of csv:FOLDER, mysql://USER:PASSWORD@HOST:PORT/DATABASE,"
        " s3-export:s3://BUCKET/PREFIX/EXPORT",
        hint="for example --source csv:extracts",
    )


def select_tables(names: Sequence[str] | None) -> tuple[Table, ...]:
    """The named tables, or all, in the order in which a bootstrap reads them. Raises UsageError for an unknown name."""
    if names is None:
        return TABLES
    for name in names:
        if name not in TABLES_BY_NAME:
            raise UsageError(f"there is no table {name!r}", hint=f"the tables are {', '.join(TABLES_BY_NAME)}")
    return tuple(t for t in TABLES if t.name in names)
