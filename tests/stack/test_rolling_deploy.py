"""A roll-out of changed feature SQL over live workers, and back: no old row comes after a new one."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest

from app.settings import Settings
from tests.stack_helpers import environment, feed, owned_buckets, row_count, start_worker, trs, write_extracts
from tests.waiting import wait_until

NAME = "spend_features"
PATIENCE_S = 120.0
OF_ALL, OF_PAID = "sum(inv_total)", "coalesce(sum(CASE WHEN payment_dates IS NOT NULL THEN inv_total END), 0)"

Start = Callable[[Settings], "subprocess.Popen[bytes]"]


def sets(folder: Path, *, version: int, spend: str, more: str = "") -> Path:
    """A folder with one set of so many columns; `more`: a further one."""
    folder.mkdir()
    sql = f"SELECT account_id AS acct_id, {spend} AS spend{more and f', count(*) AS {more}'} FROM documents GROUP BY 1"
    declared = f"""
doc = "What an account spends."
version = {version}
grain = "account"
entity_key = ["acct_id"]
owner_column = "acct_id"

[columns]
acct_id = {{ type = "BIGINT", doc = "The account." }}
spend = {{ type = "DECIMAL(38,10)", doc = "Its sum." }}
"""
    if more:
        declared += f'{more} = {{ type = "BIGINT", doc = "More." }}\n'
    (folder / f"{NAME}.sql").write_text(sql, encoding="utf-8")
    (folder / f"{NAME}.toml").write_text(declared, encoding="utf-8")
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts workers; ends those that still run."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(settings: Settings) -> "subprocess.Popen[bytes]":
        settings.home.mkdir(exist_ok=True)
        started.append(start_worker(settings, tmp_path / f"worker-{len(started)}.log"))
        return started[-1]

    yield begin
    for worker in started:
        worker.kill()
        worker.wait()


def changes(settings: Settings, what: str) -> list[tuple[object, ...]]:
    """Rows of a query over the set's history, by a process that knows the set."""
    out = settings.home / "rows.parquet"
    trs(settings, "sql", what, "--out", str(out))
    return duckdb.sql(f"FROM '{out}'").fetchall()


def test_roll_out_over_live_workers_recomputes_each_bucket_once_and_back_is_a_higher_version(
    local_settings: Settings, start: Start, tmp_path: Path
) -> None:
    base = local_settings.model_copy(update={"partitions": 4, "price_at": "current", "upkeep_budget_percent": 0})
    old, new, back, wider = (
        base.model_copy(update={"feature_sets": sets(tmp_path / f"v{v}", version=v, spend=s, more=m)})
        for v, s, m in ((1, OF_ALL, ""), (2, OF_PAID, ""), (3, OF_ALL, ""), (4, OF_ALL, "n"))
    )
    feed(base, write_extracts(tmp_path / "first", invoices=200, seed=1), run=1)
    olds = [start(old), start(old)]
    wait_until(lambda: row_count(base, "invoice_features_changes") >= 200, timeout_s=PATIENCE_S, what="they work")

    first = start(new)
    wait_until(lambda: bool(owned_buckets(new, first)), timeout_s=PATIENCE_S, what="a new worker has buckets")
    assert any(owned_buckets(old, worker) for worker in olds), "old and new run side by side"
    feed(base, write_extracts(tmp_path / "second", invoices=200, seed=2), run=2, tables=("invoices",))
    second = start(new)
    for worker in olds:
        worker.send_signal(signal.SIGTERM)
    assert {worker.wait(60) for worker in olds} <= {0, 8}, "stopped, or refused a bucket that the new one took"

    def share_all() -> bool:
        shares = owned_buckets(new, first), owned_buckets(new, second)
        return all(shares) and shares[0] | shares[1] == {0, 1, 2, 3}

    wait_until(share_all, timeout_s=PATIENCE_S, what="the new workers have all buckets")
    for worker in (first, second):
        worker.send_signal(signal.SIGTERM)
    assert {worker.wait(60) for worker in (first, second)} == {0}
    trs(new, "worker", "--until-caught-up")
    assert rows_of(new, "features", "as-of", "now") == rows_of(new, "etl", "--source", "lake")
    mixed = changes(
        new,
        f"""SELECT older.feature_version, count(*)
        FROM {NAME}_changes AS older JOIN {NAME}_changes AS newer USING (acct_id)
        WHERE older.feature_version < newer.feature_version AND older.epoch >= newer.epoch GROUP BY 1""",
    )
    assert mixed == [], "an old worker wrote after a new one"

    refused = run(old, "worker", "--until-caught-up")
    assert refused.returncode == 4
    assert "roll the SQL back under a higher version number" in refused.stderr
    refused = run(wider, "worker")
    assert refused.returncode == 2
    assert "its columns or its key are not those of its table" in refused.stderr

    trs(back, "worker", "--until-caught-up")
    assert rows_of(back, "features", "as-of", "now") == rows_of(back, "etl", "--source", "lake")
    versions = changes(back, f"SELECT DISTINCT feature_version FROM {NAME}_changes ORDER BY 1")
    assert versions == [(1,), (2,), (3,)]


def rows_of(settings: Settings, *arguments: str) -> str:
    """The set as CSV, by a command."""
    out = settings.home / "rows.csv"
    trs(settings, *arguments, "--feature-set", NAME, "--out", str(out))
    return out.read_text(encoding="utf-8")


def run(settings: Settings, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "app.cli.main", *arguments]
    return subprocess.run(
        command, env=environment(settings), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
