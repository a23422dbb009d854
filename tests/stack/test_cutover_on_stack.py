"""A cut-over to change data capture on real parts, while the source changes all the time and a worker runs."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.bootstrap import open_control_log
from app.cutover import STEPS, state_file
from app.cutover_state import CutoverState
from app.generate import load_database, write_extracts
from app.settings import Settings
from batch_bootstrap.generate import Generated
from connectors.mysql import DatabaseUrl, connect, execute
from tests.stack.busy_source import INVOICES_MADE, SEED, await_all_features, changing, url_of, working
from tests.stack_helpers import environment, row_count, trs
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def shop(captured_settings: Settings) -> Settings:
    """A filled source that nothing was read of yet."""
    with Generated(INVOICES_MADE, seed=SEED) as data:
        load_database(data, url_of(captured_settings), replace=False, report=lambda *_: None)
    return captured_settings


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
        await_all_features(shop, tmp_path)
    assert row_count(shop, "dead_letters") == 0


@pytest.mark.long
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
        await_all_features(shop, tmp_path)
