"""`trs etl`: the feature SQL in batch, from a bare source or from the lake's logs, into one file."""

import csv
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from app.lake_session import LakeSession
from app.output import check_target, replacing, write_query
from app.settings import Settings
from app.wiring import opened_source
from batch_bootstrap.source import Reject
from processors.charging import PriceAt
from processors.errors import FullDiskError
from processors.features.batch import (
    LAKE_VIEWS,
    add_rows,
    create_source_tables,
    inputs_from_lake,
    inputs_from_source,
)
from processors.features.declarations import FeatureSet
from processors.features.derive import derive_sql

LAKE = "lake"

Progress = Callable[[str, int, int | None], None]
"""Called with a table's name, the rows read so far and about how many there are, if known."""


@dataclass
class EtlReport:
    """What a run did. `read` counts rows by table; `findings` counts odd rows that were used: orphans, returns."""

    feature_set: str
    out: Path
    as_of: datetime
    price_at: PriceAt
    rows: int = 0
    seconds: float = 0.0
    read: dict[str, int] = field(default_factory=dict)
    findings: dict[str, int] = field(default_factory=lambda: {"orphans": 0, "returns": 0})
    notices: list[str] = field(default_factory=list)
    rejected: int = 0
    rejects_file: Path | None = None


def run_etl(
    settings: Settings,
    source: str,
    feature_set: FeatureSet,
    out: Path,
    *,
    price_at: PriceAt,
    date_formats: Mapping[str, str],
    progress: Progress,
) -> EtlReport:
    """Computes the set over all of `source` (`lake`, or as for `open_source`) and writes it to `out`, rows by key.

    Rows that do not fit their table go to OUT.rejects.csv, which is removed when there are none. Raises UsageError,
    SourceError, UnavailableError, FullDiskError; `out` is then as it was.
    """
    check_target(out)
    began = time.monotonic()
    report = EtlReport(feature_set.name, out, datetime.now(UTC), price_at)
    keys = ", ".join(feature_set.entity_key)
    query = f"FROM {derive_sql(feature_set)} ORDER BY {keys}"
    try:
        if source == LAKE:
            with LakeSession(settings) as session:
                session.create_views(LAKE_VIEWS)
                inputs_from_lake(session.con, price_at=price_at)
                report.rows = write_query(session.con, query, out)
        else:
            report.price_at = "current"
            with _workspace(settings) as con:
                rejects = _load(con, settings, source, date_formats, report, progress)
                inputs_from_source(con)
                report.rows = write_query(con, query, out)
            report.rejected = len(rejects)
            report.rejects_file = _write_rejects(rejects, out)
    except duckdb.OutOfMemoryException:
        raise FullDiskError(
            f"{settings.memory_mb} MB of memory and the disk at {tempfile.gettempdir()} are not enough",
            hint="raise TRS_MEMORY_MB, or let TMPDIR name a folder with more room",
        ) from None
    report.seconds = time.monotonic() - began
    return report


@contextmanager
def _workspace(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB that keeps to the memory of the settings and spills beyond it to a folder that vanishes."""
    with tempfile.TemporaryDirectory(prefix="trs-etl-") as folder, duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.execute(f"SET memory_limit = '{settings.memory_mb}MB'")
        con.execute(f"SET threads = {settings.threads}")
        con.execute("SET temp_directory = '{}'".format(folder.replace("'", "''")))
        yield con


def _load(
    con: duckdb.DuckDBPyConnection,
    settings: Settings,
    spec: str,
    date_formats: Mapping[str, str],
    report: EtlReport,
    progress: Progress,
) -> list[Reject]:
    source = opened_source(settings, spec, date_formats=date_formats)
    rejects: list[Reject] = []
    try:
        source.preflight()
        report.notices += source.notices
        create_source_tables(con)
        for table in source.tables():
            read, estimate = 0, source.row_estimate(table)
            for chunk in source.chunks(table):
                add_rows(con, table, chunk.rows)
                rejects += chunk.rejects
                report.findings["orphans"] += chunk.orphans
                report.findings["returns"] += chunk.returns
                read += chunk.rows.num_rows + len(chunk.rejects)
                progress(table.name, read, estimate)
            report.read[table.name] = read
    finally:
        source.close()
    return rejects


def _write_rejects(rejects: list[Reject], out: Path) -> Path | None:
    target = out.with_name(f"{out.name}.rejects.csv")
    if not rejects:
        target.unlink(missing_ok=True)
        return None
    with replacing(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "line", "reason", "detail", "raw"))
        for reject in rejects:
            writer.writerow((reject.file or reject.table, reject.line, reject.reason, reject.detail, reject.raw))
    return target
