"""Checks of the lake's data put together: `trs lake check`, and the gate that folds pass."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from tempfile import TemporaryDirectory

import duckdb

from app.lake_session import LakeSession, query_error
from app.settings import Settings
from app.wiring import lake_location
from connectors.lake import LakeStore
from connectors.results import append_results
from processors.errors import QualityError, TrsError, UnavailableError, UsageError
from processors.keyed_table import KeyedTable
from processors.lake_tables import QUALITY_RESULTS
from processors.quality.checks import Check, load_checks
from processors.quality.run import QualityRun, Reason, about, holding_sql, judge, previous_rows_sql

log = logging.getLogger(__name__)
HELD_FOR_S = 600.0
"""How long a fold that was held back is not asked for again."""


def chosen_checks(settings: Settings, names: Sequence[str]) -> tuple[Check, ...]:
    """All checks, or those that are named, by themselves or by their table. Raises UsageError for an unknown name."""
    checks = load_checks(settings.quality_checks)
    known = {c.name for c in checks} | {c.table for c in checks}
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise UsageError(f"no check or checked table is called `{unknown}`", hint="`trs lake check --list` shows them")
    return tuple(c for c in checks if not names or c.name in names or c.table in names)


def check_lake(
    settings: Settings,
    checks: Sequence[Check],
    reason: Reason,
    *,
    record: bool = True,
    report: Callable[[int], None] = lambda done: None,
) -> QualityRun:
    """Makes the checks on the lake as it is now, and keeps the outcomes there. `report`: checks done so far.

    Raises UnavailableError where there is no lake.
    """
    store = LakeStore(lake_location(settings))
    if not store.exists():
        raise UnavailableError(f"there is no lake at {settings.lake_uri}", hint="`trs worker` creates it")
    run = QualityRun(reason)
    reads = Counter(name for check in checks for name in check.reads)
    with LakeSession(settings) as session, TemporaryDirectory(prefix="trs-checks-") as spill:
        try:
            session.con.execute("SET temp_directory = ?", [spill])
            session.create_views([*reads, QUALITY_RESULTS.name])
            for name, times in reads.items():
                if times > 1:  # a view is put together once, not for every check
                    session.con.execute(f"CREATE TEMP TABLE {name} AS FROM main.{name}")
            previous = dict(session.con.sql(previous_rows_sql()).fetchall())
            for done, check in enumerate(checks, start=1):
                run.outcomes.append(judge(session.con, check, now=run.at, previous=previous.get(check.name, 0)))
                report(done)
        except duckdb.Error as error:
            raise query_error(error) from error
    if record and run.outcomes:
        append_results(store, QUALITY_RESULTS, run.results())
    return run


def raise_unless_passed(run: QualityRun) -> None:
    """Raises QualityError when a check failed."""
    if run.failed:
        named = ", ".join(o.check.name for o in run.failed)
        raise QualityError(
            f"{len(run.failed)} of {len(run.outcomes)} checks failed: {named}",
            hint="docs/quality.md says what to do",
        )


class FoldGate:
    """Checks what a table shows before it is folded; what failed so badly that the fold must wait is its answer."""

    def __init__(self, settings: Settings, *, holds: bool) -> None:
        """`holds`: whether a fold waits for anything; the checks are made all the same."""
        self._settings = settings
        self._holds = holds

    @cached_property
    def _checks(self) -> tuple[Check, ...]:
        return load_checks(self._settings.quality_checks)

    def __call__(self, keyed: KeyedTable) -> str | None:
        """None, or why the fold waits; a table that is held is looked at again after HELD_FOR_S.

        Checks that cannot be made, for want of memory say, hold nothing: that is an alarm in the log.
        """
        checks = about(self._checks, keyed)
        if not checks:
            return None
        try:
            held = self._held_lately(checks) if self._holds else None
            return self._look(keyed, checks) if held is None else held
        except (TrsError, duckdb.Error) as error:
            log.error("alarm: %s is folded without its checks: %s", keyed.log, error)
            return None

    def _look(self, keyed: KeyedTable, checks: Sequence[Check]) -> str | None:
        run = check_lake(self._settings, checks, "fold")
        for outcome in run.failed:
            log.warning("check %s failed: %s", outcome.check.name, outcome.detail)
        if not (self._holds and run.holding):
            return None
        reason = "; ".join(f"{o.check.name}: {o.detail}" for o in run.holding)
        log.error("alarm: %s is not folded: %s", keyed.log, reason)
        return reason

    def _held_lately(self, checks: Sequence[Check]) -> str | None:
        """What held the fold when the checks were made for one a short while ago, here or elsewhere."""
        with LakeSession(self._settings) as session:
            session.create_views([QUALITY_RESULTS.name])
            since = datetime.now(UTC) - timedelta(seconds=HELD_FOR_S)
            rows = session.con.execute(holding_sql(), {"names": [c.name for c in checks], "since": since}).fetchall()
        return "; ".join(f"{name}: {detail}" for name, detail in rows) or None
