"""Diffs on real parts: database, Kafka, worker, lake; what the rows were and are is read from the database by SQL."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.bootstrap import diff, open_control_log, reconcile
from app.generate import load_database, simulate
from app.settings import Settings
from app.status import read_status
from app.wiring import kafka_config
from batch_bootstrap.diff import DiffSummary, Watcher
from batch_bootstrap.emit import Touched, emit_rows
from batch_bootstrap.generate import Generated
from batch_bootstrap.reconcile import Reconciliation
from connectors.kafka import Producer
from connectors.mysql import Connection, DatabaseUrl, connect, execute, query
from connectors.mysql_source import MySqlSource
from processors.errors import DifferencesError, RetryableError, SourceError, UnavailableError
from processors.features.declarations import FEATURE_SETS
from processors.tables import ACCOUNTS, INVOICE_LINE_ITEMS, INVOICES, TABLES
from tests.stack_helpers import batch_features, start_worker
from tests.stack_helpers import query as ask_lake
from tests.topics import read_topic
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(600)
INVOICES_MADE = 1_200
Row = tuple[str, tuple[Any, ...]]


@pytest.fixture
def shop(local_settings: Settings) -> Settings:
    """A database with a synthetic TRS; nothing was sent yet. Prices are today's, which is all that a database knows."""
    settings = local_settings.model_copy(update={"price_at": "current"})
    with Generated(INVOICES_MADE, seed=11) as data:
        load_database(data, url_of(settings), replace=False, report=lambda *_: None)
    with opened(settings) as connection:
        execute(connection, "INSERT INTO skus VALUES ('never sold', 'x', 'y', 1, 2)")
        connection.commit()
    return settings


@pytest.fixture
def worker(shop: Settings, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Starts a worker that is killed at the end."""
    running = []
    yield lambda: running.append(start_worker(shop, tmp_path / "worker.log"))
    for process in running:
        process.kill()
        process.wait()


def url_of(settings: Settings) -> str:
    assert settings.database is not None
    return settings.database.get_secret_value()


def compare(settings: Settings, **options: Any) -> DiffSummary:
    watcher = options.pop("watcher", Watcher())
    return diff(settings, "mysql", watcher=watcher, **{"chunk_rows": 2_000, "wait_s": 120.0} | options)


def opened(settings: Settings) -> Connection:
    return connect(DatabaseUrl.parse(url_of(settings)), autocommit=False)


def rows_of(settings: Settings) -> dict[Row, tuple[Any, ...]]:
    """Every row of the database by table and key."""
    found: dict[Row, tuple[Any, ...]] = {}
    with opened(settings) as connection:
        for table in TABLES:
            for row in query(connection, f"SELECT {', '.join(table.column_names)} FROM {table.name}"):
                key = tuple(row[table.column_names.index(k)] for k in table.key)
                found[table.name, key] = row
    return found


def changes_between(before: dict[Row, Any], after: dict[Row, Any]) -> set[tuple[str, Row]]:
    """What an event each must say."""
    return {
        ("c" if row not in before else "d" if row not in after else "u", row)
        for row in before.keys() | after.keys()
        if before.get(row) != after.get(row)
    }


def events(settings: Settings) -> Counter[tuple[str, Row]]:
    """The row events in the topics."""
    found: Counter[tuple[str, Row]] = Counter()
    for table in TABLES:
        for record in read_topic(settings, f"{settings.topic_prefix}.{table.name}"):
            event = json.loads(record.value)
            image = event["before"] if event["op"] == "d" else event["after"]
            found[event["op"], (table.name, tuple(image[k] for k in table.key))] += 1
    return found


def change_everything(connection: Connection) -> None:
    """Each kind of change, in every table; a range of keys goes away whole."""
    for statement in (
        "UPDATE skus SET item_retail_price = item_retail_price + 0.0000000001 ORDER BY item_id LIMIT 3",
        "INSERT INTO skus VALUES ('Zz é', 'new', '', 1, 2.5)",
        "DELETE FROM skus WHERE item_id = 'never sold'",  # of others the lake keeps the prices, the database does not
        "UPDATE accounts SET contact_phone = CONCAT(contact_phone, ' ') WHERE account_id = 3",
        "UPDATE accounts SET gender = '' WHERE gender IS NULL ORDER BY account_id LIMIT 1",
        "UPDATE accounts SET gender = NULL WHERE gender = 'F' ORDER BY account_id LIMIT 1",
        "UPDATE accounts SET account_id = 900001 WHERE account_id = 5",
        "UPDATE invoices SET payment_dates = NULL WHERE payment_dates IS NOT NULL ORDER BY invoice_id LIMIT 1",
        "UPDATE invoices SET date_issued = date_issued - INTERVAL 1 DAY, account_id = 2 WHERE invoice_id = 18",
        "DELETE FROM invoices WHERE invoice_id BETWEEN 400 AND 700 OR invoice_id > 1100",
        "DELETE FROM invoice_line_items WHERE invoice_id BETWEEN 400 AND 700 OR invoice_id > 1100",
        "INSERT INTO invoices SELECT invoice_id + 5000000000, account_id, date_issued, payment_dates FROM invoices"
        " WHERE invoice_id <= 20",
        "INSERT INTO invoice_line_items SELECT invoice_id + 5000000000, item_id, quantity + 1 FROM invoice_line_items"
        " WHERE invoice_id <= 20",
        "UPDATE invoice_line_items SET quantity = -quantity WHERE invoice_id = 30",
        "DELETE FROM invoice_line_items WHERE invoice_id = 900",
        "UPDATE invoice_line_items SET invoice_id = 900 WHERE invoice_id = 31",
        "UPDATE invoice_line_items SET item_id = CONCAT(item_id, ' x') WHERE invoice_id = 32",
        "DELETE FROM invoice_line_items WHERE invoice_id = 33",
    ):
        assert execute(connection, statement) > 0, statement
    connection.commit()


def await_the_batch(settings: Settings, folder: Path) -> None:
    """Waits until the features in the lake are those that the batch job computes from the database."""
    for features in FEATURE_SETS:
        expected = batch_features(settings, "mysql", features, folder).to_pylist()
        sql = f"SELECT {', '.join(features.column_names)} FROM {features.name} ORDER BY {features.entity_key[0]}"
        assert len(expected) > 0
        wait_until(
            lambda sql=sql, expected=expected: ask_lake(settings, sql).to_pylist() == expected,
            timeout_s=120,
            what=f"{features.name} are those of the batch job",
        )


def test_diff_sends_exactly_what_changed_and_the_lake_becomes_the_source(
    shop: Settings, tmp_path: Path, worker: Callable[[], None]
) -> None:
    before = rows_of(shop)
    first = compare(shop)
    sent = events(shop)
    assert sent == Counter(changes_between({}, before))
    assert (first.emitted, first.total("created")) == (len(before), len(before))

    worker()  # which the next run waits for
    unchanged = compare(shop)
    assert (unchanged.emitted, unchanged.total("read"), unchanged.total("chunks_read")) == (0, 0, 0)
    assert unchanged.total("compared") == len(before)

    with opened(shop) as connection:
        change_everything(connection)
    after = rows_of(shop)
    expected = changes_between(before, after)
    assert {op for op, _ in expected} == {"c", "u", "d"}
    second = compare(shop)
    assert events(shop) - sent == Counter(expected)
    assert second.emitted == len(expected)
    assert second.total("read") < len(after) / 2

    third = compare(shop)
    assert (third.emitted, third.total("read")) == (0, 0)
    await_the_batch(shop, tmp_path)


@pytest.mark.long
def test_diff_beside_changes_that_are_streamed_converges(shop: Settings, worker: Callable[[], None]) -> None:
    compare(shop)
    worker()
    stop = threading.Event()

    def change() -> None:
        simulate(
            shop,
            url_of(shop),
            rate=80,
            seed=3,
            changes=None,
            seconds=None,
            emit=True,
            stopped=stop.is_set,
            report=lambda _: None,
        )

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(2):
            assert compare(shop, chunk_rows=300).finished
    finally:
        stop.set()
        changing.join()
    assert compare(shop).finished
    last = compare(shop)
    assert (last.emitted, last.total("read")) == (0, 0)

    with opened(shop) as connection:  # a row that is not as declared: told each time, a dead letter once
        execute(connection, "ALTER TABLE skus MODIFY item_name VARCHAR(300) NOT NULL")
        execute(connection, "INSERT INTO skus VALUES ('too long', REPEAT('x', 256), 'y', 1, 2)")
        connection.commit()
    for _ in range(2):
        summary = compare(shop)
        assert (summary.emitted, summary.total("rejects")) == (0, 1)
        assert "item_name is longer than 255 characters" in summary.notices[-1]
    assert len(read_topic(shop, f"{shop.topic_prefix}.dead_letters")) == 1


def test_diff_leaves_what_it_did_not_send_to_the_next_which_waits_for_the_lake(
    shop: Settings, worker: Callable[[], None]
) -> None:
    asked = iter([False] * 4 + [True] * 100)
    stopped = compare(shop, chunk_rows=500, watcher=Watcher(stopped=lambda: next(asked)))
    assert not stopped.finished
    assert 0 < stopped.emitted < len(rows_of(shop))
    control = open_control_log(shop)
    assert control.open_runs() == []
    control.open_run("aurora", {"source": "somewhere", "kind": "diff"})  # one that was killed

    with pytest.raises(UnavailableError, match=r"has not read [0-9]+ records of .*skus.*no worker ever committed"):
        compare(shop, wait_s=0.5)
    worker()
    rest = compare(shop)
    assert rest.emitted == len(rows_of(shop)) - stopped.emitted
    assert rest.waited_s > 0
    assert events(shop) == Counter(changes_between({}, rows_of(shop)))
    assert control.open_runs() == []

    with opened(shop) as connection:
        execute(connection, "DELETE FROM invoice_line_items")
        connection.commit()
    with pytest.raises(SourceError, match="invoice_line_items has no rows, but the lake has"):
        compare(shop)
    emptied = compare(shop, accept_empty=True)
    assert emptied.tables["invoice_line_items"].deleted == emptied.emitted > 0


def test_reconcile_reports_what_differs_but_not_what_is_on_its_way_and_repairs(
    shop: Settings, worker: Callable[[], None]
) -> None:
    compare(shop)
    worker()
    equal = check(shop)
    equal.raise_unless_equal()
    assert sum(t.compared for t in equal.tables.values()) == len(rows_of(shop))

    with opened(shop) as connection:
        execute(connection, "ALTER TABLE accounts ADD rating INT NULL")  # not declared: it goes along
    source = MySqlSource(url_of(shop), TABLES, chunk_rows=1)
    source.preflight()
    with opened(shop) as connection:
        for statement in (
            "UPDATE accounts SET contact_phone = 'nobody streams this' WHERE account_id = 1",
            "DELETE FROM invoices WHERE invoice_id = 2",
            "INSERT INTO skus VALUES ('nor this', 'x', 'y', 1, 2)",
            "UPDATE accounts SET contact_phone = 'this comes late' WHERE account_id = 3",
            "DELETE FROM invoices WHERE invoice_id = 4",
        ):
            assert execute(connection, statement) == 1
        connection.commit()
        late = [Touched(ACCOUNTS, (3,)), Touched(INVOICES, (4,))]
        looked: list[str] = []

        def stream_late() -> bool:
            """Asked after all tables were looked at, and again: the check goes on waiting for what is late."""
            if INVOICE_LINE_ITEMS.name in looked:
                looked.append("waiting")
            if late and looked.count("waiting") == 2:
                name, prefix = shop.source_names[-1], shop.topic_prefix
                producer = Producer(kafka_config(shop))
                emit_rows(late, source, connection, producer, topic_prefix=prefix, source_name=name)
                producer.close()
                late.clear()
            return False

        watcher = Watcher(stopped=stream_late, report=lambda table, rows, _: looked.append(table) if rows else None)
        found = check(shop, settle_s=120.0, watcher=watcher)
    assert not late
    with pytest.raises(DifferencesError, match="differ in 3 rows: 1 of skus, 1 of accounts, 1 of invoices") as error:
        found.raise_unless_equal()
    assert error.value.exit_code == 15
    assert found.examples == {"skus": ["missing nor this"], "accounts": ["changed 1"], "invoices": ["surplus 2"]}

    sent = events(shop)
    repaired = check(shop, repair=True)
    repaired.raise_unless_equal()
    assert events(shop) - sent == Counter(
        {("c", ("skus", ("nor this",))): 1, ("u", ("accounts", (1,))): 1, ("d", ("invoices", (2,))): 1}
    )
    assert check(shop).differing == 0
    kept = ask_lake(
        shop,
        "SELECT count(DISTINCT check_id) AS checks, sum(missing) AS missing, sum(changed) AS changed,"
        " sum(surplus) AS surplus, sum(repaired) AS repaired FROM reconciliation",
    ).to_pylist()
    assert kept == [{"checks": 4, "missing": 2, "changed": 2, "surplus": 2, "repaired": 3}]
    assert open_control_log(shop).open_runs() == []


def test_worker_reconciles_when_it_is_due(shop: Settings, tmp_path: Path) -> None:
    compare(shop)
    log = tmp_path / "worker.log"
    process = start_worker(shop.model_copy(update={"reconcile_every": "1s"}), log)
    try:
        wait_until(
            lambda: "reconciliation: source and lake are equal" in log.read_text(), timeout_s=240, what="it is told"
        )
    finally:
        process.terminate()
        assert process.wait(60) == 0
    reconciled = {t.table: (t.compared, t.differing) for t in read_status(shop).reconciled}
    rows = Counter(table for table, _ in rows_of(shop))
    assert reconciled == {table: (count, 0) for table, count in rows.items()}


def check(settings: Settings, **options: Any) -> Reconciliation:
    watcher = options.pop("watcher", Watcher())
    return reconcile(settings, "mysql", watcher=watcher, **{"wait_s": 120.0, "settle_s": 0.0} | options)


def test_second_diff_on_the_machine_is_refused_while_one_runs(shop: Settings) -> None:
    refused: list[str] = []

    def again(_table: str, _rows: int, _estimate: int | None) -> None:
        if not refused:
            refused.append("called")
            with pytest.raises(RetryableError, match="another diff or repair runs"):
                compare(shop)
            refused.append("refused")

    compare(shop, watcher=Watcher(report=again))
    assert refused == ["called", "refused"]
