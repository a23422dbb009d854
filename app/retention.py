"""`trs lake retain`: the history of every feature set thinned by the tiers of the settings."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

import pyarrow as pa

from app.lake_session import LakeSession
from app.settings import Settings
from app.wiring import lake_location, store_watch
from connectors.delta_lake import DeltaLake
from connectors.results import append_results
from connectors.retention import Thinned, Thinning, apply, plan
from processors.errors import UnavailableError, UsageError
from processors.features.declarations import FEATURE_SETS, FeatureSet
from processors.lake_tables import HISTORY_RETENTION, changes_name, feature_keyed
from processors.retention import Zone, parse_tiers, verdicts_sql, zones
from processors.state import open_state

Progress = Callable[[str, str, int, int], None]
"""Table, what is done with it, how much of it is done, how much there is."""


@dataclass
class Retention:
    """One run: the stretches of time by the tiers, and per table the plan and, if it was applied, what was done."""

    tiers: str
    zones: Sequence[Zone]
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    run_id: str = field(default_factory=lambda: uuid4().hex)
    plans: list[Thinning] = field(default_factory=list)
    done: list[Thinned] = field(default_factory=list)

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop before its end."""
        return any(d.stopped for d in self.done)

    def notes(self, found: Thinning) -> pa.Table:
        """What is to be known of a table that is thinned, as rows of `history_retention`."""
        rows = [
            {
                "run_id": self.run_id,
                "at": self.at,
                "table_name": found.table,
                "zone_begin": z.zone.begin,
                "zone_end": z.zone.end,
                "step": z.zone.step,
                "rows_before": z.rows,
                "rows_kept": z.kept,
                "known_date": self.at.date(),
            }
            for z in found.zones
            if z.zone.step != "all"
        ]
        return pa.Table.from_pylist(rows, schema=HISTORY_RETENTION.schema)


def retain(
    settings: Settings,
    tiers: str,
    *,
    apply_it: bool,
    feature_sets: Sequence[FeatureSet] = FEATURE_SETS,
    progress: Progress = lambda table, what, done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Retention:
    """Says what the tiers leave of the history, and with `apply_it` makes it so.

    Nothing is thinned of what the lake is not complete for, nor of days that are not folded yet. Raises SettingsError
    for tiers that make no sense, UnavailableError where there is no lake, UsageError for a lake without a commit.
    """
    parsed = parse_tiers(tiers)
    lake = DeltaLake(lake_location(settings), create=False)
    store = lake.store
    if not store.exists():
        raise UnavailableError(f"there is no lake at {settings.lake_uri}", hint="`trs worker` creates it")
    with LakeSession(settings) as session:
        watermark = session.freshness().watermark
    if watermark is None:
        raise UsageError(f"nothing is committed to {settings.lake_uri} yet")
    run = Retention(tiers, zones(parsed, now=datetime.now(UTC), complete_through=watermark))
    there = store.present()
    con = open_state(spill=settings.home / "spill", memory_mb=settings.memory_mb, threads=settings.threads)
    with closing(con), store_watch(settings):
        lake.prepare(con)
        con.execute("SET TimeZone = 'UTC'")
        for feature_set in feature_sets:
            if stopped():
                break
            table, keyed = changes_name(feature_set), feature_keyed(feature_set)
            if table not in there:
                continue
            found = plan(
                lake,
                con,
                keyed,
                run.zones,
                lambda changes, of=feature_set: verdicts_sql(of, changes, run.zones),  # type: ignore[misc]
                progress=lambda done, total, of=table: progress(of, "judged", done, total),  # type: ignore[misc]
            )
            run.plans.append(found)
            if not (apply_it and found.dropped):
                continue
            # Before any row goes: who asks for a time that is not kept any more must be told.
            append_results(store, HISTORY_RETENTION, run.notes(found))
            done = apply(
                lake,
                con,
                keyed,
                found,
                progress=lambda done, total, of=table: progress(of, "thinned", done, total),  # type: ignore[misc]
                stopped=stopped,
            )
            run.done.append(done)
    return run
