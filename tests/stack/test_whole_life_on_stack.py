"""The life of a source as TRS will live it, on a database server of the tests' own: diffs, the cut-over under load,
every kind of change through Debezium, a killed Kafka Connect; and what may happen to a server: its binlog is purged, it
is restored from a backup, another server takes its place. After each, source and lake are compared in two ways: by
`trs reconcile`, and the features with the batch job's over the source."""

import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pydantic import SecretStr

from app.connector import connect_client, connector_name
from app.generate import load_database
from app.settings import Settings
from app.wiring import kafka_config
from batch_bootstrap.generate import Generated
from connectors.kafka import watermarks
from connectors.mysql import DatabaseUrl, connect, execute
from devstack import ports, processes
from devstack.connect import Connect
from devstack.declared import DATABASE, DATABASE_PASSWORD, DATABASE_USER, HOST
from devstack.mariadb import MariaDb
from devstack.stack import start_part
from processors.tables import INVOICE_LINE_ITEMS, topic_of
from tests.app.commands import Answer
from tests.app.commands import trs as run_trs
from tests.stack.busy_source import INVOICES_MADE, SEED, await_all_features, changing, url_of, working
from tests.stack_helpers import environment, query, row_count, trs
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(900)
BIG = 40_000


def server_in(folder: Path) -> MariaDb:
    """The database server whose files are in that folder; it does not run yet."""
    folder.mkdir(parents=True, exist_ok=True)
    return MariaDb(folder, ports.assign(folder / "ports.json", needed=MariaDb.port_names, in_use=()))


def stop(server: MariaDb) -> None:
    processes.stop(server.record, timeout_s=server.stop_timeout_s)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MariaDb]:
    """A server that other tests do not use: its binlogs are purged, it is stopped and set back."""
    own = server_in(tmp_path / "source")
    start_part(own)
    yield own
    stop(own)


def at(settings: Settings, server: MariaDb, **changes: Any) -> Settings:
    """The settings with that server as the source."""
    url = f"mysql://{DATABASE_USER}:{DATABASE_PASSWORD}@{HOST}:{server.port}/{DATABASE}?tls=off"
    return settings.model_copy(update={"database": SecretStr(url), **changes})


@pytest.fixture
def shop(captured_settings: Settings, server: MariaDb) -> Iterator[Settings]:
    """A filled source that nothing was read of yet."""
    own = at(captured_settings, server)
    with Generated(INVOICES_MADE, seed=SEED) as data:
        load_database(data, url_of(own), replace=False, report=lambda *_: None)
    yield own
    client = connect_client(own)
    for name in client.names():
        client.delete(name)


def run(settings: Settings, *statements: str) -> None:
    """Runs statements in one transaction."""
    with connect(DatabaseUrl.parse(url_of(settings)), autocommit=False) as connection:
        for statement in statements:
            execute(connection, statement)
        connection.commit()


def answer(settings: Settings, *arguments: str) -> Answer:
    """`trs …` in this process, whose failure is looked at."""
    variables = {name: value for name, value in environment(settings).items() if name.startswith("TRS_")}
    return run_trs(*arguments, **variables)


def assert_equal(settings: Settings, folder: Path, *, restarted: bool = False) -> None:
    """Source and lake are equal, row for row, and so are the features and the batch job's."""
    reconciled = answer(settings, "reconcile", "--settle", "180", "--json")
    assert reconciled.code == 0, reconciled.err
    tables = json.loads(reconciled.out)["tables"]
    assert all(t["compared"] > 0 and t["missing"] + t["changed"] + t["surplus"] == 0 for t in tables.values()), tables
    await_all_features(settings, folder, restarted=restarted)
    assert row_count(settings, "dead_letters") == 0


def cut_over(settings: Settings) -> dict[str, Any]:
    """A whole cut-over; the settle time is short, so that a quiet source does not make it wait."""
    shown = json.loads(trs(settings, "cutover", "--settle", "5", "--json", timeout_s=300).stdout)
    assert shown["finished_at"] is not None
    return dict(shown)


def kill(connect_worker: Connect) -> None:
    """Ends Kafka Connect as a machine that goes down does."""
    process = processes.find(connect_worker.record)
    assert process is not None
    process.send_signal(signal.SIGKILL)
    process.wait(30)


@contextmanager
def away(connect_worker: Connect) -> Iterator[None]:
    """Kafka Connect does not run meanwhile."""
    kill(connect_worker)
    try:
        yield
    finally:
        start_part(connect_worker)


def sent(settings: Settings) -> int:
    """Records of the lines' topic."""
    topic = topic_of(settings.topic_prefix, INVOICE_LINE_ITEMS.name)
    return sum(end for _, end in watermarks(kafka_config(settings), [topic]).values())


@pytest.mark.long  # diff, cut-over, changes of columns and a killed connector have tests of their own
def test_whole_life_of_a_source_ends_with_no_difference(shop: Settings, kafka_connect: Connect, tmp_path: Path) -> None:
    with working(shop, tmp_path / "worker.log"):
        with changing(shop) as before:  # months without change data capture
            for _ in range(3):
                trs(shop, "bootstrap", "diff")
            changed_before = len(before)
            assert cut_over(shop)["method"] == "diff"  # while the source changes
            assert len(before) > changed_before > 0

        with changing(shop, after=len(before)) as after:
            run(shop, "ALTER TABLE invoices ADD COLUMN channel VARCHAR(20) NULL")
            run(
                shop,
                "UPDATE invoices SET channel = 'shop', account_id = 5 WHERE invoice_id BETWEEN 1 AND 50",
                "UPDATE invoices SET invoice_id = 900001 WHERE invoice_id = 7",
                "UPDATE invoice_line_items SET invoice_id = 900001 WHERE invoice_id = 7",
                "UPDATE accounts SET account_id = 900001 WHERE account_id = 9",
            )
            run(shop, "ALTER TABLE invoice_line_items MODIFY quantity BIGINT NOT NULL")
            run(shop, "TRUNCATE TABLE invoice_line_items")
            had = sent(shop)
            run(
                shop,
                "INSERT INTO invoices (invoice_id, account_id, date_issued)"
                f" SELECT 2000000 + seq, 1 + seq % 8, '2023-05-01' FROM seq_1_to_{BIG // 10}",
                "INSERT INTO invoice_line_items (invoice_id, item_id, quantity)"
                f" SELECT 2000000 + seq, item_id, 1 + seq % 5 FROM seq_1_to_{BIG // 10} JOIN"
                " (SELECT item_id FROM skus WHERE item_id NOT LIKE 'new-%' ORDER BY item_id LIMIT 10) AS sold",
            )
            wait_until(lambda: sent(shop) > had + BIG // 10, timeout_s=180, what="the big transaction is being sent")
            with away(kafka_connect):
                run(
                    shop, "ALTER TABLE skus ADD COLUMN colour VARCHAR(9) NULL", "UPDATE skus SET colour = 'red' LIMIT 5"
                )
            wait_until(lambda: sent(shop) > had + BIG, timeout_s=240, what="Kafka Connect goes on")
            wait_until(lambda: len(after) > 100, timeout_s=180, what="the source has changed")
        assert_equal(shop, tmp_path)
    counts = query(
        shop,
        "SELECT (SELECT count(*) FROM invoice_line_items_mirror) AS lines,"
        " (SELECT count(*) FROM invoices_mirror WHERE extra LIKE '%shop%') AS told",
    )
    assert counts["lines"][0].as_py() >= BIG
    assert 20 < counts["told"][0].as_py() <= 50, "the new column's values"
    assert answer(shop, "connector", "status").code == 0


def test_purged_binlog_restored_server_and_failover_are_told_and_gone_on_with(
    shop: Settings, server: MariaDb, kafka_connect: Connect, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    second = shop.source_names[0] + "b"
    third = shop.source_names[0] + "c"
    with working(shop, log):
        cut_over(shop)
        assert_equal(shop, tmp_path)
        stop(server)
        shutil.copytree(server.data, tmp_path / "backup")
        start_part(server)

        # The binlog is purged before Kafka Connect, which is down, has read it.
        with away(kafka_connect):
            run(
                shop,
                "DELETE FROM invoice_line_items WHERE invoice_id < 100",
                "DELETE FROM invoices WHERE invoice_id < 50",
            )
            run(shop, "FLUSH BINARY LOGS")
            run(shop, "INSERT INTO invoices VALUES (900002, 1, '2024-01-01', NULL)", "FLUSH BINARY LOGS")
            kept = purge(server)
        name = connector_name(shop)
        wait_until(lambda: "FAILED" in states(shop, name), timeout_s=180, what="the connector fails")
        told = answer(shop, "connector", "status")
        assert told.code == 1
        assert "FAILED" in told.out
        assert f"which the server does not have (it keeps {kept} to {kept}): it was purged" in told.out
        alarms = json.loads(answer(shop, "status", "--json").out)["alarms"]
        assert [a["subject"] for a in alarms] == [name, url_without_password(shop)]
        trs(shop, "connector", "delete", "--forget")
        assert cut_over(shop)["method"] == "diff"
        assert_equal(shop, tmp_path)
        assert json.loads(answer(shop, "status", "--json").out)["alarms"] == []

        # The server is restored from the backup, under its old name at first.
        stop(server)
        shutil.rmtree(server.data)
        shutil.copytree(tmp_path / "backup", server.data)
        start_part(server)
        for command in (("bootstrap", "snapshot"), ("bootstrap", "diff"), ("reconcile",)):
            refused = answer(shop, *command)
            assert refused.code == 3, (command, refused.err)
            assert "it is another server, or was restored or reset" in refused.err
        trs(shop, "connector", "delete", "--forget")
    restored = at(shop, server, source_names=(*shop.source_names, second))
    with working(restored, log):
        assert cut_over(restored)["method"] == "diff"
        assert_equal(restored, tmp_path, restarted=True)
        assert 1 in ids(restored)  # which the old server had deleted after the backup
        assert 900002 not in ids(restored)

    # Another server with binlogs of its own takes its place.
    stop(server)
    successor = server_in(tmp_path / "successor")
    shutil.copytree(server.data, successor.data, ignore=shutil.ignore_patterns("binlog.*"))
    start_part(successor)
    try:
        unnamed = at(restored, successor)
        refused = answer(unnamed, "connector", "register")
        assert refused.code == 2
        assert "append a new name to TRS_SOURCE_NAMES" in refused.err
        trs(unnamed, "connector", "delete", "--forget")
        run(unnamed, "DELETE FROM invoices WHERE invoice_id = 1", "UPDATE accounts SET gender = NULL")
        moved = at(restored, successor, source_names=(*restored.source_names, third))
        with working(moved, log):
            assert cut_over(moved)["method"] == "diff"
            assert_equal(moved, tmp_path, restarted=True)
            assert 1 not in ids(moved)
            run(moved, "UPDATE accounts SET gender = 'F'")  # by the connector of the new name
            assert_equal(moved, tmp_path, restarted=True)
    finally:
        stop(successor)


def states(settings: Settings, name: str) -> frozenset[str]:
    state = connect_client(settings).state(name)
    return frozenset() if state is None else state.states


def ids(settings: Settings) -> set[int]:
    """The invoices of the lake."""
    return set(query(settings, "SELECT invoice_id FROM invoices").column(0).to_pylist())


def url_without_password(settings: Settings) -> str:
    return str(DatabaseUrl.parse(url_of(settings)))


def purge(server: MariaDb) -> str:
    """Has the server drop all binlogs but the newest, whose name is returned."""
    administrator = pymysql.connect(unix_socket=str(server.socket()), user="root", password=DATABASE_PASSWORD)
    with administrator, administrator.cursor() as cursor:
        cursor.execute("SELECT id FROM information_schema.processlist WHERE command = 'Binlog Dump'")
        for (reader,) in cursor.fetchall():  # of a Kafka Connect that was killed: what it reads is not purged
            cursor.execute(f"KILL {reader}")
        cursor.execute("SHOW BINARY LOGS")
        newest = str(cursor.fetchall()[-1][0])

        def is_alone() -> bool:
            cursor.execute(f"PURGE BINARY LOGS TO '{newest}'")
            cursor.execute("SHOW BINARY LOGS")
            return [name for name, *_ in cursor.fetchall()] == [newest]

        wait_until(is_alone, timeout_s=30, what="nobody reads the older binlogs")
    return newest
