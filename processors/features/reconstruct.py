"""Feature rows as they would have been at past month ends, by the dates in today's rows.

An invoice exists from its day of issue, its payment from the day of payment, an account from its day of joining. What
the rows of today do not tell stands in `UNKNOWNS`. Docs: docs/history.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

import duckdb

from processors.errors import UsageError
from processors.features.declarations import FeatureSet
from processors.features.derive import derive_sql
from processors.features.feature_set import INPUTS

ORIGIN = "reconstructed"
UNKNOWNS = ("prices", "deletions", "edits", "entry_dates")
"""What no reconstructed row can know: prices before the lake's first, rows deleted since, contents changed since (the
lines, accounts and dates themselves), and that a row was entered later than the date that it bears."""


@dataclass(frozen=True, order=True)
class Month:
    """A month of the calendar. Its end is the first moment of the next month, UTC, which no longer belongs to it."""

    year: int
    number: int

    @classmethod
    def of(cls, day: date) -> "Month":
        return cls(day.year, day.month)

    def shifted(self, months: int) -> "Month":
        year, number = divmod(self.year * 12 + self.number - 1 + months, 12)
        return Month(year, number + 1)

    @property
    def first_day(self) -> date:
        return date(self.year, self.number, 1)

    @property
    def end(self) -> date:
        """The day whose first moment ends the month."""
        return self.shifted(1).first_day

    def __str__(self) -> str:
        return f"{self.year:04}-{self.number:02}"


def parse_month(text: str) -> Month:
    """`2018-01`. Raises UsageError."""
    year, dash, number = text.strip().partition("-")
    plain = all(part.isascii() and part.isdigit() for part in (year, number))
    if not dash or not plain or len(year) != 4 or len(number) != 2 or not 1 <= int(number) <= 12:
        raise UsageError(f"`{text}` is not a month", hint="write it as 2018-01")
    if not 1 <= int(year) <= 9998:
        raise UsageError(f"`{text}` is out of the calendar")
    return Month(int(year), int(number))


def months_between(first: Month, last: Month) -> list[Month]:
    """Both included; empty when `last` is before `first`."""
    count = (last.year - first.year) * 12 + last.number - first.number + 1
    return [first.shifted(i) for i in range(max(0, count))]


def result_name(feature_set: FeatureSet) -> str:
    """The table that `reconstruct` leaves: the declared columns and `valid_from`, a date."""
    return f"rebuilt_{feature_set.name}"


def reconstruct(
    con: duckdb.DuckDBPyConnection,
    feature_sets: Sequence[FeatureSet],
    months: Sequence[Month],
    *,
    accounts: str,
    documents: str,
    lines: str,
    progress: Callable[[int], None],
) -> None:
    """Fills `result_name` of each set with one row per entity and month end at which it is new or another.

    `accounts`, `documents` and `lines` name tables of today's rows (`feature_set.INPUTS`). `months` ascend without a
    gap; the first is computed over everything dated before its end, each later one over the accounts with a
    date in the month, and the articles with a line of it, because a feature looks at nothing of other owners; most
    months since a mistyped date have none. `progress` gets the number of months done.
    Until the end, temporary views `accounts`, `documents` and `charged_lines` hide whatever else has these names on the
    connection.
    """
    for feature_set in feature_sets:
        columns = ", ".join(f"{c.name} {c.sql_type}" for c in feature_set.columns)
        con.execute(f"CREATE TEMP TABLE {_held(feature_set)} ({columns})")
        con.execute(f"CREATE TEMP TABLE {result_name(feature_set)} ({columns}, valid_from DATE)")
    dated = _dated_months(con, accounts=accounts, documents=documents)
    for done, month in enumerate(months, start=1):
        if done == 1 or month in dated:
            _restrict(con, month, accounts=accounts, documents=documents, lines=lines, everything=done == 1)
            for feature_set in feature_sets:
                _add_month(con, feature_set, month)
        progress(done)
    for view in INPUTS:
        con.execute(f"DROP VIEW IF EXISTS temp.{view}")


def _dated_months(con: duckdb.DuckDBPyConnection, *, accounts: str, documents: str) -> set[Month]:
    """The months in which something is dated."""
    days = " UNION ALL ".join(
        f"SELECT {column} AS day FROM {relation}"
        for relation, column in ((documents, "date_issued"), (documents, "payment_dates"), (accounts, "joining_date"))
    )
    rows = con.sql(f"SELECT DISTINCT year(day), month(day) FROM ({days}) WHERE day IS NOT NULL").fetchall()
    return {Month(*row) for row in rows}


def _held(feature_set: FeatureSet) -> str:
    return f"held_{feature_set.name}"


def _restrict(
    con: duckdb.DuckDBPyConnection, month: Month, *, accounts: str, documents: str, lines: str, everything: bool
) -> None:
    end = f"DATE '{month.end}'"
    inside = f">= DATE '{month.first_day}'"
    dated = "true" if everything else f"{{0}} {inside} AND {{0}} < {end}"
    con.execute(f"""CREATE OR REPLACE TEMP TABLE touched AS
        SELECT account_id FROM {documents} WHERE {dated.format("date_issued")}
        UNION SELECT account_id FROM {documents} WHERE {dated.format("payment_dates")}
        UNION SELECT account_id FROM {accounts} WHERE {dated.format("joining_date")}""")
    con.execute(f"""CREATE OR REPLACE TEMP VIEW accounts AS
        SELECT * FROM {accounts} WHERE joining_date < {end}""")
    con.execute(f"""CREATE OR REPLACE TEMP VIEW documents AS
        SELECT * REPLACE (CASE WHEN payment_dates < {end} THEN payment_dates END AS payment_dates)
        FROM {documents}
        WHERE date_issued < {end} AND account_id IN (SELECT account_id FROM touched)""")
    con.execute(f"""CREATE OR REPLACE TEMP VIEW charged_lines AS
        SELECT * FROM {lines} WHERE date_issued < {end} AND item_id IN (
          SELECT item_id FROM {lines} WHERE {dated.format("date_issued")}
        )""")


def _add_month(con: duckdb.DuckDBPyConnection, feature_set: FeatureSet, month: Month) -> None:
    held = _held(feature_set)
    con.execute(f"CREATE OR REPLACE TEMP TABLE newer AS FROM {derive_sql(feature_set)} EXCEPT FROM {held}")
    con.execute(f"INSERT INTO {result_name(feature_set)} SELECT *, DATE '{month.end}' FROM newer")
    same = " AND ".join(f"{held}.{k} = newer.{k}" for k in feature_set.entity_key)
    con.execute(f"DELETE FROM {held} USING newer WHERE {same}")
    con.execute(f"INSERT INTO {held} FROM newer")
