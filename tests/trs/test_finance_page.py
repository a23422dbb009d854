"""Every statement of docs/finance_sql.md, over a lake with five months of a small TRS."""

import re
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlglot
from sqlglot import exp

from tests.months_of_trs import fill_months
from tests.small_lake import SmallLake
from trs import lake

PAGE = (Path(__file__).parents[2] / "docs" / "finance_sql.md").read_text(encoding="utf-8")
STATEMENTS = {
    section.partition("\n")[0]: statement
    for section in PAGE.split("\n## ")
    for statement in re.findall(r"```sql\n(.*?)```", section, flags=re.DOTALL)
}
MONEY = {"receivable", "not_due", "overdue", "revenue", "before", "inv_total", "margin", "item_retail_price"}


@pytest.fixture(scope="module")
def months(tmp_path_factory: pytest.TempPathFactory) -> SmallLake:
    small = SmallLake(tmp_path_factory.mktemp("finance") / "lake")
    fill_months(small, datetime.now(UTC))
    return small


@pytest.fixture(autouse=True)
def settings(months: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRS_LAKE", months.uri)


def rows(heading: str) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = lake.sql(STATEMENTS[heading]).to_pylist()
    assert answer
    return answer


def test_every_section_with_a_statement_is_found() -> None:
    assert len(STATEMENTS) == PAGE.count("```sql") > 10


@pytest.mark.parametrize("heading", STATEMENTS)
def test_statement_answers_with_rows_and_exact_money(heading: str) -> None:
    answer = lake.sql(STATEMENTS[heading])
    assert answer.num_rows > 0
    for field in answer.schema:
        if field.name in MONEY or field.name.startswith("overdue_"):
            assert pa.types.is_decimal(field.type), field


@pytest.mark.parametrize("engine", ["duckdb", "trino", "athena"])
@pytest.mark.parametrize("heading", STATEMENTS)
def test_statement_is_of_the_dialects_of_duckdb_trino_and_athena(heading: str, engine: str) -> None:
    tree = sqlglot.parse_one(STATEMENTS[heading], dialect=engine)
    assert list(tree.find_all(exp.Qualify, exp.Anonymous)) == []
    assert tree.args.get("group") is None or not tree.args["group"].args.get("all"), "GROUP BY ALL is DuckDB's"


def invoices() -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = lake.sql("SELECT * FROM invoices").to_pylist()
    return answer


def test_ageing_adds_up_to_the_invoices_that_are_not_paid() -> None:
    (row,) = rows("What are we owed, and by how long is it overdue?")
    parts = [v for k, v in row.items() if k != "receivable"]
    assert sum(parts) == row["receivable"] == sum(i["inv_total"] for i in invoices() if i["payment_dates"] is None)


def test_calls_are_ordered_by_what_is_overdue_per_account() -> None:
    owed: defaultdict[str, Decimal] = defaultdict(Decimal)
    today = datetime.now(UTC).date()
    for i in invoices():
        if i["payment_dates"] is None and i["date_due"] < today:
            owed[f"Company {i['account_id']}"] += i["inv_total"]
    assert [r["overdue"] for r in rows("Whom to call first?")] == sorted(owed.values(), reverse=True)[:10]


def test_margin_is_revenue_less_todays_cost_of_every_line() -> None:
    costs = {s["item_id"]: s["item_cost_price"] for s in lake.sql("SELECT * FROM skus").to_pylist()}
    expected: defaultdict[object, Decimal] = defaultdict(Decimal)
    for line in lake.sql("SELECT * FROM invoice_lines").to_pylist():
        cost = line["quantity"] * costs[line["item_id"]]
        expected[line["date_issued"].replace(day=1)] += line["amount"] - cost
    assert {r["month_start"]: r["margin"] for r in rows("What is left of it?")} == expected


def test_belief_of_a_month_ago_is_that_of_as_of() -> None:
    known = lake.as_of(datetime.now(UTC) - timedelta(days=30)).to_pylist()
    expected: defaultdict[int, list[Decimal]] = defaultdict(lambda: [Decimal(0), Decimal(0), Decimal(0)])
    for row in known:
        for at, value in enumerate((1, row["inv_total"], row["is_late"])):
            expected[row["acct_id"]][at] += value
    found = rows("What did we believe a month ago?")
    assert {r["acct_id"]: [r["invoices"], r["revenue"], r["late"]] for r in found} == expected


def test_change_of_revenue_is_against_the_month_before() -> None:
    found = rows("How does revenue go?")
    assert found[0]["before"] is None
    for earlier, later in pairwise(found):
        assert later["before"] == earlier["revenue"]
        assert later["change"] == pytest.approx(float(later["revenue"] / earlier["revenue"]) - 1)
