"""A source that changes all the time, a worker beside it, and the batch job over the source to compare both with."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pymysql

from app.settings import Settings
from connectors.mysql import Connection, DatabaseUrl, connect, execute
from processors.features.declarations import FEATURE_SETS, FeatureSet
from tests.stack_helpers import batch_features, query, start_worker
from tests.waiting import wait_until

INVOICES_MADE = 600
SEED = 23
PAUSE_S = 0.1
_BEGIN_AGAIN = (1205, 1213, 1412)
"""Errors by which MySQL asks for the transaction anew: it waited too long for a lock, was chosen to end a deadlock, or
a table was altered since it began."""


def url_of(settings: Settings) -> str:
    assert settings.database is not None
    return settings.database.get_secret_value()


def change(connection: Connection, number: int) -> None:
    """One transaction on every table. Only articles that were never sold are removed: of others the lake keeps the
    prices, and a database does not."""
    chance = random.Random(number)
    invoice, other, account = 10**6 + number, chance.randrange(1, INVOICES_MADE), chance.randrange(1, 9)
    for statement in (
        f"INSERT INTO invoices (invoice_id, account_id, date_issued)"
        f" VALUES ({invoice}, {account}, '2024-01-01' + INTERVAL {number} DAY)",
        f"INSERT INTO invoice_line_items (invoice_id, item_id, quantity)"
        f" SELECT {invoice}, item_id, 2 FROM skus WHERE item_id NOT LIKE 'new-%' LIMIT 3",
        f"UPDATE invoice_line_items SET quantity = quantity + 1 WHERE invoice_id IN ({other}, {invoice - 1})",
        f"UPDATE invoices SET payment_dates = date_issued + INTERVAL 40 DAY, account_id = 3 WHERE invoice_id = {other}",
        f"DELETE FROM invoice_line_items WHERE invoice_id = {other + 1} LIMIT 1",
        f"DELETE FROM invoices WHERE invoice_id = {invoice - 20}",
        f"UPDATE invoice_line_items SET invoice_id = {invoice - 3} WHERE invoice_id = {invoice - 20}",
        f"UPDATE skus SET item_retail_price = item_retail_price + 1 ORDER BY item_id LIMIT {number % 2}",
        f"INSERT INTO skus (item_id, item_name, item_description, item_cost_price, item_retail_price)"
        f" VALUES ('new-{number}', 'n', 'd', 1, 2)",
        f"DELETE FROM skus WHERE item_id = 'new-{number - 5}'",
        f"UPDATE accounts SET contact_phone = '{number}' WHERE account_id = {account}",
    ):
        with suppress(pymysql.IntegrityError):  # a line of that key is there already
            execute(connection, statement)
    connection.commit()


@contextmanager
def changing(settings: Settings, *, after: int = 0) -> Iterator[list[int]]:
    """The source changes until the end; yields a list of the transactions' numbers, which follow `after`."""
    stop = threading.Event()
    made: list[int] = []

    def change_on() -> None:
        with connect(DatabaseUrl.parse(url_of(settings)), autocommit=False) as connection:
            while not stop.wait(PAUSE_S):
                number = after + len(made) + 1
                try:
                    change(connection, number)
                except pymysql.OperationalError as error:
                    if error.args[0] not in _BEGIN_AGAIN:
                        raise
                    connection.rollback()
                else:
                    made.append(number)

    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(change_on)
        try:
            yield made
        finally:
            stop.set()
            task.result()  # also where the body failed: it may have waited for changes in vain


@contextmanager
def working(settings: Settings, log: Path) -> Iterator[None]:
    """A worker that must not end before the end."""
    process = start_worker(settings.model_copy(update={"epoch_interval_s": 1.0}), log)
    try:
        yield
        assert process.poll() is None, log.read_text()
    finally:
        process.kill()
        process.wait()


def await_the_batch(settings: Settings, features: FeatureSet, folder: Path) -> None:
    """Waits until the lake's rows are those of the batch job over the source."""
    expected = batch_features(settings, url_of(settings), features, folder).to_pylist()
    assert expected
    columns = ", ".join(features.column_names)
    sql = f"SELECT {columns} FROM {features.name} ORDER BY {features.entity_key[0]}"
    wait_until(
        lambda: query(settings, sql).to_pylist() == expected, timeout_s=240, what=f"{features.name} are the batch job's"
    )


def repeated_history(settings: Settings, features: FeatureSet) -> list[dict[str, Any]]:
    """Rows of the history that say what the row before of the same entity says, deletions included."""
    columns = ", ".join(features.column_names)
    key = ", ".join(features.entity_key)
    return query(
        settings,
        f"SELECT * FROM (SELECT {key}, known_from, ({columns}) AS held, deleted,"
        f" lag(({columns})) OVER w AS earlier, lag(deleted) OVER w AS was_deleted"
        f" FROM {features.name}_changes WINDOW w AS (PARTITION BY {key} ORDER BY known_from))"
        " WHERE held IS NOT DISTINCT FROM earlier AND deleted = was_deleted",
    ).to_pylist()


def await_all_features(settings: Settings, folder: Path, *, restarted: bool = False) -> None:
    """Waits until every feature set is the batch job's; no history may repeat itself.

    `restarted`: a worker was, which sends the documents of its last epoch again: a deletion may be told twice.
    """
    for features in FEATURE_SETS:
        await_the_batch(settings, features, folder)
        repeated = [row for row in repeated_history(settings, features) if not (restarted and row["deleted"])]
        assert repeated == [], repeated[:3]
