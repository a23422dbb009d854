"""Change data capture on real parts: Kafka Connect with Debezium's connector reads MariaDB, and our decoder and workers
read what it sends. Compared are whole tables: the database's own rows, and the batch job's features of them."""

import json
import os
import re
import socket
from collections import defaultdict
from contextlib import suppress
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from app.connector import connect_client
from app.settings import Settings
from batch_bootstrap.changes import TrsChanges
from batch_bootstrap.source import open_source
from connectors.mysql import Connection, DatabaseUrl, connect, execute, load_rows
from connectors.mysql_source import MySqlSource
from connectors.source_rows import declared_schema
from processors.decode import Decoder
from processors.features.declarations import FEATURE_SETS
from processors.records import RawBatch
from processors.tables import ACCOUNTS, INVOICE_LINE_ITEMS, INVOICES, SKUS, TABLES, Table, topic_of
from tests.app.commands import Answer
from tests.app.commands import trs as run_trs
from tests.stack_helpers import batch_features, environment, query, row_count
from tests.stack_helpers import trs as trs_process
from tests.topics import Record, read_topic
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(900)
ARRIVAL_S = 60
Rows = dict[tuple[Any, ...], dict[str, Any]]


@pytest.fixture
def settings(captured_settings: Settings) -> Settings:
    return captured_settings


def database_url(settings: Settings) -> DatabaseUrl:
    assert settings.database is not None
    return DatabaseUrl.parse(settings.database.get_secret_value())


def trs(settings: Settings, *arguments: str, options: dict[str, Any] | None = None, **changes: str) -> Answer:
    """`trs connector …` with these settings, further options of the connector and changed variables."""
    variables = {name: value for name, value in environment(settings).items() if name.startswith("TRS_")}
    if options is not None:
        variables["TRS_CONNECTOR_OPTIONS"] = json.dumps(options)
    return run_trs("connector", *arguments, **variables | changes)


def done(answer: Answer) -> Answer:
    assert answer.code == 0, answer.err
    return answer


def fill(connection: Connection) -> None:
    """Rows whose values are easily bent: early dates, odd characters, small and negative amounts."""
    values: dict[Table, list[dict[str, Any]]] = {
        SKUS: [
            {
                "item_id": item,
                "item_name": f"Ünï 漢 \U0001f600 {item}",
                "item_description": 'line\r\nline "quoted" \\ \x01',
                "item_cost_price": Decimal(cost),
                "item_retail_price": Decimal(price),
            }
            for item, cost, price in (
                ("a", "0.0000000001", "9999999.9999999999"),
                ("b-0", "0", "-1.5"),
                ("ü/\U0001f600", "1234567890.1", "2.50"),
                ("d", "1", "1"),
            )
        ],
        ACCOUNTS: [
            {
                "account_id": number,
                "company_name": "",
                "company_address": "1 High St\nTown",
                "contact_person": "A 'B'",
                "contact_phone": "+44",
                "gender": None if number % 2 else "F",
                "joining_date": joined,
            }
            for number, joined in ((1, date(1000, 1, 1)), (2, date(1582, 10, 10)), (2**63 - 1, date(9999, 12, 31)))
        ],
        INVOICES: [
            {
                "invoice_id": number,
                "account_id": 1 + number % 2,
                "date_issued": date(1969, 12, 25) + timedelta(number),
                "payment_dates": None if number % 3 else date(2020, 2, 29),
            }
            for number in range(1, 21)
        ],
        INVOICE_LINE_ITEMS: [
            {"invoice_id": number, "item_id": item, "quantity": quantity}
            for number in range(1, 21)
            for item, quantity in (("a", -1), ("b-0", 2**31 - 1), ("ü/\U0001f600", number))
        ],
    }
    import pyarrow as pa

    for table, rows in values.items():
        load_rows(connection, table, pa.Table.from_pylist(rows, schema=declared_schema(table)))


def change(connection: Connection) -> None:
    """A change of every kind, each in the ways that a database knows."""
    for statement in (
        "INSERT INTO invoices VALUES (100, 2, '2024-02-29', NULL)",
        "INSERT INTO invoice_line_items VALUES (100, 'a', 1), (100, 'd', 2), (101, 'a', 3)",
        "UPDATE invoice_line_items SET quantity = quantity - 1 WHERE invoice_id < 5",
        "UPDATE invoice_line_items SET invoice_id = 100 WHERE invoice_id = 1 AND item_id = 'b-0'",
        "UPDATE invoice_line_items SET item_id = 'd' WHERE invoice_id = 2 AND item_id = 'a'",
        "UPDATE invoices SET invoice_id = 102 WHERE invoice_id = 3",
        "UPDATE invoices SET payment_dates = NULL WHERE invoice_id = 6",
        "DELETE FROM invoice_line_items WHERE invoice_id = 4",
        "REPLACE INTO skus VALUES ('d', 'new', 'new', 2, 3)",
        "UPDATE skus SET item_id = 'e' WHERE item_id = 'a'",
        "DELETE FROM accounts WHERE account_id = 2",
        "INSERT INTO accounts VALUES (2, 'back', 'x', 'x', 'x', NULL, '2024-01-01')",
        "UPDATE accounts SET gender = NULL, joining_date = '2024-02-29' WHERE account_id = 2",
    ):
        execute(connection, statement)
    connection.commit()


def make_changes(settings: Settings, connection: Connection, *, seed: int, changes: int) -> None:
    """Random changes as TRS makes them."""
    source = open_source(settings.database.get_secret_value() if settings.database else "")
    assert isinstance(source, MySqlSource)
    source.preflight()
    random_changes = TrsChanges(connection, source, seed)
    for _ in range(changes):
        random_changes.next_change()


def database_rows(settings: Settings, table: Table) -> Rows:
    """The rows of the database, by primary key."""
    source = open_source(settings.database.get_secret_value() if settings.database else "")
    source.preflight()
    rows = [row for chunk in source.chunks(table) for row in chunk.rows.to_pylist()]
    return {tuple(row[name] for name in table.key): row for row in rows}


def topic_rows(settings: Settings, table: Table) -> Rows:
    """What the decoder makes of a topic: per primary key the latest row. No record may be dead or ignored."""
    topic = topic_of(settings.topic_prefix, table.name)
    batches: dict[int, list[Record]] = defaultdict(list)
    for record in read_topic(settings, topic):
        batches[record.partition].append(record)
    decoder = Decoder(source_names=settings.source_names)
    decoded = decoder.decode(
        table, [RawBatch.of(topic, p, [(r.key, r.value) for r in records]) for p, records in batches.items()]
    )
    decoder.close()
    assert decoded.dead.to_pylist() == []
    assert decoded.ignored == {}
    latest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for event in sorted(decoded.events.to_pylist(), key=lambda e: (e["row_order"], e["row_offset"])):
        latest[tuple(event[name] for name in table.key)] = event
    truncated = max((t.row_order for t in decoded.truncates), default=-1)
    return {
        key: {name: event[name] for name in table.column_names}
        for key, event in latest.items()
        if not event["is_delete"] and event["row_order"] > truncated
    }


def await_arrival(settings: Settings) -> None:
    """Waits until the topics say what the database says; fails with the tables' differences."""
    with suppress(TimeoutError):
        wait_until(
            lambda: all(topic_rows(settings, t) == database_rows(settings, t) for t in TABLES),
            timeout_s=ARRIVAL_S,
            what="the topics' rows are the database's",
        )
    for table in TABLES:
        assert topic_rows(settings, table) == database_rows(settings, table), table.name


def operations(settings: Settings, table: Table) -> list[str]:
    """The op of every record of a topic."""
    records = read_topic(settings, topic_of(settings.topic_prefix, table.name))
    return [json.loads(r.value)["op"] for r in records]


def test_snapshot_and_every_kind_of_change_decode_to_the_rows_of_the_database(settings: Settings) -> None:
    with connect(database_url(settings), autocommit=False) as connection:
        fill(connection)
        answer = done(trs(settings, "register"))
        assert "is mariadb: 11." in answer.err
        assert f"topics made: {settings.topic_prefix}.skus" in answer.err
        await_arrival(settings)
        assert {op for table in TABLES for op in operations(settings, table)} == {"r"}

        change(connection)
        await_arrival(settings)
        assert {"c", "u", "d"} <= set(operations(settings, INVOICE_LINE_ITEMS))

        make_changes(settings, connection, seed=5, changes=60)
        await_arrival(settings)

        execute(connection, "TRUNCATE TABLE invoice_line_items")
        execute(connection, "INSERT INTO invoice_line_items VALUES (7, 'a', 7)")
        connection.commit()
        await_arrival(settings)
        assert "t" in operations(settings, INVOICE_LINE_ITEMS)
        assert list(topic_rows(settings, INVOICE_LINE_ITEMS)) == [(7, "a")]

        # a date that MySQL does not promise to keep, and keeps
        execute(connection, "UPDATE accounts SET joining_date = '0050-02-28' WHERE account_id = 1")
        connection.commit()
        wait_until(
            lambda: topic_rows(settings, ACCOUNTS)[1,]["joining_date"] == date(50, 2, 28),
            timeout_s=ARRIVAL_S,
            what="the early date has arrived",
        )


@pytest.mark.long
def test_workers_make_the_batch_jobs_features_of_a_stream_that_began_before_the_snapshot(
    settings: Settings, tmp_path: Path
) -> None:
    secret = tmp_path / "database.properties"
    secret.write_text(f"password={database_url(settings).password}\n")
    reference = f"${{file:{secret}:password}}"
    with connect(database_url(settings), autocommit=False) as connection:
        fill(connection)
        done(trs(settings, "register", "--snapshot", "no_data", options={"database.password": reference}))
        registered = connect_client(settings).config(f"trs-{settings.source_names[0]}")
        assert registered is not None
        assert registered["database.password"] == reference
        make_changes(settings, connection, seed=1, changes=40)
        trs_process(settings, "bootstrap", "snapshot", "--source", "mysql")
        make_changes(settings, connection, seed=2, changes=40)
    await_arrival(settings)
    assert {"r", "c"} <= set(operations(settings, INVOICES))
    places = defaultdict(set)
    for table in (INVOICES, INVOICE_LINE_ITEMS):
        for record in read_topic(settings, topic_of(settings.topic_prefix, table.name)):
            assert record.key is not None
            places[json.loads(record.key)["invoice_id"]].add(record.partition)
    assert {len(partitions) for partitions in places.values()} == {1}, "an invoice is in more than one partition"
    assert len(set().union(*places.values())) > 1

    trs_process(settings, "worker", "--until-caught-up", timeout_s=400)

    assert row_count(settings, "dead_letters") == 0
    for features in FEATURE_SETS:
        expected = batch_features(settings, str_url(settings), features, tmp_path)
        columns = ", ".join(features.column_names)
        found = query(settings, f"SELECT {columns} FROM {features.name} ORDER BY {features.entity_key[0]}")
        assert expected.num_rows > 0
        assert found.to_pylist() == expected.to_pylist(), features.name


def str_url(settings: Settings) -> str:
    assert settings.database is not None
    return settings.database.get_secret_value()


def test_connector_is_paused_resumed_deleted_and_goes_on_where_it_stopped(settings: Settings) -> None:
    name = f"trs-{settings.source_names[0]}"
    with connect(database_url(settings), autocommit=False) as connection:
        fill(connection)
        done(trs(settings, "register"))
        await_arrival(settings)
        shown = json.loads(done(trs(settings, "status", "--json")).out)
        assert [(p["number"], p["state"]) for p in shown["parts"]] == [(None, "RUNNING"), (0, "RUNNING")]
        assert re.fullmatch(r"binlog\.\d+", shown["position"]["file"])

        assert done(trs(settings, "pause")).out == f"{name} is paused\n"
        paused = trs(settings, "status")
        assert paused.code == 1
        assert paused.out.count("PAUSED") == 2
        make_changes(settings, connection, seed=3, changes=5)
        before = {table.name: len(operations(settings, table)) for table in TABLES}
        assert topic_rows(settings, INVOICES) != database_rows(settings, INVOICES)

        assert done(trs(settings, "resume")).out == f"{name} runs\n"
        await_arrival(settings)
        assert sum(len(operations(settings, t)) for t in TABLES) > sum(before.values())

        assert done(trs(settings, "delete")).out == f"{name} is deleted; its position is kept\n"
        assert trs(settings, "status").code == 2
        make_changes(settings, connection, seed=4, changes=5)
        read = operations(settings, SKUS).count("r")
        assert read > 0
        done(trs(settings, "register"))
        await_arrival(settings)
        assert operations(settings, SKUS).count("r") == read

        assert done(trs(settings, "delete", "--forget")).out == f"{name} is deleted, with its position\n"
        skus = len(database_rows(settings, SKUS))
        done(trs(settings, "register"))
        wait_until(
            lambda: operations(settings, SKUS).count("r") == read + skus,
            timeout_s=ARRIVAL_S,
            what="the rows are read again",
        )
        await_arrival(settings)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"database.password": "wr0ng"}, r"database\.hostname: Unable to connect: .*Access denied for user 'trs'"),
        ({"database.port": 1}, r"database\.hostname: Unable to connect: .*Connection refused"),
        ({"snapshot.mode": "sometimes"}, r"snapshot\.mode: .*Value must be one of .*initial"),
        ({"time.precision.mode": "adaptive"}, r"time\.precision\.mode: .*no longer supported"),
        (
            {"message.key.columns": "", "poll.interval.ms": "x"},
            r"poll\.interval\.ms: .*; message\.key\.columns: .*empty",
        ),
    ],
)
@pytest.mark.parametrize("command", ["validate", "register"])
def test_configuration_that_the_connector_refuses_is_told_with_its_reasons_and_not_registered(
    settings: Settings, command: str, options: dict[str, Any], said: str
) -> None:
    answer = trs(settings, command, options=options)
    assert answer.code == 2
    assert answer.out == ""
    assert re.search(f"error: the connector refuses its configuration: .*{said}", answer.err), answer.err
    assert "wr0ng" not in answer.err
    assert connect_client(settings).config(f"trs-{settings.source_names[0]}") is None


def test_configuration_that_is_fine_is_told_so_and_a_misspelt_option_is_noticed(settings: Settings) -> None:
    assert "accepts its configuration" in done(trs(settings, "validate")).out
    answer = done(trs(settings, "validate", "--json", options={"poll.intervall.ms": 5}))
    assert json.loads(answer.out)["problems"] == []
    assert "poll.intervall.ms is no option of the connector, did you mean poll.interval.ms?" in answer.err
    refused = trs(settings, "validate", "--json", options={"snapshot.mode": "sometimes"})
    assert [p["option"] for p in json.loads(refused.out)["problems"]] == ["snapshot.mode"]


def test_mysqls_connector_finds_nothing_wrong_but_that_the_server_is_mariadb(settings: Settings) -> None:
    answer = trs(settings, "validate", "--json", "--server-version", "9.7.4")
    assert answer.code == 2
    (problem,) = json.loads(answer.out)["problems"]
    assert problem["option"] == "database.hostname"
    assert re.search(r"MySQL version 11\..*-MariaDB.* should support SHOW BINARY LOG STATUS", problem["reason"])
    wrong = trs(settings, "validate", "--server-version", "9.7.4", options={"database.password": "wr0ng"})
    assert "Access denied for user 'trs'" in wrong.err


def test_connector_class_that_is_not_installed_is_told_with_those_that_are(settings: Settings) -> None:
    answer = trs(settings, "validate", options={"connector.class": "io.debezium.connector.Other"})
    assert answer.code == 14
    assert "has no io.debezium.connector.Other; it has io.debezium.connector.mariadb.MariaDbConnector, " in answer.err


@pytest.mark.parametrize("command", ["status", "pause", "resume", "delete"])
def test_connector_that_is_not_registered_is_told(settings: Settings, command: str) -> None:
    answer = trs(settings, command)
    assert (answer.code, answer.out) == (2, "")
    assert f"has no connector trs-{settings.source_names[0]} (registered: " in answer.err


@pytest.mark.parametrize("command", ["validate", "register", "status", "pause", "resume", "delete"])
def test_connect_that_does_not_answer_is_told(settings: Settings, command: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"http://me:s3cret@127.0.0.1:{probe.getsockname()[1]}"
    answer = trs(settings, command, TRS_CONNECT=nowhere)
    assert (answer.code, answer.out) == (4, "")
    assert "does not answer" in answer.err
    assert "trs devstack up --with connect" in answer.err
    assert "s3cret" not in answer.err


def test_connector_that_fails_is_told_with_its_own_reason_and_recovers_its_tables(settings: Settings) -> None:
    with connect(database_url(settings), autocommit=False) as connection:
        fill(connection)
        done(trs(settings, "register"))
        await_arrival(settings)
        history = f"{settings.topic_prefix}.schema_history.{settings.source_names[0]}"
        admin = AdminClient({"bootstrap.servers": settings.kafka})
        admin.delete_topics([history])[history].result(30)

        failed = trs(settings, "register", options={"poll.interval.ms": 21})
        assert failed.code == 14
        assert re.search("failed: .*history topic", failed.err), failed.err
        status = trs(settings, "status")
        assert status.code == 1
        assert re.search("task 0 +FAILED .*history topic", status.out)

        done(trs(settings, "register", "--snapshot", "recovery"))
        change(connection)
    await_arrival(settings)


def test_another_server_under_a_known_source_name_is_refused(settings: Settings) -> None:
    done(trs(settings, "register"))
    elsewhere = str_url(settings).replace("127.0.0.1", "localhost")
    assert elsewhere != str_url(settings)
    answer = trs(settings, "register", TRS_DATABASE=elsewhere)
    assert answer.code == 2
    assert "reads 127.0.0.1:" in answer.err
    assert "append a new name to TRS_SOURCE_NAMES" in answer.err
    done(trs(settings, "register", "--same-server", TRS_DATABASE=elsewhere))


def test_render_asks_the_server_only_for_its_version_and_masks_the_password(settings: Settings) -> None:
    config = json.loads(done(trs(settings, "render")).out)
    assert config["connector.class"] == "io.debezium.connector.mariadb.MariaDbConnector"
    assert config["database.password"] == "***"
    aurora = trs(settings, "render", "--server-version", "8.0.mysql_aurora.3.08.2", TRS_DATABASE=AWAY)
    config = json.loads(done(aurora).out)
    assert config["connector.class"] == "io.debezium.connector.mysql.MySqlConnector"
    assert "s3cret" not in aurora.out + aurora.err
    assert "LOCK TABLES" in aurora.err
    shown = done(
        trs(
            settings,
            "render",
            "--with-secrets",
            "--server-version",
            "9.7.4",
            "--snapshot",
            "no_data",
            TRS_DATABASE=AWAY,
        )
    )
    assert json.loads(shown.out)["database.password"] == "s3cret"
    assert json.loads(shown.out)["snapshot.mode"] == "no_data"
    assert os.environ.get("TRS_DATABASE") is None


AWAY = "mysql://reader:s3cret@no.such.host:3306/trs"
