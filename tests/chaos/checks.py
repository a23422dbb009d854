"""What must hold after a run: the lake is sound, equals the source, and no worker ended in a way that it must not."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from app.lake_session import LakeSession
from app.settings import Settings
from batch_bootstrap.source import open_source
from processors.features.declarations import FEATURE_SETS
from processors.tables import TABLES
from tests.chaos.workers import EXPECTED_CODES, Workers
from tests.stack_helpers import batch_features

_FOUND = {
    "skus": "SELECT {columns} FROM skus",
    "accounts": "SELECT {columns} FROM accounts",
    "invoices": "SELECT {columns} FROM invoice_states WHERE kind = 'invoice' AND NOT deleted",
    "invoice_line_items": "SELECT {columns} FROM invoice_states WHERE kind = 'line' AND NOT deleted",
    "accounts_private_changes": """
        SELECT {columns} FROM (
          FROM accounts_private_changes
          QUALIFY row_number() OVER (PARTITION BY account_id ORDER BY row_order DESC, row_offset DESC) = 1
        ) WHERE NOT deleted""",
}
_COLUMNS = {
    "skus": "item_id, item_name, item_description, item_cost_price, item_retail_price",
    "accounts": "account_id, company_name, joining_date",
    "invoices": "invoice_id, account_id, date_issued, payment_dates",
    "invoice_line_items": "invoice_id, item_id, quantity",
    "accounts_private_changes": "account_id, company_address, contact_person, contact_phone, gender",
}


@dataclass(frozen=True)
class Compared:
    """Rows of the lake and of what it must equal; `different`: rows of either that the other lacks, the first shown."""

    name: str
    rows: int
    expected: int
    different: int
    example: str

    @property
    def problem(self) -> str | None:
        if not self.different:
            return None
        return f"{self.name}: {self.rows} rows, expected {self.expected}; {self.different} differ, as {self.example}"


def compare_with_source(settings: Settings, folder: Path) -> Iterator[Compared]:
    """Current rows of the lake against the source's; features too where that is claimed (prices as of today)."""
    with LakeSession(settings) as session:
        session.create_views(["skus", "accounts", "invoice_states", "accounts_private_changes"])
        session.create_views([f.name for f in FEATURE_SETS])
        rows = _source_rows(settings)
        for name, query in _FOUND.items():
            source = rows["accounts" if name == "accounts_private_changes" else name]
            yield _compare(session, name, query.format(columns=_COLUMNS[name]), source, _COLUMNS[name])
        if settings.price_at == "current":
            for features in FEATURE_SETS:
                columns = ", ".join(features.column_names)
                expected = batch_features(settings, "mysql", features, folder)
                yield _compare(session, features.name, f"SELECT {columns} FROM {features.name}", expected, columns)


def _source_rows(settings: Settings) -> dict[str, pa.Table]:
    assert settings.database is not None
    source = open_source("mysql", database=settings.database.get_secret_value())
    source.preflight()
    try:
        return {
            t.name: pa.concat_tables([chunk.rows for chunk in source.chunks(t)]) for t in TABLES if t in source.tables()
        }
    finally:
        source.close()


def _compare(session: LakeSession, name: str, query: str, expected: pa.Table, columns: str) -> Compared:
    con = session.con
    con.register("expected", expected)
    wanted = f"SELECT {columns} FROM expected"
    differing = f"""
        SELECT 'only in the lake' AS side, * FROM (({query}) EXCEPT ALL ({wanted}))
        UNION ALL SELECT 'only at the source', * FROM (({wanted}) EXCEPT ALL ({query}))"""
    ((different, example),) = con.sql(
        f"SELECT count(*), min(CAST(to_json(d) AS VARCHAR)) FROM ({differing}) AS d"
    ).fetchall()
    ((rows,),) = con.sql(f"SELECT count(*) FROM ({query})").fetchall()
    con.unregister("expected")
    return Compared(name, rows, expected.num_rows, different, example or "")


_FAULT = re.compile(r'a fault of the program|app/cli/main\.py", line \d+, in ')
"""In a log: the worker's own word for it; a traceback that leaves the command. What Faust's threads print, when the
broker is away as they begin, is not a worker's end; nor is the list of threads of a worker that a library kept."""


def worker_problems(workers: Workers) -> Iterator[str]:
    """Exit codes that are not expected, and tracebacks with which a worker ended."""
    for slot in workers.slots:
        odd = sorted({code for code in slot.codes if code not in EXPECTED_CODES})
        if odd:
            yield f"worker {slot.number} ended with code {', '.join(map(str, odd))}, see {slot.log}"
        told = slot.log.read_text(errors="replace") if slot.log.exists() else ""
        if _FAULT.search(told):
            yield f"worker {slot.number} ended with a traceback, see {slot.log}"
