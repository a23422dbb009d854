"""What retention is said to cost is what it leaves: projections against real thinning, words that fit the numbers."""

import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from processors.errors import SettingsError
from processors.features.declarations import INVOICE_FEATURES
from processors.lake_tables import LAKE_TABLES, changes_name
from processors.retention import parse_tiers, verdicts_sql, zones
from processors.retention_advice import (
    PLANS,
    Churn,
    churn_of,
    churn_sql,
    costs,
    load_prices,
    recommendation,
    rows_after,
)

CHANGES = LAKE_TABLES[changes_name(INVOICE_FEATURES)].schema
BEGIN = datetime(2023, 1, 1, 9, tzinfo=UTC)
DAYS = 400


@pytest.fixture(scope="module")
def con() -> duckdb.DuckDBPyConnection:
    """A load of 2,000 invoices, then 100 changes on each of 400 days."""
    chance = random.Random(1)
    moments = [(n, BEGIN) for n in range(2000)]
    for day in range(1, DAYS + 1):
        hot = chance.sample(range(2000), 40)  # of a day's changes many hit the same invoices
        for n in range(100):
            moments.append((chance.choice(hot), BEGIN + timedelta(days=day, seconds=n * 300)))
    rows = {
        "inv_id": [i for i, _ in moments],
        "bucket": [0] * len(moments),
        "epoch": list(range(len(moments))),
        "document_version": list(range(len(moments))),
        "deleted": [False] * len(moments),
        "known_from": [m for _, m in moments],
        "valid_from": [m for _, m in moments],
        "known_date": [m.date() for _, m in moments],
    }
    arrays = [pa.array(rows.get(f.name, [None] * len(moments)), f.type) for f in CHANGES]
    opened = duckdb.connect()
    opened.execute("SET TimeZone = 'UTC'")
    opened.register("arrow", pa.table(arrays, schema=CHANGES))
    opened.execute("CREATE TABLE changes AS FROM arrow")
    return opened


def churn(con: duckdb.DuckDBPyConnection, today: date, relation: str = "changes") -> Churn:
    (counted,) = con.execute(churn_sql(INVOICE_FEATURES, relation), {"today": today, "whole_since": None}).fetchall()
    return churn_of("changes", counted, size_bytes=10**9, files=3)


def test_churn_leaves_out_the_load_and_today(con: duckdb.DuckDBPyConnection) -> None:
    seen = churn(con, (BEGIN + timedelta(days=DAYS)).date())
    assert (seen.entities, seen.load_rows, seen.days, seen.changes) == (2000, 2000, DAYS - 1, 100 * (DAYS - 1))
    assert seen.changes_per_day == 100


@pytest.mark.parametrize("plan", PLANS)
def test_projection_is_what_thinning_leaves(con: duckdb.DuckDBPyConnection, plan: str) -> None:
    now = BEGIN + timedelta(days=DAYS, hours=15)
    cut = zones(parse_tiers(plan), now=now, complete_through=now)
    ((left,),) = con.sql(
        f"SELECT count(*) FROM ({verdicts_sql(INVOICE_FEATURES, 'changes', cut)}) WHERE keep"
    ).fetchall()
    projected, sure = rows_after(churn(con, now.date()), parse_tiers(plan), DAYS)
    # Thinning drops rows of the load that were replaced by the first kept moment, and its cuts lie at whole months.
    assert projected == pytest.approx(left, rel=0.12)
    assert sure


def test_what_was_not_seen_is_bounded_by_the_next_finer_step_and_said(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("CREATE OR REPLACE TABLE ten AS FROM changes WHERE known_from < TIMESTAMPTZ '2023-01-12 00:00:00+00'")
    ten = churn(con, date(2023, 1, 12), "ten")
    assert (ten.days, ten.by_step["day"] is None, ten.by_step["month"]) == (10, False, None)
    _, sure = rows_after(ten, parse_tiers("5d:all,*:month"), 3650)
    assert not sure
    assert ten.ratio("month") == (ten.ratio("day")[0], False)
    found = costs([ten], PLANS, load_prices(None), queries_per_month=0)
    assert "upper bound" in recommendation(found, [ten], PLANS[1])[1]


def test_hours_are_not_projected(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("CREATE OR REPLACE TABLE load AS FROM changes WHERE known_from <= TIMESTAMPTZ '2023-01-01 09:00:00+00'")
    load = churn(con, date(2023, 1, 1), "load")
    found = costs([load], PLANS, load_prices(None), queries_per_month=0)
    tiers, why = recommendation(found, [load], PLANS[1])
    assert tiers == "*:all"
    assert "less than a whole day" in why


def test_recommendation_weighs_dollars_against_lost_answers() -> None:
    small = Churn(
        "h", 10_000, 10**6, 1, 1000, 1000, 100, 9000, {"day": 5000, "week": 3000, "month": 1000, "year": None}
    )
    big = Churn(
        "h", 10**9, 10**11, 1, 10**6, 10**6, 100, 10**9, {"day": 10**8, "week": 10**7, "month": 10**6, "year": None}
    )
    prices = load_prices(None)
    assert recommendation(costs([small], PLANS, prices, queries_per_month=100), [small], PLANS[1])[0] == "*:all"
    tiers, why = recommendation(costs([big], PLANS, prices, queries_per_month=100), [big], PLANS[1])
    assert tiers == PLANS[1]
    assert "saves $" in why


def test_dollars_follow_the_prices(tmp_path: Path) -> None:
    seen = Churn(
        "h", 2_000_000, 2 * 10**9, 1, 10, 2_000_000, 10, 0, {"day": 0, "week": None, "month": None, "year": None}
    )
    prices = load_prices(None)
    (cost, *_) = costs([seen], ["*:all"], prices, queries_per_month=500)
    assert cost.storage_dollars == pytest.approx(2 * prices.storage_gb_month)
    requests = 500 * 366 * 3 / 1000 * prices.get_per_1000
    assert cost.query_dollars == pytest.approx(500 * 2e9 / 1e12 * prices.query_tb_scanned + requests)
    own = tmp_path / "prices.toml"
    own.write_text("storage_gb_month = -1\n")
    with pytest.raises(SettingsError, match=r"storage_gb_month|as_of"):
        load_prices(own)
    with pytest.raises(SettingsError, match="nowhere"):
        load_prices(tmp_path / "nowhere.toml")
