"""Runs checks on a connection that sees the lake's tables and views, and says what follows from the outcomes."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from uuid import uuid4

import duckdb
import pyarrow as pa

from processors.keyed_table import KeyedTable
from processors.lake_tables import QUALITY_RESULTS
from processors.quality.checks import Check, Volume
from processors.views.catalog import VIEWS

Reason = Literal["fold", "demand"]
_BROKEN_QUERY = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ParserException,
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
    duckdb.InvalidInputException,
)


@dataclass(frozen=True)
class Outcome:
    """One check: rows of its table, rows that fail, the first of them. `problem`: why it could not be made."""

    check: Check
    rows: int = 0
    failures: int = 0
    example: str | None = None
    problem: str | None = None

    @property
    def passed(self) -> bool:
        return self.problem is None and self.failures == 0

    @property
    def holds_fold(self) -> bool:
        """Whether so much fails that a fold would carry it on. A check that could not be made holds nothing."""
        limit = self.check.hold_above_percent
        return limit is not None and self.failures * 100 > limit * self.rows

    @property
    def detail(self) -> str:
        """The promise, and what stands against it."""
        if self.problem is not None:
            return f"{self.check.says}: could not be looked at: {self.problem}"
        if self.passed:
            return self.check.says
        if isinstance(self.check, Volume):
            return f"{self.check.says}: {self.rows:,} rows, {self.failures:,} too few"
        shown = "" if self.example is None else f", first {self.example}"
        return f"{self.check.says}: {self.failures:,} of {self.rows:,} rows fail{shown}"


@dataclass
class QualityRun:
    """The outcomes of one run, in the order of the checks."""

    reason: Reason
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    run_id: str = field(default_factory=lambda: uuid4().hex)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failed(self) -> list[Outcome]:
        return [o for o in self.outcomes if not o.passed]

    @property
    def holding(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.holds_fold]

    def results(self) -> pa.Table:
        """The run as rows of `quality_results`."""
        rows = [
            {
                "check_name": o.check.name,
                "table_name": o.check.table,
                "passed": o.passed,
                "failures": None if o.problem is not None else o.failures,
                "detail": o.detail,
                "at": self.at,
                "run_id": self.run_id,
                "reason": self.reason,
                "rows": None if o.problem is not None else o.rows,
                "holds_fold": o.holds_fold,
                "known_date": self.at.date(),
            }
            for o in self.outcomes
        ]
        return pa.Table.from_pylist(rows, schema=QUALITY_RESULTS.schema)


def judge(con: duckdb.DuckDBPyConnection, check: Check, *, now: datetime, previous: int) -> Outcome:
    """Makes one check. `previous`: rows when it passed the last time, 0 if it never did.

    A query that the data or its author broke is told in the outcome; other errors of DuckDB are raised.
    """
    parameters = {"now": now, "previous": previous}
    failing = check.failing
    used = {name: value for name, value in parameters.items() if f"${name}" in failing}
    try:
        ((rows,),) = con.execute(f"SELECT count(*) FROM {check.table}").fetchall()
        found = con.execute(
            f"SELECT count(*), min(CAST(to_json(f) AS VARCHAR)) FROM ({failing}) AS f", used or None
        ).fetchall()
    except _BROKEN_QUERY as error:
        return Outcome(check, problem=str(error).splitlines()[0])
    ((failures, example),) = found
    return Outcome(check, int(rows), int(failures), None if example is None else _shown(example))


def _shown(example: str) -> str:
    return ", ".join(f"{k} {v}" for k, v in json.loads(example).items() if v is not None)[:200]


def previous_rows_sql() -> str:
    """A query of (check_name, rows): of each check the rows in the last run that it passed."""
    return f"""
        SELECT check_name, max_by(rows, "at") FROM {QUALITY_RESULTS.name} WHERE passed AND rows IS NOT NULL
        GROUP BY check_name
    """


def holding_sql() -> str:
    """A query of (check_name, detail): the checks $names whose last run for a fold, since $since, held it."""
    return f"""
        SELECT check_name, last.detail
        FROM (
          SELECT check_name, max_by(struct_pack(detail := detail, holds_fold := holds_fold), "at") AS last
          FROM {QUALITY_RESULTS.name}
          WHERE reason = 'fold' AND "at" > $since AND known_date >= CAST($since AS DATE)
            AND list_contains($names, check_name)
          GROUP BY check_name
        )
        WHERE last.holds_fold
        ORDER BY check_name
    """


def tables_of(name: str) -> frozenset[str]:
    """The lake's tables that a table or view reads in the end."""
    if name not in VIEWS:
        return frozenset({name})
    return frozenset().union(*(tables_of(read) for read in VIEWS[name].reads))


def about(checks: Iterable[Check], keyed: KeyedTable) -> list[Check]:
    """The checks whose table shows what the keyed table holds."""
    return [c for c in checks if keyed.folded in tables_of(c.table)]
