"""Declared checks: each kind fails for exactly the rows that break it, and what cannot be meant is refused."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from connectors.object_files import LakeReader
from processors.errors import SettingsError
from processors.lake_tables import ACCOUNTS_KEYED, KEYED_TABLES, SKUS_KEYED
from processors.quality.checks import Check, load_checks, shipped_checks
from processors.quality.run import Outcome, QualityRun, about, judge
from processors.views.catalog import create_views
from tests.small_lake import SmallLake, at

NOW = datetime(2024, 6, 1, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> SmallLake:
    return SmallLake(tmp_path / "lake")


def declared(folder: Path, text: str) -> Sequence[Check]:
    """The checks of a file beside the shipped ones."""
    path = folder / "checks.toml"
    path.write_text(text)
    return load_checks(path)[len(shipped_checks()) :]


def judged(lake: SmallLake, check: Check, *, previous: int = 0) -> Outcome:
    with LakeReader(lake.uri) as reader:
        con = reader.connect()
        create_views(con, check.reads, reader.relations)
        return judge(con, check, now=NOW, previous=previous)


def skus(lake: SmallLake) -> None:
    prices = {"a": "1", "b": "-0.01", "c": None, "d": "10"}
    lake.append(
        "sku_log",
        *({"item_id": i, "item_retail_price": None if p is None else Decimal(p)} for i, p in prices.items()),
        {"item_id": "gone", "item_retail_price": Decimal(-5), "deleted": True},
    )


@pytest.mark.parametrize(
    ("fields", "failures"),
    [
        ('kind = "not_null"\ncolumns = ["item_id", "item_retail_price"]', 1),
        ('kind = "not_null"\ncolumns = ["item_id"]', 0),
        ('kind = "range"\ncolumn = "item_retail_price"\nleast = 0', 1),
        ('kind = "range"\ncolumn = "item_retail_price"\nleast = -0.01\nmost = 9.99', 1),
        ('kind = "range"\ncolumn = "item_retail_price"\nleast = -0.01\nmost = 10', 0),
        ('kind = "unique"\ncolumns = ["item_id"]', 0),
        ('kind = "unique"\ncolumns = ["item_name"]', 3),
        ('kind = "volume"\nleast = 4', 0),
        ('kind = "volume"\nleast = 6', 2),
        ('kind = "volume"\nmax_drop_percent = 60', 0),
        ('kind = "volume"\nmax_drop_percent = 10', 5),
        ('kind = "sql"\nsql = "SELECT item_id FROM skus WHERE item_retail_price > 0"', 2),
    ],
)
def test_kind_counts_the_rows_that_fail(lake: SmallLake, tmp_path: Path, fields: str, failures: int) -> None:
    skus(lake)
    (check,) = declared(tmp_path, f'[[check]]\nname = "mine"\nsays = "so"\ntable = "skus"\n{fields}\n')
    outcome = judged(lake, check, previous=10)
    assert (outcome.rows, outcome.failures, outcome.passed) == (4, failures, failures == 0)


def test_reference_fails_for_what_the_other_table_lacks_and_not_for_null(lake: SmallLake, tmp_path: Path) -> None:
    mirror = {"kind": "invoice", "item_id": ""}
    lake.append("invoice_log", *({"invoice_id": n, "account_id": a, **mirror} for n, a in ((1, 7), (2, 8), (3, None))))
    lake.append("account_log", {"kind": "account", "account_id": 7, "invoice_id": -1})
    (check,) = declared(
        tmp_path,
        '[[check]]\nname = "owner"\nkind = "reference"\nsays = "so"\ntable = "invoices_mirror"\n'
        'columns = ["account_id"]\nother = "accounts"\nother_columns = ["account_id"]\n',
    )
    outcome = judged(lake, check)
    assert (outcome.rows, outcome.failures) == (3, 1)
    assert "invoice_id 2" in outcome.detail


@pytest.mark.parametrize(("through", "failures"), [("2024-05-31T23:00", 0), ("2024-05-31T22:59:59", 1), (None, 0)])
def test_fresh_fails_when_the_newest_row_is_too_old(
    lake: SmallLake, tmp_path: Path, through: str | None, failures: int
) -> None:
    if through is not None:
        lake.epoch("skus", 0, 1, through)
    (check,) = declared(
        tmp_path,
        '[[check]]\nname = "young"\nkind = "fresh"\nsays = "so"\ntable = "freshness"\n'
        'column = "complete_through"\nmax_age_s = 3600\n',
    )
    assert judged(lake, check).failures == failures


def test_fold_is_held_only_above_the_share_of_failing_rows(lake: SmallLake, tmp_path: Path) -> None:
    skus(lake)
    text = (
        '[[check]]\nname = "p"\nkind = "range"\nsays = "so"\ntable = "skus"\ncolumn = "item_retail_price"\nleast = 0\n'
    )
    held = {}
    for limit in ("", "hold_above_percent = 25", "hold_above_percent = 24.9"):
        (check,) = declared(tmp_path, text + limit)
        held[limit] = judged(lake, check).holds_fold
    assert list(held.values()) == [False, False, True]


def test_query_that_cannot_run_is_told_as_failed_and_holds_nothing(lake: SmallLake, tmp_path: Path) -> None:
    (check,) = declared(
        tmp_path,
        '[[check]]\nname = "typo"\nkind = "sql"\nsays = "so"\ntable = "skus"\nsql = "SELECT nothing FROM skus"\n'
        "hold_above_percent = 0\n",
    )
    outcome = judged(lake, check)
    assert not outcome.passed
    assert not outcome.holds_fold
    assert "nothing" in outcome.detail
    run = QualityRun("demand", outcomes=[outcome])
    assert run.results().to_pylist()[0]["failures"] is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[check]\n", "checks.toml: "),
        ('[[check]]\nname = "x"\n', "check.0"),
        ('[[check]]\nname = "x"\nkind = "guess"\nsays = "s"\ntable = "skus"\n', "guess"),
        (
            '[[check]]\nname = "x"\nkind = "unique"\nsays = "s"\ntable = "sku"\ncolumns = ["a"]\n',
            "no table or view sku",
        ),
        (
            '[[check]]\nname = "x"\nkind = "unique"\nsays = "s"\ntable = "skus"\ncolumns = ["a; DROP"]\n',
            "skus has no column a; DROP",
        ),
        ('[[check]]\nname = "x"\nkind = "range"\nsays = "s"\ntable = "skus"\ncolumn = "item_id"\n', "`least`, `most`"),
        (
            '[[check]]\nname = "x"\nkind = "not_null"\nsays = "s"\ntable = "dead_letters"\ncolumns = ["reason"]\n',
            "personal data",
        ),
        (
            '[[check]]\nname = "x"\nkind = "fresh"\nsays = "s"\ntable = "skus"\ncolumn = "item_id"\nmax_age_s = 1\n',
            "not a time",
        ),
        ('replace = ["nobody"]\n', "no shipped check is called nobody"),
        (
            '[[check]]\nname = "skus.key"\nkind = "unique"\nsays = "s"\ntable = "skus"\ncolumns = ["item_id"]\n',
            "two checks are called skus.key",
        ),
    ],
)
def test_declaration_that_cannot_be_meant_is_refused_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "checks.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        load_checks(path)
    assert told in str(error.value)


def test_shipped_check_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "checks.toml"
    path.write_text(
        'replace = ["skus.key"]\n[[check]]\nname = "skus.key"\nkind = "unique"\nsays = "mine"\ntable = "skus"\n'
        'columns = ["item_id"]\n'
    )
    checks = load_checks(path)
    assert [c.says for c in checks if c.name == "skus.key"] == ["mine"]
    assert len(checks) == len(shipped_checks())


def test_checks_of_a_fold_are_those_whose_table_shows_it() -> None:
    checks = shipped_checks()
    assert {c.table for c in about(checks, SKUS_KEYED)} == {"skus"}
    assert {c.table for c in about(checks, ACCOUNTS_KEYED)} == {"invoices", "invoice_lines", "accounts"}
    every = {c.name for keyed in KEYED_TABLES for c in about(checks, keyed)}
    assert {c.name for c in checks} - every == {"lake.fresh"}


def test_shipped_checks_find_what_they_say(lake: SmallLake) -> None:
    line = {"item_id": "a", "quantity": 3, "price": Decimal("0.5")}
    good = {
        "kind": "document",
        "account_id": 1,
        "document_version": 1,
        "document_state": "live",
        "date_issued": date(2024, 1, 5),
        "inv_total": Decimal("1.5"),
        "inv_items": 3,
        "unpriced_lines": 0,
        "lines": [line],
    }
    prices = [{"row_order": 1, "item_retail_price": Decimal("0.5"), "source_ts": at("2024-01-01")}]
    lake.append("sku_log", {"item_id": "a", "item_retail_price": Decimal("0.5"), "prices": prices})
    lake.append("account_log", {"kind": "account", "account_id": 1, "invoice_id": -1}, good | {"invoice_id": 1})
    found = {c.name: judged(lake, c) for c in shipped_checks()}
    assert [name for name, outcome in found.items() if not outcome.passed] == []
    lake.append(
        "account_log",
        good | {"invoice_id": 2, "inv_total": Decimal("1.4")},
        good | {"invoice_id": 3, "inv_items": 4},
        good | {"invoice_id": 4, "account_id": 9},
        good | {"invoice_id": 5, "payment_dates": date(2024, 1, 4)},
        good | {"invoice_id": 6, "lines": [line | {"item_id": "b", "price": None}], "inv_total": Decimal(0)},
        good | {"invoice_id": 7, "date_issued": date(1900, 1, 1)},
    )
    found = {c.name: judged(lake, c) for c in shipped_checks()}
    assert {name: outcome.failures for name, outcome in found.items() if not outcome.passed} == {
        "invoices.sum_of_lines": 2,
        "invoices.account": 1,
        "invoices.paid_after_issue": 1,
        "invoice_lines.priced": 1,
        "invoice_lines.article": 1,
        "invoices.dates": 1,
    }
