"""`trs lake describe`: what the tables look like, and what upkeep they had."""

import difflib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.lake_session import LakeSession
from app.settings import Settings
from app.wiring import lake_location
from connectors.delta_lake import DeltaLake
from connectors.fold import folded_at
from connectors.table_facts import TableFacts, table_facts
from processors.errors import UnavailableError, UsageError
from processors.lake_tables import KEYED_TABLES, LAKE_TABLES, UPKEEP

_SIDE_BY_SIDE = 4
_RETENTION = "delta.deletedFileRetentionDuration"


@dataclass(frozen=True)
class Description:
    """One table. Of a log `fold_debt`: rows that its folded table has not taken in. Of a folded table `last_fold`: when
    the partition was folded that was not for longest. `failure`: why its last upkeep failed, if it did.
    """

    facts: TableFacts
    fold_debt: int | None = None
    last_fold: datetime | None = None
    last_compaction: datetime | None = None
    last_vacuum: datetime | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Descriptions:
    """`complete_through`: the lake's watermark, None while nothing is committed."""

    read_at: datetime
    complete_through: datetime | None
    tables: tuple[Description, ...]


def known_table(name: str) -> str:
    """The name, if a table has it. Raises UsageError that names the nearest."""
    if name in LAKE_TABLES:
        return name
    near = difflib.get_close_matches(name, LAKE_TABLES, n=1)
    hint = f"did you mean {near[0]}?" if near else "`trs lake describe` alone lists all"
    raise UsageError(f"there is no table {name}", hint=hint)


def describe(settings: Settings, names: Sequence[str] = tuple(LAKE_TABLES)) -> Descriptions:
    """Looks at these tables, as far as the lake has them. Raises UnavailableError where there is no lake."""
    lake = DeltaLake(lake_location(settings), create=False)
    if not lake.store.exists():
        raise UnavailableError(f"there is no lake at {settings.lake_uri}", hint="`trs worker` creates it")
    there = lake.store.present()
    with LakeSession(settings) as session:
        freshness = session.freshness()
        session.create_views([UPKEEP.name])
        last = {
            (action, table): at
            for action, table, at in session.con.sql(f"""
                SELECT action, table_name, max(began_at) FROM {UPKEEP.name} WHERE failure IS NULL GROUP BY ALL
            """).fetchall()
        }
        gone = dict(
            session.con.sql(f"""
                SELECT table_name, max(began_at) FROM {UPKEEP.name}
                WHERE action = 'vacuum' AND files_before > 0 GROUP BY ALL
            """).fetchall()
        )
        failures = dict(
            session.con.sql(f"""
                SELECT table_name, arg_max(coalesce(failure, ''), began_at) FROM {UPKEEP.name} GROUP BY ALL
            """).fetchall()
        )

    def look(name: str) -> Description:
        days = _days(lake.store.open(name).metadata().configuration.get(_RETENTION))
        gone_before = gone[name].astimezone(UTC) - timedelta(days=days) if name in gone else None
        log = next((k for k in KEYED_TABLES if k.log == name), None)
        folded = next((k for k in KEYED_TABLES if k.folded == name), None)
        return Description(
            table_facts(lake.store, name, files_gone_before=gone_before),
            fold_debt=None if log is None else lake.keyed(log).log_rows,
            last_fold=None if folded is None else folded_at(lake, folded, settings.partitions),
            last_compaction=last.get(("compact", name)),
            last_vacuum=last.get(("vacuum", name)),
            failure=failures.get(name) or None,
        )

    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        found = tuple(pool.map(look, (name for name in names if name in there)))
    return Descriptions(freshness.read_at, freshness.watermark, found)


def _days(span: str | None) -> int:
    """Of `interval N days`; Delta's default is a week."""
    words = (span or "").split()
    return int(words[1]) if len(words) == 3 and words[1].isdigit() and words[2].startswith("day") else 7
