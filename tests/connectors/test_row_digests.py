"""Digests of rows by a database and by DuckDB: the same for the same rows, another one for any other value."""

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.mysql import Connection, DatabaseUrl, connect, ddl, execute, load_rows, query
from connectors.row_digests import Digests, Parts, duckdb_digests, duckdb_text, mysql_digests
from connectors.source_rows import declared_schema, new_connection
from processors.tables import ACCOUNTS, INVOICE_LINE_ITEMS, INVOICES, SKUS, TABLES, Column, Kind, Table

ODD_TEXTS = [
    "",
    " ",
    "a ",
    " a",
    "~",
    ",",
    "1:a,~",
    "é",
    "e\u0301",
    "ß",
    "A",
    "a",
    "漢",
    "\U0001f600",
    "\\",
    "'",
    "\x01",
]
# A letter of which nobody is told apart: MySQL cannot store a lone surrogate, and a zero byte ends C's texts.
texts = st.one_of(
    st.sampled_from(ODD_TEXTS), st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
)
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.BIGINT: st.integers(-(2**63), 2**63 - 1),
    Kind.INT: st.integers(-(2**31), 2**31 - 1),
    Kind.TEXT: texts,
    Kind.DECIMAL: st.decimals(-(10**10) + 1, 10**10 - 1, places=10),
    Kind.DATE: st.dates(date(1, 1, 1), date(9999, 12, 31)),
}


def value(column: Column) -> st.SearchStrategy[Any]:
    values = VALUES[column.kind]
    return st.one_of(st.none(), values) if column.nullable else values


def rows_of(table: Table) -> st.SearchStrategy[pa.Table]:
    row = st.fixed_dictionaries({c.name: value(c) for c in table.columns})
    # The database takes two keys that differ in spaces at their ends for one.
    rows = st.lists(row, max_size=25, unique_by=lambda r: tuple(str(r[k]).rstrip(" ") for k in table.key))
    return rows.map(lambda r: pa.Table.from_pylist(r, schema=declared_schema(table)))


@pytest.fixture
def connection(fresh_database: str) -> Iterator[Connection]:
    """A connection to a database with the declared tables, empty."""
    with connect(DatabaseUrl.parse(fresh_database), autocommit=False) as opened:
        for table in TABLES:
            execute(opened, ddl(table))
        yield opened


def by_database(connection: Connection, table: Table, parts: Parts, where: str = "TRUE") -> dict[int, tuple[int, int]]:
    names = {c.name: c.name for c in table.columns}
    rows = query(connection, mysql_digests(table, parts, names, where))
    return {int(part): (int(count), int(digest)) for part, count, digest in rows}


def by_duckdb(table: Table, parts: Parts, rows: pa.Table) -> dict[int, tuple[int, int]]:
    with new_connection() as con:
        con.register("typed", rows)
        found = con.execute(duckdb_digests(table, parts, "typed")).fetchall()
    return {int(part): (int(count), int(digest)) for part, count, digest in found}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_digests_of_any_rows_are_the_same_in_both_dialects(
    connection: Connection, table: Table, data: st.DataObject
) -> None:
    rows = data.draw(rows_of(table))
    width = data.draw(st.sampled_from([1, 7, 1000, 2**40]))
    parts = Parts.of(table, width=width, count=5)
    execute(connection, f"DELETE FROM {table.name}")
    load_rows(connection, table, rows)
    assert by_database(connection, table, parts) == by_duckdb(table, parts, rows)


@settings(max_examples=60)
@given(data=st.data())
def test_texts_of_rows_that_differ_differ(data: st.DataObject) -> None:
    table = data.draw(st.sampled_from([ACCOUNTS, SKUS, INVOICES]))
    row = {c.name: data.draw(value(c)) for c in table.columns}
    changed = data.draw(st.sampled_from(table.columns))
    other = row | {changed.name: data.draw(value(changed))}
    with new_connection() as con:
        con.register("typed", pa.Table.from_pylist([row, other], schema=declared_schema(table)))
        texts = [text for (text,) in con.execute(f"SELECT {duckdb_text(table)} FROM typed").fetchall()]
    assert (texts[0] == texts[1]) == (row == other)


def test_text_moved_over_a_border_of_columns_changes_the_digest(connection: Connection) -> None:
    def sku(name: str, description: str) -> dict[str, Any]:
        price = Decimal(1)
        return {
            "item_id": "x",
            "item_name": name,
            "item_description": description,
            "item_cost_price": price,
            "item_retail_price": price,
        }

    parts, told = Parts.of(SKUS, width=1, count=1), set()
    for name, description in (("a", ",1:b"), ("a,1:", "b"), ("a,1:b", ""), ("a", "b"), ("a", "b ")):
        rows = pa.Table.from_pylist([sku(name, description)], schema=declared_schema(SKUS))
        execute(connection, "DELETE FROM skus")
        load_rows(connection, SKUS, rows)
        assert by_database(connection, SKUS, parts) == by_duckdb(SKUS, parts, rows)
        told.add(by_database(connection, SKUS, parts)[0])
    assert len(told) == 5


def test_digests_of_columns_of_other_types_are_those_of_the_declared_ones(connection: Connection) -> None:
    """An article numbered in digits, texts of another character set and collation, prices with two places, padding."""
    execute(connection, "DROP TABLE skus")
    execute(
        connection,
        "CREATE TABLE skus (item_id INT PRIMARY KEY, item_name VARCHAR(255) CHARACTER SET latin1 COLLATE"
        " latin1_swedish_ci NOT NULL, item_description CHAR(30) NOT NULL, item_cost_price DECIMAL(12,2) NOT NULL,"
        " item_retail_price INT NOT NULL)",
    )
    execute(connection, "INSERT INTO skus VALUES (-7, 'Müller ', 'padded  ', 1.50, 3), (1042, 'MÜLLER', '', -0.05, 0)")
    execute(connection, "ALTER TABLE invoice_line_items MODIFY quantity INT(8) ZEROFILL NOT NULL")
    execute(connection, "INSERT INTO invoice_line_items VALUES (5, 'x', 42)")
    skus = pa.Table.from_pylist(
        [
            {
                "item_id": item,
                "item_name": name,
                "item_description": text,
                "item_cost_price": Decimal(cost),
                "item_retail_price": Decimal(price),
            }
            for item, name, text, cost, price in (
                ("-7", "Müller ", "padded", "1.5", 3),
                ("1042", "MÜLLER", "", "-0.05", 0),
            )
        ],
        schema=declared_schema(SKUS),
    )
    lines = pa.Table.from_pylist(
        [{"invoice_id": 5, "item_id": "x", "quantity": 42}], schema=declared_schema(INVOICE_LINE_ITEMS)
    )
    for table, rows in ((SKUS, skus), (INVOICE_LINE_ITEMS, lines)):
        parts = Parts.of(table, width=10, count=3)
        assert by_database(connection, table, parts) == by_duckdb(table, parts, rows)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.sets(st.integers(-60, 60), max_size=40), bounds=st.tuples(st.integers(-9, 9), st.integers(-9, 9)))
def test_ranges_of_parts_hold_exactly_the_rows_of_these_parts(
    connection: Connection, keys: set[int], bounds: tuple[int, int]
) -> None:
    parts, (first, end) = Parts.of(INVOICE_LINE_ITEMS, width=7, count=1), bounds
    rows = [{"invoice_id": k, "item_id": "x", "quantity": 1} for k in keys]
    execute(connection, "DELETE FROM invoice_line_items")
    load_rows(connection, INVOICE_LINE_ITEMS, pa.Table.from_pylist(rows, schema=declared_schema(INVOICE_LINE_ITEMS)))
    wanted = sorted({parts.part_of(k) for k in keys if first <= parts.part_of(k) < end})
    within = parts.within("invoice_id", parts.mysql("invoice_id"), first, end)
    assert sorted(by_database(connection, INVOICE_LINE_ITEMS, parts, within)) == wanted
    if wanted:
        among = parts.among("invoice_id", parts.mysql("invoice_id"), wanted)
        assert sorted(by_database(connection, INVOICE_LINE_ITEMS, parts, among)) == wanted


def test_digests_differ_where_a_part_is_missing_or_told_otherwise() -> None:
    def digests(*told: tuple[int, int, int]) -> Digests:
        parts, rows, hashes = zip(*told, strict=True) if told else ((), (), ())
        return Digests.sorted(np.array(parts, np.int64), np.array(rows, np.int64), np.array(hashes, np.uint64))

    left = digests((5, 1, 10), (-3, 2, 2**64 - 1), (7, 1, 1), (9, 4, 4))
    right = digests((-3, 2, 2**64 - 1), (5, 1, 11), (8, 1, 1), (9, 5, 4))
    assert left.differing(right).tolist() == [5, 7, 8, 9]
    assert left.differing(left).tolist() == []
    assert digests().differing(right).tolist() == [-3, 5, 8, 9]
    assert left.between(5, 9).parts.tolist() == [5, 7]
    assert left.between(None, 5).parts.tolist() == [-3]
