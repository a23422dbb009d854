"""The files of an export in a folder or below an `s3://` address: listing, small files whole, Parquet by DuckDB."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import duckdb
import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError

from connectors.object_files import S3RangeFileSystem
from connectors.object_store import s3_store
from connectors.source_rows import new_connection
from processors.errors import AccessDeniedError, SourceError, UnavailableError, UsageError

_PATIENCE_S = 20.0
_LONGEST_REASON = 200
_FORM = "--source s3-export:s3://BUCKET/PREFIX/EXPORT"


@dataclass(frozen=True)
class ExportFile:
    """`name`: its path below the export, with slashes."""

    name: str
    size_bytes: int
    changed: str


class ExportFiles:
    """All files below one place, as they were at the first look. Raises UsageError for a place that names none."""

    def __init__(self, place: str, storage_options: Mapping[str, str]) -> None:
        self.place = place.rstrip("/")
        self._options = storage_options
        parts = urlsplit(self.place)
        self._bucket = parts.netloc if parts.scheme == "s3" else None
        if not place or self._bucket == "":
            raise UsageError(f"s3-export:{place} names no bucket and no folder", hint=_FORM)
        self._prefix = parts.path.strip("/")

    def list(self) -> list[ExportFile]:
        """Every file, by name. Raises SourceError, AccessDeniedError, UnavailableError."""
        if self._bucket is None:
            folder = Path(self.place)
            if not folder.is_dir():
                raise SourceError(f"{self.place} is not a folder", hint=_FORM)
            found = [(p, p.stat()) for p in folder.rglob("*") if p.is_file()]
            files = [ExportFile(p.relative_to(folder).as_posix(), s.st_size, str(s.st_mtime_ns)) for p, s in found]
        else:
            store = s3_store(self._bucket, self._options, patience_s=_PATIENCE_S)
            prefix = f"{self._prefix}/" if self._prefix else ""
            try:
                listed = [o for part in obstore.list(store, prefix) for o in part]
            except BaseError as error:
                raise self._wrapped(error) from error
            files = [
                ExportFile(o["path"].removeprefix(prefix), int(o["size"]), str(o["e_tag"] or o["last_modified"]))
                for o in listed
            ]
        return sorted(files, key=lambda f: f.name)

    def read(self, name: str) -> bytes:
        """A whole file."""
        if self._bucket is None:
            return (Path(self.place) / name).read_bytes()
        store = s3_store(self._bucket, self._options, patience_s=_PATIENCE_S)
        try:
            return bytes(obstore.get(store, f"{self._prefix}/{name}".lstrip("/")).bytes())
        except BaseError as error:
            raise self._wrapped(error) from error

    def parquet(self, name: str, *, numbered: bool = False) -> str:
        """SQL that reads the rows of one file on a connection of `connect`; `numbered`: with `file_row_number`.

        Only what the file holds: folders like `year=2026` above it add no columns, and its name is no pattern.
        """
        address = f"{self.place}/{name}"
        if self._bucket is None:
            address = "".join(f"[{c}]" if c in "*?[" else c for c in address)
        address = address.replace("'", "''")
        options = ", file_row_number = true" if numbered else ""
        return f"read_parquet('{address}', hive_partitioning = false{options})"

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB that reads the files, rows in their order."""
        con = new_connection()
        if self._bucket is not None:
            con.register_filesystem(S3RangeFileSystem(self._bucket, self._options))
        return con

    def _wrapped(self, error: BaseError) -> Exception:
        reason = " ".join(str(error).split())
        if isinstance(error, PermissionDeniedError) or "denied" in reason.lower():
            return AccessDeniedError(
                f"{self.place}: the object store refuses access", hint="check TRS_AWS_* or the role"
            )
        if isinstance(error, NotFoundError | FileNotFoundError) or "nosuchbucket" in reason.lower():
            return SourceError(f"{self.place}: no such bucket or object", hint="check the address of the export")
        return UnavailableError(
            f"{self.place}: the object store does not answer: {reason[:_LONGEST_REASON]}", hint="check TRS_AWS_ENDPOINT"
        )
