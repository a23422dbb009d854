"""The views of the lake over tables written by hand: exact with and without folds, in any order of arrival."""

import calendar
import random
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from connectors.object_files import LakeReader
from processors.lake_tables import LAKE_TABLES
from processors.views.catalog import VIEWS, create_views, documented_names
from tests.small_lake import SmallLake, at


@pytest.fixture
def lake(tmp_path: Path) -> SmallLake:
    return SmallLake(tmp_path)


def rows(lake: SmallLake, query: str, *names: str) -> list[tuple[object, ...]]:
    with LakeReader(lake.uri) as reader:
        con = reader.connect()
        create_views(con, names, reader.relations)
        answer: list[tuple[object, ...]] = con.sql(query).fetchall()
        return answer


def document(invoice_id: int, account_id: int, version: int, **values: object) -> dict[str, object]:
    row: dict[str, object] = {
        "kind": "document",
        "invoice_id": invoice_id,
        "account_id": account_id,
        "document_version": version,
        "document_state": "live",
        "date_issued": date(2024, 1, 1),
        "inv_total": Decimal("3.5"),
        "inv_items": 3,
        "unpriced_lines": 0,
        "lines": [],
    }
    return row | values


def test_every_name_is_readable_in_an_empty_lake(lake: SmallLake) -> None:
    for name in documented_names():
        assert rows(lake, f"FROM {name}", name) == []


def test_table_with_a_column_named_like_a_keyword_is_readable(lake: SmallLake) -> None:
    lake.append("control_log", {"entry": 1, "kind": "generation", "at": at("2024-05-01")})
    assert rows(lake, 'SELECT entry, "at" FROM control_log', "control_log") == [(1, at("2024-05-01"))]


def test_names_of_views_and_tables_do_not_collide() -> None:
    assert not VIEWS.keys() & LAKE_TABLES.keys()


def test_every_column_of_every_view_is_described() -> None:
    for view in VIEWS.values():
        for field in view.schema:
            assert field.metadata[b"comment"], (view.name, field.name)


def test_create_views_opens_only_the_tables_that_are_needed(lake: SmallLake) -> None:
    asked: list[str] = []

    with LakeReader(lake.uri) as reader:

        def relations(names: list[str]) -> dict[str, str]:
            asked.extend(names)
            return reader.relations(names)

        con = reader.connect()
        create_views(con, ["invoices"], relations)
        create_views(con, ["invoice_lines", "epochs"], relations)
    assert sorted(asked) == ["account_log", "account_log_folded", "epochs"]


def test_skus_of_a_fold_and_a_tail_show_the_latest_of_each(lake: SmallLake) -> None:
    lake.append(
        "sku_log_folded",
        {"is_mark": True, "mark_bucket": 0, "epoch": 5, "mark_date": date(2024, 4, 1)},
        {"item_id": "folded", "item_name": "old", "epoch": 4},
        {"item_id": "both", "item_name": "old", "epoch": 4},
        {"item_id": "gone", "item_name": "old", "epoch": 4},
        {"item_id": "tombstone", "epoch": 3, "deleted": True},
    )
    lake.append("sku_log", {"item_id": "folded", "item_name": "before the mark", "epoch": 4})
    lake.append(
        "sku_log",
        {"item_id": "both", "item_name": "new", "epoch": 6},
        {"item_id": "gone", "epoch": 6, "deleted": True},
        {"item_id": "tail", "item_name": "new", "epoch": 6},
    )
    assert rows(lake, "SELECT item_id, item_name FROM skus ORDER BY 1", "skus") == [
        ("both", "new"),
        ("folded", "old"),
        ("tail", "new"),
    ]


def test_sku_prices_of_a_removed_sku_stay_with_their_intervals(lake: SmallLake) -> None:
    prices = [
        {"row_order": 5, "item_retail_price": Decimal("1.5"), "source_ts": at("2024-01-01")},
        {"row_order": 9, "item_retail_price": Decimal("2"), "source_ts": at("2024-02-01")},
    ]
    lake.append("sku_log", {"item_id": "a", "deleted": True, "prices": prices})
    query = "SELECT item_retail_price, valid_from, valid_to, sku_removed FROM sku_prices ORDER BY row_order"
    assert rows(lake, query, "sku_prices") == [
        (Decimal("1.5"), at("2024-01-01"), at("2024-02-01"), True),
        (Decimal("2"), at("2024-02-01"), None, True),
    ]


def test_accounts_leave_out_documents_and_deleted_ones(lake: SmallLake) -> None:
    account = {"kind": "account", "invoice_id": -1, "joining_date": date(2020, 1, 1)}
    lake.append(
        "account_log",
        {**account, "account_id": 1, "company_name": "One"},
        {**account, "account_id": 2, "company_name": "Two", "deleted": True},
        document(7, 3, 1),
    )
    assert rows(lake, "SELECT account_id, company_name FROM accounts", "accounts") == [(1, "One")]


def test_invoices_show_totals_and_days_to_pay(lake: SmallLake) -> None:
    lake.append(
        "account_log",
        document(1, 1, 1, payment_dates=date(2024, 2, 1)),
        document(2, 1, 1, payment_dates=date(2024, 1, 31)),
        document(3, 1, 1),
    )
    query = "SELECT invoice_id, date_due, days_to_pay, is_late, inv_total FROM invoices ORDER BY 1"
    total, due = Decimal("3.5"), date(2024, 1, 31)
    assert rows(lake, query, "invoices") == [(1, due, 31, 1, total), (2, due, 30, 0, total), (3, due, None, 0, total)]


@pytest.mark.parametrize(
    ("states", "owner"),
    [
        (((1, 4, "live"), (2, 6, "live")), [2]),
        (((1, 6, "left"), (2, 6, "live")), [2]),
        (((1, 4, "live"), (2, 6, "deleted")), []),
        (((1, 8, "live"), (2, 8, "left")), [1]),
    ],
)
def test_invoice_that_moved_is_shown_once_under_the_greatest_version(
    lake: SmallLake, states: tuple[tuple[int, int, str], ...], owner: list[int]
) -> None:
    for bucket, (account_id, version, state) in enumerate(states):
        gone = state != "live"
        lake.append("account_log", document(1, account_id, version, document_state=state, bucket=bucket, deleted=gone))
    assert [r[0] for r in rows(lake, "SELECT account_id FROM invoices", "invoices")] == owner


def test_invoice_lines_show_the_price_charged_and_null_while_unpriced(lake: SmallLake) -> None:
    lines = [
        {"item_id": "a", "quantity": 3, "price": Decimal("0.1")},
        {"item_id": "b", "quantity": 2, "price": None},
    ]
    lake.append("account_log", document(1, 9, 1, lines=lines), document(2, 9, 1))
    query = "SELECT invoice_id, item_id, quantity, price, amount, account_id FROM invoice_lines ORDER BY 2"
    assert rows(lake, query, "invoice_lines") == [
        (1, "a", 3, Decimal("0.1"), Decimal("0.3"), 9),
        (1, "b", 2, None, None, 9),
    ]


def test_feature_row_of_a_late_lower_version_does_not_win(lake: SmallLake) -> None:
    lake.append(
        "invoice_features_folded",
        {"is_mark": True, "mark_bucket": 0, "epoch": 5, "mark_date": date(2024, 5, 1), "entity_bucket": 0},
        {"inv_id": 1, "acct_id": 2, "document_version": 8, "epoch": 5, "entity_bucket": 0},
    )
    lake.feature(1, "2024-05-02", bucket=1, epoch=40, document_version=7)
    lake.feature(2, "2024-05-02", bucket=1, epoch=40, document_version=7)
    lake.feature(2, "2024-05-02", bucket=1, epoch=41, document_version=7, acct_id=5)
    lake.feature(3, "2024-05-02", bucket=1, epoch=41, deleted=True)
    query = "SELECT inv_id, acct_id FROM invoice_features ORDER BY 1"
    assert rows(lake, query, "invoice_features") == [(1, 2), (2, 5)]
    assert rows(lake, "SELECT count(*) FROM invoice_features_history", "invoice_features_history") == [(4,)]


def test_history_has_the_intervals_in_which_rows_counted_on_both_axes(lake: SmallLake) -> None:
    lake.feature(1, "2024-05-01", valid="2024-04-01", document_version=1)
    lake.feature(1, "2024-05-03", valid="2024-04-03", document_version=3)
    lake.feature(1, "2024-05-04", valid="2024-04-02", document_version=2)  # late: version 3 was known
    past = {"acct_id": 1, "origin": "reconstructed"}
    lake.append(
        "invoice_features_reconstructed",
        {"inv_id": 1, "valid_from": at("2024-02-01"), **past},
        {"inv_id": 1, "valid_from": at("2024-03-01"), **past},
        {"inv_id": 1, "valid_from": at("2024-04-20"), **past},  # an observed row holds by then
    )
    query = """SELECT document_version, known_until, valid_from, valid_until FROM invoice_features_history
        ORDER BY document_version NULLS FIRST, valid_from"""
    assert rows(lake, query, "invoice_features_history") == [
        (None, None, at("2024-02-01"), at("2024-03-01")),
        (None, None, at("2024-03-01"), at("2024-04-01")),
        (None, None, at("2024-04-20"), at("2024-04-20")),
        (1, at("2024-05-03"), at("2024-04-01"), at("2024-04-02")),
        (2, at("2024-05-04"), at("2024-04-02"), at("2024-04-03")),
        (3, None, at("2024-04-03"), None),
    ]


class Ledger:
    """Invoices around today, drawn at random, and what finance asks of them, reckoned row by row."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        today = datetime.now(UTC).date()
        self.invoices = []
        for number in range(60):
            issued = today - timedelta(days=chance.choice([-3, 0, 29, 30, 31, 60, 61, 90, 91, 120, 121, 200, 400]))
            paid = chance.choice([None, None, today, today + timedelta(days=5), issued - timedelta(days=40), issued])
            total = Decimal(chance.randrange(-500, 9_999)) / 100
            self.invoices.append((number, chance.randrange(4), issued, paid, total))

    def rows(self) -> list[dict[str, object]]:
        return [
            document(number, account, 1, date_issued=issued, payment_dates=paid, inv_total=total)
            for number, account, issued, paid, total in self.invoices
        ]

    def unpaid(self, day: date) -> list[tuple[int, date, Decimal]]:
        """(account, issued, total) of what is issued and not paid at the end of `day`."""
        return [(a, i, t) for _, a, i, p, t in self.invoices if i <= day and (p is None or p > day)]

    def ageing(self, today: date) -> list[tuple[object, ...]]:
        accounts: dict[int, list[Decimal]] = defaultdict(lambda: [Decimal(0)] * 5)
        counts: Counter[int] = Counter()
        oldest: dict[int, date] = {}
        for account, issued, total in self.unpaid(today):
            due = issued + timedelta(days=30)
            overdue = (today - due).days
            accounts[account][0 if overdue <= 0 else min(4, (overdue - 1) // 30 + 1)] += total
            counts[account] += 1
            oldest[account] = min(due, oldest.get(account, due))
        return sorted((a, None, counts[a], sum(owed), *owed, oldest[a]) for a, owed in accounts.items())

    def outstanding(self, today: date) -> list[tuple[object, ...]]:
        effective = [(i, None if p is None else max(p, i), t) for _, _, i, p, t in self.invoices if i <= today]
        months = {d.replace(day=1) for i, p, _ in effective for d in (i, p) if d is not None and d <= today}
        answer = []
        for month in sorted(months):
            length = calendar.monthrange(month.year, month.month)[1]
            end = min(month.replace(day=length), today)
            revenue = sum((t for i, _, t in effective if month <= i <= end), Decimal(0))
            paid = sum((t for _, p, t in effective if p is not None and month <= p <= end), Decimal(0))
            owed = sum((t for _, _, t in self.unpaid(end)), Decimal(0))
            days = end.day
            answer.append((month, revenue, paid, owed, days, float(owed) / float(revenue) * days if revenue else None))
        return answer


@pytest.mark.parametrize("seed", range(4))
def test_finance_views_say_what_a_ledger_says(lake: SmallLake, seed: int) -> None:
    ledger = Ledger(seed)
    lake.append("account_log", *ledger.rows())
    *ageing, ((today,),) = (
        rows(lake, query, "receivables_ageing")
        for query in ("FROM receivables_ageing ORDER BY account_id", "SELECT current_date")
    )
    assert ageing == [ledger.ageing(today)]
    outstanding = rows(lake, "FROM days_sales_outstanding ORDER BY 1", "days_sales_outstanding")
    assert outstanding == ledger.outstanding(today)
    assert sum(r[3] for r in ageing[0]) == outstanding[-1][3]  # type: ignore[misc]
    overdue = rows(lake, "SELECT sum(is_overdue), sum(is_overdue * inv_total) FROM invoices", "invoices")
    late = [t for _, issued, t in ledger.unpaid(today) if (today - issued).days > 30]
    assert overdue == [(len(late), sum(late))]


def test_monthly_revenue_adds_up_by_month_of_issue(lake: SmallLake) -> None:
    lake.append(
        "account_log",
        document(1, 1, 1, date_issued=date(2024, 1, 1)),
        document(2, 2, 1, date_issued=date(2024, 1, 31), unpriced_lines=2),
        document(3, 1, 1, date_issued=date(2024, 3, 1), inv_total=Decimal("-1")),
    )
    assert rows(lake, "FROM monthly_revenue ORDER BY 1", "monthly_revenue") == [
        (date(2024, 1, 1), 2, 2, Decimal("7"), 6, 3.5, 2),
        (date(2024, 3, 1), 1, 1, Decimal("-1"), 3, -1.0, 0),
    ]
