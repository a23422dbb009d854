"""`trs status`: how far the lake is, what waits in Kafka, what was refused."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.connector import capture_alarms, source_structure
from app.dead_letters import DeadLetters
from app.durations import seconds
from app.epoch_positions import positions_in_epochs
from app.findings import LastCheck, TableReconciled, failed_checks, last_reconciled
from app.lake_session import LakeSession
from app.local_workers import WorkerStatus, local_workers
from app.settings import Settings
from app.wiring import kafka_config
from connectors.kafka import watermarks
from processors.alarms import Alarm, AlarmKind
from processors.errors import TrsError
from processors.features.as_of import format_time
from processors.features.declarations import FEATURE_SETS
from processors.lake_tables import EPOCHS, LAKE_TABLES, QUALITY_RESULTS, RECONCILIATION, STAGE_LOGS
from processors.open_letters import Selection
from processors.tables import all_topics
from processors.watermark import latest_epochs_sql

_COUNTED_VIEWS = ("skus", "accounts", "invoices", *(f.name for f in FEATURE_SETS))


@dataclass(frozen=True)
class StageStatus:
    """One stage over its buckets. `complete_through` is the least of its buckets; `last_commit` the newest commit."""

    stage: str
    buckets: int
    last_epoch: int
    last_commit: datetime | None
    complete_through: datetime | None


@dataclass(frozen=True)
class PartitionStatus:
    """One topic-partition. `next_offset`: what the lake reads next, None if it has read nothing. `end` and `lag`
    (records not read yet) are None while Kafka does not answer."""

    topic: str
    partition: int
    next_offset: int | None
    end: int | None
    lag: int | None


@dataclass(frozen=True)
class Status:
    """Everything that `trs status` shows. `kafka_error`: why Kafka's offsets are missing, None if they are not.

    `tables`: rows by lake table, from Delta's statistics, None where the table does not exist. `views`: live rows.
    `dead_letters`: open ones by reason. `alarms`: what needs a person; of the source's tables there are none if they
    could not be looked at, `source_problem` says why. `workers`: those that run in this TRS_HOME.
    `reconciled`: the last check of each table, none if there never was one. `failed_checks`: by their last run.
    """

    read_at: datetime
    lake: str
    watermark: datetime | None
    stages: tuple[StageStatus, ...]
    partitions: tuple[PartitionStatus, ...]
    kafka_error: TrsError | None
    tables: dict[str, int | None]
    views: dict[str, int]
    dead_letters: dict[str, int]
    alarms: tuple[Alarm, ...] = ()
    source_problem: str | None = None
    workers: tuple[WorkerStatus, ...] = ()
    reconciled: tuple[TableReconciled, ...] = ()
    failed_checks: tuple[LastCheck, ...] = ()

    @property
    def lag(self) -> int | None:
        """Records that wait over all partitions; None while that cannot be told."""
        lags = [p.lag for p in self.partitions]
        return None if not lags or any(n is None for n in lags) else sum(n for n in lags if n is not None)

    @property
    def freshness_s(self) -> float | None:
        """Seconds from the watermark to now."""
        return None if self.watermark is None else (self.read_at - self.watermark).total_seconds()


def read_status(settings: Settings) -> Status:
    """Reads lake and Kafka. A Kafka that does not answer is told in the status, a lake that does not is an error."""
    with LakeSession(settings) as session:
        freshness = session.freshness()
        session.create_views([EPOCHS.name, RECONCILIATION.name, QUALITY_RESULTS.name, *_COUNTED_VIEWS])
        partitions, problem = _partitions(session, settings)
        reasons: Counter[str] = Counter()
        letters = DeadLetters(session)
        for count in letters.counts(Selection()):
            reasons[count.reason] += count.letters
        source = source_structure(settings)
        reconciled = last_reconciled(session)
        # a database that has none of the tables feeds no lake yet: nothing is wrong with it
        source_alarms = source.alarms if source.is_source else ()
        return Status(
            read_at=freshness.read_at,
            lake=settings.lake_uri,
            watermark=freshness.watermark,
            stages=_stages(session),
            partitions=partitions,
            kafka_error=problem,
            tables={name: session.reader.row_count(name) for name in LAKE_TABLES},
            views={v: session.con.sql(f"SELECT count(*) FROM {v}").fetchall()[0][0] for v in _COUNTED_VIEWS},
            dead_letters=dict(sorted(reasons.items(), key=lambda r: (-r[1], r[0]))),
            alarms=(
                *letters.alarms(),
                *source_alarms,
                *capture_alarms(settings),
                *_overdue(settings, reconciled, freshness.read_at),
            ),
            source_problem=source.problem,
            workers=local_workers(settings.home),
            reconciled=reconciled,
            failed_checks=failed_checks(session),
        )


def _overdue(settings: Settings, reconciled: Iterable[TableReconciled], now: datetime) -> list[Alarm]:
    """An alarm where TRS_RECONCILE_EVERY is set and the last check was more than twice that ago."""
    last = max((check.checked_at for check in reconciled), default=None)
    if settings.reconcile_every is None or last is None:
        return []
    if now - last <= 2 * timedelta(seconds=seconds(settings.reconcile_every)):
        return []
    return [
        Alarm(
            AlarmKind.RECONCILE_OVERDUE,
            "reconciliation",
            f"was last made {format_time(last.replace(microsecond=0))}, and is to be made every"
            f" {settings.reconcile_every}",
            "`trs reconcile` says why it cannot be made; the worker's log said so, too",
        )
    ]


def _stages(session: LakeSession) -> tuple[StageStatus, ...]:
    rows = session.con.sql(
        f"""
        SELECT stage, count(*), max(epoch), max(committed_at), min(known_through)
        FROM {latest_epochs_sql(EPOCHS.name)}
        GROUP BY stage
        ORDER BY array_position({list(STAGE_LOGS)}, stage)
        """
    ).fetchall()
    return tuple(StageStatus(*row) for row in rows)


def _partitions(session: LakeSession, settings: Settings) -> tuple[tuple[PartitionStatus, ...], TrsError | None]:
    lake = positions_in_epochs(session)
    topics = all_topics(settings.topic_prefix)
    kafka: dict[tuple[str, int], tuple[int, int]] = {}
    problem = None
    try:
        kafka = watermarks(kafka_config(settings), topics)
    except TrsError as error:
        problem = error
    partitions = []
    for place in sorted(lake.keys() | kafka.keys()):
        start, end = kafka.get(place, (None, None))
        next_offset = lake[place].next_offset if place in lake else None
        reached = start if next_offset is None else next_offset
        lag = None if end is None or reached is None else max(0, end - reached)
        partitions.append(PartitionStatus(*place, next_offset, end, lag))
    return tuple(partitions), problem
