"""The feature sets' SQL against an oracle of plain Python numbers, and their independence of order and threads."""

import random
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.features.declarations import ACCOUNT_FEATURES, FEATURE_SETS, INVOICE_FEATURES, FeatureSet
from processors.features.derive import derive_sql

ACCOUNTS_SCHEMA = pa.schema([("account_id", pa.int64()), ("company_name", pa.string()), ("joining_date", pa.date32())])
DOCUMENTS_SCHEMA = pa.schema(
    [
        ("account_id", pa.int64()),
        ("invoice_id", pa.int64()),
        ("date_issued", pa.date32()),
        ("payment_dates", pa.date32()),
        ("inv_total", pa.decimal128(38, 10)),
        ("inv_items", pa.int64()),
        ("unpriced_lines", pa.int32()),
    ]
)
Row = dict[str, object]


class Invoice(NamedTuple):
    account_id: int
    date_issued: date
    payment_dates: date | None
    inv_total: Decimal
    inv_items: int


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def derived(
    con: duckdb.DuckDBPyConnection, feature_set: FeatureSet, joined: dict[int, date], invoices: dict[int, Invoice]
) -> list[Row]:
    """The set's rows, by key, with their declared types asserted."""
    accounts = [{"account_id": a, "company_name": "x", "joining_date": d} for a, d in joined.items()]
    documents = [{"invoice_id": i, "unpriced_lines": 0, **v._asdict()} for i, v in invoices.items()]
    con.register("accounts", pa.Table.from_pylist(accounts, ACCOUNTS_SCHEMA))
    con.register("documents", pa.Table.from_pylist(documents, DOCUMENTS_SCHEMA))
    table = con.sql(f"FROM {derive_sql(feature_set)} ORDER BY 1").to_arrow_table()
    assert table.schema.names == list(feature_set.column_names)
    assert table.schema.types == [c.arrow_type for c in feature_set.columns]
    rows: list[Row] = table.to_pylist()
    return rows


def invoice_rows(joined: dict[int, date], invoices: dict[int, Invoice]) -> list[Row]:
    rows: list[Row] = []
    for invoice_id, own in sorted(invoices.items()):
        others = [v for v in invoices.values() if v.account_id == own.account_id]
        age = (own.date_issued - joined[own.account_id]).days if own.account_id in joined else None
        recent = [v for v in others if 1 <= (own.date_issued - v.date_issued).days <= 120]
        with localcontext(prec=60):
            cumulative = sum((v.inv_total for v in others if v.date_issued <= own.date_issued), Decimal(0))
        late = own.payment_dates is not None and (own.payment_dates - own.date_issued).days > 30
        values = (invoice_id, own.account_id, own.inv_total, own.inv_items, age, len(recent), cumulative, int(late))
        rows.append(dict(zip(INVOICE_FEATURES.column_names, values, strict=True)))
    return rows


def account_rows(invoices: dict[int, Invoice]) -> list[Row]:
    rows: list[Row] = []
    for account_id in sorted({v.account_id for v in invoices.values()}):
        own = sorted((v for v in invoices.values() if v.account_id == account_id), key=lambda v: v.date_issued)
        waits = [(v.payment_dates - v.date_issued).days for v in own if v.payment_dates is not None]
        first, last, count = own[0].date_issued, own[-1].date_issued, len(own)
        with localcontext(prec=100):
            revenue = sum((v.inv_total for v in own), Decimal(0))
            basket = (revenue / count).quantize(Decimal("1e-10"), ROUND_HALF_UP)
        values = (
            account_id,
            count,
            revenue,
            basket,
            sum(w > 30 for w in waits) / count,
            sum(waits) / len(waits) if waits else None,
            first,
            last,
            (last - first).days / (count - 1) if count > 1 else None,
        )
        rows.append(dict(zip(ACCOUNT_FEATURES.column_names, values, strict=True)))
    return rows


DATES = st.one_of(st.dates(date(2021, 1, 1), date(2021, 12, 31)), st.dates(date(1, 1, 1), date(9999, 12, 31)))
TOTALS = st.decimals(min_value=Decimal(-(10**20)), max_value=Decimal(10**20), places=10)
INVOICES = st.dictionaries(
    st.integers(1, 50),
    st.builds(Invoice, st.integers(1, 3), DATES, st.none() | DATES, TOTALS, st.integers(-(10**9), 10**9)),
    max_size=20,
)


@given(joined=st.dictionaries(st.integers(1, 4), DATES), invoices=INVOICES)
@settings(max_examples=100)
def test_features_of_any_invoices_equal_the_oracle(joined: dict[int, date], invoices: dict[int, Invoice]) -> None:
    with duckdb.connect() as con:  # a fixture would outlive it in hypothesis' caches
        assert derived(con, INVOICE_FEATURES, joined, invoices) == invoice_rows(joined, invoices)
        assert derived(con, ACCOUNT_FEATURES, joined, invoices) == account_rows(invoices)


ISSUED = date(2021, 6, 1)


def invoice(days: int = 0, *, paid_after: int | None = None, total: str = "1", account_id: int = 1) -> Invoice:
    issued = ISSUED + timedelta(days)
    paid = None if paid_after is None else issued + timedelta(paid_after)
    return Invoice(account_id, issued, paid, Decimal(total), 1)


@pytest.mark.parametrize(("days", "counted"), [(-121, 0), (-120, 1), (-1, 1), (0, 0), (1, 0)])
def test_num_inv_120d_counts_from_120_days_to_one_day_before(
    con: duckdb.DuckDBPyConnection, days: int, counted: int
) -> None:
    rows = derived(con, INVOICE_FEATURES, {}, {1: invoice(), 2: invoice(days), 3: invoice(-5, account_id=2)})
    assert rows[0]["num_inv_120d"] == counted


@pytest.mark.parametrize(("paid_after", "late"), [(None, 0), (-1, 0), (30, 0), (31, 1)])
def test_is_late_when_paid_after_more_than_thirty_days(
    con: duckdb.DuckDBPyConnection, paid_after: int | None, late: int
) -> None:
    (row,) = derived(con, INVOICE_FEATURES, {}, {1: invoice(paid_after=paid_after)})
    assert row["is_late"] == late


def test_cumulative_total_includes_itself_and_the_same_day_and_nothing_later(con: duckdb.DuckDBPyConnection) -> None:
    invoices = {1: invoice(total="1"), 2: invoice(total="10"), 3: invoice(-400, total="100"), 4: invoice(1, total="5")}
    rows = derived(con, INVOICE_FEATURES, {}, invoices)
    assert [r["cum_tot_inv_acct"] for r in rows] == [111, 111, 100, 116]


def test_account_age_is_negative_before_joining_and_null_for_an_unknown_account(con: duckdb.DuckDBPyConnection) -> None:
    joined = {1: ISSUED + timedelta(3)}
    rows = derived(con, INVOICE_FEATURES, joined, {1: invoice(), 2: invoice(account_id=2)})
    assert [r["acct_age"] for r in rows] == [-3, None]


@pytest.mark.parametrize(
    ("totals", "mean"),
    [
        (("0.0000000001", "0"), "0.0000000001"),
        (("-0.0000000001", "0"), "-0.0000000001"),
        (("0.0000000001", "0", "0"), "0"),
        (("9999999999999999999999999999.9999999999", "-0.0000000001"), "4999999999999999999999999999.9999999999"),
    ],
)
def test_avg_basket_is_exact_and_rounds_half_away_from_zero(
    con: duckdb.DuckDBPyConnection, totals: tuple[str, ...], mean: str
) -> None:
    rows = derived(con, ACCOUNT_FEATURES, {}, {i: invoice(total=t) for i, t in enumerate(totals)})
    assert rows[0]["avg_basket"] == Decimal(mean)


@pytest.mark.parametrize("feature_set", FEATURE_SETS, ids=lambda f: f.name)
def test_features_do_not_depend_on_the_order_of_rows_or_on_threads(
    con: duckdb.DuckDBPyConnection, feature_set: FeatureSet
) -> None:
    source = random.Random(7)
    items = [
        (i, invoice(source.randrange(900), paid_after=source.randrange(60), total=f"{source.random():.10f}"))
        for i in range(20_000)
    ]
    before = derived(con, feature_set, {}, dict(items))
    source.shuffle(items)
    con.execute("SET threads = 1")
    after = derived(con, feature_set, {}, dict(items))
    con.execute("RESET threads")
    assert before == after
