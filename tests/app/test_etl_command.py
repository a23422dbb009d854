"""`trs etl`: whole files against an oracle of plain Python, rejects, and clear ends."""

import csv
import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from processors.features.declarations import ACCOUNT_FEATURES, INVOICE_FEATURES
from tests import oracle
from tests.app.commands import Answer, trs
from tests.small_lake import SmallLake

SKUS = "item_id,item_name,item_description,item_cost_price,item_retail_price\n"
ACCOUNTS = "account_id,company_name,company_address,contact_person,contact_phone,gender,joining_date\n"
INVOICES = "invoice_id,account_id,date_issued,payment_dates\n"
LINES = "invoice_id,item_id,quantity\n"


@pytest.fixture
def extract(tmp_path: Path) -> Path:
    """Six invoices: late, unpaid, without lines, of an unknown account, unpriced, a return; an orphan line besides."""
    folder = tmp_path / "extract"
    folder.mkdir()
    files = {
        "skus": SKUS + "a,A,x,1,0.1250000000\nb,B,x,1,9999999999.9999999999\n",
        "accounts": ACCOUNTS + '1,One,"Street 1\nTown",Jo,1,F,2024-03-01\n',
        "invoices": INVOICES
        + "5,1,2024-01-01,2024-02-01\n1,1,2024-04-30,2024-05-30\n2,1,2024-04-30,\n3,9,2024-01-01,\n"
        + "4,1,2024-05-01,\n6,1,2024-09-01,\n",
        "invoice_line_items": LINES + "5,a,1\n5,b,2147483647\n1,a,4\n3,a,8\n4,new,7\n4,a,1\n6,a,-3\n77,a,1\n",
    }
    for table, text in files.items():
        (folder / f"{table}.csv").write_text(text, encoding="utf-8")
    return folder


def etl(source: Path | str, out: Path, *more: str, **environment: str) -> Answer:
    spec = source if isinstance(source, str) else f"csv:{source}"
    return trs("etl", "--source", spec, "--out", str(out), *more, **environment)


def cells(out: Path) -> list[list[str]]:
    with out.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_real_extracts_equal_the_oracle(extracts: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.csv"
    answer = etl(extracts, out)
    assert answer.code == 0, answer.err
    assert cells(out) == oracle.invoice_features(extracts)
    assert len(cells(out)) == 9_685 + 1


def test_small_extract_equals_the_oracle(extract: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.csv"
    answer = etl(extract, out)
    assert answer.code == 0, answer.err
    assert cells(out) == oracle.invoice_features(extract)
    assert "today's" in answer.err
    assert not out.with_name("features.csv.rejects.csv").exists()


def test_csv_has_plain_numbers_empty_nulls_and_bare_newlines(extract: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.csv"
    etl(extract, out)
    assert out.read_bytes().decode() == (
        ",".join(oracle.HEADER) + "\n"
        "1,1,0.50,4,60,1,21474836470000000000.4102516353,0\n"
        "2,1,0.00,0,60,1,21474836470000000000.4102516353,0\n"
        "3,9,1.00,8,,0,1.00,0\n"
        "4,1,0.125,8,61,2,21474836470000000000.5352516353,0\n"
        "5,1,21474836469999999999.9102516353,2147483648,-60,0,21474836469999999999.9102516353,1\n"
        "6,1,-0.375,-3,184,0,21474836470000000000.1602516353,0\n"
    )


def test_parquet_has_the_declared_columns_and_types(extract: Path, tmp_path: Path) -> None:
    for features in (INVOICE_FEATURES, ACCOUNT_FEATURES):
        out = tmp_path / f"{features.name}.parquet"
        assert etl(extract, out, "--feature-set", features.name).code == 0
        schema = pq.read_schema(out)
        assert schema.names == list(features.column_names)
        assert schema.types == [c.arrow_type for c in features.columns]


def test_bad_row_goes_to_the_rejects_and_the_rest_goes_on(extract: Path, tmp_path: Path) -> None:
    with (extract / "invoices.csv").open("a", encoding="utf-8") as file:
        file.write("7,1,2024-13-45,\n1,1,2020-01-01,\n")
    out = tmp_path / "features.csv"
    answer = etl(extract, out, "--json")
    assert answer.code == 0, answer.err
    summary = json.loads(answer.out)
    assert (summary["rows"], summary["rejected"], summary["read"]["invoices"]) == (6, 2, 8)
    assert [row[:1] for row in cells(out)[1:]] == [["1"], ["2"], ["3"], ["4"], ["5"], ["6"]]
    header, *rejects = cells(tmp_path / "features.csv.rejects.csv")
    assert header == ["file", "line", "reason", "detail", "raw"]
    found = sorted((Path(r[0]).name, int(r[1]), r[2]) for r in rejects)
    assert found == [("invoices.csv", 8, "bad_value"), ("invoices.csv", 9, "duplicate_key")]
    assert "2 rows rejected" in answer.err


def test_rejects_of_an_earlier_run_are_removed(extract: Path, tmp_path: Path) -> None:
    old = tmp_path / "features.csv.rejects.csv"
    old.write_text("old")
    assert etl(extract, tmp_path / "features.csv").code == 0
    assert not old.exists()


def test_failed_run_leaves_the_earlier_file_as_it_was(extract: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.csv"
    out.write_text("earlier")
    (extract / "skus.csv").unlink()
    answer = etl(extract, out)
    assert answer.code != 0
    assert "skus" in answer.err
    assert out.read_text() == "earlier"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "home") == ["extract", "features.csv"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--source", "csv:x", "--out", "f.txt"), "neither .csv nor .parquet"),
        (("--source", "csv:x", "--out", "/no/such/folder/f.csv"), "does not exist"),
        (("--source", "csv:x", "--out", "f.csv", "--feature-set", "invoice_featurs"), "did you mean invoice_features?"),
        (("--source", "xlsx:x", "--out", "f.csv"), "csv:FOLDER"),
        (("--source", "csv:x", "--out", "f.csv", "--price-at", "creation"), "today's prices"),
        (("--source", "csv:x", "--out", "f.csv", "--date-format", "invoices.day=%d"), "invoices.date_issued"),
    ],
)
def test_wrong_argument_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    answer = trs("etl", *arguments)
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(("price_at", "total"), [("creation", "3.00"), ("current", "10.00")])
def test_lake_as_a_source_charges_by_the_logged_history_of_prices(tmp_path: Path, price_at: str, total: str) -> None:
    lake = SmallLake(tmp_path / "lake")
    versions = [
        {"row_order": 5, "item_retail_price": Decimal("1.5"), "source_ts": None},
        {"row_order": 9, "item_retail_price": Decimal(5), "source_ts": None},
    ]
    line = {"kind": "line", "invoice_id": 1, "quantity": 2, "created_order": 7}
    lake.append("sku_log", {"item_id": "a", "prices": versions, "deleted": True})
    lake.append(
        "invoice_log",
        {"kind": "invoice", "invoice_id": 1, "item_id": "", "account_id": 3, "date_issued": date(2024, 1, 31)},
        {"kind": "invoice", "invoice_id": 2, "item_id": "", "account_id": 3, "deleted": True},
        {**line, "item_id": "a"},
        {**line, "item_id": "gone", "deleted": True},
    )
    lake.append("account_log", {"kind": "account", "account_id": 3, "invoice_id": -1, "joining_date": date(2024, 1, 1)})
    out = tmp_path / "features.csv"
    answer = etl("lake", out, "--price-at", price_at, TRS_LAKE=lake.uri)
    assert answer.code == 0, answer.err
    assert cells(out)[1:] == [["1", "3", total, "2", "30", "0", total, "0"]]
