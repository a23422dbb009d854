"""Thins the history of features on Delta: rows that answer no question that is kept any more go, a day at a time.

Only days that no fold and no recovery reads any more are touched: those before the oldest mark of the folded table, all
rows of which are folded. A day is rewritten by one commit, as a compaction is (connectors/compaction.py), so workers
append meanwhile, and a run that is killed leaves days that are thinned and days that are not; what was left is found by
the next run. Each commit also counts the application id `retain` on, from what it was when the rows were judged (R8):
of two runs at once the one that is second ends, a compaction in between only lets us look again.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date

import duckdb
from deltalake import DeltaTable

from connectors.compaction import FileRewrite, data_files
from connectors.day_sizes import day_sizes
from connectors.delta_lake import DeltaLake
from connectors.fold import forget_log_rows
from connectors.lake import wrapped_errors
from connectors.object_files import read_error
from processors.compaction import FileGroup
from processors.errors import RetryableError
from processors.keyed_table import KeyedTable
from processors.lake_tables import LAKE_TABLES
from processors.retention import Zone

Verdicts = Callable[[str], str]
"""The query of verdicts on a relation of changes (processors/retention.py)."""
DROPPED = "thin_dropped"
"""Rows that go: bucket, the key, the rank, known_date."""
RETAIN_ID = "retain"
"""Application id of days that were thinned: compare-and-set."""
_COUNTS = "thin_counts"
_ATTEMPTS = 5
_SLICE_ROWS = 3_000_000
_TARGET_BYTES = 128_000_000


@dataclass
class ZoneCount:
    """Rows of one stretch of time, those that stay of them, and those that could go but for their day."""

    zone: Zone
    rows: int = 0
    kept: int = 0
    waiting: int = 0


@dataclass
class Thinning:
    """What is to become of one table. `days`: rows that go, by day; `day_files`: days with files now, and then.

    `left_bytes`: what the files will take, reckoned from some days that were written in memory.

    `stand`: of the application id `retain` as the rows were judged.
    """

    table: str
    zones: list[ZoneCount]
    days: dict[date, int] = field(default_factory=dict)
    size_bytes: int = 0
    left_bytes: int = 0
    day_files: tuple[int, int] = (0, 0)
    folded_before: date | None = None
    stand: int = 0

    @property
    def dropped(self) -> int:
        """Rows that go."""
        return sum(self.days.values())


def plan(
    lake: DeltaLake,
    con: duckdb.DuckDBPyConnection,
    keyed: KeyedTable,
    zones: Sequence[Zone],
    verdicts: Verdicts,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Thinning:
    """Judges every row of a history, entity by entity, and leaves those that go in `DROPPED`.

    `con` must be prepared for the lake; entities are taken in slices, so memory is that of one. `progress`: slices.
    """
    with wrapped_errors(f"history in {keyed.log}"):
        try:
            return _plan(lake, con, keyed, zones, verdicts, progress)
        except duckdb.Error as error:
            raise read_error(error) or error from error
        finally:
            con.execute(f"DROP TABLE IF EXISTS {_COUNTS}")


def _plan(
    lake: DeltaLake,
    con: duckdb.DuckDBPyConnection,
    keyed: KeyedTable,
    zones: Sequence[Zone],
    verdicts: Verdicts,
    progress: Callable[[int, int], None],
) -> Thinning:
    name = keyed.log
    handle = lake.store.open(name)
    files = data_files(handle)
    changes = lake.relation_of(name, handle)
    rows = sum(f.rows for f in files)
    ((before,),) = con.sql(f"SELECT min(mark_date) FROM {lake.relation(keyed.folded)} WHERE is_mark").fetchall()
    found = Thinning(
        name,
        [ZoneCount(zone) for zone in zones],
        size_bytes=sum(f.size_bytes for f in files),
        folded_before=before,
        stand=_stand(handle),
    )
    touchable = "FALSE" if before is None else f"known_date < DATE '{before}'"
    con.execute(f"CREATE OR REPLACE TEMP TABLE {_COUNTS} (zone INTEGER, rows BIGINT, kept BIGINT, waiting BIGINT)")
    key = ", ".join(keyed.key)
    slices = max(1, math.ceil(rows / _SLICE_ROWS))
    for part in range(slices):
        some = changes if slices == 1 else f"(SELECT * FROM {changes} WHERE hash({key}) % {slices} = {part})"
        con.execute(f"CREATE OR REPLACE TEMP TABLE thin_verdicts AS {verdicts(some)}")
        how = "CREATE OR REPLACE TEMP TABLE" if part == 0 else "INSERT INTO"
        con.execute(
            f"{how} {DROPPED} {'AS' if part == 0 else ''} SELECT * EXCLUDE (zone, keep) FROM thin_verdicts"
            f" WHERE NOT keep AND {touchable}"
        )
        con.execute(f"""
            INSERT INTO {_COUNTS} SELECT zone, count(*), count(*) FILTER (keep OR NOT ({touchable})),
              count(*) FILTER (NOT keep AND NOT ({touchable}))
            FROM thin_verdicts GROUP BY zone
        """)
        progress(part + 1, slices)
    con.execute("DROP TABLE thin_verdicts")
    for zone, *numbers in con.sql(
        f"SELECT zone, sum(rows)::BIGINT, sum(kept)::BIGINT, sum(waiting)::BIGINT FROM {_COUNTS} GROUP BY zone"
    ).fetchall():
        found.zones[zone].rows, found.zones[zone].kept, found.zones[zone].waiting = numbers
    found.days = dict(con.sql(f"SELECT known_date, count(*) FROM {DROPPED} GROUP BY 1 ORDER BY 1").fetchall())
    _foresee(lake, con, keyed, handle, found)
    return found


def _foresee(
    lake: DeltaLake, con: duckdb.DuckDBPyConnection, keyed: KeyedTable, handle: DeltaTable, found: Thinning
) -> None:
    """What the table will take: days that stay as they are, and the others as one file each."""
    files = [f for f in data_files(handle) if f.day is not None]
    rows = Counter[date]()
    for f in files:
        rows[f.day or date.min] += f.rows
    sizes = day_sizes(
        lake, con, keyed.log, handle, found.days, lambda relation, day: stay_sql(keyed, relation=relation, day=day)
    )
    stay = sum(f.size_bytes for f in files if f.day not in found.days)
    left = {day: rows[day] - dropped for day, dropped in found.days.items()}
    found.left_bytes = stay + round(sum(sizes.of(n) for n in left.values()))
    found.day_files = (len(rows), len(rows) - sum(n == 0 for n in left.values()))


def stay_sql(keyed: KeyedTable, *, relation: str, day: date) -> str:
    """The rows of a day without those that go."""
    match = " AND ".join(f"r.{c} = d.{c}" for c in ("bucket", *keyed.key, *keyed.rank))
    dropped = f"(SELECT * FROM {DROPPED} WHERE known_date = DATE '{day}')"
    return f"(SELECT r.* FROM {relation} AS r ANTI JOIN {dropped} AS d ON {match})"


@dataclass(frozen=True)
class Thinned:
    """What was done: days rewritten, rows that went. `overtaken`: another run came in between, and days are left."""

    table: str
    days: int
    rows: int
    overtaken: bool = False
    stopped: bool = False


def apply(
    lake: DeltaLake,
    con: duckdb.DuckDBPyConnection,
    keyed: KeyedTable,
    found: Thinning,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Thinned:
    """Rewrites the days of `found`, whose rows that go are still in `DROPPED`; the oldest first. `progress`: days."""
    name = keyed.log
    done, rows = 0, 0
    for number, (day, count) in enumerate(found.days.items(), start=1):
        if stopped():
            return Thinned(name, done, rows, stopped=True)
        if not _rewrite(lake, con, keyed, day, count, found.stand + done):
            return Thinned(name, done, rows, overtaken=True)
        forget_log_rows(lake, keyed, count)
        done, rows = done + 1, rows + count
        progress(number, len(found.days))
    con.execute(f"DROP TABLE {DROPPED}")
    return Thinned(name, done, rows)


def _stand(handle: DeltaTable) -> int:
    return handle.transaction_version(RETAIN_ID) or 0


def _rewrite(
    lake: DeltaLake, con: duckdb.DuckDBPyConnection, keyed: KeyedTable, day: date, dropped: int, stand: int
) -> bool:
    """One day; False: another run was first. Raises RetryableError where compactions always are."""
    with wrapped_errors(f"thinning of {keyed.log}"):
        for _ in range(_ATTEMPTS):
            handle = lake.store.open(keyed.log)
            if _stand(handle) != stand:
                return False
            files = tuple(f for f in data_files(handle) if f.day == day)
            rows = sum(f.rows for f in files)
            size_bytes = sum(f.size_bytes for f in files) * (rows - dropped) / max(1, rows)
            group = FileGroup(day, files, parts=max(1, math.ceil(size_bytes / _TARGET_BYTES)))
            try:
                if _Rewrite(lake, con, keyed, day, group, dropped, stand).run().committed:
                    return True
            except duckdb.Error as error:
                raise read_error(error) or error from error
    raise RetryableError(f"{keyed.log}: its files are rewritten all the time, try again")


class _Rewrite(FileRewrite):
    """One day without the rows that go.

    `data_change` stays false. With true, Delta refuses each append of a worker that was begun before ("a concurrent
    transaction deleted data this operation read", measured with deltalake 1.6.6), and the worker would lose its state;
    and readers of the table as a stream (Spark) would stop. Nothing was deleted that is true at a kept moment.
    """

    note = "retain"

    def __init__(
        self,
        lake: DeltaLake,
        con: duckdb.DuckDBPyConnection,
        keyed: KeyedTable,
        day: date,
        group: FileGroup,
        dropped: int,
        stand: int,
    ) -> None:
        super().__init__(lake, con, LAKE_TABLES[keyed.log], group)
        self._keyed = keyed
        self._day = day
        self._dropped = dropped
        self._stand = stand

    def is_as_planned(self, handle: DeltaTable, serial: int) -> bool:
        return _stand(handle) == self._stand and super().is_as_planned(handle, serial)

    @property
    def own_ids(self) -> dict[str, int]:
        return {RETAIN_ID: self._stand + 1}

    def rows_sql(self, relation: str) -> str:
        return stay_sql(self._keyed, relation=relation, day=self._day)

    @property
    def expected_rows(self) -> int:
        return super().expected_rows - self._dropped
