"""Puts a snapshot or a diff together: the source, the cluster, the lake's register of runs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext

from app.lake_session import LakeSession
from app.settings import Settings
from app.wiring import kafka_config, lake_location, opened_source, store_watch
from batch_bootstrap.diff import DiffConfig, DiffSummary, Lake, Watcher, run_diff
from batch_bootstrap.kept_files import alone
from batch_bootstrap.reconcile import Reconciliation, run_reconcile
from batch_bootstrap.snapshot import Report, SnapshotConfig, SnapshotSummary, run_snapshot
from batch_bootstrap.source import DEFAULT_CHUNK_ROWS
from connectors.control_log import ControlLog
from connectors.lake import LakeStore
from connectors.lake_positions import LakePositions
from connectors.object_files import LakeReader
from connectors.results import append_results
from processors.lake_rows import LOGS, newest_order_sql
from processors.lake_tables import DEAD_LETTERS, RECONCILIATION
from processors.tables import DEAD_LETTERS_TOPIC, topic_of


def snapshot(
    settings: Settings,
    spec: str,
    *,
    tables: Sequence[str] | None = None,
    date_formats: Mapping[str, str] | None = None,
    chunk_rows: int = DEFAULT_CHUNK_ROWS,
    restart: bool = False,
    stopped: Callable[[], bool],
    report: Report,
    announce: Callable[[str], None],
) -> SnapshotSummary:
    """Sends a source to Kafka (batch_bootstrap/snapshot.py); makes the lake when there is none, to register the run."""
    source = opened_source(settings, spec, date_formats=date_formats, chunk_rows=chunk_rows, tables=tables)
    with closing(source), store_watch(settings):
        return run_snapshot(
            source,
            SnapshotConfig(
                settings.topic_prefix, settings.partitions, settings.source_names, settings.home / "bootstrap"
            ),
            kafka=kafka_config(settings),
            open_registry=lambda: open_control_log(settings),
            newest_order=lambda: newest_order(settings),
            restart=restart,
            stopped=stopped,
            report=report,
            announce=announce,
        )


def diff(
    settings: Settings,
    spec: str,
    *,
    tables: Sequence[str] | None = None,
    date_formats: Mapping[str, str] | None = None,
    chunk_rows: int = DEFAULT_CHUNK_ROWS,
    wait_s: float = 300.0,
    accept_empty: bool = False,
    watcher: Watcher,
) -> DiffSummary:
    """Sends what differs between a source and the lake (batch_bootstrap/diff.py); one run at a time on this machine."""
    source = opened_source(settings, spec, date_formats=date_formats, chunk_rows=chunk_rows, tables=tables)
    config = diff_config(settings, chunk_rows, wait_s=wait_s, accept_empty=accept_empty)
    with closing(source), store_watch(settings), _only_run(settings):
        return run_diff(source, config, lake_of(settings), kafka=kafka_config(settings), watcher=watcher)


def reconcile(
    settings: Settings,
    spec: str,
    *,
    tables: Sequence[str] | None = None,
    date_formats: Mapping[str, str] | None = None,
    chunk_rows: int = DEFAULT_CHUNK_ROWS,
    wait_s: float = 300.0,
    settle_s: float = 30.0,
    repair: bool = False,
    accept_empty: bool = False,
    watcher: Watcher,
) -> Reconciliation:
    """Checks that the lake holds what the source holds (batch_bootstrap/reconcile.py), and keeps the outcome there."""
    source = opened_source(settings, spec, date_formats=date_formats, chunk_rows=chunk_rows, tables=tables)
    config = diff_config(settings, chunk_rows, wait_s=wait_s, accept_empty=accept_empty)
    alone = _only_run(settings) if repair else nullcontext()
    with closing(source), store_watch(settings), alone:
        return run_reconcile(
            source,
            config,
            lake_of(settings),
            kafka=kafka_config(settings),
            record=lambda rows: append_results(LakeStore(lake_location(settings)), RECONCILIATION, rows),
            repair=repair,
            settle_s=settle_s,
            watcher=watcher,
        )


def diff_config(settings: Settings, chunk_rows: int, *, wait_s: float, accept_empty: bool) -> DiffConfig:
    """The settings as a diff takes them."""
    return DiffConfig(
        settings.topic_prefix,
        settings.partitions,
        settings.source_names,
        settings.home / "bootstrap",
        chunk_rows,
        wait_s=wait_s,
        memory_mb=settings.memory_mb,
        threads=settings.threads,
        accept_empty=accept_empty,
    )


def lake_of(settings: Settings) -> Lake:
    """The lake as a diff needs it."""
    location = lake_location(settings)
    return Lake(
        open_registry=lambda: open_control_log(settings),
        positions=lambda: LakePositions(LakeStore(location), settings.topic_prefix, settings.partitions),
        rows=lambda: LakeReader(location.uri, location.storage_options),
        newest_order=lambda: newest_order(settings),
        known_rejects=lambda: known_rejects(settings),
    )


def known_rejects(settings: Settings) -> set[str]:
    """The raw texts of rows of sources that are among the dead letters already (processors/dead_letters.py)."""
    topic = topic_of(settings.topic_prefix, DEAD_LETTERS_TOPIC)
    with LakeSession(settings) as session:
        session.create_views([DEAD_LETTERS.name])
        query = f"SELECT DISTINCT record_value FROM {DEAD_LETTERS.name} WHERE topic = ?"
        rows = session.con.execute(query, [topic]).fetchall()
    return {raw.decode(errors="replace") for (raw,) in rows if raw is not None}


def _only_run(settings: Settings) -> AbstractContextManager[None]:
    """Refuses a second diff or repair on this machine; elsewhere the later run fences the earlier one."""
    return alone(
        settings.home / "bootstrap" / "diff.lock", what="diff or repair", hint="let it finish, then call again"
    )


def open_control_log(settings: Settings) -> ControlLog:
    """The lake's control log; makes the lake when there is none."""
    store = LakeStore(lake_location(settings))
    store.create()
    control = ControlLog(store)
    control.ensure_generation()
    return control


def newest_order(settings: Settings) -> int:
    """The greatest order of any row in the logs, packed; -1 in an empty lake."""
    with LakeSession(settings) as session:
        session.create_views(LOGS)
        ((found,),) = session.con.sql(newest_order_sql(LOGS)).fetchall()
    return -1 if found is None else int(found)
