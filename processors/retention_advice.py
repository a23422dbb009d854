"""What it costs to keep the history of features: a lake's churn, projected by tiers, in rows, bytes and dollars.

A history of N entities grows by its changes. Of a stretch of time that is kept at the ends of days, of one entity one
row per day stays in which it changed; of months, one per month. So the measured ratios

    kept by day = distinct (entity, day) / changes,   kept by month = distinct (entity, month) / changes

say what of each day's changes a tier leaves, and the rows after H days are those of the load, plus for every tier the
days of H that it covers x changes per day x ratio. Bytes are those of one file per day plus those of its rows, as
measured by writing some days. Rows are taken to come as they came so far: a business that grows has more.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from processors.errors import SettingsError
from processors.features.declarations import FeatureSet
from processors.retention import Step, Tier, parse_tiers, units

PLANS = ("*:all", "90d:all,365d:day,*:month", "365d:all,3y:day,*:month", "30d:all,*:day", "30d:all,*:month")
"""The plans that are compared."""
YEARS = (1, 3, 10)
GETS_PER_FILE = 3
"""Requests that a query makes per file: the footer's length, the footer, the rows."""
_DAYS_OF: dict[Step, float] = {"week": 7.0, "month": 30.4, "year": 365.0}
SMALL_DOLLARS = 5.0
"""A saving below this per month, after ten years, is not worth an answer that is lost."""


class Prices(BaseModel):
    """Dollars, with the day on which somebody looked them up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of: date
    region: str
    source: str
    storage_gb_month: float = Field(ge=0)
    get_per_1000: float = Field(ge=0)
    query_tb_scanned: float = Field(ge=0)
    query_min_mb: float = Field(ge=0)


def load_prices(path: Path | None) -> Prices:
    """The shipped prices or those of a file. Raises SettingsError."""
    try:
        if path is None:
            text = files("processors").joinpath("retention_prices.toml").read_text(encoding="utf-8")
        else:
            text = path.read_text(encoding="utf-8")
        return Prices.model_validate(tomllib.loads(text))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"prices: {path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"prices: {path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@dataclass(frozen=True)
class Churn:
    """What was measured of one history. `load_rows`: its first day, in which a snapshot arrives.

    `days`: whole days seen after it, `changes` their rows; `by_step`: how many of these the ends of each step keep,
    None where the days are fewer than the step has. `file_bytes`, `row_bytes`: of a compacted file with one row, and of
    each further row; without them a row takes what it takes on average.
    """

    table: str
    rows: int
    size_bytes: int
    files: int
    entities: int
    load_rows: int
    days: int
    changes: int
    by_step: dict[Step, int | None]
    file_bytes: float = 0.0
    row_bytes: float | None = None

    def size_after(self, rows: float, days: float) -> tuple[float, int]:
        """Bytes and files of so many rows that came on so many days: one file per day, if it has any."""
        files = round(min(rows, days + 1))
        row_bytes = self.bytes_per_row if self.row_bytes is None else self.row_bytes
        return files * self.file_bytes + (rows - (files if self.file_bytes else 0)) * row_bytes, files

    @property
    def changed_per_day(self) -> float | None:
        """The share of all entities that change on a day, None where no day was seen."""
        seen = self.by_step.get("day")
        return None if seen is None or not self.days else seen / self.days / max(1, self.entities)

    @property
    def bytes_per_row(self) -> float:
        return self.size_bytes / self.rows if self.rows else 0.0

    @property
    def changes_per_day(self) -> float:
        return self.changes / self.days if self.days else 0.0

    def ratio(self, step: Step) -> tuple[float, bool]:
        """The share of changes that a step keeps, and whether it was seen; else it is that of the next finer step."""
        if step == "all" or not self.changes:
            return 1.0, True
        if step == "none":
            return 0.0, True
        seen = self.by_step.get(step)
        if seen is not None:
            return seen / self.changes, True
        finer: dict[Step, Step] = {"day": "all", "week": "day", "month": "week", "year": "month"}
        return self.ratio(finer[step])[0], False


def churn_sql(feature_set: FeatureSet, changes: str) -> str:
    """A query of one row (DuckDB): rows, entities, rows of the first day, whole days after it, their changes, and of
    these the distinct (entity, day), (entity, week), (entity, month), (entity, year). Today is no whole day.

    Days before `$whole_since`, of which rows were thinned away, are left out; null: none were.
    """
    key = ", ".join(feature_set.entity_key)
    steps: tuple[Step, ...] = ("day", "week", "month", "year")
    begins = {s: ", ".join(f"date_trunc('{unit}', known_from)" for unit in units(s)) for s in steps}
    counts = ", ".join(f"count(DISTINCT ({key}, {begin})) FILTER (inside) AS by_{s}" for s, begin in begins.items())
    return f"""
        SELECT count(*), count(DISTINCT ({key})), count(*) FILTER (known_from::DATE = first_day),
          coalesce(any_value(least($today - first_day - 1, $today - $whole_since::DATE)), 0),
          count(*) FILTER (inside), {counts}
        FROM (
          SELECT *, known_from::DATE > first_day AND known_from::DATE < $today
            AND ($whole_since::DATE IS NULL OR known_from::DATE >= $whole_since::DATE) AS inside
          FROM (SELECT *, min(known_from::DATE) OVER () AS first_day FROM {changes})
        )
    """


def churn_of(
    table: str,
    counted: Sequence[int],
    *,
    size_bytes: int,
    files: int,
    file_bytes: float = 0.0,
    row_bytes: float | None = None,
) -> Churn:
    """The answer of `churn_sql` with the table's size; a step is seen once there were two of its spans."""
    rows, entities, load_rows, days, changes, day, week, month, year = counted
    days = max(0, days)
    spans: dict[Step, tuple[int, float]] = {
        "day": (day, 1),
        "week": (week, 7),
        "month": (month, 30.4),
        "year": (year, 365),
    }
    by_step: dict[Step, int | None] = {step: n if days >= 2 * span else None for step, (n, span) in spans.items()}
    return Churn(table, rows, size_bytes, files, entities, load_rows, days, changes, by_step, file_bytes, row_bytes)


@dataclass(frozen=True)
class Cost:
    """One plan after some years, all histories together. Dollars are per month; `sure`: every ratio was measured."""

    tiers: str
    years: int
    rows: int
    size_bytes: int
    storage_dollars: float
    query_dollars: float
    sure: bool

    @property
    def dollars(self) -> float:
        return self.storage_dollars + self.query_dollars


def rows_after(churn: Churn, tiers: Sequence[Tier], days: float) -> tuple[float, bool]:
    """Rows of a history so many days after its load, and whether every ratio was measured."""
    rows, sure, begin = float(churn.load_rows), True, 0.0
    for tier in tiers:
        end = days if tier.max_age is None else min(days, tier.max_age.days)
        ratio, seen = churn.ratio(tier.step)
        if end > begin:
            rows += (end - begin) * churn.changes_per_day * ratio
            sure = sure and seen
        begin = max(begin, end)
    # Every entity keeps its latest row, and a history never has fewer rows than entities.
    return max(rows, float(churn.entities)), sure


def costs(churns: Sequence[Churn], plans: Sequence[str], prices: Prices, *, queries_per_month: int) -> list[Cost]:
    """Every plan at every horizon. A query reads one whole history; they share the queries equally."""
    found = []
    for plan in plans:
        tiers = parse_tiers(plan)
        for years in YEARS:
            rows, size_bytes, scanned, gets, sure = 0.0, 0.0, 0.0, 0.0, True
            share = queries_per_month / max(1, len(churns))
            for churn in churns:
                kept, seen = rows_after(churn, tiers, years * 365.0)
                size, files_read = churn.size_after(kept, years * 365.0)
                rows, size_bytes, sure = rows + kept, size_bytes + size, sure and seen
                scanned += share * max(size, prices.query_min_mb * 1e6)
                gets += share * files_read * GETS_PER_FILE
            found.append(
                Cost(
                    plan,
                    years,
                    round(rows),
                    round(size_bytes),
                    storage_dollars=size_bytes / 1e9 * prices.storage_gb_month,
                    query_dollars=scanned / 1e12 * prices.query_tb_scanned + gets / 1000 * prices.get_per_1000,
                    sure=sure,
                )
            )
    return found


def recommendation(found: Sequence[Cost], churns: Sequence[Churn], own: str) -> tuple[str, str]:
    """The plan that is recommended, and why, in sentences. `own`: the plan of the settings."""
    if not any(c.days for c in churns):
        return "*:all", (
            "The history covers less than a whole day after its load: nothing can be projected from it."
            " Keep everything, and ask again in a month."
        )
    last = {c.tiers: c for c in found if c.years == YEARS[-1]}
    everything, theirs = last["*:all"], last.get(own, last[PLANS[1]])
    saved = everything.dollars - theirs.dollars
    days = min(c.days for c in churns if c.days)
    seen = f"{days} whole days were seen" + (
        ": the ratio of longer steps is an upper bound." if not theirs.sure else "."
    )
    if saved < SMALL_DOLLARS:
        return "*:all", (
            f"To keep every change for {YEARS[-1]} years comes to {everything.size_bytes / 1e9:,.2f} GB and"
            f" ${everything.dollars:,.2f} a month then; {theirs.tiers} would save ${saved:,.2f} of that."
            f" A change that is thinned away cannot be had back: keep everything. {seen}"
        )
    return theirs.tiers, (
        f"After {YEARS[-1]} years {theirs.tiers} leaves {theirs.rows / max(1, everything.rows):.0%} of the rows"
        f" and saves ${saved:,.2f} a month of ${everything.dollars:,.2f}; month ends answer most questions about long"
        f" ago, and queries over the history read that much less. {seen}"
    )
