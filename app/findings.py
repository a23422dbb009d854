"""What stands in the lake about itself: the last checks with the source, of the data, and the last upkeep.

The session that is given shows the tables concerned already: RECONCILIATION, QUALITY_RESULTS, UPKEEP.
"""

from dataclasses import dataclass
from datetime import datetime

from app.lake_session import LakeSession
from processors.lake_tables import QUALITY_RESULTS, RECONCILIATION, UPKEEP


@dataclass(frozen=True)
class TableReconciled:
    """What the last `trs reconcile` found of one table: rows that differ, and corrections that were sent."""

    table: str
    checked_at: datetime
    compared: int
    differing: int
    repaired: int
    source: str


@dataclass(frozen=True)
class LastCheck:
    """A declared check by its last run. `holds_fold`: it failed so much that folds of its table wait."""

    name: str
    at: datetime
    passed: bool
    detail: str
    holds_fold: bool


@dataclass(frozen=True)
class LastUpkeep:
    """The last time that upkeep did one kind of thing; `failure`: why it failed, None if it did not."""

    action: str
    table: str
    at: datetime
    failure: str | None


def last_reconciled(session: LakeSession) -> tuple[TableReconciled, ...]:
    """The last check of each table with the source."""
    rows = session.con.sql(
        f"""
        SELECT table_name, checked_at, compared, missing + changed + surplus, repaired, source
        FROM {RECONCILIATION.name}
        QUALIFY row_number() OVER (PARTITION BY table_name ORDER BY checked_at DESC) = 1
        ORDER BY table_name
        """
    ).fetchall()
    return tuple(TableReconciled(*row) for row in rows)


def last_checks(session: LakeSession) -> tuple[LastCheck, ...]:
    """The last outcome of every declared check that was ever made."""
    rows = session.con.sql(
        f"""
        SELECT check_name, "at", passed, detail, NOT passed AND coalesce(holds_fold, FALSE)
        FROM {QUALITY_RESULTS.name}
        QUALIFY row_number() OVER (PARTITION BY check_name ORDER BY "at" DESC) = 1
        ORDER BY check_name
        """
    ).fetchall()
    return tuple(LastCheck(*row) for row in rows)


def failed_checks(session: LakeSession) -> tuple[LastCheck, ...]:
    """Checks that failed when they were made last."""
    return tuple(check for check in last_checks(session) if not check.passed)


def last_upkeep(session: LakeSession) -> tuple[LastUpkeep, ...]:
    """Per action what was done last; and whatever failed when it was last tried on its table."""
    rows = session.con.sql(
        f"""
        SELECT action, table_name, began_at, failure
        FROM {UPKEEP.name}
        QUALIFY row_number() OVER (PARTITION BY action ORDER BY began_at DESC) = 1
            OR (failure IS NOT NULL AND row_number() OVER (PARTITION BY action, table_name ORDER BY began_at DESC) = 1)
        ORDER BY began_at DESC
        """
    ).fetchall()
    return tuple(LastUpkeep(*row) for row in rows)
