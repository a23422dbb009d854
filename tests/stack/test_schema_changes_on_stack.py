"""The source's tables change under a running connector, by real ALTERs through Debezium: what is kept, what is refused
with which reason, and that other tables go on. docs/schema_changes.md is the table of these cases."""

import json
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from app.lake_session import LakeSession
from app.settings import Settings
from connectors.mysql import Connection, DatabaseUrl, connect, execute
from processors.tables import TABLES, topic_of
from tests.app.commands import Answer
from tests.app.commands import trs as run_trs
from tests.stack_helpers import environment, query
from tests.stack_helpers import trs as trs_process
from tests.topics import read_topic
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(600)

FIRST_ROWS = (
    "INSERT INTO skus VALUES ('a', 'A', 'plain', 1, 2.5), ('b', 'B', 'plain', 1, 3), ('gone', 'G', 'plain', 1, 3)",
    "INSERT INTO accounts VALUES (1, 'One', 'Road 1', 'P', '1', NULL, '2020-01-01'),"
    " (2, 'Two', 'Road 2', 'P', '2', 'F', '2020-01-01')",
    "INSERT INTO invoices VALUES (1, 1, '2024-01-01', '2024-01-09'), (2, 1, '2024-01-02', '2024-03-09')",
    "INSERT INTO invoice_line_items VALUES (1, 'a', 1), (2, 'a', 2), (2, 'b', 3)",
)


def trs(settings: Settings, *arguments: str) -> Answer:
    """A command of `trs` with these settings."""
    return run_trs(*arguments, **{n: v for n, v in environment(settings).items() if n.startswith("TRS_")})


def registered(settings: Settings, connection: Connection) -> None:
    """The first rows are in the database, and a connector reads them and what follows."""
    change(connection, *FIRST_ROWS)
    answer = trs(settings, "connector", "register")
    assert answer.code == 0, answer.err
    # An ALTER under the connector's own snapshot makes it fail: its query names the columns that there were.
    for table in TABLES:
        await_record(
            settings, table.name, lambda record: record["source"]["snapshot"] in ("last_in_data_collection", "last")
        )


def change(connection: Connection, *statements: str) -> None:
    for statement in statements:
        execute(connection, statement)
    connection.commit()


def await_record(settings: Settings, table: str, what: Callable[[dict[str, Any]], bool]) -> None:
    """Waits for a record of the table's topic: Debezium sends in the order of the binlog, so all before it are there
    as well."""

    def arrived() -> bool:
        return any(what(json.loads(r.value)) for r in read_topic(settings, topic_of(settings.topic_prefix, table)))

    try:
        wait_until(arrived, timeout_s=20, what=f"the record of {table}")
    except TimeoutError as late:
        raise AssertionError(f"{late}\n{trs(settings, 'connector', 'status').out}") from None


def caught_up(settings: Settings) -> str:
    """A worker reads all that the topics hold; returns what it logged."""
    return trs_process(settings, "worker", "--until-caught-up", timeout_s=240).stderr


def rows(settings: Settings, sql: str) -> list[tuple[Any, ...]]:
    with LakeSession(settings) as session:
        return session.con.sql(session.prepare_query(sql, with_personal_data=True)).fetchall()


def letters(settings: Settings) -> dict[str, list[str]]:
    """The details of the open dead letters by topic, without prefix."""
    found: dict[str, list[str]] = {}
    for letter in json.loads(trs(settings, "dead-letters", "list", "--json").out)["letters"]:
        found.setdefault(letter["topic"].rsplit(".", 1)[1], []).append(letter["detail"])
    return {topic: sorted(details) for topic, details in found.items()}


def url(settings: Settings) -> DatabaseUrl:
    assert settings.database is not None
    return DatabaseUrl.parse(settings.database.get_secret_value())


def test_dropped_widened_and_renamed_cost_what_they_must_other_tables_go_on_and_all_is_told(
    captured_settings: Settings,
) -> None:
    settings = captured_settings
    with connect(url(settings), autocommit=False) as connection:
        registered(settings, connection)
        change(
            connection,
            "ALTER TABLE invoices DROP COLUMN payment_dates",
            "UPDATE invoices SET account_id = 2 WHERE invoice_id = 1",
            "ALTER TABLE invoices ADD COLUMN payment_date DATE NULL",
            "INSERT INTO invoices VALUES (3, 2, '2024-01-03', '2024-01-04')",
            "ALTER TABLE invoice_line_items MODIFY quantity BIGINT NOT NULL, MODIFY item_id VARCHAR(128) NOT NULL",
            "INSERT INTO invoice_line_items VALUES (3, 'a', 3000000000), (3, REPEAT('x', 100), 1), (3, 'b', 7)",
            "ALTER TABLE skus MODIFY item_retail_price DECIMAL(30, 12) NOT NULL",
            "UPDATE skus SET item_retail_price = 2.123456789012 WHERE item_id = 'a'",
            "UPDATE skus SET item_retail_price = 4.5 WHERE item_id = 'b'",
            "ALTER TABLE accounts DROP COLUMN company_name",
            "UPDATE accounts SET contact_person = 'Q' WHERE account_id = 1",
            "DELETE FROM accounts WHERE account_id = 2",
            "INSERT INTO accounts VALUES (3, 'Road 3', 'P', '3', NULL, '2020-01-01')",
            "INSERT INTO skus VALUES ('new', 'N', 'plain', 1, 9)",
            "RENAME TABLE skus TO articles",
            "UPDATE articles SET item_name = 'meanwhile' WHERE item_id = 'new'",
            "INSERT INTO invoices VALUES (4, 1, '2024-01-04', NULL)",
        )
        await_record(settings, "invoices", lambda r: r["after"]["invoice_id"] == 4)

        logged = caught_up(settings)

        # A row that the source did not touch since keeps the value that it had when the column went.
        assert rows(settings, "SELECT invoice_id, account_id, payment_dates FROM invoices ORDER BY 1") == [
            (1, 2, None),
            (2, 1, date(2024, 3, 9)),
            (3, 2, date(2024, 1, 4)),
            (4, 1, None),
        ]
        assert rows(settings, "SELECT invoice_id, item_id, quantity FROM invoice_lines ORDER BY 1, 2") == [
            (1, "a", 1),
            (2, "a", 2),
            (2, "b", 3),
            (3, "b", 7),
        ]
        prices = {item: str(price) for item, price in rows(settings, "SELECT item_id, item_retail_price FROM skus")}
        assert prices == {"a": "2.5000000000", "b": "4.5000000000", "gone": "3.0000000000", "new": "9.0000000000"}
        assert rows(settings, "SELECT account_id, company_name FROM accounts") == [(1, "One")]
        refused = {
            "invoice_line_items": ["item_id is longer than 64 characters", "quantity is outside the range of INT"],
            "skus": ["item_retail_price has more than 10 significant decimals"],
        }
        assert letters(settings) == {"accounts": ["company_name is missing"] * 2, **refused}
        accounts = f"{settings.topic_prefix}.accounts"
        assert logged.count(f"alarm: {accounts}: 2 records wait in the dead letters: company_name is missing") == 1

        told = trs(settings, "status", "--json")
        assert told.code == 1
        alarms = json.loads(told.out)["alarms"]
        assert [(a["subject"], a["message"].partition(": ")[2]) for a in alarms[:1]] == [
            (accounts, "company_name is missing")
        ]
        found = {a["subject"]: f"{a['message']} {a['hint']}" for a in alarms[1:]}
        assert found.keys() == {"accounts", "skus"}
        assert "lacks column company_name" in found["accounts"]
        assert "has no table skus, but articles with all of its columns: renamed?" in found["skus"]
        assert "RENAME TABLE `articles` TO `skus`, then `trs bootstrap snapshot`" in found["skus"]

        answer = trs(settings, "connector", "status")
        assert answer.code == 1
        assert answer.out.count("RUNNING") == 2
        assert "alarm: accounts: " in answer.out
        assert "alarm: skus: " in answer.out
        assert "quantity is bigint(20), declared as INT: rows with a value that does not fit" in answer.err
        assert "has no table skus, but articles" in trs(settings, "connector", "validate").err

        # All is put right: the column by the source itself, the table as tools do that change tables online, by a copy.
        change(
            connection,
            "ALTER TABLE accounts ADD COLUMN company_name VARCHAR(255) NOT NULL DEFAULT ''",
            "UPDATE accounts SET company_name = CONCAT('Firm ', account_id)",
            "UPDATE articles SET item_retail_price = 2 WHERE item_id = 'a'",
            "CREATE TABLE _skus_new LIKE articles",
            "ALTER TABLE _skus_new MODIFY item_retail_price DECIMAL(20, 10) NOT NULL",
            "INSERT INTO _skus_new SELECT * FROM articles",
            "RENAME TABLE articles TO _skus_old, _skus_new TO skus",
            "UPDATE skus SET item_name = 'after' WHERE item_id = 'b'",
        )
        await_record(settings, "skus", lambda r: r["after"]["item_name"] == "after")
        trs_process(settings, "bootstrap", "snapshot", "--source", "mysql")
        caught_up(settings)
        assert rows(settings, "SELECT account_id, company_name FROM accounts ORDER BY 1") == [
            (1, "Firm 1"),
            (3, "Firm 3"),
        ]
        assert rows(settings, "SELECT item_id, item_name FROM skus ORDER BY 1") == [
            ("a", "A"),
            ("b", "after"),
            ("gone", "G"),
            ("new", "meanwhile"),
        ]
        discard = ("dead-letters", "discard", "--reason", "missing_column", "--note", "sent again", "--yes")
        assert trs(settings, *discard).code == 0
        assert letters(settings).keys() == refused.keys() | {"dead_letters"}, "a snapshot refuses what is too large too"
        assert trs(settings, "status").code == 0
        assert trs(settings, "connector", "status").code == 0


ADDED = {
    "weight": ("DECIMAL(12,3)", "1.250"),
    "j": ("JSON", """'{"k": [1, 2.50]}'"""),
    "flag": ("TINYINT(1) NOT NULL DEFAULT 1", "0"),
    "seen": ("DATETIME(6)", "'2024-01-01 01:02:03.123456'"),
    "sold": ("TIMESTAMP", "'2024-01-01 01:02:03'"),
    "bytes": ("VARBINARY(100)", "REPEAT(x'00ff', 50)"),
    "kind": ("ENUM('x', 'y')", "'y'"),
    "since": ("YEAR", "2024"),
    "lead_time": ("TIME", "'10:11:12'"),
    "on_sale": ("BIT(1)", "b'1'"),
    "share": ("DOUBLE", "0.1"),
    "units": ("BIGINT UNSIGNED", "9223372036854775807"),
    "day": ("DATE", "'1969-12-30'"),
    "sets": ("SET('a', 'b')", "'a,b'"),
    "Grüße 'n' \"q": ("VARCHAR(20)", "'ü\U0001f600\\\"'"),
    "nothing": ("INT", "NULL"),
}
"""Columns of every kind that are added to skus: type, and the value that one row gets."""


def test_added_columns_are_kept_with_old_rows_null_and_personal_ones_apart_and_a_snapshot_says_the_same(
    captured_settings: Settings,
) -> None:
    settings = captured_settings
    with connect(url(settings), autocommit=False) as connection:
        registered(settings, connection)
        columns = ", ".join(f"ADD COLUMN `{name}` {kind}" for name, (kind, _) in ADDED.items())
        values = ", ".join(f"`{name}` = {value}" for name, (_, value) in ADDED.items())
        change(
            connection,
            f"ALTER TABLE skus {columns}",
            "ALTER TABLE invoices ADD COLUMN note VARCHAR(20) NULL FIRST",
            "ALTER TABLE invoice_line_items ADD COLUMN discount DECIMAL(5, 2) NULL AFTER invoice_id",
            "ALTER TABLE accounts ADD COLUMN email VARCHAR(100) NULL",
            f"UPDATE skus SET {values} WHERE item_id = 'a'",
            "UPDATE invoices SET note = 'by hand' WHERE invoice_id = 1",
            "UPDATE invoice_line_items SET discount = 1.5 WHERE invoice_id = 1",
            "UPDATE accounts SET email = 'p@example.org' WHERE account_id = 1",
        )
        await_record(settings, "accounts", lambda r: (r["after"] or {}).get("email") is not None)
        caught_up(settings)

        assert letters(settings) == {}
        extras: dict[str, str | None] = dict(rows(settings, "SELECT item_id, extra FROM skus"))
        assert extras["b"] is None
        kept = json.loads(extras["a"] or "")
        assert kept.keys() == ADDED.keys() - {"nothing"}
        assert (kept["weight"], kept["flag"], kept["day"], kept["on_sale"], kept["sold"]) == (
            "1.250",
            0,
            -2,
            True,
            "2024-01-01T01:02:03Z",
        )
        mirror = "SELECT invoice_id, account_id, extra FROM invoices_mirror ORDER BY 1"
        assert rows(settings, mirror) == [(1, 1, '{"note":"by hand"}'), (2, 1, None)]
        mirror = "SELECT invoice_id, item_id, extra FROM invoice_line_items_mirror ORDER BY 1, 2"
        assert rows(settings, mirror) == [(1, "a", '{"discount":"1.50"}'), (2, "a", None), (2, "b", None)]
        history = "SELECT extra FROM invoice_log WHERE kind = 'invoice' AND invoice_id = 1 ORDER BY epoch"
        assert rows(settings, history)[-1] == ('{"note":"by hand"}',)
        private = "SELECT extra FROM accounts_private_changes WHERE account_id = 1 ORDER BY row_order"
        assert rows(settings, private) == [(None,), ('{"email":"p@example.org"}',)]
        assert "example.org" not in str(query(settings, "SELECT * FROM account_log").to_pylist())

        features = "SELECT count(*) FROM invoice_features_history"
        before = rows(settings, features)
        change(
            connection,
            "UPDATE invoices SET note = 'again' WHERE invoice_id = 2",
            "ALTER TABLE invoice_line_items DROP COLUMN discount",
            "UPDATE invoice_line_items SET quantity = 5 WHERE invoice_id = 2 AND item_id = 'b'",
            "UPDATE invoice_line_items SET quantity = 3 WHERE invoice_id = 2 AND item_id = 'b'",
        )
        await_record(settings, "invoices", lambda r: (r["after"] or {}).get("note") == "again")
        trs_process(settings, "bootstrap", "snapshot", "--source", "mysql")
        caught_up(settings)
        assert rows(settings, features) == before
        assert rows(settings, "SELECT extra FROM invoices_mirror ORDER BY invoice_id") == [
            ('{"note":"by hand"}',),
            ('{"note":"again"}',),
        ]
        assert rows(settings, "SELECT DISTINCT extra FROM invoice_line_items_mirror") == [(None,)]
        assert rows(settings, private)[-1] == ('{"email":"p@example.org"}',)
        again: dict[str, str | None] = dict(rows(settings, "SELECT item_id, extra FROM skus"))
        assert json.loads(again["a"] or "") == kept
        assert again["b"] == '{"flag":1}'
