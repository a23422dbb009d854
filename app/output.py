"""Answers that go to files: CSV or Parquet by the suffix, all or nothing."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from processors.errors import AccessDeniedError, FullDiskError, TrsError, UnavailableError, UsageError
from processors.features.text import quoted, safe_text_sql, text_sql

_FORMATS = {
    ".csv": "FORMAT csv, HEADER true, DELIMITER ',', NULLSTR ''",
    ".parquet": "FORMAT parquet, COMPRESSION zstd",
}


def check_target(out: Path) -> None:
    """Raises an error before any work: an unknown suffix, a folder that is missing or cannot be written."""
    if out.suffix.lower() not in _FORMATS:
        raise UsageError(
            f"--out {out}: the suffix `{out.suffix}` is neither .csv nor .parquet", hint="name it FILE.csv"
        )
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: the folder {out.parent} does not exist", hint="make it, or name another")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder", hint="name a file in it")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise FullDiskError(f"no space left for {out}", hint="free some, or name a file elsewhere") from None
        raise AccessDeniedError(
            f"--out {out}: the folder {out.parent} cannot be written ({error.strerror})", hint="name another"
        ) from None


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A temporary file beside `out` that takes its place when the block ends well and vanishes when it does not."""
    descriptor, name = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(content: bytes, out: Path) -> None:
    """Writes exactly these bytes to `out`. Raises FullDiskError or UnavailableError; `out` is then as it was."""
    try:
        with replacing(out) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise FullDiskError(f"no space left for {out}", hint="free some, or name a file elsewhere") from None
        raise UnavailableError(f"{out} cannot be written: {error.strerror}") from None


def as_text(con: duckdb.DuckDBPyConnection, query: str, *, safe: bool = False) -> str:
    """The query with its numbers as plain text, and with `safe` no text that a spreadsheet takes for a formula."""
    to_text = safe_text_sql if safe else text_sql
    relation = con.sql(query)
    columns = ", ".join(
        f"{to_text(quoted(name), str(kind))} AS {quoted(name)}"
        for name, kind in zip(relation.columns, relation.types, strict=True)
    )
    return f"SELECT {columns} FROM (\n{query}\n)"


def write_query(con: duckdb.DuckDBPyConnection, query: str, out: Path, *, safe: bool = False) -> int:
    """Writes the query's rows, in its order, to `out` and returns how many.

    Raises FullDiskError; `out` is then as it was.
    CSV: a header, plain numbers, empty nulls, lines end with \\n; `safe`: see `safe_text_sql`. Parquet: own types.
    """
    kind = out.suffix.lower()
    source = as_text(con, query, safe=safe) if kind == ".csv" else query
    try:
        with replacing(out) as temporary:
            target = str(temporary).replace("'", "''")
            row = con.execute(f"COPY (\n{source}\n) TO '{target}' ({_FORMATS[kind]})").fetchone()
            return 0 if row is None else int(row[0])
    except duckdb.IOException as error:
        raise io_error(error, out) from None


def io_error(error: duckdb.IOException, out: Path) -> TrsError:
    """DuckDB's failure to write `out` as one of ours."""
    text = str(error).splitlines()[0]
    if "no space left" in text.lower():
        return FullDiskError(f"no space left for {out}", hint="free some, or name a file elsewhere")
    return UnavailableError(f"{out} cannot be written: {text}")
