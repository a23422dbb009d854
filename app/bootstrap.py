"""Puts a snapshot together: the source, the cluster, the lake's register of runs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

from app.lake_session import LakeSession
from app.settings import Settings
from app.wiring import kafka_config, lake_location, store_watch
from batch_bootstrap.snapshot import Report, SnapshotConfig, SnapshotSummary, run_snapshot
from batch_bootstrap.source import DEFAULT_CHUNK_ROWS, open_source
from connectors.control_log import ControlLog
from connectors.lake import LakeStore
from processors.order import RowOrder

LOGS = ("sku_log", "invoice_log", "account_log")


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
    database = None if settings.database is None else settings.database.get_secret_value()
    source = open_source(spec, database=database, date_formats=date_formats, chunk_rows=chunk_rows, tables=tables)
    with closing(source), store_watch(settings):
        return run_snapshot(
            source,
            SnapshotConfig(
                settings.topic_prefix, settings.partitions, settings.source_names[-1], settings.home / "bootstrap"
            ),
            kafka=kafka_config(settings),
            open_registry=lambda: open_control_log(settings),
            cdc_open=lambda: binlog_positions_known(settings),
            restart=restart,
            stopped=stopped,
            report=report,
            announce=announce,
        )


def open_control_log(settings: Settings) -> ControlLog:
    """The lake's control log; makes the lake when there is none."""
    store = LakeStore(lake_location(settings))
    store.create()
    control = ControlLog(store)
    control.ensure_generation()
    return control


def binlog_positions_known(settings: Settings) -> bool:
    """Whether the lake holds rows of a source with binlog positions (R2)."""
    least = RowOrder(1, 0, 0, 0).packed()
    with LakeSession(settings) as session:
        session.create_views(LOGS)
        newest = " UNION ALL ".join(f"SELECT max(row_order) AS newest FROM {log}" for log in LOGS)
        ((found,),) = session.con.sql(f"SELECT count(*) FROM ({newest}) WHERE newest >= {least}").fetchall()
    return bool(found)
