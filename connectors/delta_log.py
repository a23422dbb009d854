"""The log of a Delta table as we read it ourselves: which commits it holds, and what their writers said.

delta-rs keeps Python's lock while `DeltaTable.history` and `is_deltatable` wait for the store. With a store that hangs
no thread would run meanwhile, and a worker that sends no heartbeat loses its place in the consumer group.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from deltalake import DeltaTable
from obstore.exceptions import BaseError
from obstore.store import S3Store

from connectors.object_store import s3_store

_SIDE_BY_SIDE = 8
_PATIENCE_S = 20.0
"""About as long as delta-rs tries to reach a store that refuses the connection."""


def last_commits(handle: DeltaTable, limit: int) -> list[dict[str, Any]]:
    """The last `limit` commits through the version that the handle shows, newest first.

    Of each what its writer said (`commitInfo`) and its `version`. They are fewer where the log is shorter, or was
    cleaned up. Raises OSError.
    """
    newest = int(handle.version())
    versions = range(newest, max(newest - limit, -1), -1)
    log = _Log(str(handle.table_uri), handle._storage_options or {})
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        read = dict(zip(versions, pool.map(log.commit, versions), strict=True))
    commits: list[dict[str, Any]] = []
    for version, lines in read.items():
        if lines is None:
            break
        commits.append(_info(lines) | {"version": version})
    return commits


def commit_info(handle: DeltaTable, version: int) -> dict[str, Any] | None:
    """What the writer of a commit said, None where its file is not there (any more). Raises OSError."""
    lines = _Log(str(handle.table_uri), handle._storage_options or {}).commit(version)
    return None if lines is None else _info(lines)


def is_table(uri: str, storage_options: Mapping[str, str] | None) -> bool:
    """Whether there is a Delta table. Raises OSError."""
    return _Log(uri, storage_options or {}).exists()


class _Log:
    """The folder `_delta_log` of one table."""

    def __init__(self, uri: str, options: Mapping[str, str]) -> None:
        parts = urlsplit(uri)
        self._store: S3Store | None = None
        if parts.scheme == "s3":
            self._store = _kept_store(parts.netloc, tuple(sorted(options.items())))
            self._prefix = f"{parts.path.strip('/')}/_delta_log"
        else:
            path = unquote(parts.path) if parts.scheme == "file" else uri
            self._folder = Path(path) / "_delta_log"

    def commit(self, version: int) -> bytes | None:
        """The file of a commit, None where there is none."""
        name = f"{version:020}.json"
        try:
            if self._store is None:
                return (self._folder / name).read_bytes()
            return bytes(obstore.get(self._store, f"{self._prefix}/{name}").bytes())
        except FileNotFoundError:
            return None
        except BaseError as error:
            raise OSError(str(error)) from error

    def exists(self) -> bool:
        """Whether there is any file in it."""
        if self._store is None:
            return self._folder.is_dir() and any(self._folder.iterdir())
        try:
            return any(obstore.list(self._store, f"{self._prefix}/", chunk_size=1))
        except BaseError as error:
            raise OSError(str(error)) from error


@lru_cache(maxsize=8)
def _kept_store(bucket: str, options: tuple[tuple[str, str], ...]) -> S3Store:
    return s3_store(bucket, dict(options), patience_s=_PATIENCE_S)


def _info(lines: bytes) -> dict[str, Any]:
    for line in lines.splitlines():
        if line.startswith(b'{"commitInfo"'):
            info: dict[str, Any] = json.loads(line)["commitInfo"]
            return info
    return {}
