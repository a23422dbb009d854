"""Reading the lake: Delta tells which files are active, DuckDB reads them natively.

DuckDB fetches only the columns, row groups and partitions that a query names. On S3 it does so through a small
read-only filesystem of ours, which serves byte ranges with obstore (the HTTP extension of DuckDB is not on PyPI).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, Self
from urllib.parse import urlsplit

import duckdb
import obstore
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from fsspec import AbstractFileSystem
from obstore.exceptions import BaseError

from connectors.lake import wrap_error
from connectors.object_store import s3_store
from processors.errors import TrsError, UnavailableError
from processors.lake_tables import LAKE_TABLES, LakeTable
from processors.state import duckdb_type

_TAIL_BYTES = 64 * 1024
"""Fetched at the first look at a file: nearly always its whole Parquet footer, which DuckDB reads several times."""
_TAILS_KEPT = 512
ActiveFile = Mapping[str, Any]
"""`path`, `size_bytes`, `num_records`, `modification_time` (ms since 1970), `partition.NAME` per partition column."""
_FILE_FACTS = ("path", "size_bytes", "num_records", "modification_time")
_CANNOT_READ = "the object store does not give"
_LONGEST_REASON = 200


@contextmanager
def _reading(key: str) -> Iterator[None]:
    try:
        yield
    except BaseError as error:
        raise UnavailableError(f"{_CANNOT_READ} {key}: {' '.join(str(error).split())[:_LONGEST_REASON]}") from error


def read_error(error: BaseException) -> TrsError | None:
    """The failed read of the object store that DuckDB passes on, as text of its own error; None for other errors."""
    if not isinstance(error, duckdb.Error) or _CANNOT_READ not in str(error):
        return None
    reason = str(error).partition(_CANNOT_READ)[2].splitlines()[0]
    return UnavailableError(_CANNOT_READ + reason, hint="check TRS_AWS_ENDPOINT and the store, then start again")


class S3RangeFile:
    """One object, read by ranges; what DuckDB needs of a file and no more."""

    def __init__(self, fetch: Callable[[int, int], bytes], tail: Callable[[], bytes], size_bytes: int) -> None:
        self.size = size_bytes
        self._fetch = fetch
        self._tail = tail
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self.size)[whence]
        return self._position

    def read(self, length: int = -1) -> bytes:
        start = self._position
        end = self.size if length < 0 else min(self.size, start + length)
        if start >= end:
            return b""
        self._position = end
        tail_start = max(0, self.size - _TAIL_BYTES)
        if start < tail_start:
            return self._fetch(start, end)
        return self._tail()[start - tail_start : end - tail_start]

    def close(self) -> None:
        """Nothing is held open."""


class S3RangeFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Read-only `s3://` for DuckDB over the bucket of one lake. Objects are immutable: Delta never rewrites a file."""

    protocol = "s3"
    cachable = False

    def __init__(self, bucket: str, storage_options: Mapping[str, str]) -> None:
        super().__init__()
        self._bucket = bucket
        self._store = s3_store(bucket, storage_options)
        self._sizes: dict[str, int] = {}
        self._tail = lru_cache(maxsize=_TAILS_KEPT)(self._fetch_tail)

    def remember(self, sizes_bytes: Mapping[str, int]) -> None:
        """Sizes that the Delta log told, by `s3://` address: they save one request per file."""
        self._sizes |= {self._key(uri): size for uri, size in sizes_bytes.items()}

    def _key(self, path: str) -> str:
        return path.removeprefix("s3://").removeprefix(f"{self._bucket}/")

    def open(self, path: str, mode: str = "rb", **_: Any) -> S3RangeFile:
        if mode != "rb":
            raise PermissionError(f"{path}: the lake is open for reading only")
        key = self._key(path)
        return S3RangeFile(partial(self._fetch, key), partial(self._tail, key), self._size(path))

    def _fetch(self, key: str, start: int, end: int) -> bytes:
        # DuckDB wants real bytes, not obstore's buffer.
        with _reading(key):
            return bytes(obstore.get_range(self._store, key, start=start, end=end))

    def _fetch_tail(self, key: str) -> bytes:
        size = self._size(key)
        return self._fetch(key, max(0, size - _TAIL_BYTES), size)

    def _size(self, path: str) -> int:
        key = self._key(path)
        if key not in self._sizes:
            with _reading(key):
                self._sizes[key] = int(obstore.head(self._store, key)["size"])
        return self._sizes[key]

    def info(self, path: str, **_: Any) -> dict[str, object]:
        return {"name": path, "size": self._size(path), "type": "file"}

    def exists(self, path: str, **_: Any) -> bool:
        try:
            self._size(path)
        except FileNotFoundError:
            return False
        return True

    def glob(self, path: str, **_: Any) -> list[str]:
        return [path]  # we are only ever asked for whole names

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(0, UTC)  # immutable, so the age does not matter


def active_files(table: DeltaTable) -> list[ActiveFile]:
    """What Delta knows of each file at the version that this handle shows."""
    actions = pa.table(table.get_add_actions(flatten=True))
    names = [n for n in actions.column_names if n in _FILE_FACTS or n.startswith("partition.")]
    return actions.select(names).to_pylist() if actions.num_rows else []


class LakeReader:
    """The tables of one lake, for reading. A context manager; `close` also closes every connection that it opened."""

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = uri.rstrip("/")
        self._options = dict(storage_options or {})
        self._connections: list[duckdb.DuckDBPyConnection] = []
        parts = urlsplit(self.uri)
        self._s3 = S3RangeFileSystem(parts.netloc, self._options) if parts.scheme == "s3" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections made by `connect`: one that lives at exit makes DuckDB print complaints."""
        for con in self._connections:
            con.close()
        self._connections.clear()

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A new in-memory DuckDB whose clock is UTC and which reads this lake's files."""
        con = duckdb.connect()
        self._connections.append(con)
        self.prepare(con)
        return con

    def prepare(self, con: duckdb.DuckDBPyConnection) -> None:
        """The same for a connection of one's own."""
        con.execute("SET TimeZone = 'UTC'")
        if self._s3 is not None:
            con.register_filesystem(self._s3)

    def open(self, name: str, version: int | None = None) -> DeltaTable | None:
        """A fresh handle on a table (at a version), None where it does not exist.

        Raises UnavailableError, AccessDeniedError, and RetryableError for a version that the log does not give.
        """
        uri = f"{self.uri}/{name}"
        try:
            return DeltaTable(uri, version=version, storage_options=self._options or None)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            raise wrap_error(error, f"table {name} at {uri}") from error

    def version(self, name: str) -> int | None:
        """The table's newest version, None where it does not exist."""
        table = self.open(name)
        return None if table is None else int(table.version())

    def files(self, name: str) -> list[str]:
        """Addresses of the files that make up the table now; none where it does not exist."""
        table = self.open(name)
        return [] if table is None else self.files_of(name, table)

    def files_of(self, name: str, table: DeltaTable, wanted: Callable[[ActiveFile], bool] | None = None) -> list[str]:
        """Addresses of the files, or the wanted ones, that make up the version that this handle of the table shows."""
        return self.addresses(name, [a for a in active_files(table) if wanted is None or wanted(a)])

    def addresses(self, name: str, files: Iterable[ActiveFile]) -> list[str]:
        """Addresses of these files of a table, sorted."""
        # Not file_uris(): it percent-encodes the lake's own folder, so that a space in it would not be found.
        sizes = {f"{self.uri}/{name}/{f['path']}": f["size_bytes"] for f in files}
        if self._s3 is not None:
            self._s3.remember(sizes)
        return sorted(sizes)

    def row_count(self, name: str) -> int | None:
        """Rows of the table by Delta's statistics, None where it does not exist; opens no data file."""
        table = self.open(name)
        if table is None:
            return None
        return sum(int(f["num_records"]) for f in active_files(table))

    def relation(self, name: str, files: list[str] | None = None) -> str:
        """SQL in parentheses over the declared columns of the table as it is now, or of the given files of it.

        A table that does not exist or has no rows is an empty relation; a column that old files lack is null there.
        """
        return relation_sql(LAKE_TABLES[name], self.files(name) if files is None else files)

    def relations(self, names: list[str]) -> dict[str, str]:
        """`relation` of several tables, opened side by side."""
        with ThreadPoolExecutor(max_workers=8) as pool:
            return dict(zip(names, pool.map(self.relation, names), strict=True))


def relation_sql(table: LakeTable, files: list[str]) -> str:
    """SQL in parentheses that reads these Parquet files as the declared columns."""
    types = {f.name: duckdb_type(f.type) for f in table.schema}
    # The empty half fixes names and types where no file has a column yet; the optimizer drops it.
    declared = "SELECT " + ", ".join(f'CAST(NULL AS {t}) AS "{n}"' for n, t in types.items()) + " WHERE false"
    if not files:
        return f"({declared})"
    listed = ", ".join("'" + f.replace("'", "''") + "'" for f in files)
    hive = ", ".join(f"'{n}': {types[n]}" for n in table.partition_by)
    partitions = f", hive_partitioning = true, hive_types = {{{hive}}}" if hive else ""
    return f"""(
  SELECT {", ".join(f'"{n}"' for n in types)}
  FROM ({declared} UNION ALL BY NAME FROM read_parquet([{listed}], union_by_name = true{partitions}))
)"""
