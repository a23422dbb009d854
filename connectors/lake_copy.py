"""A lake copied as it was at one version of each table, between folders and S3 in any direction.

A table's copy has the active files of that version and as much of Delta's log as says so: the newest checkpoint at or
below the version and the commits from there on. Application ids are in it; older versions are not. Files never change,
so a file that is there with its size is not copied again: an interrupted copy goes on.
"""

import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from connectors.lake import LakeLocation, LakeStore, wrapped_errors
from connectors.object_files import active_files
from connectors.table_folder import TableFolder
from processors.errors import RetryableError

_LOG = "_delta_log"
_SIDE_BY_SIDE = 8
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint.*\.parquet")


@dataclass(frozen=True)
class Pinned:
    """One table at one version: rows, and files with their sizes in bytes; paths are relative to the table."""

    name: str
    version: int
    rows: int
    files: Mapping[str, int]

    @property
    def size_bytes(self) -> int:
        return sum(self.files.values())


def pin(store: LakeStore, name: str, version: int | None = None) -> Pinned:
    """A table as it is now, or was at a version. Vacuum keeps its files for TRS_TIME_TRAVEL_DAYS after it changes."""
    handle = store.open(name, version)
    with wrapped_errors(f"table {name}"):
        files = active_files(handle)
    return Pinned(
        name,
        int(handle.version()),
        sum(int(f["num_records"]) for f in files),
        {str(f["path"]): int(f["size_bytes"]) for f in files},
    )


def copy_table(
    pinned: Pinned, source: LakeLocation, target: LakeLocation, *, copied: Callable[[int], None] = lambda _bytes: None
) -> None:
    """Copies the data files, then the log; `copied` is told the bytes of each data file that is there.

    Raises RetryableError when upkeep removed something meanwhile, and as every access to a store.
    """
    with wrapped_errors(f"table {pinned.name}"):
        reads, writes = TableFolder(source, pinned.name), TableFolder(target, pinned.name)

        def one(file: tuple[str, int]) -> None:
            path, size_bytes = file
            if not writes.has(path, size_bytes):
                reads.copy(path, writes)
            copied(size_bytes)

        with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
            list(pool.map(one, pinned.files.items()))
            # The commit that makes the version comes last: before it, nobody sees the table at that version.
            *earlier, last = _log_files(pinned, {name for name, _ in reads.list(_LOG)})
            list(pool.map(lambda name: reads.copy(f"{_LOG}/{name}", writes), earlier))
            reads.copy(f"{_LOG}/{last}", writes)


def _log_files(pinned: Pinned, there: set[str]) -> list[str]:
    """The files of the log from which the version can be read, in order."""
    checkpoints = sorted(
        (int(found[1]), name) for name in there for found in (_CHECKPOINT.fullmatch(name),) if found is not None
    )
    usable = [(version, name) for version, name in checkpoints if version <= pinned.version]
    first = usable[-1][0] if usable else 0
    commits = [f"{version:020}.json" for version in range(first, pinned.version + 1)]
    needed = commits[1:] if usable and commits[0] not in there else commits
    if not set(needed) <= there:
        raise RetryableError(
            f"table {pinned.name}: its log does not reach version {pinned.version} any more", hint="begin a new backup"
        )
    return [name for version, name in usable if version == first] + needed
