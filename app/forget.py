"""`trs lake forget`: one account's personal data erased from the lake, from the newest version and from older ones."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import duckdb
import pyarrow as pa

from app.dead_letters import action_rows, whoami
from app.settings import Settings
from app.wiring import lake_location, store_watch
from connectors.delta_lake import DeltaLake
from connectors.erasure import Erasing, erase, find_letters, look
from connectors.lake import LakeStore
from connectors.purge import GRACE, Leftovers, TablePurge
from connectors.results import append_results
from connectors.table_upkeep import TableUpkeep
from processors.erasure import ERASED, ERASED_TABLES, PLACES
from processors.errors import UnavailableError, UsageError
from processors.lake_rows import lake_rows_sql, tables_read
from processors.lake_tables import DEAD_LETTER_ACTIONS, DEAD_LETTERS, ERASURES, LAKE_TABLES
from processors.open_letters import letters_sql
from processors.state import open_state
from processors.tables import ACCOUNTS

Progress = Callable[[str, int, int], None]
"""Table, files of it that are done, files to be done."""


@dataclass
class Forgetting:
    """One run. `source_row`: 'none', 'deleted' or 'live': the account's row as the lake last read it.

    `found`: what is to be emptied, per table; `erased`: rows that were; `purged`: files deleted; `left`: what older
    versions keep of these rows and of earlier erasures.
    """

    account_id: int
    source_row: str
    found: list[Erasing]
    run_id: str = field(default_factory=lambda: uuid4().hex)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    erased: dict[str, int] = field(default_factory=dict)
    purged: dict[str, int] = field(default_factory=dict)
    left: dict[str, Leftovers] = field(default_factory=dict)
    stopped: bool = False

    @property
    def done(self) -> bool:
        """Whether neither rows nor files are left."""
        rows = sum(f.rows for f in self.found) - sum(self.erased.values())
        return rows <= 0 and not self.stopped and not any(left.waiting or left.due for left in self.left.values())

    def note(self, table: str, rows: int) -> pa.Table:
        """What is done to a table, as a row of `erasures`."""
        row = {
            "run_id": self.run_id,
            "at": self.at,
            "account_id": self.account_id,
            "table_name": table,
            "rows": rows,
            "who": whoami(),
            "known_date": self.at.date(),
        }
        return pa.Table.from_pylist([row], schema=ERASURES.schema)


def forget(
    settings: Settings,
    account_id: int,
    *,
    apply_it: bool,
    grace: timedelta = GRACE,
    progress: Progress = lambda table, done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Forgetting:
    """Says what the lake holds of the account's personal data, and with `apply_it` erases it.

    `grace`: how long ago a file was removed before it is deleted. Raises UnavailableError where there is no lake,
    UsageError for an account that the lake never saw.
    """
    if not LakeStore(lake_location(settings)).exists():
        raise UnavailableError(f"there is no lake at {settings.lake_uri}", hint="`trs worker` creates it")
    lake = DeltaLake(lake_location(settings), create=False)
    present = lake.store.present()
    tables = [t for t in ERASED_TABLES if t.name in present]
    con = open_state(spill=settings.home / "spill", memory_mb=settings.memory_mb, threads=settings.threads)
    with closing(con), store_watch(settings):
        lake.prepare(con)
        find_letters(lake, con, account_id, settings.topic_prefix)
        found_in = [look(lake, con, t, account_id) for t in tables]
        run = Forgetting(account_id, _source_row(lake, con, account_id), found_in)
        if run.source_row == "none" and not any(f.rows for f in found_in):
            raise UsageError(f"the lake has no account {account_id}")
        if apply_it:
            for found in found_in:
                _erase(lake, con, run, found, progress, stopped)
                if stopped():
                    run.stopped = True
                    break
        for table in tables:
            purge = TablePurge(lake.store, table.name, grace=grace)
            if apply_it and not run.stopped:
                run.purged[table.name] = purge.run().due
            run.left[table.name] = purge.look()
    return run


def _erase(
    lake: DeltaLake,
    con: duckdb.DuckDBPyConnection,
    run: Forgetting,
    found: Erasing,
    progress: Progress,
    stopped: Callable[[], bool],
) -> None:
    name = found.table.name
    upkeep = TableUpkeep(lake.store, name, time_travel_days=0)
    upkeep.hide_personal_statistics()
    # Before any row goes: what is done must be on record also when this run is killed.
    append_results(lake.store, ERASURES, run.note(name, found.rows))
    if not found.rows:
        return
    if found.table is DEAD_LETTERS:
        _discard(lake, con, run.at)
    run.erased[name] = erase(
        lake,
        con,
        found.table,
        run.account_id,
        progress=lambda done, total: progress(name, done, total),
        stopped=stopped,
    )


def _discard(lake: DeltaLake, con: duckdb.DuckDBPyConnection, now: datetime) -> None:
    """Open letters that are emptied can never be sent again: they are put aside."""
    letters = letters_sql(lake.relation(DEAD_LETTERS.name), lake.relation(DEAD_LETTER_ACTIONS.name))
    open_ones = con.sql(f"""
        SELECT topic, partition, row_offset, known_from
        FROM {letters} AS l SEMI JOIN {PLACES} AS p USING (topic, partition, row_offset)
        WHERE action IS NULL
    """).to_arrow_table()
    if open_ones.num_rows:
        append_results(lake.store, DEAD_LETTER_ACTIONS, action_rows(open_ones, "discarded", note=ERASED, now=now))


def _source_row(lake: DeltaLake, con: duckdb.DuckDBPyConnection, account_id: int) -> str:
    """The account's row as the lake last read it: 'none', 'deleted' or 'live'."""
    relations = {name: lake.relation(name) for name in tables_read(ACCOUNTS) if name in LAKE_TABLES}
    rows = con.sql(
        f"SELECT deleted FROM ({lake_rows_sql(ACCOUNTS, relations)}) AS a WHERE account_id = {account_id}"
    ).fetchall()
    return "none" if not rows else "deleted" if rows[0][0] else "live"
