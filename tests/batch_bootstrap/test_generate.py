"""The synthetic TRS: the same for a seed, and as odd as the real one."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from app.generate import write_extracts
from batch_bootstrap.generate import Generated
from batch_bootstrap.source import open_source
from processors.errors import UsageError
from processors.tables import ACCOUNTS, INVOICE_LINE_ITEMS, INVOICES, SKUS, TABLES

SIZE = 20_000


@pytest.fixture(scope="module")
def data() -> Iterator[Generated]:
    with Generated(SIZE, seed=7) as generated:
        yield generated


def whole(data: Generated, name: str) -> pa.Table:
    return pa.concat_tables(data.rows(next(t for t in TABLES if t.name == name)))


def test_generated_data_depends_on_the_seed_alone(data: Generated) -> None:
    with Generated(SIZE, seed=7) as again, Generated(SIZE, seed=8) as other:
        for table in TABLES:
            assert whole(again, table.name) == whole(data, table.name)
            assert whole(other, table.name) != whole(data, table.name)


def test_generated_keys_are_unique_and_references_hold(data: Generated) -> None:
    keys = {t: list(zip(*(whole(data, t.name)[k].to_pylist() for k in t.key), strict=True)) for t in TABLES}
    assert all(len(found) == len(set(found)) for found in keys.values())
    assert len(keys[INVOICES]) == SIZE
    assert {(a,) for a in whole(data, "invoices")["account_id"].to_pylist()} <= set(keys[ACCOUNTS])
    assert {(number,) for number, _ in keys[INVOICE_LINE_ITEMS]} <= set(keys[INVOICES])


def test_generated_data_is_skewed_and_odd_as_the_real_one(data: Generated) -> None:
    invoices, lines = whole(data, "invoices").to_pylist(), whole(data, "invoice_line_items").to_pylist()
    assert 5.2 < len(lines) / SIZE < 5.8
    per_account = sorted((sum(1 for i in invoices if i["account_id"] == a) for a in range(1, 21)), reverse=True)
    assert per_account[0] > 20 * SIZE / data.count(ACCOUNTS) / 2
    at_month_end = sum((i["date_issued"] + timedelta(days=3)).month != i["date_issued"].month for i in invoices)
    assert at_month_end > SIZE / 4
    assert any(i["payment_dates"] is None for i in invoices)
    assert any(i["payment_dates"] and (i["payment_dates"] - i["date_issued"]).days > 30 for i in invoices)
    assert len({row["invoice_id"] for row in lines}) < SIZE
    known = {row["item_id"] for row in whole(data, "skus").to_pylist()}
    assert 0 < sum(row["item_id"] not in known for row in lines) < len(lines) / 100
    assert 0 < sum(row["quantity"] < 1 for row in lines) < len(lines) / 100
    assert all("\n" in row["company_address"] for row in whole(data, "accounts").to_pylist())


def test_generated_extracts_read_back_as_generated(data: Generated, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "csv"
    written = write_extracts(data, folder, replace=False, report=lambda table, done, total: None)
    source = open_source(f"csv:{folder}")
    source.preflight()
    for table in TABLES:
        chunks = list(source.chunks(table))
        assert sum(len(c.rejects) + c.orphans for c in chunks) == 0
        assert pa.concat_tables(c.rows for c in chunks) == whole(data, table.name)
        assert written[table.name] == data.count(table)
    with pytest.raises(UsageError, match="already has"):
        write_extracts(data, folder, replace=False, report=lambda table, done, total: None)


@pytest.mark.parametrize("invoices", [0, 1])
def test_generated_data_of_any_size_has_all_tables(invoices: int) -> None:
    with Generated(invoices, seed=1) as data:
        assert data.count(INVOICES) == invoices
        assert data.count(SKUS) == data.count(ACCOUNTS) == 20
