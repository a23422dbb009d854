"""`trs lake prepare` and `trs lake compare`: a new lake beside the present one, and whether it says the same.

The new lake is filled by workers of a consumer group of its own. What A sends carries the lake's generation, so both
lakes may use the same topics; another number of partitions needs topics of another prefix.
"""

from dataclasses import dataclass

from app.backup import SKIPPED_RUNS, location_of
from app.lake_session import LakeSession
from app.settings import Settings
from app.wiring import lake_location
from connectors.control_log import ControlLog
from connectors.delta_lake import DeltaLake
from connectors.lake import LakeStore
from processors.errors import UnavailableError, UsageError
from processors.features.declarations import FEATURE_SETS
from processors.features.text import quoted
from processors.installation import PARTITIONS_KIND

COMPARED = ("accounts", "skus", "invoices", "invoice_lines", *(f.name for f in FEATURE_SETS))
"""Views that say what holds now, of which two lakes of one source must have the same rows."""
_OWN = frozenset({"known_from", "valid_from", "source_ts"})
"""Columns that tell when a lake came to a row, and from which record."""


@dataclass(frozen=True)
class Prepared:
    """A lake without rows. `runs_after`: bootstrap runs have greater numbers, for those up to it are in the topics."""

    lake: str
    generation: str
    partitions: int
    runs_after: int


@dataclass(frozen=True)
class ViewCompared:
    """One view in both lakes: rows, and those that one has and the other has not."""

    view: str
    here: int
    there: int
    only_here: int
    only_there: int

    @property
    def equal(self) -> bool:
        return self.only_here == self.only_there == 0


def prepare(settings: Settings, place: str, *, partitions: int) -> Prepared:
    """Makes an empty lake at `place` that may take the present one's place. Raises UsageError where there is one."""
    target = location_of(settings, place)
    present = LakeStore(lake_location(settings))
    if not present.exists():
        raise UnavailableError(f"there is no lake at {settings.lake_uri}", hint="check TRS_LAKE")
    if LakeStore(target).exists():
        raise UsageError(f"there is a lake at {target.uri}", hint="name a new place")
    entries = ControlLog(present).entries()
    lake = DeltaLake(target)
    lake.control.note(PARTITIONS_KIND, {"partitions": partitions})
    for entry in entries:
        if entry.kind == "truncate" and entry.table_name is not None and entry.row_order is not None:
            lake.control.truncate(entry.table_name, entry.row_order, int(entry.detail.get("source_ts_ms", 0)))
    last = max((e.run for e in entries if e.run is not None), default=0)
    lake.control.skip_runs(SKIPPED_RUNS, after=last)
    return Prepared(target.uri, lake.generation, partitions, last + SKIPPED_RUNS)


def compare_lakes(settings: Settings, other: str) -> list[ViewCompared]:
    """The current rows of the lake of the settings and of another one, as multisets of rows."""
    there = settings.model_copy(update={"lake": location_of(settings, other).uri})
    found = []
    for view in COMPARED:
        with LakeSession(settings) as ours, LakeSession(there) as theirs:
            ours.create_views([view])
            theirs.create_views([view])
            columns = [c for c in ours.con.sql(f"FROM {view}").columns if c not in _OWN]
            chosen = ", ".join(quoted(c) for c in columns)
            rows = theirs.con.sql(f"SELECT {chosen} FROM {view}").to_arrow_table()
            ours.con.register("rows_there", rows)
            ours.con.execute(f"CREATE TEMP TABLE rows_here AS SELECT {chosen} FROM {view}")
            counts = [
                int(ours.con.sql(f"SELECT count(*) FROM ({query})").fetchall()[0][0])
                for query in (
                    "FROM rows_here",
                    "FROM rows_there",
                    "FROM rows_here EXCEPT ALL FROM rows_there",
                    "FROM rows_there EXCEPT ALL FROM rows_here",
                )
            ]
            found.append(ViewCompared(view, *counts))
    return found
