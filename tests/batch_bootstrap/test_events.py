"""Our row events against records that Debezium wrote: equal keys, equal images, equal partitions."""

import json
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_bootstrap.events import Stamp, connect, row_events
from connectors.source_rows import declared_schema
from processors.tables import ACCOUNTS, INVOICE_LINE_ITEMS, INVOICES, SKUS, TABLES_BY_NAME, Kind, Table
from tests.murmur2 import murmur2

RECORDS = Path(__file__).parent / "debezium-records.jsonl"
PARTITIONS_THERE = 6
STAMP = Stamp("aurora", "trs", "mysql-bin.000002", 143900, 1_795_439_760_938)


@pytest.fixture
def con() -> duckdb.DuckDBPyConnection:
    return connect()


def typed(table: Table, image: dict[str, Any]) -> pa.Table:
    """A Debezium image as a row of the declared table."""
    row = {}
    for name, value in image.items():
        column = table.column(name)
        if column is None:
            continue
        if value is not None and column.kind is Kind.DATE:
            value = date(1970, 1, 1) + timedelta(days=value)
        elif value is not None and column.kind is Kind.DECIMAL:
            value = Decimal(value)
        elif value is not None and column.kind is Kind.TEXT:
            value = str(value)
        row[column.name] = value
    return pa.Table.from_pylist([row], schema=declared_schema(table))


def debezium_records() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORDS.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("record", debezium_records(), ids=lambda r: f"{r['topic']}-{r['label']}-{r['key']}")
def test_row_events_of_captured_rows_equal_debeziums(con: duckdb.DuckDBPyConnection, record: dict[str, Any]) -> None:
    theirs = json.loads(record["value"])
    table = TABLES_BY_NAME[theirs["source"]["table"]]
    image = theirs["after"] or theirs["before"]
    ((key,), (value,)) = row_events(
        con, table, typed(table, image), STAMP, op=theirs["op"], numeric_keys=frozenset({"item_id"})
    )
    assert key == record["key"].encode()
    assert murmur2(key) % PARTITIONS_THERE == record["partition"]
    ours = json.loads(value)
    assert ours["op"] == theirs["op"]
    assert ours["source"]["row"] == 0
    side = "before" if theirs["op"] == "d" else "after"
    assert typed(table, ours[side]) == typed(table, theirs[side])
    assert {type(ours[side][n]) for n in table.key if n != "item_id"} <= {int}


def test_row_events_of_text_keys_escape_as_kafka_connect_does(con: duckdb.DuckDBPyConnection) -> None:
    names = ["plain", 'a"b\\c', "tab\tline\nnul\x01", "é漢", "\U0001f600x", "a/b", "\x7f\u2028"]
    rows = pa.Table.from_pylist(
        [{"item_id": n, "item_name": "n", "item_description": "d"} for n in names],
        pa.schema([f for f in declared_schema(SKUS) if f.name.startswith("item_") and "price" not in f.name]),
    )
    keys, values = row_events(con, SKUS, rows, STAMP)
    assert keys == [
        b'{"item_id":"plain"}',
        b'{"item_id":"a\\"b\\\\c"}',
        b'{"item_id":"tab\\tline\\nnul\\u0001"}',
        '{"item_id":"é漢"}'.encode(),
        b'{"item_id":"\\uD83D\\uDE00x"}',
        b'{"item_id":"a/b"}',
        '{"item_id":"\x7f\u2028"}'.encode(),
    ]
    assert [json.loads(v)["after"]["item_id"] for v in values] == names


@settings(max_examples=60)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=20))
def test_row_events_of_any_text_read_back_as_written(texts: list[str]) -> None:
    rows = pa.table(
        {"account_id": pa.array(range(len(texts)), pa.int64()), "company_name": pa.array(texts, pa.string())}
    )
    with connect() as con:
        _, values = row_events(con, ACCOUNTS, rows, STAMP)
    assert [json.loads(v)["after"]["company_name"] for v in values] == texts


def test_row_events_without_binlog_number_their_rows(con: duckdb.DuckDBPyConnection) -> None:
    rows = pa.table({"invoice_id": [5, 5, 7], "item_id": ["a", "b", "a"], "quantity": [1, 2, 3]})
    stamp = Stamp("trs-batch", "trs", "run.0000000004", 9, 1, numbered=True)
    keys, values = row_events(con, INVOICE_LINE_ITEMS, rows, stamp)
    assert keys == [b'{"invoice_id":5}', b'{"invoice_id":5}', b'{"invoice_id":7}']
    assert [json.loads(v)["source"]["row"] for v in values] == [0, 1, 2]
    assert {(json.loads(v)["source"]["file"], json.loads(v)["source"]["pos"]) for v in values} == {
        ("run.0000000004", 9)
    }


def test_row_events_of_decimals_keep_every_digit(con: duckdb.DuckDBPyConnection) -> None:
    prices = ["-1.50", "0.0000000001", "1234567890.1", "7", "100.1234567890"]
    rows = pa.table({"item_id": prices, "item_retail_price": pa.array(map(Decimal, prices), pa.decimal128(20, 10))})
    _, values = row_events(con, SKUS, rows, STAMP)
    written = [json.loads(v)["after"]["item_retail_price"] for v in values]
    assert written == ["-1.50", "0.0000000001", "1234567890.10", "7.00", "100.123456789"]


def test_row_events_of_nulls_and_deletes_follow_the_envelope(con: duckdb.DuckDBPyConnection) -> None:
    rows = pa.Table.from_pylist([{"invoice_id": 3}], schema=declared_schema(INVOICES))
    _, (value,) = row_events(con, INVOICES, rows, STAMP)
    assert json.loads(value)["after"] == {
        "invoice_id": 3,
        "account_id": None,
        "date_issued": None,
        "payment_dates": None,
    }
    keys, (deleted,) = row_events(con, INVOICES, rows.select(["invoice_id"]), STAMP, op="d")
    assert keys == [b'{"invoice_id":3}']
    assert (json.loads(deleted)["before"], json.loads(deleted)["after"]) == ({"invoice_id": 3}, None)
