"""A live database as a source: chunks by key with their positions, odd types, what the preflight refuses."""

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from batch_bootstrap.source import open_source
from connectors.mysql import (
    Connection,
    DatabaseUrl,
    connect,
    current_position,
    ddl,
    execute,
    load_rows,
    query,
    server_version,
)
from connectors.mysql_schema import check_capture, check_capture_settings, check_captured_table
from connectors.mysql_source import MySqlSource
from connectors.source_rows import Resume, declared_schema
from processors.errors import AccessDeniedError, SourceError, UnavailableError, UsageError
from processors.tables import ACCOUNTS, INVOICE_LINE_ITEMS, INVOICES, SKUS, TABLES, Table

ODD_TEXT = ['"q"', "back\\slash", "line\nline\r\n\ttab", "Ünï 漢", "\U0001f600", "'", "%s {} \x01\x7f", ""]
HOSTILE = [
    "x'; DROP TABLE skus; -- ",
    "\\'; DROP TABLE skus; -- ",
    "\\",
    "'\\''",
    "`; DROP TABLE skus; #",
    "\x00'\x1a",
    "\u02bc; \u2019\uff07) --",
    "\u202e'\u0000",
    "/*!50000 DROP TABLE skus */",
]


@pytest.fixture
def url(fresh_database: str) -> str:
    """A database with the declared tables, empty."""
    with connect(DatabaseUrl.parse(fresh_database)) as connection:
        for table in TABLES:
            execute(connection, ddl(table))
    return fresh_database


def open_connection(url: str) -> Connection:
    return connect(DatabaseUrl.parse(url), autocommit=False)


def fill(url: str, table: Table, rows: list[dict[str, Any]]) -> pa.Table:
    typed = pa.Table.from_pylist(rows, schema=declared_schema(table))
    with open_connection(url) as connection:
        load_rows(connection, table, typed)
    return typed


def opened(url: str, chunk_rows: int = 1000) -> MySqlSource:
    source = open_source(url, chunk_rows=chunk_rows)
    assert isinstance(source, MySqlSource)
    source.preflight()
    return source


def invoice(number: int, **values: Any) -> dict[str, Any]:
    return {"invoice_id": number, "account_id": 1, "date_issued": date(2021, 1, 1), **values}


def test_mysql_rows_read_back_as_loaded(url: str) -> None:
    accounts = fill(
        url,
        ACCOUNTS,
        [
            {
                "account_id": n,
                "company_name": text,
                "company_address": text * 3,
                "contact_person": text,
                "contact_phone": "+1",
                "gender": None if n % 2 else "F",
                "joining_date": date(1000 + n, 2, 28),
            }
            for n, text in enumerate([*ODD_TEXT, *HOSTILE])
        ],
    )
    prices = ["-1.5", "0.0000000001", "1234567890.1234567890", "0", "9999999999.9999999999"]
    skus = fill(
        url,
        SKUS,
        [
            {
                "item_id": f"i{n}",
                "item_name": "n",
                "item_description": "",
                "item_cost_price": Decimal(p),
                "item_retail_price": Decimal(p),
            }
            for n, p in enumerate(prices)
        ],
    )
    source = opened(url)
    for table, written in ((ACCOUNTS, accounts), (SKUS, skus)):
        (chunk,) = source.chunks(table)
        assert chunk.rejects == []
        assert chunk.rows == written


@pytest.mark.parametrize(
    "name", ["x'; DROP TABLE skus; -- ", '`a"b`', "back\\slash", "%s {0}", "\u202eevil", "p' OR '1'='1"]
)
def test_mysql_column_whose_name_is_hostile_is_read_under_its_name(url: str, name: str) -> None:
    quoted = "`" + name.rstrip().replace("`", "``") + "`"
    with open_connection(url) as connection, connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE skus ADD COLUMN {quoted} VARCHAR(20)")
        cursor.execute("INSERT INTO skus VALUES ('i', 'n', 'd', 1, 2, 'kept')")
        connection.commit()
    (chunk,) = opened(url).chunks(SKUS)
    assert [json.loads(extra) for extra in chunk.rows["extra"].to_pylist()] == [{name.rstrip(): "kept"}]


def test_mysql_chunks_follow_the_compound_key_and_resume_after_it(url: str) -> None:
    lines = [{"invoice_id": n // 3, "item_id": f"i{n % 3}", "quantity": 1} for n in range(25)]
    fill(url, INVOICE_LINE_ITEMS, lines)
    fill(url, INVOICES, [invoice(n) for n in range(8)])
    chunks = list(opened(url, chunk_rows=10).chunks(INVOICE_LINE_ITEMS))
    assert [c.rows.num_rows for c in chunks] == [10, 10, 5]
    assert [row for c in chunks for row in c.rows.to_pylist()] == lines
    assert [c.orphans for c in chunks] == [0, 0, 1]
    assert chunks[2].findings[0].detail == "invoice 8 of line (8, i0) does not exist"
    key = tuple(json.loads(json.dumps(chunks[0].last_key)))
    rest = list(opened(url, chunk_rows=10).chunks(INVOICE_LINE_ITEMS, Resume(1, key)))
    assert [c.number for c in rest] == [2, 3]
    assert [c.rows for c in rest] == [c.rows for c in chunks[1:]]


def test_mysql_chunk_position_covers_what_was_committed_before_and_nothing_after(url: str) -> None:
    fill(url, INVOICES, [invoice(n) for n in range(4)])
    with open_connection(url) as other:
        before = current_position(other)
        chunks = opened(url, chunk_rows=2).chunks(INVOICES)
        first = next(chunks)
        execute(other, "UPDATE invoices SET payment_dates = '2021-02-02' WHERE invoice_id IN (0, 3)")
        other.commit()
        after = current_position(other)
        second = next(chunks)
    assert before is not None
    assert after is not None
    assert first.position is not None
    assert second.position is not None
    assert first.rows.column("payment_dates").to_pylist() == [None, None]
    assert second.rows.column("payment_dates").to_pylist() == [None, date(2021, 2, 2)]
    assert before.pos <= first.position.pos < after.pos <= second.position.pos


def test_mysql_integer_item_ids_and_aliases_are_cast_and_told(fresh_database: str) -> None:
    with open_connection(fresh_database) as connection:
        for table in (ACCOUNTS, INVOICE_LINE_ITEMS):
            execute(connection, ddl(table).replace("`item_id` VARCHAR(64)", "`item_id` BIGINT"))
        execute(connection, ddl(SKUS).replace("`item_id` VARCHAR(64)", "`item_id` BIGINT"))
        execute(connection, ddl(INVOICES).replace("payment_dates", "payment_date"))
        execute(connection, "INSERT INTO skus VALUES (9, 'n', 'd', 1.5, 2.5), (10, 'n', 'd', 1.5, 2.5)")
        execute(connection, "INSERT INTO invoices VALUES (1, 1, '2021-01-01', '2021-01-05')")
        connection.commit()
    source = opened(fresh_database, chunk_rows=1)
    assert source.numeric_keys(SKUS) == {"item_id"}
    assert [c.rows["item_id"].to_pylist() for c in source.chunks(SKUS)] == [["9"], ["10"]]
    assert [c.rows["payment_dates"].to_pylist() for c in source.chunks(INVOICES)] == [[date(2021, 1, 5)]]


def test_mysql_row_that_does_not_fit_is_rejected_whole(url: str) -> None:
    with open_connection(url) as connection:
        execute(connection, "ALTER TABLE invoices MODIFY date_issued VARCHAR(20)")
        execute(connection, "INSERT INTO invoices VALUES (1, 1, '2021-01-01', NULL), (2, 1, 'soon', NULL)")
        connection.commit()
    (chunk,) = opened(url).chunks(INVOICES)
    assert chunk.rows["invoice_id"].to_pylist() == [1]
    (reject,) = chunk.rejects
    assert (reject.table, reject.reason) == ("invoices", "bad_value")
    assert json.loads(reject.raw)["date_issued"] == "soon"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("DROP TABLE skus", "has no table skus"),
        ("ALTER TABLE invoices DROP COLUMN account_id", "table invoices lacks column account_id"),
        ("ALTER TABLE skus MODIFY item_cost_price DOUBLE", "item_cost_price is double, which is not exact"),
        ("ALTER TABLE invoice_line_items DROP PRIMARY KEY", r"primary key of invoice_line_items is \(\), not"),
    ],
)
def test_mysql_preflight_refuses_other_tables(url: str, change: str, message: str) -> None:
    with open_connection(url) as connection:
        execute(connection, change)
    with pytest.raises(SourceError, match=message):
        opened(url)


def test_mysql_preflight_without_optional_and_with_unknown_columns_tells_so(url: str) -> None:
    with open_connection(url) as connection:
        execute(connection, "ALTER TABLE invoices DROP COLUMN payment_dates")
        execute(connection, "ALTER TABLE skus ADD COLUMN colour VARCHAR(9)")
    fill_sql = "INSERT INTO invoices VALUES (1, 1, '2021-01-01')"
    with open_connection(url) as connection:
        execute(connection, fill_sql)
        connection.commit()
    source = opened(url)
    assert [n.split(": ", 1)[1] for n in source.notices] == [
        "columns of skus that are not declared are kept in `extra` of the log: colour",
        "table invoices has no column payment_dates: every value is null",
    ]
    (chunk,) = source.chunks(INVOICES)
    assert chunk.rows["payment_dates"].to_pylist() == [None]


def test_mysql_wrong_password_unknown_database_and_silent_server_each_say_so(url: str) -> None:
    parts = DatabaseUrl.parse(url)
    where = f"{parts.host}:{parts.port}"
    with pytest.raises(AccessDeniedError) as denied:
        opened(f"mysql://{parts.user}:not-the-secret@{where}/{parts.database}?tls=off")
    assert "not-the-secret" not in str(denied.value)
    with pytest.raises((SourceError, AccessDeniedError), match="no_such_database"):
        opened(f"mysql://{parts.user}:{parts.password}@{where}/no_such_database?tls=off")
    with pytest.raises(UnavailableError, match=r"mysql://127\.0\.0\.1:1/trs does not answer"):
        opened("mysql://u:p@127.0.0.1:1/trs")


@pytest.mark.parametrize(
    "spec", ["mysql://host/db", "mysql://u:secret@host:x/db", "mysql://u:secret@host", "postgres://u:secret@h/d"]
)
def test_mysql_malformed_url_is_a_usage_error_without_the_password(spec: str) -> None:
    with pytest.raises(UsageError) as raised:
        open_source(spec)
    assert "secret" not in str(raised.value)


def test_mysql_server_answers_queries_in_utc(url: str) -> None:
    with open_connection(url) as connection:
        assert query(connection, "SELECT @@session.time_zone") == [("+00:00",)]


READY = {"log_bin": "ON", "binlog_format": "ROW", "binlog_row_image": "FULL"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"log_bin": "OFF"}, "the binlog is off: set log_bin"),
        ({"binlog_format": "MIXED"}, "binlog_format is MIXED: set it to ROW"),
        ({"binlog_row_image": "MINIMAL"}, "binlog_row_image is MINIMAL: set it to FULL"),
        ({"log_bin": "0", "binlog_format": "STATEMENT"}, "set log_bin; binlog_format is STATEMENT"),
        ({"binlog_transaction_compression": "ON"}, "binlog_transaction_compression is ON: set it to OFF"),
        ({"binlog_legacy_event_pos": "OFF"}, "binlog_legacy_event_pos is OFF: set it to ON"),
    ],
)
def test_capture_of_a_server_that_logs_too_little_is_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(SourceError, match=f"mysql://h:3306/d: .*{said}"):
        check_capture_settings(READY | settings, DatabaseUrl.parse("mysql://u:p@h/d"))


@pytest.mark.parametrize("known", [{}, {"binlog_transaction_compression": "OFF"}, {"binlog_legacy_event_pos": "ON"}])
def test_capture_of_a_server_that_logs_enough_is_fine(known: dict[str, str]) -> None:
    check_capture_settings(READY | known, DatabaseUrl.parse("mysql://u:p@h/d"))


def test_capture_of_the_declared_tables_is_fine(url: str) -> None:
    where = DatabaseUrl.parse(url)
    with connect(where) as connection:
        assert server_version(connection).startswith(query(connection, "SELECT version()")[0][0])
        check_capture(connection, where)
        assert [check_captured_table(connection, where, table) for table in TABLES] == [[]] * len(TABLES)


@pytest.mark.parametrize(
    ("change", "table", "said"),
    [
        (
            "invoices MODIFY date_issued DATETIME NOT NULL",
            INVOICES,
            r"invoices\.date_issued is datetime.*change it to DATE",
        ),
        ("accounts MODIFY joining_date TIMESTAMP NOT NULL", ACCOUNTS, r"accounts\.joining_date is timestamp"),
        (
            "invoice_line_items MODIFY invoice_id VARCHAR(20) NOT NULL",
            INVOICE_LINE_ITEMS,
            r"line_items\.invoice_id is varchar: .*whole number",
        ),
        ("invoices CHANGE invoice_id INVOICE_ID BIGINT NOT NULL", INVOICES, "it must be called invoice_id"),
    ],
)
def test_capture_of_a_table_whose_keys_or_dates_would_be_sent_otherwise_is_refused(
    url: str, change: str, table: Table, said: str
) -> None:
    where = DatabaseUrl.parse(url)
    with connect(where) as connection:
        execute(connection, f"ALTER TABLE {change}")
        with pytest.raises(SourceError, match=said):
            check_captured_table(connection, where, table)


def test_capture_of_item_ids_that_are_whole_numbers_or_of_odd_case_is_fine(url: str) -> None:
    where = DatabaseUrl.parse(url)
    with connect(where) as connection:
        execute(connection, "ALTER TABLE skus MODIFY item_id INT NOT NULL")
        execute(connection, "ALTER TABLE skus CHANGE item_name Item_Name VARCHAR(255) NOT NULL")
        assert check_captured_table(connection, where, SKUS) == []
