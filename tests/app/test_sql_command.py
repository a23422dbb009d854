"""`trs sql`: every table and view, and nothing else."""

import csv
import json
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from processors.lake_tables import LAKE_TABLES, PERSONAL_TABLES
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
    answer = sql(lake, f"SELECT count(*) AS n FROM {name}", "--format", "csv", "--with-personal-data")
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


PERSONAL = {
    "dead_letters": {"topic": "t", "partition": 0, "record_value": b"Ann Other"},
    "accounts_private_changes": {"account_id": 1, "contact_person": "Ann Other"},
}


@pytest.fixture
def personal(lake: SmallLake) -> SmallLake:
    """The lake with a row in each table that holds personal data."""
    for name, row in PERSONAL.items():
        lake.append(name, row)
    return lake


def test_help_and_list_name_the_tables_with_personal_data() -> None:
    assert sorted(PERSONAL) == sorted(PERSONAL_TABLES)
    assert all(name in trs("sql", "--help", COLUMNS="200").out for name in PERSONAL)
    assert trs("sql").out.replace("\n", " ").count("--with-personal-data") == len(PERSONAL)


@pytest.mark.parametrize("name", PERSONAL)
def test_personal_data_is_left_out_unless_asked_for(personal: SmallLake, name: str) -> None:
    for query in (f"FROM {name}", f"DESCRIBE {name}", f"SELECT * FROM skus, main.{name.upper()}"):
        refused = sql(personal, query)
        assert (refused.code, refused.out, len(refused.err.splitlines())) == (2, "", 1)
        assert f"{name} holds personal data and is left out" in refused.err
        assert "--with-personal-data" in refused.err
    assert "Ann Other" in sql(personal, f"FROM {name}", "--with-personal-data", "--format", "csv").out


@pytest.mark.parametrize("name", PERSONAL)
@pytest.mark.parametrize(
    "query",
    [
        "FROM query('FROM {name}')",
        "FROM query_table('{name}')",
        "FROM read_parquet('{uri}/{name}/*/*.parquet')",
        "FROM read_parquet('{uri}/skus/../{name}/*/*.parquet')",
        "FROM '{uri}/{name}/known_date=2024-05-01/*.parquet'",
        "SELECT content FROM read_text('{uri}/{name}/*/*')",
        "FROM glob('{uri}/{name}/**')",
    ],
)
def test_personal_data_is_not_reached_on_byways(personal: SmallLake, query: str, name: str) -> None:
    answer = sql(personal, query.format(name=name, uri=personal.uri), "--format", "csv")
    assert answer.code == 2, answer.out
    assert "Ann" not in answer.out + answer.err


def test_personal_data_is_left_out_of_what_a_query_does_not_name(personal: SmallLake, tmp_path: Path) -> None:
    assert not set(PERSONAL) & set(sql(personal, "SHOW TABLES", "--format", "csv").out.split())
    out = tmp_path / "letters.parquet"
    assert sql(personal, "FROM dead_letters", "--out", str(out)).code == 2
    assert sql(personal, "FROM dead_letters", "--out", str(out), "--with-personal-data").code == 0
    assert pq.read_table(out)["record_value"].to_pylist() == [b"Ann Other"]


def test_file_for_a_spreadsheet_has_no_formula_in_it(lake: SmallLake, tmp_path: Path) -> None:
    query = "SELECT unnest(['=1+1', '-2', '+x', '@y', chr(9) || 'z', 'a=b', NULL]) AS name, -5 AS number"
    out = tmp_path / "names.csv"
    assert trs("sql", query, "--out", str(out), TRS_LAKE=lake.uri).code == 0
    kept = [row["name"] for row in csv.DictReader(out.open(newline=""))]
    assert kept == ["'=1+1", "'-2", "'+x", "'@y", "'\tz", "a=b", ""]
    assert all(row["number"] == "-5" for row in csv.DictReader(out.open(newline="")))
    whole = tmp_path / "names.parquet"
    assert trs("sql", query, "--out", str(whole), TRS_LAKE=lake.uri).code == 0
    assert pq.read_table(whole)["name"].to_pylist()[0] == "=1+1"
