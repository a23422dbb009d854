"""`trs lake maintain`: one round of all upkeep that is due, table by table, within a budget.

What went wrong with one table is kept and told, and the round goes on with the next. What was done stands in the table
`upkeep`, so that the next round, on whatever machine, knows when a table was last vacuumed.
"""

import os
import shutil
import socket
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Literal

import duckdb
import pyarrow as pa

from app.quality import FoldGate
from app.settings import Settings
from app.wiring import fold_policy, lake_location, store_watch
from batch_bootstrap.kept_files import alone
from connectors.compaction import compact, data_files, unknown_columns
from connectors.delta_lake import DeltaLake
from connectors.fold import fold, rows_due
from connectors.lake import LakeStore
from connectors.object_files import read_error
from connectors.purge import GRACE, TablePurge
from connectors.results import append_results
from connectors.table_upkeep import TableUpkeep
from processors.compaction import CompactionPolicy, FileGroup, compacted_tables, file_groups
from processors.erasure import ERASED_TABLES
from processors.errors import QualityError, RetryableError, TrsError, UnavailableError
from processors.keyed_table import KeyedTable
from processors.lake_tables import KEYED_TABLES, LAKE_TABLES, UPKEEP, LakeTable
from processors.state import open_state

Action = Literal["fold", "compact", "checkpoint", "vacuum", "purge"]
ACTIONS: tuple[Action, ...] = ("fold", "compact", "checkpoint", "vacuum", "purge")


@dataclass(frozen=True)
class Done:
    """One thing that was done, or would be (`dry_run`), or that failed. Files and bytes where files were rewritten."""

    action: str
    table_name: str
    began_at: datetime
    seconds: float
    files_before: int | None = None
    files_after: int | None = None
    bytes_before: int | None = None
    bytes_after: int | None = None
    failure: str | None = None


@dataclass
class Budget:
    """What a round may still do: bytes of files to be rewritten, and until when it begins something new."""

    bytes_left: float = float("inf")
    ends_s: float = float("inf")

    @property
    def used_up(self) -> bool:
        return self.bytes_left <= 0 or time.monotonic() >= self.ends_s


@dataclass
class Round:
    """The outcome. `left`: more is due than the budget allowed. `worst`: the first error, for the exit code."""

    done: list[Done] = field(default_factory=list)
    left: bool = False
    worst: TrsError | None = None

    def rows(self, writer: str) -> pa.Table:
        """What was done as rows of `upkeep`."""
        more = {"writer": writer, "known_date": datetime.now(UTC).date()}
        return pa.Table.from_pylist([asdict(done) | more for done in self.done], schema=UPKEEP.schema)


Watcher = Callable[[str, int, int], None]
"""Told what is looked at, how many steps are done, and how many there are."""


def maintain(
    settings: Settings,
    *,
    only: Collection[Action] = ACTIONS,
    budget: Budget | None = None,
    vacuum_now: bool = False,
    dry_run: bool = False,
    watcher: Watcher = lambda what, done, of: None,
) -> Round:
    """Does what is due of these actions. `vacuum_now`: a vacuum is due, whenever the last one was.

    Raises UnavailableError where there is no lake, and RetryableError while another round runs on this machine.
    Elsewhere another may run: every rewrite is committed by compare-and-set, and the later of two changes nothing.
    """
    lock = settings.home / "upkeep.lock"
    with alone(lock, what="round of upkeep", hint="it does what is due"), store_watch(settings):
        if not LakeStore(lake_location(settings)).exists():
            raise UnavailableError(f"there is no lake at {settings.lake_uri}", hint="`trs worker` creates it")
        return _Maintenance(settings, budget or Budget(), vacuum_now=vacuum_now, dry_run=dry_run).run(only, watcher)


class _Maintenance:
    def __init__(self, settings: Settings, budget: Budget, *, vacuum_now: bool, dry_run: bool) -> None:
        self._settings = settings
        self._vacuum_now = vacuum_now
        self._budget = budget
        self._dry_run = dry_run
        self._round = Round()
        self._lake = DeltaLake(lake_location(settings), create=False)
        spill = settings.home / "spill-upkeep"
        shutil.rmtree(spill, ignore_errors=True)  # of a round that was killed; none runs here now
        self._con = open_state(spill=spill, memory_mb=settings.memory_mb, threads=settings.threads)
        self._lake.prepare(self._con)
        self._gate = FoldGate(settings, holds=settings.quality_gate)

    def run(self, only: Collection[Action], watcher: Watcher) -> Round:
        steps: list[tuple[Action, str, Callable[[], None]]] = [
            *(("fold", keyed.folded, partial(self._fold, keyed)) for keyed in KEYED_TABLES),
            *(("compact", table.name, partial(self._compact, table)) for table in compacted_tables()),
            *(("checkpoint", name, partial(self._checkpoint, name)) for name in LAKE_TABLES),
            *(("vacuum", name, partial(self._vacuum, name)) for name in LAKE_TABLES),
            *(("purge", table.name, partial(self._purge, table.name)) for table in ERASED_TABLES),
        ]
        there = self._lake.store.present()
        steps = [step for step in steps if step[0] in only and step[1] in there]
        with closing(self._con):
            for number, (action, table, step) in enumerate(steps):
                watcher(f"{action} {table}", number, len(steps))
                self._guarded(action, table, step)
            watcher("", len(steps), len(steps))
        self._record()
        return self._round

    def _guarded(self, action: str, table: str, step: Callable[[], None]) -> None:
        """A failure concerns its table only: the others need their upkeep as well."""
        began_at, started = datetime.now(UTC), time.monotonic()
        try:
            step()
        except (TrsError, duckdb.Error, OSError) as error:
            told = error if isinstance(error, TrsError) else read_error(error) or RetryableError(_one_line(error))
            self._round.worst = self._round.worst or told
            seconds = time.monotonic() - started
            self._round.done.append(Done(action, table, began_at, seconds, failure=str(told)))

    def _record(self) -> None:
        if self._dry_run or not self._round.done:
            return
        writer = f"{socket.gethostname()}:{os.getpid()}"
        try:
            append_results(self._lake.store, UPKEEP, self._round.rows(writer))
        except TrsError as error:
            self._round.worst = self._round.worst or error

    def _add(
        self,
        action: Action | Literal["retention"],
        table: str,
        began_at: datetime,
        *,
        files: tuple[int, int] | None = None,
        size_bytes: tuple[int, int] | None = None,
    ) -> None:
        """`files`, `size_bytes`: before and after."""
        seconds = (datetime.now(UTC) - began_at).total_seconds()
        self._round.done.append(
            Done(action, table, began_at, seconds, *(files or (None, None)), *(size_bytes or (None, None)))
        )

    # --- the actions ---------------------------------------------------------------------------------------------

    def _fold(self, keyed: KeyedTable) -> None:
        began_at, policy, partitions = datetime.now(UTC), fold_policy(self._settings), self._settings.partitions
        due = rows_due(self._lake, self._con, keyed, partitions, policy)
        if due is None or self._stops():
            return
        if self._dry_run:
            self._add("fold", keyed.folded, began_at)
            return
        folded = fold(self._lake, self._con, keyed, partitions, policy, self._gate)
        if folded is not None and folded.held is not None:
            raise QualityError(f"{keyed.folded} is not folded: {folded.held}", hint="docs/quality.md says what to do")
        if folded is not None and folded.buckets:
            self._add("fold", keyed.folded, began_at)

    def _compact(self, table: LakeTable) -> None:
        for group in self._groups(table):
            if self._stops():
                return
            began_at = datetime.now(UTC)
            self._budget.bytes_left -= group.size_bytes
            if self._dry_run:
                self._add("compact", table.name, began_at, files=(len(group.files), group.parts))
                continue
            done = compact(self._lake, self._con, table, group)
            if not done.committed:
                return
            files, size_bytes = (done.files_before, done.files_after), (done.bytes_before, done.bytes_after)
            self._add("compact", table.name, began_at, files=files, size_bytes=size_bytes)

    def _groups(self, table: LakeTable) -> Sequence[FileGroup]:
        handle = self._lake.store.open(table.name)
        unknown = unknown_columns(handle, table)
        if unknown:
            raise RetryableError(
                f"{table.name} has columns of a newer version, {', '.join(unknown)}: not compacted",
                hint="upgrade this program",
            )
        if len(handle.schema().fields) < len(table.schema):
            return ()  # of an earlier version, whose workers may write yet
        policy = CompactionPolicy(group_bytes=int(min(CompactionPolicy.group_bytes, max(1, self._budget.bytes_left))))
        return file_groups(data_files(handle), today=datetime.now(UTC).date(), policy=policy)

    def _checkpoint(self, name: str) -> None:
        began_at, table = datetime.now(UTC), self._table(name)
        if not table.checkpoint_due() or self._stops():
            return
        if not self._dry_run:
            table.checkpoint()
        self._add("checkpoint", name, began_at)

    def _vacuum(self, name: str) -> None:
        if name in self._vacuumed_lately or self._stops():
            return
        began_at, table = datetime.now(UTC), self._table(name)
        wrong = table.wrong_properties()
        if wrong:
            if not self._dry_run:
                table.set_properties(wrong)
            self._add("retention", name, began_at)
        began_at = datetime.now(UTC)
        self._add("vacuum", name, began_at, files=(table.vacuum(dry_run=self._dry_run), 0))

    def _purge(self, name: str) -> None:
        """What an erasure left in older versions, as far as nobody reads it any more."""
        began_at, purge = datetime.now(UTC), TablePurge(self._lake.store, name, grace=GRACE)
        if self._stops() or not purge.look().due:
            return
        files = 0 if self._dry_run else purge.run().due
        self._add("purge", name, began_at, files=(files, 0))

    @cached_property
    def _vacuumed_lately(self) -> frozenset[str]:
        """Tables whose last vacuum is less than a day ago, or failed less than an hour ago."""
        if self._vacuum_now:
            return frozenset()
        rows = self._con.sql(f"""
            SELECT table_name FROM {self._lake.relation(UPKEEP.name)}
            WHERE action = 'vacuum' AND known_date >= current_date - 2
              AND began_at > now() - CASE WHEN failure IS NULL THEN INTERVAL 1 DAY ELSE INTERVAL 1 HOUR END
        """).fetchall()
        return frozenset(name for (name,) in rows)

    def _stops(self) -> bool:
        """Whether what is due must wait for the next round."""
        self._round.left = self._round.left or self._budget.used_up
        return self._budget.used_up

    def _table(self, name: str) -> TableUpkeep:
        return TableUpkeep(self._lake.store, name, time_travel_days=self._settings.time_travel_days)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
