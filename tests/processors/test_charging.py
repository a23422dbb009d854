"""What a line is charged and what an invoice adds up to, against an oracle of plain Python numbers."""

from collections.abc import Iterable
from decimal import Decimal, localcontext
from typing import NamedTuple

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.charging import LINES_SQL_TYPE, PriceAt, documents_sql, price_intervals_sql
from processors.order import ORDER_SQL_TYPE, RowOrder

INT_MAX, INT_MIN = 2**31 - 1, -(2**31)
MAX_PRICE = Decimal("9999999999.9999999999")


class Line(NamedTuple):
    invoice_id: int
    item_id: str
    quantity: int
    created_order: int | None


class Version(NamedTuple):
    item_id: str
    row_order: int
    price: Decimal


Document = tuple[int, int, Decimal, int, int, list[dict[str, object]]]


def values(rows: Iterable[tuple[object, ...]], columns: str) -> str:
    """The rows as a query of typed columns."""
    names, types = zip(*(c.split(" ") for c in columns.split(", ")), strict=True)
    casts = ", ".join(f"CAST({n} AS {t}) AS {n}" for n, t in zip(names, types, strict=True))
    body = ", ".join(
        "(" + ", ".join("NULL" if v is None else f"'{v}'" for v in row) + ")" for row in (*rows, (None,) * len(names))
    )
    return f"SELECT {casts} FROM (VALUES {body}) AS v({', '.join(names)}) WHERE {names[0]} IS NOT NULL"


def computed(invoices: list[int], lines: list[Line], versions: list[Version], price_at: PriceAt) -> list[Document]:
    with duckdb.connect() as con:
        con.execute(
            f"""
            CREATE VIEW invoices AS {values([(i, i * 10) for i in invoices], "invoice_id BIGINT, account_id BIGINT")};
            CREATE VIEW lines AS {
                values(lines, f"invoice_id BIGINT, item_id VARCHAR, quantity INTEGER, created_order {ORDER_SQL_TYPE}")
            };
            CREATE VIEW versions AS {
                values(versions, f"item_id VARCHAR, row_order {ORDER_SQL_TYPE}, price DECIMAL(20,10)")
            };
            """
        )
        relation = documents_sql("invoices", "lines", price_intervals_sql("versions", price_at=price_at))
        result = con.sql(f"FROM {relation} ORDER BY invoice_id")
        assert [(c, str(t)) for c, t in zip(result.columns, result.types, strict=True)] == [
            ("invoice_id", "BIGINT"),
            ("account_id", "BIGINT"),
            ("inv_total", "DECIMAL(38,10)"),
            ("inv_items", "BIGINT"),
            ("unpriced_lines", "INTEGER"),
            ("lines", LINES_SQL_TYPE),
        ]
        return result.fetchall()


def price_of(line: Line, versions: list[Version], price_at: PriceAt) -> Decimal | None:
    known = sorted((v.row_order, v.price) for v in versions if v.item_id == line.item_id)
    if not known:
        return None
    if price_at == "current":
        return known[-1][1]
    held = [price for order, price in known if order <= (line.created_order or 0)]
    return held[-1] if held else known[0][1]


def expected(invoices: list[int], lines: list[Line], versions: list[Version], price_at: PriceAt) -> list[Document]:
    documents: list[Document] = []
    for invoice_id in sorted(invoices):
        own = sorted((ln for ln in lines if ln.invoice_id == invoice_id), key=lambda ln: ln.item_id)
        prices = [price_of(line, versions, price_at) for line in own]
        with localcontext(prec=60):  # Python's default of 28 digits would round what the lake keeps
            total = sum((ln.quantity * p for ln, p in zip(own, prices, strict=True) if p is not None), Decimal(0))
        charged: list[dict[str, object]] = [
            {"item_id": ln.item_id, "quantity": ln.quantity, "price": p} for ln, p in zip(own, prices, strict=True)
        ]
        items = sum(ln.quantity for ln in own)
        documents.append((invoice_id, invoice_id * 10, total, items, prices.count(None), charged))
    return documents


ITEMS = st.sampled_from(["a", "b", "B", "10", "9", "é"])
ORDERS = st.one_of(st.integers(0, 6), st.integers(0, 2**100))
PRICES = st.one_of(
    st.decimals(min_value=-MAX_PRICE, max_value=MAX_PRICE, places=10), st.sampled_from([Decimal("0.1"), MAX_PRICE])
)
LINES = st.lists(
    st.builds(Line, st.integers(1, 4), ITEMS, st.integers(INT_MIN, INT_MAX), st.none() | ORDERS),
    unique_by=lambda ln: (ln.invoice_id, ln.item_id),
    max_size=15,
)
VERSIONS = st.lists(
    st.builds(Version, ITEMS, ORDERS, PRICES), unique_by=lambda v: (v.item_id, v.row_order), max_size=15
)


@pytest.mark.parametrize("price_at", ["creation", "current"])
@given(invoices=st.lists(st.integers(1, 3), unique=True), lines=LINES, versions=VERSIONS)
@settings(max_examples=60)
def test_documents_of_any_history_equal_the_oracle(
    price_at: PriceAt, invoices: list[int], lines: list[Line], versions: list[Version]
) -> None:
    assert computed(invoices, lines, versions, price_at) == expected(invoices, lines, versions, price_at)


def charged(created_order: int | None, price_at: PriceAt, *versions: tuple[int, str]) -> object:
    """The price that one line of item `a` is charged."""
    known = [Version("a", order, Decimal(price)) for order, price in versions]
    return computed([1], [Line(1, "a", 1, created_order)], known, price_at)[0][5][0]["price"]


@pytest.mark.parametrize(
    ("created_order", "price"), [(None, "1"), (0, "1"), (3, "1"), (5, "1"), (8, "1"), (9, "2"), (10, "2")]
)
def test_line_between_versions_is_charged_the_price_of_its_creation(created_order: int | None, price: str) -> None:
    assert charged(created_order, "creation", (9, "2"), (5, "1")) == Decimal(price)


@pytest.mark.parametrize("created_order", [None, 0, 5, 9])
def test_line_at_current_price_is_charged_the_latest_version(created_order: int | None) -> None:
    assert charged(created_order, "current", (9, "2"), (5, "1")) == Decimal(2)


def test_line_created_with_the_largest_order_is_charged_the_last_price() -> None:
    largest = RowOrder(999, 10**10 - 1, 10**13 - 1, 10**10 - 1).packed()
    assert charged(largest, "creation", (0, "1"), (largest, "2")) == Decimal(2)
    assert charged(largest - 1, "creation", (0, "1"), (largest, "2")) == Decimal(1)


def test_invoice_without_lines_is_zero_with_an_empty_list() -> None:
    assert computed([7], [], [], "creation") == [(7, 70, Decimal(0), 0, 0, [])]


def test_line_without_its_invoice_yields_nothing() -> None:
    assert computed([], [Line(1, "a", 1, 0)], [Version("a", 0, Decimal(1))], "creation") == []


def test_line_of_an_unknown_sku_counts_its_items_and_adds_nothing_to_the_total() -> None:
    lines = [Line(1, "a", 2, 0), Line(1, "new", 5, 0)]
    (document,) = computed([1], lines, [Version("a", 0, Decimal("1.50"))], "creation")
    assert document[2:5] == (Decimal("3.00"), 7, 1)


def test_largest_quantity_times_largest_price_is_exact() -> None:
    (document,) = computed([1], [Line(1, "a", INT_MIN, 0)], [Version("a", 0, MAX_PRICE)], "creation")
    assert document[2] == Decimal("-21474836479999999999.7852516352")
