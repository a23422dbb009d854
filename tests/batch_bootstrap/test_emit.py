"""Changes at the source, re-emitted row by row: applied in order they give what the database holds."""

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from app.generate import load_database, simulate
from app.settings import Settings
from app.wiring import kafka_config
from batch_bootstrap.changes import change_price, pay_invoices
from batch_bootstrap.emit import Touched, emit_rows
from batch_bootstrap.generate import Generated
from batch_bootstrap.source import open_source
from connectors.kafka import Producer, ensure_topics
from connectors.mysql import DatabaseUrl, connect, execute
from connectors.mysql_source import MySqlSource
from processors.errors import UsageError
from processors.order import file_number
from processors.tables import INVOICE_LINE_ITEMS, INVOICES, SKUS, TABLES, Table, all_topics
from tests.topics import read_topic

Rows = dict[tuple[Any, ...], dict[str, Any]]


@pytest.fixture
def source(stack_settings: Settings, fresh_database: str) -> MySqlSource:
    """A small synthetic TRS in a database, and topics for its changes."""
    with Generated(300, seed=11) as data:
        load_database(data, fresh_database, replace=False, report=lambda table, done, total: None)
    ensure_topics(kafka_config(stack_settings), all_topics(stack_settings.topic_prefix), stack_settings.partitions)
    return opened(fresh_database)


def opened(url: str) -> MySqlSource:
    source = open_source(url)
    assert isinstance(source, MySqlSource)
    source.preflight()
    return source


def state(source: MySqlSource, table: Table) -> Rows:
    rows = [row for chunk in source.chunks(table) for row in chunk.rows.to_pylist()]
    return {tuple(row[k] for k in table.key): row for row in rows}


def events(settings: Settings, table: Table) -> list[dict[str, Any]]:
    return [json.loads(r.value) for r in read_topic(settings, f"{settings.topic_prefix}.{table.name}")]


def applied(table: Table, before: Rows, changes: list[dict[str, Any]]) -> Rows:
    """The rows after the changes, the latest by (file, pos) and place in the topic."""
    rows = {key: {name: comparable(value) for name, value in row.items()} for key, row in before.items()}
    ordered = sorted(changes, key=lambda e: (file_number(e["source"]["file"]), e["source"]["pos"]))
    for event in ordered:
        image = event["before"] if event["op"] == "d" else event["after"]
        key = tuple(image[k] for k in table.key)
        assert (event["op"] == "c") <= (key not in rows)
        if event["op"] == "d":
            rows.pop(key, None)
        else:
            rows[key] = image
    return rows


def comparable(value: Any) -> Any:
    """A typed value as an event writes it."""
    if isinstance(value, date):
        return (value - date(1970, 1, 1)).days
    if isinstance(value, Decimal):
        whole, _, fraction = f"{value:.10f}".partition(".")
        return f"{whole}.{fraction.rstrip('0'):0<2}"
    return value


def test_emitted_rows_tell_new_changed_and_gone(
    stack_settings: Settings, fresh_database: str, source: MySqlSource
) -> None:
    number, item = next(iter(state(source, INVOICE_LINE_ITEMS)))
    producer = Producer(kafka_config(stack_settings))
    with connect(DatabaseUrl.parse(fresh_database), autocommit=False) as connection:
        execute(connection, "INSERT INTO invoices VALUES (9001, 1, '2021-01-01', NULL)")
        execute(connection, "DELETE FROM invoice_line_items WHERE invoice_id = %s AND item_id = %s", (number, item))
        touched = [Touched(INVOICES, (9001,), created=True), Touched(INVOICE_LINE_ITEMS, (number, item))]
        connection.commit()
        touched += pay_invoices(connection, [number], date(2021, 5, 6))
        touched += change_price(connection, item, Decimal("12.3456789"))
        sent = emit_rows(
            touched, source, connection, producer, topic_prefix=stack_settings.topic_prefix, source_name="aurora"
        )
    producer.close()
    assert sent == 4
    assert [(e["op"], e["before"]) for e in events(stack_settings, INVOICE_LINE_ITEMS)] == [
        ("d", {"invoice_id": number, "item_id": item})
    ]
    invoices = {e["op"]: e["after"] for e in events(stack_settings, INVOICES)}
    assert (invoices["c"]["invoice_id"], invoices["c"]["payment_dates"]) == (9001, None)
    assert (invoices["u"]["invoice_id"], invoices["u"]["payment_dates"]) == (number, comparable(date(2021, 5, 6)))
    (price,) = events(stack_settings, SKUS)
    assert (price["op"], price["after"]["item_retail_price"]) == ("u", "12.3456789")
    assert {e["source"]["name"] for t in TABLES for e in events(stack_settings, t)} == {"aurora"}


def test_simulated_changes_applied_to_the_rows_before_give_the_rows_after(
    stack_settings: Settings, fresh_database: str, source: MySqlSource
) -> None:
    before = {table: state(source, table) for table in TABLES}
    summary = simulate(
        stack_settings,
        fresh_database,
        rate=1000,
        seed=4,
        changes=200,
        seconds=None,
        emit=True,
        stopped=lambda: False,
        report=lambda summary: None,
    )
    assert summary.changes == 200
    after = opened(fresh_database)
    for table in TABLES:
        rows = state(after, table)
        assert rows != before[table]
        expected = {key: {name: comparable(value) for name, value in row.items()} for key, row in rows.items()}
        assert applied(table, before[table], events(stack_settings, table)) == expected
    assert {e["op"] for t in TABLES for e in events(stack_settings, t)} == {"c", "u", "d"}


def test_generated_rows_do_not_replace_what_a_database_holds_unless_told(
    fresh_database: str, source: MySqlSource
) -> None:
    with Generated(10, seed=1) as data:
        with pytest.raises(UsageError, match="holds rows"):
            load_database(data, fresh_database, replace=False, report=lambda table, done, total: None)
        loaded = load_database(data, fresh_database, replace=True, report=lambda table, done, total: None)
    assert loaded["invoices"] == len(state(source, INVOICES)) == 10
