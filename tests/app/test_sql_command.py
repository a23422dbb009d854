"""`trs sql`: every table and view, and nothing else."""

import csv
import json
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from processors.lake_tables import LAKE_TABLES
from tests.app.commands import Answer, trs, trs_process
from tests.small_lake import SmallLake


@pytest.fixture
def lake(tmp_path: Path) -> SmallLake:
    lake = SmallLake(tmp_path / "lake")
    price = {"item_description": "d", "epoch": 1}
    lake.append(
        "sku_log",
        {"item_id": "a", "item_name": 'Say "hi", all', "item_retail_price": Decimal("1234567890.1234567890"), **price},
        {"item_id": "b", "item_name": "B", "item_retail_price": Decimal("0.5"), **price},
    )
    lake.epoch("skus", 0, 1, "2024-05-20")
    return lake


def sql(lake: SmallLake, *arguments: str) -> Answer:
    return trs("sql", *arguments, TRS_LAKE=lake.uri)


QUERY = "SELECT item_id, item_name, item_retail_price, DATE '2024-05-01' AS day, NULL AS nothing FROM skus ORDER BY 1"


def test_csv_is_exact_quoted_where_needed_and_empty_for_null(lake: SmallLake) -> None:
    assert sql(lake, QUERY, "--format", "csv").out == (
        "item_id,item_name,item_retail_price,day,nothing\n"
        'a,"Say ""hi"", all",1234567890.123456789,2024-05-01,\n'
        "b,B,0.50,2024-05-01,\n"
    )


def test_json_keeps_decimals_as_text(lake: SmallLake) -> None:
    rows = json.loads(sql(lake, QUERY, "--format", "json").out)
    assert rows[0]["item_retail_price"] == "1234567890.123456789"
    assert rows[1] == {
        "item_id": "b",
        "item_name": "B",
        "item_retail_price": "0.50",
        "day": "2024-05-01",
        "nothing": None,
    }


def test_json_of_no_rows_is_an_empty_list(lake: SmallLake) -> None:
    assert json.loads(sql(lake, "FROM skus WHERE false", "--format", "json").out) == []


def test_table_says_as_of_when_and_cuts_with_a_notice(lake: SmallLake) -> None:
    answer = sql(lake, "FROM range(300)", "--limit", "20")
    assert len(answer.out.splitlines()) == 21
    assert "the first 20 of 300 rows" in answer.err
    assert "complete through 2024-05-20T00:00:00Z" in answer.err


def test_text_that_looks_like_markup_is_shown_as_it_is(lake: SmallLake) -> None:
    assert "[red]x[/red]" in sql(lake, "SELECT '[red]x[/red]' AS t").out


@pytest.mark.parametrize("name", sorted(LAKE_TABLES))
def test_every_table_that_holds_rows_can_be_asked(lake: SmallLake, name: str) -> None:
    lake.append(name, {})
    answer = sql(lake, f"SELECT count(*) AS n FROM {name}", "--format", "csv")
    assert answer.code == 0, answer.err
    assert int(answer.out.split()[1]) >= 1


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_out_writes_the_rows(lake: SmallLake, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"skus.{suffix}"
    assert sql(lake, QUERY + ";", "--out", str(out)).code == 0
    if suffix == "csv":
        with out.open(newline="") as file:
            assert [r["item_retail_price"] for r in csv.DictReader(file)] == ["1234567890.123456789", "0.50"]
    else:
        assert pq.read_table(out)["item_retail_price"].to_pylist()[1] == Decimal("0.5")


@pytest.mark.parametrize(
    "query",
    [
        "DESCRIBE invoice_lines",
        "SHOW TABLES",
        "SUMMARIZE skus",
        "WITH skus AS (SELECT 1 AS x) SELECT x FROM skus",
        "SELECT (SELECT count(*) FROM accounts) AS n",
        "FROM invoices ASOF JOIN invoices AS b USING (account_id, date_issued)",
        "FROM Invoices",
        "SELECT 1 /* a comment */ -- another",
    ],
)
def test_queries_of_many_kinds_are_answered(lake: SmallLake, query: str) -> None:
    answer = sql(lake, query, "--format", "csv")
    assert answer.code == 0, answer.err


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO 'x.csv'",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW skus",
        "SET threads = 1",
        "ATTACH 'x.db'",
        "SELECT 1; SELECT 2",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'x.csv'",
        "PRAGMA version",
        "",
        "SELEC 1",
        "SELECT * FROM read_text('/etc/hostname')",
        "FROM '/etc/passwd'",
        "FROM glob('/etc/*')",
        "FROM read_csv('http://localhost:1/x.csv')",
        "FROM no_such_table",
        "SELECT no_such_column FROM skus",
        "FROM sys",
    ],
)
def test_anything_but_one_select_over_the_lake_is_refused(
    lake: SmallLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = sql(lake, query)
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir() if p.name not in ("lake", "home")] == []


@pytest.mark.parametrize(("query", "code"), [("FROM skus", 0), ("SELECT no_such_column FROM skus", 2)])
def test_process_prints_nothing_else_at_its_exit(lake: SmallLake, query: str, code: int) -> None:
    answer = trs_process("sql", query, TRS_LAKE=lake.uri)
    assert (answer.code, len(answer.err.splitlines())) == (code, 1)


def test_without_a_query_it_lists_what_there_is() -> None:
    listed = trs("sql").out
    assert "invoice_features_history" in listed
    assert "dead_letters" in listed
