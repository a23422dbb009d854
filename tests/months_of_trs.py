"""A lake with five months of a small TRS, written by hand, row by row, as the worker would: for pages that people read.

Features come from the feature sets' own SQL: a version when an invoice is issued, another when it is paid late. Baskets
are twice as large in the last month, so that something moved.
"""

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import duckdb
import pyarrow as pa

from processors.features.declarations import ACCOUNT_FEATURES, INVOICE_FEATURES
from processors.features.derive import derive_sql
from processors.lake_tables import ACCOUNT_LOG, LAKE_TABLES, changes_name
from tests.small_lake import Row, SmallLake

DAYS = 150
RECENT_DAYS = 30
ACCOUNTS = 30
SKUS = 20
INVOICES = 600


def fill_months(lake: SmallLake, now: datetime, *, seed: int = 7) -> None:
    """The months before `now`, through which the lake is complete; one commit of features per month."""
    chance = random.Random(seed)
    today = now.date()
    first = today - timedelta(days=DAYS)
    prices = {f"SKU-{n:02}": Decimal(chance.randrange(200, 20_000)) / 100 for n in range(SKUS)}
    lake.append("sku_log", *(_sku(item, price, now - timedelta(days=DAYS)) for item, price in prices.items()))
    accounts = [_account(n, first - timedelta(days=chance.randrange(30, 2000)), now) for n in range(ACCOUNTS)]
    documents = [_document(n, chance, first, today, prices) for n in range(INVOICES)]
    lake.append("account_log", *accounts, *documents)
    _write_features(lake, accounts, documents, now)
    for stage in ("skus", "invoices", "accounts"):
        lake.epoch(stage, 0, INVOICES, now.isoformat())


def _sku(item: str, price: Decimal, at: datetime) -> Row:
    version = {"row_order": Decimal(1), "row_offset": 0, "item_retail_price": price, "source_ts": at}
    about = {"item_name": f"Article {item[-2:]}", "item_cost_price": price / 2, "item_retail_price": price}
    return {"item_id": item, **about, "row_order": Decimal(1), "row_offset": 0, "source_ts": at, "prices": [version]}


def _account(number: int, joined: date, now: datetime) -> Row:
    about = {"company_name": f"Company {number}", "joining_date": joined, "source_ts": now}
    return {"kind": "account", "account_id": number, "invoice_id": -1, **about}


def _document(number: int, chance: random.Random, first: date, today: date, prices: dict[str, Decimal]) -> Row:
    issued = first + timedelta(days=number * DAYS // INVOICES)
    factor = 2 if (today - issued).days < RECENT_DAYS else 1
    items = chance.sample(sorted(prices), chance.randrange(1, 5))
    lines = [{"item_id": i, "quantity": factor * chance.randrange(1, 9), "price": prices[i]} for i in items]
    paid = issued + timedelta(days=chance.randrange(5, 50)) if chance.random() < 0.85 else None
    return {
        "kind": "document",
        "account_id": chance.randrange(ACCOUNTS),
        "invoice_id": number,
        "document_state": "live",
        "document_version": number,
        "invoice_bucket": 0,
        "date_issued": issued,
        "payment_dates": paid if paid is not None and paid < today else None,
        "inv_total": sum((line["quantity"] * line["price"] for line in lines), Decimal(0)),
        "inv_items": sum(line["quantity"] for line in lines),
        "unpriced_lines": 0,
        "lines": lines,
        "source_ts": datetime.combine(issued, datetime.min.time(), UTC) + timedelta(hours=12),
    }


def _write_features(lake: SmallLake, accounts: list[Row], documents: list[Row], now: datetime) -> None:
    def table(rows: list[Row]) -> pa.Table:
        blank = dict.fromkeys(ACCOUNT_LOG.schema.names)
        return pa.Table.from_pylist([{**blank, **row} for row in rows], schema=ACCOUNT_LOG.schema)

    with duckdb.connect() as con:
        con.register("accounts", table(accounts))
        con.register("documents", table(documents))
        con.register("source", table(documents))
        about = "0 AS bucket, 0 AS entity_bucket, FALSE AS deleted, 1 AS feature_version"
        invoices = con.sql(f"""
            WITH f AS (SELECT f.*, d.date_issued, d.payment_dates FROM {derive_sql(INVOICE_FEATURES)} AS f
                       JOIN source AS d ON f.inv_id = d.invoice_id)
            SELECT * REPLACE (0 AS is_late), date_issued AS day, 1 AS document_version, inv_id AS epoch, {about} FROM f
            UNION ALL
            SELECT *, payment_dates, 2, {INVOICES} + inv_id, {about} FROM f WHERE is_late = 1""").to_arrow_table()
        months = sorted({row["date_issued"].replace(day=1) for row in documents})[1:]
        summaries = []
        for number, month in enumerate([*months, now.date()]):
            known = [d for d in documents if d["date_issued"] < month]
            con.register("documents", table(known))
            summaries.append(
                con.sql(f"""SELECT *, DATE '{month - timedelta(days=1)}' AS day, 0 AS document_version,
                    {number} AS epoch, {about} FROM {derive_sql(ACCOUNT_FEATURES)}""").to_arrow_table()
            )
        for feature_set, tables in ((INVOICE_FEATURES, [invoices]), (ACCOUNT_FEATURES, summaries)):
            name = changes_name(feature_set)
            con.register("made", pa.concat_tables(tables))
            rows = con.sql("""
                SELECT * EXCLUDE (day), (day + TIME '12:00:00') AT TIME ZONE 'UTC' AS valid_from,
                       (day + TIME '12:00:05') AT TIME ZONE 'UTC' AS known_from
                FROM made ORDER BY day""").to_arrow_table()
            _append_by_month(lake, name, rows.to_pylist())


def _append_by_month(lake: SmallLake, name: str, rows: list[Row]) -> None:
    wanted = LAKE_TABLES[name].schema.names
    months: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        known = row["known_from"]
        assert isinstance(known, datetime)
        months.setdefault((known.year, known.month), []).append({k: v for k, v in row.items() if k in wanted})
    for month in sorted(months):
        lake.append(name, *months[month])
