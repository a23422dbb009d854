"""Compaction: which files of an append-only table become one, and in what order their rows stand then.

A worker writes one file per table and commit: thousands per day. Two rules make them few:

    day                         candidates                    become one when
    before yesterday (closed)   files below half the target   there are two
    yesterday, today, no day    files of one tier of size     there are `tier_files`

A tier holds files whose sizes differ by a factor of eight at most, so a row of a busy day is rewritten a few times, not
once per merge. Rows never leave their `known_date`, by which readers leave files out.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from processors.lake_tables import APPEND_ONLY, KEYED_TABLES, LakeTable

_SMALLEST_TIER_BYTES = 64 * 1024
_TIER_FACTOR = 8
_SORTED_BY = (
    "stage",
    "bucket",
    "topic",
    "partition",
    "account_id",
    "table_name",
    "row_offset",
    "epoch",
    "entry",
    "known_from",
    "checked_at",
    "began_at",
)
"""Of tables that are no log of a keyed table, those columns that they have."""


@dataclass(frozen=True)
class DataFile:
    """An active file: its path below the table, size, rows, when it was written, and its day, None without days."""

    path: str
    size_bytes: int
    rows: int
    written_ms: int
    day: date | None


@dataclass(frozen=True)
class CompactionPolicy:
    """`target_bytes`: of a finished file. `tier_files`: files of about one size that wait on a day that goes on.

    `group_bytes`: what is rewritten in one commit at most, if it is more than one pair of files.
    """

    target_bytes: int = 128_000_000
    tier_files: int = 32
    group_bytes: int = 1_000_000_000


@dataclass(frozen=True)
class FileGroup:
    """Files of one day that become `parts` files, by one commit."""

    day: date | None
    files: tuple[DataFile, ...]
    parts: int

    @property
    def size_bytes(self) -> int:
        return sum(f.size_bytes for f in self.files)

    @property
    def rows(self) -> int:
        return sum(f.rows for f in self.files)


def compacted_tables() -> tuple[LakeTable, ...]:
    """Every table whose files pile up: all that are only appended to. Folded ones are rewritten by their folds."""
    return APPEND_ONLY


def sort_columns(table: LakeTable) -> tuple[str, ...]:
    """The order of rows in a compacted file: row groups are left out by bucket, then by key."""
    keyed = next((k for k in KEYED_TABLES if k.log == table.name), None)
    wanted = _SORTED_BY if keyed is None else (keyed.log_bucket, *keyed.key, "epoch")
    there = set(table.schema.names)
    return tuple(dict.fromkeys(name for name in wanted if name in there))


def file_groups(files: Iterable[DataFile], *, today: date, policy: CompactionPolicy) -> list[FileGroup]:
    """What is due of a table's files, the oldest day first."""
    days: defaultdict[date | None, list[DataFile]] = defaultdict(list)
    for file in files:
        days[file.day].append(file)
    groups: list[FileGroup] = []
    for day in sorted(days, key=lambda d: d or date.max):
        closed = day is not None and day < today - timedelta(days=1)
        for candidates in _closed(days[day], policy) if closed else _tiers(days[day], policy):
            groups += _cut(day, sorted(candidates, key=lambda f: (f.written_ms, f.path)), policy)
    return groups


def _closed(files: Sequence[DataFile], policy: CompactionPolicy) -> list[list[DataFile]]:
    small = [f for f in files if f.size_bytes < policy.target_bytes // 2]
    return [small] if len(small) > 1 else []


def _tiers(files: Sequence[DataFile], policy: CompactionPolicy) -> list[list[DataFile]]:
    tiers: defaultdict[int, list[DataFile]] = defaultdict(list)
    for file in files:
        tier, limit = 0, _SMALLEST_TIER_BYTES
        while file.size_bytes >= limit:
            tier, limit = tier + 1, limit * _TIER_FACTOR
        if file.size_bytes < policy.target_bytes // 2:
            tiers[tier].append(file)
    return [tiers[tier] for tier in sorted(tiers) if len(tiers[tier]) >= policy.tier_files]


def _cut(day: date | None, files: Sequence[DataFile], policy: CompactionPolicy) -> list[FileGroup]:
    """Groups of at most `group_bytes`, in the order in which the files were written."""
    cuts: list[list[DataFile]] = [[]]
    for file in files:
        full = sum(f.size_bytes for f in cuts[-1]) + file.size_bytes > policy.group_bytes
        if full and len(cuts[-1]) > 1:
            cuts.append([])
        cuts[-1].append(file)
    return [
        FileGroup(day, tuple(cut), parts=-(-sum(f.size_bytes for f in cut) // policy.target_bytes))
        for cut in cuts
        if len(cut) > 1
    ]
