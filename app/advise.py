"""`trs lake advise`: the lake's churn measured, plans of retention priced, and one recommended."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from app.lake_session import LakeSession
from app.settings import Settings
from app.wiring import lake_location
from connectors.compaction import data_files
from connectors.day_sizes import day_sizes
from connectors.delta_lake import DeltaLake
from connectors.lake import LakeStore
from processors.errors import UnavailableError, UsageError
from processors.features.declarations import FEATURE_SETS
from processors.lake_tables import UPKEEP, changes_name
from processors.retention import parse_tiers
from processors.retention_advice import (
    PLANS,
    YEARS,
    Churn,
    Cost,
    Prices,
    churn_of,
    churn_sql,
    costs,
    load_prices,
    recommendation,
)

_GROWTH_DAYS = 30


@dataclass(frozen=True)
class Advice:
    """The measured histories, the cost of each plan at each horizon, the plan recommended, and why.

    `other_bytes`, `other_bytes_per_day`: of all other tables; the growth is the mean of the last days, 30 at most.
    `rewritten_per_day`: bytes that a day of Delta's time travel keeps; None while no upkeep of a whole day is noted.
    """

    read_at: datetime
    prices: Prices
    queries_per_month: int
    churns: tuple[Churn, ...]
    costs: tuple[Cost, ...]
    tiers: str
    reason: str
    other_bytes: int
    other_bytes_per_day: float
    rewritten_per_day: float | None


def advise(settings: Settings, *, own: str, prices: Path | None, queries_per_month: int) -> Advice:
    """Measures every history and prices the usual plans and `own`.

    Raises UnavailableError where there is no lake, SettingsError for tiers or prices that make no sense.
    """
    parse_tiers(own)
    priced = load_prices(prices)
    lake = DeltaLake(lake_location(settings), create=False)
    store = lake.store
    if not store.exists():
        raise UnavailableError(f"there is no lake at {settings.lake_uri}", hint="`trs worker` creates it")
    churns, today, there = [], datetime.now(UTC).date(), store.present()
    with LakeSession(settings) as session:
        lake.prepare(session.con)
        for feature_set in FEATURE_SETS:
            name = changes_name(feature_set)
            if name not in there:
                continue
            session.create_views([name])
            whole_since = max((z.end.date() for z in session.thinned(feature_set) if z.end is not None), default=None)
            parameters = {"today": today, "whole_since": whole_since}
            (counted,) = session.con.execute(churn_sql(feature_set, name), parameters).fetchall()
            handle = store.open(name)
            files = data_files(handle)
            sizes = day_sizes(lake, session.con, name, handle, {f.day for f in files if f.day is not None})
            churns.append(
                churn_of(
                    name,
                    counted,
                    size_bytes=sum(f.size_bytes for f in files),
                    files=len(files),
                    file_bytes=sizes.file_bytes,
                    row_bytes=sizes.row_bytes,
                )
            )
        read_at = session.read_at
        rewritten = _rewritten_per_day(session, today)
    if not any(c.rows for c in churns):
        raise UsageError("the lake has no history yet", hint="`trs bootstrap snapshot`, `trs worker --until-caught-up`")
    plans = tuple(dict.fromkeys((*PLANS, own)))
    found = costs(churns, plans, priced, queries_per_month=queries_per_month)
    tiers, reason = recommendation(found, churns, own)
    others = _other_tables(store, there - {c.table for c in churns})
    return Advice(read_at, priced, queries_per_month, tuple(churns), tuple(found), tiers, reason, *others, rewritten)


def _rewritten_per_day(session: LakeSession, today: date) -> float | None:
    """Bytes per day whose files folds and compactions have replaced: what a day of time travel keeps.

    As upkeep noted them, the mean of up to 30 whole days; None before the first.
    """
    session.create_views([UPKEEP.name])
    query = f"""
        SELECT sum(bytes_before) / ($today - min(known_date)) FROM {UPKEEP.name}
        WHERE action IN ('fold', 'compact') AND known_date < $today AND known_date >= $today - {_GROWTH_DAYS}
    """
    ((rewritten,),) = session.con.execute(query, {"today": today}).fetchall()
    return None if rewritten is None else float(rewritten)


def _other_tables(store: LakeStore, names: frozenset[str]) -> tuple[int, float]:
    """Bytes of these tables, and how many are added per day."""
    today, size_bytes = datetime.now(UTC).date(), 0
    by_day: Counter[int] = Counter()
    for name in names:
        for file in data_files(store.open(name)):
            size_bytes += file.size_bytes
            if file.day is not None and 0 < (today - file.day).days <= _GROWTH_DAYS:
                by_day[(today - file.day).days] += file.size_bytes
    return size_bytes, sum(by_day.values()) / max(by_day, default=1)


def plot(found: Sequence[Cost], path: Path) -> None:
    """Gigabytes by years, one line per plan, as .png, .svg or .pdf. Raises UsageError."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("--plot needs matplotlib", hint="pip install 'trs-stream[notebooks]'") from None
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--plot: {path} is neither .png, .svg nor .pdf")
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for tiers in dict.fromkeys(c.tiers for c in found):
        sizes = [c.size_bytes / 1e9 for c in found if c.tiers == tiers]
        axes.plot(YEARS, sizes, marker="o", label=tiers)
    axes.set_xlabel("years")
    axes.set_ylabel("history of features, GB")
    axes.set_ylim(bottom=0)
    axes.legend(title="kept")
    axes.grid(alpha=0.3)
    try:
        figure.savefig(path)
    except OSError as error:
        raise UsageError(f"--plot: {path}: {error.strerror}") from None
