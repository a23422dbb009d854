"""What one Delta table looks like: rows, files, versions, upkeep; from Delta's log, no data file is opened."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from deltalake import DeltaTable

from connectors.delta_log import last_commits
from connectors.lake import LakeStore, wrapped_errors
from connectors.object_files import active_files
from connectors.table_folder import TableFolder
from connectors.table_upkeep import TableUpkeep

_LOG = "_delta_log"
_LOOKED_AT = 20
"""Commits among which the last one that is not upkeep's is looked for."""
_UPKEEP = ("OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES")


@dataclass(frozen=True)
class FileSizes:
    """Sizes of a table's active files in bytes."""

    least: int
    median: int
    p95: int
    greatest: int


@dataclass(frozen=True)
class TableFacts:
    """`sizes`: None without files. `version`: the newest. `last_checkpoint`: a version.

    `oldest_version`, of `oldest_at`: can still be read for certain. `last_commit_at`: of the last commit that was not
    upkeep's, as far as the last few tell.
    """

    name: str
    rows: int
    files: int
    size_bytes: int
    sizes: FileSizes | None
    version: int
    oldest_version: int
    oldest_at: datetime | None
    last_checkpoint: int | None
    last_commit_at: datetime | None
    properties: Mapping[str, str]


def table_facts(store: LakeStore, name: str, *, files_gone_before: datetime | None) -> TableFacts:
    """The facts as of now. `files_gone_before`: vacuum has deleted files that were removed before; None: none was."""
    handle = store.open(name)
    with wrapped_errors(f"table {name}"):
        files = active_files(handle)
        versions = _versions(TableFolder(store.location, name))
        last = _last_commit_at(handle)
    sizes = sorted(int(f["size_bytes"]) for f in files)
    oldest = _oldest(versions, files_gone_before, newest=int(handle.version()))
    return TableFacts(
        name=name,
        rows=sum(int(f["num_records"]) for f in files),
        files=len(files),
        size_bytes=sum(sizes),
        sizes=_sizes(sizes) if sizes else None,
        version=int(handle.version()),
        oldest_version=oldest,
        oldest_at=versions.get(oldest),
        last_checkpoint=TableUpkeep(store, name, time_travel_days=1).last_checkpoint(),
        last_commit_at=last,
        properties={k: v for k, v in handle.metadata().configuration.items() if v is not None},
    )


def _sizes(ordered: Sequence[int]) -> FileSizes:
    """By the nearest rank."""
    count = len(ordered)
    return FileSizes(ordered[0], ordered[(count - 1) // 2], ordered[-(-95 * count // 100) - 1], ordered[-1])


def _versions(folder: TableFolder) -> dict[int, datetime]:
    """The versions that the log can rebuild, with the times of their commits, oldest first."""
    commits: dict[int, datetime] = {}
    checkpoints = []
    for path, changed_at in folder.list(_LOG):
        number, _, kind = path.partition(".")
        if not number.isdigit():
            continue
        if kind == "json":
            commits[int(number)] = changed_at
        elif kind.startswith("checkpoint"):
            checkpoints.append(int(number))
    first = 0 if 0 in commits else min(checkpoints, default=0)
    return {version: commits[version] for version in sorted(commits) if version >= first}


def _oldest(versions: Mapping[int, datetime], files_gone_before: datetime | None, *, newest: int) -> int:
    """The version that was the newest when files began to be kept, or the oldest that the log has."""
    numbers = list(versions)
    if not numbers:
        return newest
    if files_gone_before is None:
        return numbers[0]
    since = bisect_right(list(versions.values()), files_gone_before)
    return numbers[max(0, since - 1)]


def _last_commit_at(handle: DeltaTable) -> datetime | None:
    for limit in (1, _LOOKED_AT):
        for commit in last_commits(handle, limit):
            if not _is_upkeep(commit):
                return datetime.fromtimestamp(commit["timestamp"] / 1000, UTC)
    return None


def _is_upkeep(commit: Mapping[str, Any]) -> bool:
    return "trs_upkeep" in commit or commit.get("operation") in _UPKEEP
