"""What a worker tells of the whole lake, a real engine's in a folder: folds, checks, upkeep, and new commits."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.lake_watch import LakeWatch
from app.metrics import Metrics
from app.settings import Settings
from app.worker_state import WorkerState
from connectors.delta_lake import DeltaLake
from connectors.fold import fold_all
from connectors.lake import LakeLocation
from connectors.table_looks import TableLook
from processors.fold import all_that_waits
from processors.lake_tables import QUALITY_RESULTS, RECONCILIATION, UPKEEP
from processors.state import open_state
from tests.processors.engine_shell import INVOICE, SKU, Shell, Topics, event
from tests.small_lake import SmallLake

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> DeltaLake:
    return DeltaLake(LakeLocation(str(tmp_path / "lake")))


@pytest.fixture
def watch(lake: DeltaLake, tmp_path: Path) -> LakeWatch:
    return LakeWatch(Settings(lake=str(tmp_path / "lake"), partitions=1), owns=lambda: True)


def looked(watch: LakeWatch) -> dict[str, TableLook]:
    watch.look()
    assert watch.failure is None
    assert watch.last is not None
    return {table.name: table for table in watch.last.tables}


def test_rows_of_a_log_wait_until_they_are_folded(lake: DeltaLake, watch: LakeWatch, tmp_path: Path) -> None:
    topics = Topics()
    topics.add("skus", event("skus", "r", 1, SKU))
    topics.add("invoices", event("invoices", "c", 3, INVOICE))
    shell = Shell(lake, topics, tmp_path / "spill")
    try:
        assert looked(watch)["sku_log_folded"].fold_debt == 0
        shell.settle()
        memory = shell.engine.memory
    finally:
        shell.engine.stop()
    assert memory is not None
    assert 0 < memory.used_bytes < memory.budget_bytes
    assert shell.engine.memory is None, "its state is closed"
    tables = looked(watch)
    assert (tables["sku_log"].rows, tables["sku_log"].files, tables["sku_log"].fold_debt) == (1, 1, None)
    assert tables["sku_log_folded"].fold_debt == tables["invoice_log_folded"].fold_debt == 1
    con = open_state(spill=tmp_path / "spill-fold", memory_mb=500, threads=1)
    lake.prepare(con)
    fold_all(lake, con, 1, all_that_waits())
    con.close()
    assert {table.fold_debt for table in looked(watch).values()} == {None, 0}


def test_last_outcome_of_each_check_counts_and_is_read_once_it_is_committed(watch: LakeWatch, tmp_path: Path) -> None:
    written, later = SmallLake(tmp_path / "lake"), NOW + timedelta(hours=1)
    compared = {"check_id": "1", "table_name": "skus", "compared": 9, "missing": 2, "changed": 1, "surplus": 0}
    written.append(RECONCILIATION.name, {**compared, "checked_at": NOW, "repaired": 1})
    for at, passed in ((NOW, False), (later, True)):
        written.append(QUALITY_RESULTS.name, {"check_name": "paid", "at": at, "passed": passed, "detail": "d"})
    written.append(QUALITY_RESULTS.name, {"check_name": "late", "at": NOW, "passed": False, "detail": "d"})
    written.append(UPKEEP.name, {"action": "vacuum", "table_name": "epochs", "began_at": NOW, "failure": "no right"})
    looked(watch)
    assert watch.last is not None
    assert watch.last.differing == {"skus": 2}
    assert [check.name for check in watch.last.failed_checks] == ["late"]
    assert [done.failure for done in watch.last.failed_upkeep] == ["no right"]
    shown = Metrics(WorkerState("g", dict, lake=watch), version="0").text().decode().splitlines()
    assert 'trs_reconciliation_differing_rows{table="skus"} 2.0' in shown
    assert {"trs_quality_checks_failed 1.0", "trs_upkeep_failed 1.0"} <= set(shown)
    written.append(UPKEEP.name, {"action": "vacuum", "table_name": "epochs", "began_at": later})
    written.append(RECONCILIATION.name, {**compared, "checked_at": later, "repaired": 3})
    looked(watch)
    assert (watch.last.differing, watch.last.failed_upkeep) == ({"skus": 0}, ())


def test_lake_that_cannot_be_read_is_told_and_what_was_seen_stays(
    lake: DeltaLake, watch: LakeWatch, tmp_path: Path
) -> None:
    lake.store.ensure(UPKEEP)
    looked(watch)
    seen = watch.last
    torn = tmp_path / "lake" / UPKEEP.name / "_delta_log" / f"{lake.store.open(UPKEEP.name).version() + 1:020}.json"
    torn.write_text("{")
    watch.look()
    assert watch.failure is not None
    assert watch.last is seen
    torn.unlink()
    looked(watch)


def test_looks_that_a_fault_ended_are_told_and_are_not_taken_for_the_lake_as_it_is(
    lake: DeltaLake, watch: LakeWatch, caplog: pytest.LogCaptureFixture
) -> None:
    lake.store.ensure(UPKEEP)
    looked(watch)
    owned = iter([True])
    watch._owns = lambda: next(owned)
    watch.start()
    watch._thread.join(timeout=10)
    assert watch.at_rest
    assert watch.last is None
    assert watch.failure is not None
    assert "a fault of the program" in watch.failure
