"""`trs bootstrap backfill`: features at month ends before the lake, from its current rows, into tables of their own."""

import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa

from app.lake_session import LakeSession
from app.settings import Settings
from app.wiring import lake_location
from connectors.lake import LakeStore
from processors.charging import AMOUNT_SQL
from processors.errors import FullDiskError, UnavailableError, UsageError
from processors.features.declarations import FEATURE_SETS, SETS_BY_ARTICLE, FeatureSet
from processors.features.reconstruct import (
    ORIGIN,
    UNKNOWNS,
    Month,
    months_between,
    reconstruct,
    result_name,
)
from processors.lake_tables import LAKE_TABLES, reconstructed_name

_BATCH_ROWS = 100_000
_ACCOUNTS, _DOCUMENTS, _LINES = "rows_accounts", "rows_documents", "rows_lines"


@dataclass
class BackfillSummary:
    """What a run wrote. `rows` and `entities` by feature set; `watermark`: through when the lake was complete."""

    run_id: str
    first: Month
    last: Month
    months: int
    observed_from: datetime
    watermark: datetime | None
    rows: dict[str, int] = field(default_factory=dict)
    entities: dict[str, int] = field(default_factory=dict)
    compute_seconds: float = 0.0
    seconds: float = 0.0

    def as_document(self) -> dict[str, Any]:
        """The summary as JSON values."""
        return {
            "run_id": self.run_id,
            "from": str(self.first),
            "to": str(self.last),
            "months": self.months,
            "observed_from": self.observed_from.isoformat().replace("+00:00", "Z"),
            "watermark": None if self.watermark is None else self.watermark.isoformat().replace("+00:00", "Z"),
            "feature_sets": {n: {"rows": r, "entities": self.entities[n]} for n, r in self.rows.items()},
            "origin": ORIGIN,
            "unknowns": list(UNKNOWNS),
            "seconds": round(self.seconds, 3),
            "seconds_per_month": round(self.compute_seconds / self.months, 3),
        }


def backfill(
    settings: Settings, *, first: Month | None, last: Month | None, progress: Callable[[int, int], None]
) -> BackfillSummary:
    """Reconstructs every feature set and replaces what an earlier run left, one commit per set at the very end.

    `first` and `last` default to the month of the first issue and the last full month before the first observation.
    `progress` gets the months done and how many there are. Raises UnavailableError without a lake, UsageError for an
    empty lake or months that hold nothing to reconstruct, FullDiskError; nothing is then written.
    """
    began, at = time.monotonic(), datetime.now(UTC)
    store = LakeStore(lake_location(settings))
    if not store.exists():
        raise UnavailableError(f"there is no lake at {settings.lake_uri}", hint="check TRS_LAKE, or load it first")
    try:
        with tempfile.TemporaryDirectory(prefix="trs-backfill-") as folder, LakeSession(settings) as session:
            session.con.execute("SET temp_directory = '{}'".format(folder.replace("'", "''")))
            # The watermark first: what is read afterwards is complete through it.
            watermark = session.freshness().watermark
            _read_rows(session)
            observed = _observed_from(session)
            months = _months(session, observed, first, last)
            summary = BackfillSummary(uuid.uuid4().hex, months[0], months[-1], len(months), observed, watermark)
            computing = time.monotonic()
            reconstruct(
                session.con,
                FEATURE_SETS,
                months,
                accounts=_ACCOUNTS,
                documents=_DOCUMENTS,
                lines=_LINES,
                progress=lambda done: progress(done, len(months)),
            )
            summary.compute_seconds = time.monotonic() - computing
            store.create()
            for feature_set in FEATURE_SETS:
                _write(session.con, store, feature_set, summary, at)
    except duckdb.OutOfMemoryException:
        raise FullDiskError(
            f"{settings.memory_mb} MB of memory and the disk at {tempfile.gettempdir()} are not enough",
            hint="raise TRS_MEMORY_MB, or let TMPDIR name a folder with more room",
        ) from None
    summary.seconds = time.monotonic() - began
    return summary


def _read_rows(session: LakeSession) -> None:
    """Copies today's rows, all of one version of account_log; lines only where a set by article needs them."""
    session.create_views(["live_documents", "accounts"])
    session.con.execute(f"""CREATE TEMP TABLE {_DOCUMENTS} AS
        SELECT account_id, invoice_id, date_issued, payment_dates, inv_total, inv_items, unpriced_lines
        FROM live_documents""")
    session.con.execute(f"""CREATE TEMP TABLE {_LINES} AS
        SELECT item_id, invoice_id, account_id, date_issued, quantity, price, {AMOUNT_SQL} AS amount
        FROM (SELECT invoice_id, account_id, date_issued, unnest(lines, max_depth := 2) FROM live_documents)
        {"" if SETS_BY_ARTICLE else "LIMIT 0"}""")
    session.con.execute(f"""CREATE TEMP TABLE {_ACCOUNTS} AS
        SELECT account_id, company_name, joining_date FROM accounts""")


def _observed_from(session: LakeSession) -> datetime:
    """When the first row of any feature set became known. Raises UsageError for an empty lake."""
    times = [session.first_time(f) for f in FEATURE_SETS]
    known = [t for t in times if t is not None]
    if not known:
        raise UsageError(
            "the lake has no features yet: nothing to reconstruct from",
            hint="`trs bootstrap snapshot` and `trs worker --until-caught-up` first",
        )
    return min(known)


def _months(session: LakeSession, observed: datetime, first: Month | None, last: Month | None) -> list[Month]:
    ((issued,),) = session.con.sql(f"SELECT min(date_issued) FROM {_DOCUMENTS}").fetchall()
    if issued is None:
        raise UsageError("the lake has no live invoice: nothing to reconstruct from")
    latest = Month.of(observed.date()).shifted(-1)
    begin, end = first or Month.of(issued), last or latest
    if end > latest:
        raise UsageError(
            f"--to {end}: the lake has observed since {observed:%Y-%m-%dT%H:%M:%SZ}; what follows is its own history",
            hint=f"give {latest} at the latest",
        )
    months = months_between(begin, end)
    if not months:
        raise UsageError(f"no month lies between {begin} and {end}", hint=f"the first invoice is of {issued}")
    return months


def _write(
    con: duckdb.DuckDBPyConnection, store: LakeStore, feature_set: FeatureSet, summary: BackfillSummary, at: datetime
) -> None:
    name, result = reconstructed_name(feature_set), result_name(feature_set)
    key = ", ".join(feature_set.entity_key)
    counts = con.sql(f"SELECT count(*), count(DISTINCT ({key})) FROM {result}").fetchall()
    ((summary.rows[feature_set.name], summary.entities[feature_set.name]),) = counts
    unknowns = ", ".join(f"'{u}'" for u in UNKNOWNS)
    query = f"""
        SELECT {", ".join(feature_set.column_names)}, CAST(valid_from AS TIMESTAMP) AT TIME ZONE 'UTC' AS valid_from,
          '{ORIGIN}' AS origin, [{unknowns}] AS unknowns, CAST({feature_set.version} AS INTEGER) AS feature_version,
          {_moment(at)} AS backfilled_at, {_moment(summary.watermark)} AS watermark, '{summary.run_id}' AS run_id
        FROM {result}"""
    schema = LAKE_TABLES[name].schema
    rows = con.sql(query).to_arrow_reader(_BATCH_ROWS)
    batches = (batch.cast(schema) for batch in rows)
    store.replace(name, pa.RecordBatchReader.from_batches(schema, batches))


def _moment(time: datetime | None) -> str:
    return "CAST(NULL AS TIMESTAMPTZ)" if time is None else f"TIMESTAMPTZ '{time.astimezone(UTC).isoformat(sep=' ')}'"
