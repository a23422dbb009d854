"""A cut-over to change data capture on real parts, while the source changes all the time and a worker runs."""

import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pymysql
import pytest

from app.bootstrap import open_control_log
from app.cutover import STEPS, state_file
from app.cutover_state import CutoverState
from app.generate import load_database, write_extracts
from app.settings import Settings
from batch_bootstrap.generate import Generated
from connectors.mysql import Connection, DatabaseUrl, connect, execute
from processors.errors import SourceError
from processors.features.declarations import FEATURE_SETS, FeatureSet
from tests.stack_helpers import batch_features, environment, query, row_count, start_worker, trs
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(600)
INVOICES_MADE = 600
SEED = 23
PAUSE_S = 0.1


@pytest.fixture
def shop(captured_settings: Settings) -> Settings:
    """A filled source that nothing was read of yet."""
    with Generated(INVOICES_MADE, seed=SEED) as data:
        load_database(data, url_of(captured_settings), replace=False, report=lambda *_: None)
    return captured_settings


def url_of(settings: Settings) -> str:
    assert settings.database is not None
    return settings.database.get_secret_value()


def change(connection: Connection, number: int) -> None:
    """One transaction on every table. Only articles that were never sold are removed: of others the lake keeps the
    prices, and a database does not."""
    chance = random.Random(number)
    invoice, other, account = 10**6 + number, chance.randrange(1, INVOICES_MADE), chance.randrange(1, 9)
    for statement in (
        f"INSERT INTO invoices VALUES ({invoice}, {account}, '2024-01-01' + INTERVAL {number} DAY, NULL)",
        f"INSERT INTO invoice_line_items SELECT {invoice}, item_id, 2 FROM skus WHERE item_id NOT LIKE 'new-%' LIMIT 3",
        f"UPDATE invoice_line_items SET quantity = quantity + 1 WHERE invoice_id IN ({other}, {invoice - 1})",
        f"UPDATE invoices SET payment_dates = date_issued + INTERVAL 40 DAY, account_id = 3 WHERE invoice_id = {other}",
        f"DELETE FROM invoice_line_items WHERE invoice_id = {other + 1} LIMIT 1",
        f"DELETE FROM invoices WHERE invoice_id = {invoice - 20}",
        f"UPDATE invoice_line_items SET invoice_id = {invoice - 3} WHERE invoice_id = {invoice - 20}",
        f"UPDATE skus SET item_retail_price = item_retail_price + 1 ORDER BY item_id LIMIT {number % 2}",
        f"INSERT INTO skus VALUES ('new-{number}', 'n', 'd', 1, 2)",
        f"DELETE FROM skus WHERE item_id = 'new-{number - 5}'",
        f"UPDATE accounts SET contact_phone = '{number}' WHERE account_id = {account}",
    ):
        with suppress(SourceError, pymysql.IntegrityError):  # a line of that key is there already
            execute(connection, statement)
    connection.commit()


@contextmanager
def changing(settings: Settings) -> Iterator[list[int]]:
    """The source changes until the end; yields a list of the transactions' numbers."""
    stop = threading.Event()
    made: list[int] = []

    def change_on() -> None:
        with connect(DatabaseUrl.parse(url_of(settings)), autocommit=False) as connection:
            while not stop.wait(PAUSE_S):
                change(connection, len(made) + 1)
                made.append(len(made) + 1)

    thread = threading.Thread(target=change_on)
    thread.start()
    try:
        yield made
    finally:
        stop.set()
        thread.join()


@contextmanager
def working(settings: Settings, log: Path) -> Iterator[None]:
    """A worker that must not end before the end."""
    process = start_worker(settings, log)
    try:
        yield
        assert process.poll() is None, log.read_text()
    finally:
        process.kill()
        process.wait()


def start_cutover(settings: Settings, log: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "app.cli.main", "cutover", "--chunk-rows", "500", *arguments],
            env=environment(settings),
            stdout=out,
            stderr=out,
        )


def kill_after(settings: Settings, step: str, log: Path, *arguments: str) -> None:
    """Starts the command and kills it once a step is done."""
    before = done_at(settings, step)
    process = start_cutover(settings, log, *arguments)
    try:
        wait_until(
            lambda: done_at(settings, step) != before or process.poll() is not None,
            timeout_s=120,
            what=f"step {step} is done",
        )
    finally:
        process.kill()
        process.wait()
    assert done_at(settings, step) != before, log.read_text()


def done_at(settings: Settings, step: str) -> str | None:
    state = state_file(settings).load()
    return None if state is None or step not in state.steps else state.steps[step].done_at


def await_the_batch(settings: Settings, features: FeatureSet, folder: Path) -> None:
    """Waits until the lake's rows are those of the batch job over the source."""
    expected = batch_features(settings, url_of(settings), features, folder).to_pylist()
    assert expected
    columns = ", ".join(features.column_names)
    sql = f"SELECT {columns} FROM {features.name} ORDER BY {features.entity_key[0]}"
    wait_until(
        lambda: query(settings, sql).to_pylist() == expected, timeout_s=90, what=f"{features.name} are the batch job's"
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


def test_cutover_killed_after_every_step_loses_and_repeats_nothing_while_the_source_changes(
    shop: Settings, tmp_path: Path
) -> None:
    log = tmp_path / "cutover.log"
    with working(shop, tmp_path / "worker.log"):
        with changing(shop) as made:
            for step in tuple(STEPS)[:-1]:
                kill_after(shop, step, log, "--with", "snapshot")
            shown = json.loads(trs(shop, "cutover", "--json", timeout_s=180).stdout)
        assert len(made) > 50
        state = CutoverState(**shown)
        assert state.finished_at is not None
        assert (state.method, state.attempts, list(state.steps)) == ("snapshot", len(STEPS), list(STEPS))
        assert state_file(shop).path.exists()
        for features in FEATURE_SETS:
            await_the_batch(shop, features, tmp_path)
            assert repeated_history(shop, features) == []
    assert row_count(shop, "dead_letters") == 0


def test_cutover_of_a_lake_fed_from_extracts_killed_among_the_rows_takes_away_what_the_source_deleted_before(
    shop: Settings, tmp_path: Path
) -> None:
    extracts, log = tmp_path / "extracts", tmp_path / "cutover.log"
    with Generated(INVOICES_MADE, seed=SEED) as data:
        write_extracts(data, extracts, replace=False, report=lambda *_: None)
    with working(shop, tmp_path / "worker.log"):
        trs(shop, "bootstrap", "snapshot", "--source", f"csv:{extracts}")
        wait_until(
            lambda: row_count(shop, "invoice_features_changes") >= INVOICES_MADE, timeout_s=90, what="the lake is fed"
        )
        with connect(DatabaseUrl.parse(url_of(shop)), autocommit=False) as connection:
            for table in ("invoice_line_items", "invoices"):  # no read of the source will show them
                assert execute(connection, f"DELETE FROM {table} WHERE invoice_id BETWEEN 100 AND 140") > 0
            connection.commit()
        control = open_control_log(shop)
        with changing(shop):
            process = start_cutover(shop, log)
            wait_until(
                lambda: bool(control.open_runs()) or process.poll() is not None, timeout_s=120, what="rows are sent"
            )
            process.kill()
            assert process.wait() == -signal.SIGKILL, log.read_text()
            shown = json.loads(trs(shop, "cutover", "--json", timeout_s=180).stdout)
        assert shown["finished_at"] is not None
        assert shown["method"] == "diff"
        assert control.open_runs() == []
        for features in FEATURE_SETS:
            await_the_batch(shop, features, tmp_path)
            assert repeated_history(shop, features) == []
