"""An export of an Aurora or RDS snapshot on S3, as AWS writes it: a first load from it costs the database nothing.

    EXPORT/export_info_EXPORT.json                         status of the export task
    EXPORT/export_tables_info_EXPORT_from_1_to_N.json      status and columns per table
    EXPORT/DATABASE/DATABASE.TABLE/BATCH/part-PARTITION-UUID.gz.parquet
    EXPORT/DATABASE/DATABASE.TABLE/BATCH/_success          once the batch is whole

Source: Amazon Aurora User Guide, "Considerations for DB cluster snapshot exports"; older exports have their parts right
below the table's folder, without batches. An export is of one moment, for which no binlog position is told.
Rows are read in the order of batch, part and file; columns that are not declared are left out, with a notice.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from connectors.export_files import ExportFile, ExportFiles
from connectors.object_files import read_error
from connectors.source_rows import Chunk, Reject, Resume, declared_schema, new_connection, type_rows
from processors.errors import SourceError
from processors.tables import Kind, Table

_INFO = re.compile(r"export_info_[^/]*\.json")
_TABLES_INFO = re.compile(r"export_tables_info_[^/]*\.json")
_DATA = re.compile(
    r"(?P<database>[^/]+)/[^/]+\.(?P<table>[^/.]+)/(?:(?P<batch>\d+)/)?(?P<file>[^/]+\.parquet|_success)", re.IGNORECASE
)
_MARKER = "_success"
_UNSIGNED_BIGINT = "DECIMAL(20,0)"  # as AWS exports it
_WHOLE_TYPES = frozenset(
    ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", _UNSIGNED_BIGINT)
)
_COMPLETE = "COMPLETE"


@dataclass(frozen=True)
class _Exported:
    """What was found of one table. `columns`: the export's name per declared column; `whole`: of whole numbers."""

    files: list[ExportFile]
    columns: Mapping[str, str]
    whole: frozenset[str]


@dataclass(frozen=True)
class _Told:
    """What export_tables_info says of a table: `target`, `status`, perhaps `warningMessage`."""

    database: str
    entry: Mapping[str, Any]


class ExportSource:
    """`batch_bootstrap.source.Source` over an export."""

    origin = "s3-export"
    has_binlog = False

    def __init__(
        self, place: str, tables: tuple[Table, ...], *, storage_options: Mapping[str, str], chunk_rows: int
    ) -> None:
        address, _, options = place.partition("?database=")
        self._files = ExportFiles(address, storage_options)
        self._wanted_database = options or None
        self._tables = tables
        self._chunk_rows = chunk_rows
        self._exported: dict[str, _Exported] = {}
        self._con = self._files.connect()
        self.database = options or "trs"
        self.notices: list[str] = []

    @property
    def description(self) -> str:
        return f"s3-export:{self._files.place}"

    def tables(self) -> tuple[Table, ...]:
        """The tables wanted, SKUs before lines."""
        return self._tables

    def numeric_keys(self, table: Table) -> frozenset[str]:
        """Declared texts of the key that are whole numbers in the export."""
        return self._exported[table.name].whole

    def fingerprint(self) -> str:
        """Changes with the files and the size of chunks."""
        parts = [str(self._chunk_rows), self.database]
        parts += [f"{f.name} {f.size_bytes} {f.changed}" for t in self._tables for f in self._exported[t.name].files]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def row_estimate(self, table: Table) -> int | None:
        """From the rows of the first file and the sizes of all."""
        files = self._exported[table.name].files
        if not files or not files[0].size_bytes:
            return None
        return round(self._count(files[:1])[0] * sum(f.size_bytes for f in files) / files[0].size_bytes)

    def close(self) -> None:
        """Releases the connection."""
        self._con.close()

    # --- preflight -----------------------------------------------------------------------------------------------

    def preflight(self) -> None:
        """Checks that the export is whole and has the tables with their columns. Raises SourceError."""
        self.notices.clear()
        listed = self._files.list()
        self._check_task(listed)
        told = self._table_statuses(listed)
        self.database = self._choose_database(listed, told)
        self._check_tables(told)
        for table in self._tables:
            self._exported[table.name] = self._find(table, listed)

    def _json(self, file: ExportFile) -> dict[str, Any]:
        try:
            found = json.loads(self._files.read(file.name))
        except ValueError as error:
            raise SourceError(f"{self._files.place}/{file.name} is not JSON: {error}") from error
        return found if isinstance(found, dict) else {}

    def _check_task(self, listed: list[ExportFile]) -> None:
        infos = [f for f in listed if _INFO.fullmatch(f.name)]
        if not infos:
            below = [f.name.rpartition("/")[0] for f in listed if _INFO.fullmatch(f.name.rpartition("/")[2])]
            raise SourceError(
                f"{self._files.place} is not an export: it has no export_info_*.json",
                hint=f"exports are below it: {', '.join(below[:3])}"
                if below
                else "name the export's own folder (S3Prefix/ExportTaskIdentifier of `aws rds describe-export-tasks`)",
            )
        info = self._json(infos[0])
        status = str(info.get("status", ""))
        if status.upper() != _COMPLETE:
            raise SourceError(
                f"{self._files.place}: the export is {status or 'without a status'}"
                f" ({info.get('percentProgress', '?')} %){': ' if info.get('failureCause') else ''}"
                f"{info.get('failureCause') or ''}",
                hint="wait until `aws rds describe-export-tasks` says COMPLETE, or export again",
            )
        self.notices.append(f"the export is of {info.get('snapshotTime') or 'a time that it does not tell'}")

    def _table_statuses(self, listed: list[ExportFile]) -> list[_Told]:
        """What the export tells of each wanted table, of any database."""
        wanted = {t.name for t in self._tables}
        told = []
        for file in listed:
            if _TABLES_INFO.fullmatch(file.name):
                for entry in self._json(file).get("perTableStatus") or []:
                    database, _, rest = str(entry.get("target", "")).partition(".")
                    if rest.rpartition(".")[2] in wanted:
                        told.append(_Told(database, entry))
        return told

    def _check_tables(self, told: list[_Told]) -> None:
        for entry in (t.entry for t in told if t.database == self.database):
            target, status, warning = entry["target"], str(entry.get("status", "")), entry.get("warningMessage")
            if status.upper() != _COMPLETE:
                raise SourceError(
                    f"{self._files.place}: table {target} is {status or 'without a status'} in the export"
                    f": {warning or 'no reason is told'}",
                    hint="export again, or leave it out by --tables",
                )
            if warning:
                self.notices.append(f"{target}: {warning}")

    def _choose_database(self, listed: list[ExportFile], told: list[_Told]) -> str:
        wanted = {t.name for t in self._tables}
        matches = (_DATA.fullmatch(f.name) for f in listed)
        # of tables that were all skipped there are no files, but reasons
        found = sorted({m["database"] for m in matches if m is not None and m["table"] in wanted})
        found = found or sorted({t.database for t in told})
        if self._wanted_database is not None:
            if self._wanted_database not in found:
                raise SourceError(
                    f"{self._files.place} has no tables of ours of database {self._wanted_database}",
                    hint=f"it has {', '.join(found) or 'none at all'}",
                )
            return self._wanted_database
        if len(found) > 1:
            raise SourceError(
                f"{self._files.place} has tables of several databases: {', '.join(found)}",
                hint=f"name one: s3-export:{self._files.place}?database={found[0]}",
            )
        if not found:
            raise SourceError(
                f"{self._files.place} has none of {', '.join(t.name for t in self._tables)}",
                hint="was the export limited to other tables (ExportOnly)?",
            )
        return found[0]

    def _find(self, table: Table, listed: list[ExportFile]) -> _Exported:
        data, markers = [], set()
        for file in listed:
            match = _DATA.fullmatch(file.name)
            if match is None or (match["database"], match["table"]) != (self.database, table.name):
                continue
            if match["file"].lower() == _MARKER:
                markers.add(_folder(file))
            else:
                data.append((int(match["batch"] or 0), file))
        if not data and not markers:
            raise SourceError(
                f"{self._files.place} lacks table {table.name} of database {self.database}",
                hint="export it too, or leave it out by --tables",
            )
        unfinished = {_folder(file) for batch, file in data if batch} - markers
        if unfinished:
            raise SourceError(
                f"{self._files.place}: {', '.join(sorted(unfinished)[:3])} has no {_MARKER}: it is not whole",
                hint="wait for the export, or copy all of its files",
            )
        files = [file for _, file in sorted(data, key=lambda d: (d[0], d[1].name))]
        if not files:
            self.notices.append(f"{table.name} has no rows in the export")
            return _Exported([], {}, frozenset())
        return self._columns(table, files)

    def _columns(self, table: Table, files: list[ExportFile]) -> _Exported:
        where = f"{self._files.place}/{files[0].name}"
        try:
            described = self._con.sql(f"DESCRIBE FROM {self._files.parquet(files[0].name)}").fetchall()
        except duckdb.Error as error:
            raise read_error(error) or SourceError(f"{where} is no Parquet file: {_line(error)}") from error
        names: dict[str, str] = {}
        types: dict[str, str] = {}
        unknown = []
        for name, sql_type, *_ in described:
            column = table.column(name) or table.column(name.lower())
            if column is None:
                unknown.append(name)
            elif column.name in names:
                raise SourceError(f"{where} has both {names[column.name]} and {name}")
            elif sql_type == "BLOB":
                raise SourceError(f"{where}: {name} is binary, without a character set; it should be text")
            else:
                names[column.name], types[column.name] = name, sql_type
        missing = [c.name for c in table.columns if c.name not in names and not c.optional]
        if missing:
            raise SourceError(
                f"{where}: column {', '.join(missing)} is missing", hint=f"it has {', '.join(n for n, *_ in described)}"
            )
        absent = [c.name for c in table.columns if c.name not in names]
        self.notices += [f"{table.name} has no column {name} in the export: every value is null" for name in absent]
        if unknown:
            self.notices.append(f"{table.name}: columns that are not declared are left out: {', '.join(unknown)}")
        whole = {
            c.name
            for c in table.columns
            if c.kind is Kind.TEXT and c.name in table.key and types.get(c.name) in _WHOLE_TYPES
        }
        return _Exported(files, names, frozenset(whole))

    # --- rows ----------------------------------------------------------------------------------------------------

    def chunks(self, table: Table, resume: Resume | None = None) -> Iterator[Chunk]:
        """Chunks of `chunk_rows` rows of the export (the last has the rest), so that a number means the same rows."""
        number = 0 if resume is None else resume.chunks
        typing = new_connection()
        try:
            rows, rejects, left = [], [], self._chunk_rows
            for file, cells in self._cells(table, skip=number * self._chunk_rows):
                while cells.num_rows:
                    part, cells = cells.slice(0, left), cells.slice(left)
                    typed = type_rows(typing, table, part, file=file.name, empty_is_null=False)
                    rows.append(typed.rows)
                    rejects += typed.rejects
                    left -= part.num_rows
                    if left == 0:
                        number += 1
                        yield _chunk(table, number, rows, rejects)
                        rows, rejects, left = [], [], self._chunk_rows
            if rows:
                yield _chunk(table, number + 1, rows, rejects)
        finally:
            typing.close()

    def _cells(self, table: Table, *, skip: int) -> Iterator[tuple[ExportFile, pa.Table]]:
        """Rows as text cells with their number in the file (`line`, from 1), without the first `skip` of the table."""
        exported = self._exported[table.name]
        cells = ", ".join(f'"{source}"::VARCHAR AS {name}' for name, source in exported.columns.items())
        con = self._files.connect()
        try:
            for file in exported.files:
                held = self._count([file])[0] if skip else 0
                if held and held <= skip:
                    skip -= held
                    continue
                try:
                    reader = con.sql(
                        f"SELECT {cells}, file_row_number + 1 AS line"
                        f" FROM {self._files.parquet(file.name, numbered=True)}"
                    ).to_arrow_reader(min(self._chunk_rows, 100_000))
                    for batch in reader:
                        read = pa.Table.from_batches([batch])
                        if skip:
                            skip, read = max(0, skip - read.num_rows), read.slice(skip)
                        if read.num_rows:
                            yield file, read
                except (duckdb.Error, OSError) as error:
                    told = read_error(error) or SourceError(
                        f"{self._files.place}/{file.name} cannot be read: {_line(error)}",
                        hint="copy the file again, or export again",
                    )
                    raise told from error
        finally:
            con.close()

    def _count(self, files: list[ExportFile]) -> list[int]:
        try:
            return [
                int(self._con.sql(f"SELECT count(*) FROM {self._files.parquet(f.name)}").fetchall()[0][0])
                for f in files
            ]
        except duckdb.Error as error:
            raise read_error(error) or SourceError(f"{self._files.place}: {_line(error)}") from error


def _chunk(table: Table, number: int, rows: list[pa.Table], rejects: list[Reject]) -> Chunk:
    return Chunk(table, number, pa.concat_tables([declared_schema(table).empty_table(), *rows]), rejects)


def _folder(file: ExportFile) -> str:
    return file.name.rpartition("/")[0]


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
