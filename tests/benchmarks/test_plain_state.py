"""The peer of the catch-up derives the same features as our SQL, whatever the order of the rows."""

import random
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest

from benchmarks.peers.plain_state import PlainState
from processors.features.declarations import INVOICE_FEATURES
from processors.features.derive import derive_sql

DAY = 18_000
SKUS = [
    {"item_id": "a", "item_retail_price": "10.01"},
    {"item_id": "b", "item_retail_price": "0.1234567891"},
]
ACCOUNTS = [{"account_id": 1, "joining_date": DAY - 5}, {"account_id": 2, "joining_date": DAY + 3}]
INVOICES = [
    {"invoice_id": 10, "account_id": 1, "date_issued": DAY, "payment_dates": DAY + 30},
    {"invoice_id": 11, "account_id": 1, "date_issued": DAY, "payment_dates": DAY + 31},
    {"invoice_id": 12, "account_id": 1, "date_issued": DAY + 120, "payment_dates": None},
    {"invoice_id": 13, "account_id": 1, "date_issued": DAY + 121, "payment_dates": DAY},
    {"invoice_id": 14, "account_id": 1, "date_issued": DAY - 1, "payment_dates": None},
    {"invoice_id": 20, "account_id": 2, "date_issued": DAY, "payment_dates": None},
    {"invoice_id": 30, "account_id": 3, "date_issued": DAY, "payment_dates": None},
]
LINES = [
    {"invoice_id": 10, "item_id": "a", "quantity": 3},
    {"invoice_id": 10, "item_id": "b", "quantity": -1},
    {"invoice_id": 11, "item_id": "b", "quantity": 7},
    {"invoice_id": 11, "item_id": "nobody knows it", "quantity": 2},
    {"invoice_id": 12, "item_id": "a", "quantity": 1},
    {"invoice_id": 14, "item_id": "a", "quantity": 1},
    {"invoice_id": 30, "item_id": "b", "quantity": 5},
    {"invoice_id": 99, "item_id": "a", "quantity": 5},
]


def expected() -> list[tuple[object, ...]]:
    with duckdb.connect() as con:
        for name, rows in (("s", SKUS), ("a", ACCOUNTS), ("i", INVOICES), ("l", LINES)):
            con.register(name, pa.Table.from_pylist(rows))
        con.execute("""
            CREATE VIEW accounts AS
            SELECT account_id, 'x' AS company_name, DATE '1970-01-01' + joining_date::INTEGER AS joining_date FROM a;
            CREATE VIEW documents AS
            SELECT
              i.account_id, i.invoice_id, DATE '1970-01-01' + i.date_issued::INTEGER AS date_issued,
              DATE '1970-01-01' + i.payment_dates::INTEGER AS payment_dates,
              coalesce(sum(l.quantity * s.item_retail_price::DECIMAL(20,10)), 0)::DECIMAL(38,10) AS inv_total,
              coalesce(sum(l.quantity), 0)::BIGINT AS inv_items, 0 AS unpriced_lines
            FROM i LEFT JOIN l ON i.invoice_id = l.invoice_id LEFT JOIN s ON l.item_id = s.item_id
            GROUP BY ALL
        """)
        return con.sql(f"FROM {derive_sql(INVOICE_FEATURES)} ORDER BY 1").fetchall()


@pytest.mark.parametrize("seed", range(20))
def test_the_peer_agrees_with_our_sql(seed: int) -> None:
    state, chance = PlainState(), random.Random(seed)
    events = [
        *((state.take_sku, row) for row in SKUS),
        *((state.take_account, row) for row in ACCOUNTS),
        *((state.take_invoice, row) for row in INVOICES),
        *((state.take_line, row) for row in LINES),
    ]
    chance.shuffle(events)
    rows = {}
    for take, row in events:
        take(row)
        if chance.random() < 0.2:
            rows |= {r[0]: r for r in state.derive_touched()}
    rows |= {r[0]: r for r in state.derive_touched()}
    assert [rows[number] for number in sorted(rows)] == expected()


def test_the_rows_are_as_told_for_one_invoice() -> None:
    first = expected()[0]
    assert first == (10, 1, Decimal("29.9065432109"), 2, 5, 1, first[6], 0)


def test_an_invoice_that_moves_changes_both_accounts() -> None:
    state = PlainState()
    state.take_invoice({"invoice_id": 1, "account_id": 1, "date_issued": DAY, "payment_dates": None})
    state.take_invoice({"invoice_id": 2, "account_id": 1, "date_issued": DAY + 1, "payment_dates": None})
    assert [(r[0], r[1], r[5]) for r in state.derive_touched()] == [(1, 1, 0), (2, 1, 1)]
    state.take_invoice({"invoice_id": 1, "account_id": 2, "date_issued": DAY, "payment_dates": None})
    assert sorted((r[0], r[1], r[5]) for r in state.derive_touched()) == [(1, 2, 0), (2, 1, 0)]
    assert state.derive_touched() == []
