"""Delta's own time travel: a table as an earlier commit left it.

Times are those that the writers' clocks gave their commits (`commitInfo`), not the modification times of files, which a
copy changes; a time before all of them is refused, for which delta-rs silently gives the earliest version. How far back
it goes is limited twice: the log forgets commits (`delta.logRetentionDuration`), vacuum removes files that only old
versions need (`delta.deletedFileRetentionDuration`).
"""

from bisect import bisect_left
from collections.abc import Callable
from datetime import UTC, datetime

import pyarrow as pa
from deltalake import DeltaTable

from connectors.delta_log import commit_info, last_commits
from connectors.lake import wrapped_errors
from connectors.object_files import LakeReader
from processors.errors import RetryableError, UnavailableError, UsageError
from processors.records import TIMESTAMP

VERSIONS = pa.schema([("version", pa.int64()), ("committed_at", TIMESTAMP), ("operation", pa.string())])
_ASK_HISTORY = "the feature sets' own history goes back further: as_of(), and the views …_history"


def open_version(reader: LakeReader, name: str, version: int) -> DeltaTable:
    """The table at this version. Raises UsageError where it never was, or cannot be read any more."""
    newest = int(_newest(reader, name).version())
    if not 0 <= version <= newest:
        raise UsageError(f"{name} has no version {version}", hint=f"the newest is {newest}")
    try:
        handle = reader.open(name, version)
    except RetryableError:
        handle = None  # of a log that lacks commits before it
    if handle is None:
        raise UsageError(f"version {version} of {name} is not in the table's log any more", hint=_ASK_HISTORY)
    return handle


def version_at(reader: LakeReader, name: str, time: datetime) -> int:
    """The last version that was committed at or before `time`. Raises UsageError for a time before the log begins.

    A handful of requests, however long the log is: commits vanish from its beginning only, and their times ascend.
    """
    handle = _newest(reader, name)
    newest = int(handle.version())
    kept = _first_that(newest, lambda version: _committed_at(handle, version) is not None)
    begins = _committed_at(handle, kept)
    if begins is None or time < begins:
        since = "is empty" if begins is None else f"begins with version {kept} of {_shown(begins)}"
        raise UsageError(f"{_shown(time)} lies too far back: the log of {name} {since}", hint=_ASK_HISTORY)
    return _first_that(newest, lambda version: _is_after(_committed_at(handle, version), time)) - 1


def versions(reader: LakeReader, name: str, limit: int) -> list[dict[str, object]]:
    """The newest `limit` versions that the log still has, newest first, as rows of VERSIONS."""
    with wrapped_errors(f"table {name}"):
        commits = last_commits(_newest(reader, name), limit)
    return [
        {"version": c["version"], "committed_at": _moment(c["timestamp"]), "operation": c.get("operation")}
        for c in commits
    ]


def _newest(reader: LakeReader, name: str) -> DeltaTable:
    handle = reader.open(name)
    if handle is None:
        raise UnavailableError(f"no table {name} at {reader.uri}/{name}", hint="`trs worker` creates the lake")
    return handle


def _first_that(newest: int, holds: Callable[[int], bool]) -> int:
    """The first version for which it holds, given that it holds for all after it; newest + 1 without any."""
    return bisect_left(range(newest + 1), True, key=holds)


def _committed_at(handle: DeltaTable, version: int) -> datetime | None:
    """None where the commit is not in the log any more."""
    with wrapped_errors(f"table at {handle.table_uri}"):
        found = commit_info(handle, version)
    return None if found is None else _moment(found["timestamp"])


def _is_after(committed_at: datetime | None, time: datetime) -> bool:
    return committed_at is not None and committed_at > time


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _shown(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds")
