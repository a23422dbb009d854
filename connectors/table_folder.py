"""The folder of one table, in a file system or in S3, as obstore sees it: for what is not Delta's own to do."""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore

from connectors.lake import LakeLocation
from connectors.object_store import s3_store

if TYPE_CHECKING:
    from obstore import ObjectMeta, WritableFile
    from obstore.store import S3Store

_PART_BYTES = 10 * 1024 * 1024


@contextmanager
def _store_errors() -> Iterator[None]:
    """obstore's own errors as OSError, which the callers turn into ours."""
    try:
        yield
    except BaseError as error:
        raise OSError(str(error)) from error


class NewFile(io.RawIOBase):
    """A file of obstore's that is written, as Arrow takes it."""

    def __init__(self, target: "WritableFile") -> None:
        super().__init__()
        self._target = target

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with _store_errors():
            return int(self._target.write(bytes(data)))

    def close(self) -> None:
        if not self.closed:
            super().close()
            with _store_errors():
                self._target.close()


class TableFolder:
    """Paths are relative to the table. Raises OSError when the store fails."""

    def __init__(self, location: LakeLocation, name: str) -> None:
        parts = urlsplit(location.table(name))
        self._store: S3Store | LocalStore
        if parts.scheme == "s3":
            self._store, self._prefix = s3_store(parts.netloc, location.storage_options), parts.path.strip("/")
        else:
            self._store, self._prefix = LocalStore(Path(location.table(name)), mkdir=True), ""

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix else path

    def writer(self, path: str) -> "NewFile":
        """A new file, uploaded in parts; it is there once it is closed."""
        return NewFile(obstore.open_writer(self._store, self._key(path), buffer_size=_PART_BYTES, max_concurrency=2))

    def size_bytes(self, path: str) -> int:
        """The size of a file."""
        with _store_errors():
            return int(obstore.head(self._store, self._key(path))["size"])

    def copy(self, path: str, other: "TableFolder") -> None:
        """Puts a file of this folder in the same place of another one, in parts, whole or not at all."""
        with _store_errors():
            parts = obstore.get(self._store, self._key(path)).stream(min_chunk_size=_PART_BYTES)
            target = obstore.open_writer(other._store, other._key(path), buffer_size=_PART_BYTES, max_concurrency=2)
            for part in parts:
                target.write(part)
            target.close()  # not after an error: what is not closed is not there

    def write(self, path: str, content: bytes) -> None:
        """A small file, in the place of an earlier one."""
        with _store_errors():
            obstore.put(self._store, self._key(path), content)

    def read(self, path: str) -> bytes | None:
        """A small file, None where there is none."""
        try:
            with _store_errors():
                return bytes(obstore.get(self._store, self._key(path)).bytes())
        except FileNotFoundError:
            return None

    def delete(self, paths: Iterable[str]) -> None:
        """Deletes files; those that are not there count as deleted."""
        for path in paths:
            with suppress(FileNotFoundError), _store_errors():
                obstore.delete(self._store, self._key(path))

    def list(self, folder: str) -> Iterator[tuple[str, datetime]]:
        """Names below a folder of the table with the times of their last change, in no order."""
        return ((name, meta["last_modified"]) for name, meta in self._listed(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Names below a folder of the table with the sizes of these files in bytes."""
        return {name: int(meta["size"]) for name, meta in self._listed(folder)}

    def _listed(self, folder: str) -> "Iterator[tuple[str, ObjectMeta]]":
        prefix = self._key(folder).rstrip("/") + "/"
        with _store_errors():
            for chunk in obstore.list(self._store, prefix, chunk_size=1000):
                for meta in chunk:
                    yield str(meta["path"]).removeprefix(prefix), meta
