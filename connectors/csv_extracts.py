"""CSV extracts: a folder with one file per table (`accounts.csv`, …), read in bounded memory.

Columns may stand in any order and under any accepted alias; unknown ones are ignored with a notice. A cell that is
empty or `\\N` is null (an empty text stays empty where null is not allowed). Of rows with one key the first counts.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from datetime import date
from itertools import pairwise
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from connectors.csv_blocks import Block, Header, read_blocks, read_header
from connectors.csv_dates import recognise_format
from connectors.source_rows import Chunk, Finding, Reject, Resume, Typed, new_connection, type_rows
from processors.errors import SourceError, UsageError
from processors.reasons import Reason
from processors.tables import INVOICE_LINE_ITEMS, INVOICES, TABLES, Kind, Table

SHOWN_FINDINGS = 5
_NULL_CELL = "\\N"


class CsvSource:
    """`batch_bootstrap.source.Source` over a folder of CSV extracts."""

    origin = "csv"
    database = "trs"
    has_binlog = False

    def __init__(
        self, folder: str, tables: tuple[Table, ...], *, date_formats: Mapping[str, str], chunk_rows: int
    ) -> None:
        self._folder = Path(folder)
        self._tables = tables
        self._chunk_rows = chunk_rows
        self._given_formats = _checked_formats(date_formats)
        self._formats: dict[str, dict[str, str]] = {}
        self._headers: dict[str, Header] = {}
        self._names: dict[str, list[str]] = {}
        self._invoices_known = False
        self.notices: list[str] = []
        self._spill = tempfile.TemporaryDirectory(prefix="trs-csv-")
        self._con = new_connection()
        self._con.execute("SET memory_limit='1GB'")
        self._con.execute(f"SET temp_directory='{self._spill.name}'")

    @property
    def description(self) -> str:
        return f"csv:{self._folder.absolute()}"

    def tables(self) -> tuple[Table, ...]:
        """The tables wanted, SKUs before lines."""
        return self._tables

    def numeric_keys(self, table: Table) -> frozenset[str]:
        """None: extracts have no types of their own."""
        return frozenset()

    def path(self, table: Table) -> Path:
        """The file of a table."""
        return self._folder / f"{table.name}.csv"

    def row_estimate(self, table: Table) -> int | None:
        """From the file's size and its first rows."""
        with self.path(table).open("rb") as file:
            head = file.read(1 << 16)
        lines = head.count(b"\n")
        return None if lines < 2 else max(1, round(self.path(table).stat().st_size / len(head) * lines) - 1)

    def fingerprint(self) -> str:
        """Changes with the files, their date formats and the size of chunks."""
        parts = [str(self._chunk_rows), *(t.name for t in self._tables)]
        for table in self._tables:
            stat = self.path(table).stat()
            parts.append(f"{table.name} {stat.st_size} {stat.st_mtime_ns} {sorted(self._formats[table.name].items())}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def preflight(self) -> None:
        """Checks files and headers and recognises date formats. Raises SourceError."""
        if not self._folder.is_dir():
            raise SourceError(f"{self._folder} is not a folder", hint="--source csv:FOLDER names the extracts' folder")
        missing = [self.path(t).name for t in self._tables if not self.path(t).is_file()]
        if missing:
            raise SourceError(
                f"{self._folder} lacks {', '.join(missing)}", hint="add the files, or name another folder"
            )
        self.notices.clear()
        for table in self._tables:
            self._read_header(table)
        for table in self._tables:
            self._recognise_dates(table)

    def chunks(self, table: Table, resume: Resume | None = None) -> Iterator[Chunk]:
        """The table's chunks in file order; chunks that were read before are read again, but not returned."""
        first = 0 if resume is None else resume.chunks
        if table is INVOICE_LINE_ITEMS:
            self._know_invoices()
        for chunk in self._cut(table):
            if chunk.number > first:
                yield chunk
        if table is INVOICES:
            self._invoices_known = True

    def close(self) -> None:
        """Releases the connection and what it spilled."""
        self._con.close()
        self._spill.cleanup()

    def _read_header(self, table: Table) -> None:
        path = self.path(table)
        header = read_header(path)
        names: list[str] = []
        for field in header.fields:
            column = table.column(field) or table.column(field.lower())
            names.append("" if column is None else column.name)
        for column in table.columns:
            if names.count(column.name) > 1:
                raise SourceError(f"{path}: the header names column {column.name} twice")
            if column.name not in names and not column.optional:
                raise SourceError(
                    f"{path}: column {column.name} is missing",
                    hint=f"the header has {', '.join(header.fields) or 'nothing'}; fields are separated by commas",
                )
            if column.name not in names:
                self.notices.append(f"{path.name} has no column {column.name}: every value is null")
        unknown = [field for field, name in zip(header.fields, names, strict=True) if not name]
        if unknown:
            self.notices.append(f"{path.name}: unknown columns are ignored: {', '.join(unknown)}")
        self._headers[table.name] = header
        self._names[table.name] = names

    def _recognise_dates(self, table: Table) -> None:
        formats = dict(self._given_formats.get(table.name, {}))
        wanted = [
            c
            for c in table.columns
            if c.kind is Kind.DATE and c.name not in formats and c.name in self._names[table.name]
        ]
        for column in wanted:
            self._con.execute(f"CREATE OR REPLACE TEMP TABLE distinct_{column.name} ({column.name} VARCHAR)")
        for block in read_blocks(self.path(table), self._headers[table.name]) if wanted else ():
            cells = self._named(table, block)
            self._con.register("block", cells)
            for column in wanted:
                self._con.execute(f"INSERT INTO distinct_{column.name} SELECT DISTINCT {column.name} FROM block")
            self._con.unregister("block")
        for column in wanted:
            formats[column.name] = recognise_format(
                self._con,
                column,
                f"(SELECT DISTINCT {column.name} FROM distinct_{column.name})",
                file=str(self.path(table)),
                option=f"{table.name}.{column.name}",
            )
            self._con.execute(f"DROP TABLE distinct_{column.name}")
        self._formats[table.name] = formats

    def _named(self, table: Table, block: Block) -> pa.Table:
        """The block's declared columns, by their names, and the line numbers."""
        columns = {}
        for index, name in enumerate(self._names[table.name]):
            if name:
                cells = block.cells.column(index)
                is_null = pc.equal(cells, _NULL_CELL)
                columns[name] = pc.if_else(is_null, None, cells) if pc.any(is_null).as_py() else cells
        return pa.table({**columns, "line": pa.array(block.lines, pa.int64())})

    def _typed_blocks(self, table: Table) -> Iterator[Typed]:
        """Typed rows of each block without those whose key occurred before; the keys are remembered."""
        key = ", ".join(table.key)
        types = ", ".join(f"{name} {_type(table, name)}" for name in table.key)
        self._con.execute(f"CREATE OR REPLACE TEMP TABLE seen_{table.name} ({types})")
        path = self.path(table)
        for block in read_blocks(path, self._headers[table.name]):
            typed = type_rows(
                self._con, table, self._named(table, block), file=path.name, date_formats=self._formats[table.name]
            )
            rejects = [Reject(table.name, path.name, b.line, b.raw, b.reason, b.detail) for b in block.bad]
            rejects += [_with_raw(r, block) for r in typed.rejects]
            rows, lines = typed.rows, typed.lines
            repeated = self._repeated(table, rows, lines)
            if repeated:
                rejects += [
                    Reject(
                        table.name,
                        path.name,
                        line,
                        block.raw(line),
                        Reason.DUPLICATE_KEY,
                        f"an earlier row has the same {key}",
                    )
                    for line in repeated
                ]
                keep = pc.invert(pc.is_in(lines, pa.array(repeated, pa.int64())))
                rows, lines = rows.filter(keep), lines.filter(keep)
            self._con.register("block", rows)
            self._con.execute(f"INSERT INTO seen_{table.name} SELECT {key} FROM block")
            self._con.unregister("block")
            yield Typed(rows, lines, sorted(rejects, key=lambda r: r.line or 0))

    def _repeated(self, table: Table, rows: pa.Table, lines: pa.Array) -> list[int]:
        """Lines of rows whose key stood earlier in the block or in the file, ascending."""
        key = ", ".join(table.key)
        self._con.register("block", rows.select(list(table.key)).append_column("line", lines))
        found = self._con.execute(
            f"SELECT line FROM block SEMI JOIN seen_{table.name} USING ({key}) UNION "
            f"SELECT b.line FROM block AS b JOIN (SELECT {key}, min(line) AS first FROM block GROUP BY ALL"
            f" HAVING count(*) > 1) AS r USING ({key}) WHERE b.line > r.first ORDER BY 1"
        ).fetchall()
        self._con.unregister("block")
        return [line for (line,) in found]

    def _know_invoices(self) -> None:
        """Reads the invoices' keys unless that was done, so that orphan lines can be told."""
        if self._invoices_known:
            return
        if INVOICES.name not in self._headers:
            if not self.path(INVOICES).is_file():
                self.notices.append("invoices.csv is not there: lines without an invoice are not counted")
                return
            self._read_header(INVOICES)
            self._recognise_dates(INVOICES)
        for _ in self._typed_blocks(INVOICES):
            pass
        self._invoices_known = True

    def _cut(self, table: Table) -> Iterator[Chunk]:
        """Chunks of exactly `chunk_rows` rows (the last has the rest), so that their numbers mean the same rows."""
        number, rows, lines, rejects = 0, [], [], []
        size = 0
        for typed in self._typed_blocks(table):
            rows.append(typed.rows)
            lines.append(typed.lines)
            rejects += typed.rejects
            size += typed.rows.num_rows
            if size < self._chunk_rows:
                continue
            all_rows, all_lines = pa.concat_tables(rows), pa.concat_arrays(lines)
            cuts = range(0, size - size % self._chunk_rows + 1, self._chunk_rows)
            for start, end in pairwise(cuts):
                number += 1
                yield self._chunk(table, number, all_rows.slice(start, end - start), all_lines.slice(start), rejects)
                rejects = []
            rows, lines, size = [all_rows.slice(cuts[-1])], [all_lines.slice(cuts[-1])], size - cuts[-1]
        if size or rejects:
            yield self._chunk(table, number + 1, pa.concat_tables(rows), pa.concat_arrays(lines), rejects)

    def _chunk(self, table: Table, number: int, rows: pa.Table, lines: pa.Array, rejects: list[Reject]) -> Chunk:
        if table is not INVOICE_LINE_ITEMS:
            return Chunk(table, number, rows, rejects)
        self._con.register("chunk", rows.append_column("line", lines.slice(0, rows.num_rows)))
        orphans: list[tuple[int, int]] = []
        if self._invoices_known:
            orphans = self._con.execute(
                f"SELECT line, invoice_id FROM chunk ANTI JOIN seen_{INVOICES.name} USING (invoice_id) ORDER BY line"
            ).fetchall()
        returns = self._con.execute("SELECT line, quantity FROM chunk WHERE quantity < 1 ORDER BY line").fetchall()
        self._con.unregister("chunk")
        file = self.path(table).name
        findings = [
            Finding("orphan", table.name, file, line, f"invoice {invoice} is not among the invoices")
            for line, invoice in orphans[:SHOWN_FINDINGS]
        ]
        findings += [
            Finding("return", table.name, file, line, f"quantity {quantity}")
            for line, quantity in returns[:SHOWN_FINDINGS]
        ]
        return Chunk(table, number, rows, rejects, orphans=len(orphans), returns=len(returns), findings=findings)


def _type(table: Table, name: str) -> str:
    return next(c.duckdb_type for c in table.columns if c.name == name)


def _with_raw(reject: Reject, block: Block) -> Reject:
    raw = reject.raw if reject.line is None else block.raw(reject.line)
    return Reject(reject.table, reject.file, reject.line, raw, reject.reason, reject.detail)


def _checked_formats(date_formats: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The given formats per table and column. Raises UsageError for a column that is no date or a wrong format."""
    formats: dict[str, dict[str, str]] = {}
    known = {f"{t.name}.{c.name}": (t, c) for t in TABLES for c in t.columns if c.kind is Kind.DATE}
    for name, date_format in date_formats.items():
        if name not in known:
            raise UsageError(
                f"--date-format {name}: there is no such date column", hint=f"date columns are {', '.join(known)}"
            )
        if not _is_date_format(date_format):
            raise UsageError(f"--date-format {name}={date_format} is no date format", hint="for example %d/%m/%Y")
        table, column = known[name]
        formats.setdefault(table.name, {})[column.name] = date_format
    return formats


def _is_date_format(date_format: str) -> bool:
    """Whether a date that is written in the format is read back as the same date."""
    day = date(1987, 11, 23)
    con = new_connection()
    try:
        ((read,),) = con.execute("SELECT strptime(strftime($1::DATE, $2), $2)::DATE", [day, date_format]).fetchall()
    except duckdb.Error:
        return False
    finally:
        con.close()
    return bool(read == day)
