"""`trs lake maintain` over lakes in a folder: what is due is done, once, within the budget, table by table."""

import fcntl
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from connectors.table_upkeep import TableUpkeep
from processors.lake_tables import ACCOUNTS_PRIVATE, EPOCHS, LAKE_TABLES, SKU_LOG
from tests.app.commands import Answer, trs
from tests.connectors.test_compaction import CLOSED, TODAY, Tables, sku


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    """Files of closed days in three tables, and SKUs that were never folded."""
    made = Tables(tmp_path / "lake")
    for table in (EPOCHS, ACCOUNTS_PRIVATE):
        made.grow(table, CLOSED, 3)
    worker = made.lake.fenced(SKU_LOG.name)
    worker.open({f"epoch:skus:{b}": 1 for b in range(8)}, {}, seen={})
    for epoch in range(2, 30):
        worker.append(sku(epoch % 8, epoch, TODAY), {f"epoch:skus:{b}": epoch for b in range(8)})
    return made


def maintain(tables: Tables, *options: str, **environment: str) -> Answer:
    home = str(tables.folder(".").parent.parent)
    lake = tables.lake.store.location.uri
    return trs("lake", "maintain", *options, TRS_HOME=home, TRS_LAKE=lake, **environment)


def done(answer: Answer) -> list[dict[str, Any]]:
    assert answer.code == 0, answer.err
    found: list[dict[str, Any]] = json.loads(answer.out)["done"]
    return found


def pairs(found: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(d["action"], d["table_name"]) for d in found}


def test_round_does_all_that_is_due_and_the_next_finds_nothing_due(tables: Tables) -> None:
    before = {name: tables.rows(name) for name in (EPOCHS.name, ACCOUNTS_PRIVATE.name, SKU_LOG.name)}
    fold_all = {"TRS_FOLD_MIN_ROWS": "1"}
    planned = pairs(done(maintain(tables, "--dry-run", "--json", **fold_all)))
    found = pairs(done(maintain(tables, "--json", **fold_all)))
    assert found == planned
    assert found >= {("fold", "sku_log_folded"), ("compact", "epochs"), ("compact", "accounts_private_changes")}
    assert {table for action, table in found if action == "vacuum"} == set(LAKE_TABLES)
    assert before == {name: tables.rows(name) for name in before}
    assert done(maintain(tables, "--json", **fold_all)) == []
    noted = tables.con.sql(f"SELECT action, table_name FROM {tables.lake.relation('upkeep')} WHERE failure IS NULL")
    assert set(noted.fetchall()) == found


def test_only_names_what_is_done(tables: Tables) -> None:
    assert {d["action"] for d in done(maintain(tables, "--only", "compact", "--json"))} == {"compact"}
    assert maintain(tables, "--only", "compact,sweep").code == 2
    assert maintain(tables, "--only", ",").code == 2


def test_budget_leaves_the_rest_to_the_next_round(tables: Tables) -> None:
    for _ in range(2):
        for days in range(1, 4):
            tables.grow(EPOCHS, CLOSED - timedelta(days=days), 60)
    options = ("--only", "compact", "--json", "--budget-mb", "1")
    rounds = [maintain(tables, *options)]
    while json.loads(rounds[-1].out)["left"]:
        rounds.append(maintain(tables, *options))
    assert len(rounds) > 1
    for each in rounds:
        sizes = [d["bytes_before"] for d in done(each)]
        assert sum(sizes[:-1]) < 1_000_000, "the one that uses the budget up is the last"
    assert done(maintain(tables, *options)) == []
    assert json.loads(maintain(tables, "--json", "--budget-s", "0").out)["done"] == []


def test_second_round_on_this_machine_is_refused_while_the_first_runs(tables: Tables) -> None:
    with (tables.folder(".").parent.parent / "upkeep.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        answer = maintain(tables)
    assert answer.code == 6
    assert "another round of upkeep runs on this machine" in answer.err


def test_table_that_fails_is_told_and_the_others_are_looked_after(tables: Tables) -> None:
    for file in tables.folder(EPOCHS.name).glob("**/*.parquet"):
        if "_delta_log" not in file.parts:
            file.unlink()
    answer = maintain(tables, "--only", "compact", "--json")
    assert answer.code == 6, "a passing fault, as far as anybody can tell"
    assert "epochs" in answer.err
    found = {d["table_name"]: d["failure"] for d in json.loads(answer.out)["done"]}
    assert found["accounts_private_changes"] is None
    assert "No files found" in found["epochs"]
    noted = tables.con.sql(f"SELECT table_name FROM {tables.lake.relation('upkeep')} WHERE failure IS NOT NULL")
    assert noted.fetchall() == [("epochs",)]


def test_retention_follows_the_setting(tables: Tables) -> None:
    days = {"TRS_TIME_TRAVEL_DAYS": "3"}
    found = pairs(done(maintain(tables, "--only", "vacuum", "--json", **days)))
    assert {table for action, table in found if action == "retention"} == set(LAKE_TABLES)
    for name in LAKE_TABLES:
        assert TableUpkeep(tables.lake.store, name, time_travel_days=3).wrong_properties() == {}
    assert done(maintain(tables, "--only", "vacuum", "--json", **days)) == []


def test_folder_without_a_lake_is_refused_and_nothing_is_made_there(tmp_path: Path) -> None:
    answer = trs("lake", "maintain", TRS_HOME=str(tmp_path), TRS_LAKE=str(tmp_path / "lake"))
    assert answer.code == 4
    assert "there is no lake at" in answer.err
    assert not (tmp_path / "lake").exists()


def test_vacuum_is_done_once_a_day_or_when_it_is_asked_for(tables: Tables) -> None:
    alone = ("--only", "vacuum", "--json")
    assert len(done(maintain(tables, *alone))) == len(LAKE_TABLES)
    assert done(maintain(tables, *alone)) == []
    assert len(done(maintain(tables, *alone, "--vacuum-now"))) == len(LAKE_TABLES)
