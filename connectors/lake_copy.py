"""Tables copied as they were at one version, between folders and S3 in any direction.

A table's copy has the active files of that version, and as much of Delta's log as says so: the newest checkpoint at or
below the version and the commits from there on. Application ids are in it; older versions are not. Files never change,
so one that is there with its size is not copied again: a copy that was interrupted, or a later one, copies what is new.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from connectors.lake import LakeLocation, LakeStore, wrapped_errors
from connectors.object_files import active_files
from connectors.table_folder import TableFolder
from processors.errors import RetryableError, UsageError

_LOG = "_delta_log"
_SIDE_BY_SIDE = 8
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint.*\.parquet")
_COMMIT = re.compile(r"\d{20}\.json")
_AGAIN = "upkeep or an erasure removed it meanwhile: call again"


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
    """A table as it is now, or was at a version."""
    handle = store.open(name, version)
    with wrapped_errors(f"table {name}"):
        files = active_files(handle)
    return Pinned(
        name,
        int(handle.version()),
        sum(int(f["num_records"]) for f in files),
        {str(f["path"]): int(f["size_bytes"]) for f in files},
    )


class TableCopy:
    """One table on its way from a place to another. Every method raises as an access to a store does."""

    def __init__(self, pinned: Pinned, source: LakeLocation, target: LakeLocation) -> None:
        self.pinned = pinned
        self._from, self._to = TableFolder(source, pinned.name), TableFolder(target, pinned.name)
        self._what = f"table {pinned.name}"

    def to_copy(self) -> dict[str, int]:
        """Data files that the target has not, with their sizes in bytes."""
        with wrapped_errors(self._what):
            there = self._to.sizes()
        return {path: size for path, size in self.pinned.files.items() if there.get(path) != size}

    def copy_data(self, files: Mapping[str, int], copied: Callable[[int], None]) -> None:
        """Copies data files; `copied` is told the bytes of each. Raises RetryableError for one that is gone."""

        def one(path: str) -> None:
            self._copy(path)
            copied(files[path])

        _side_by_side(one, files)

    def copy_log(self) -> None:
        """Copies the log, the commit that makes the version last: before it, nobody sees the table at that version."""
        with wrapped_errors(self._what):
            here, there = self._from.sizes(_LOG), self._to.sizes(_LOG)
        new = [f"{_LOG}/{name}" for name in _log_files(self.pinned, set(here)) if there.get(name) != here[name]]
        _side_by_side(self._copy, new[:-1])
        _side_by_side(self._copy, new[-1:])

    def check_same_story(self) -> None:
        """Raises UsageError where the target's log goes beyond the version, or is not the beginning of the source's."""
        with wrapped_errors(self._what):
            here, there = self._from.sizes(_LOG), self._to.sizes(_LOG)
            commits = sorted(name for name in there if _COMMIT.fullmatch(name))
            common = [f"{_LOG}/{name}" for name in commits if name in here][-1:]
            same = all(self._from.read(path) == self._to.read(path) for path in common)
        if not same or (commits and commits[-1] > f"{self.pinned.version:020}.json"):
            raise UsageError(
                f"the copy of {self.pinned.name} is not an earlier stand of it: something else wrote there",
                hint="name a new place",
            )

    def _copy(self, path: str) -> None:
        with wrapped_errors(self._what):
            try:
                self._from.copy(path, self._to)
            except FileNotFoundError:
                raise RetryableError(f"{self._what}: {path} is not there any more", hint=_AGAIN) from None


def damage(pinned: Pinned, location: LakeLocation) -> str | None:
    """What is wrong with a copy: the first file that is not there, or not with its size; None where all are."""
    with wrapped_errors(f"table {pinned.name}"):
        there = TableFolder(location, pinned.name).sizes()
    for path, size in pinned.files.items():
        if there.get(path) != size:
            found = "is not there" if path not in there else f"has {there[path]} bytes, not {size}"
            return f"{pinned.name}/{path} {found}"
    return None


def _side_by_side(do: Callable[[str], None], paths: Iterable[str]) -> None:
    pool = ThreadPoolExecutor(_SIDE_BY_SIDE)
    try:
        for _ in pool.map(do, list(paths)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or an interrupt nothing more is begun


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
            f"table {pinned.name}: its log does not tell version {pinned.version} any more", hint=_AGAIN
        )
    return [name for version, name in usable if version == first] + needed
