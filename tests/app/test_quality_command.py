"""`trs lake check` and the gate of folds, on lakes that the engine made."""

import json
import shutil
from pathlib import Path

import pytest
from deltalake import DeltaTable

from app.quality import FoldGate
from app.settings import Settings
from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from processors.lake_tables import SKUS_KEYED
from tests.app.commands import trs
from tests.app.test_verify import shop
from tests.processors.engine_shell import Shell

DEAR = """
[[check]]
name = "skus.cheap"
kind = "range"
table = "skus"
column = "item_retail_price"
most = 1
says = "nothing costs more than one"
hold_above_percent = 0
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    shell = Shell(DeltaLake(LakeLocation(str(folder / "lake"))), shop(), folder / "spill")
    shell.settle()
    shell.engine.stop()
    return folder / "lake"


@pytest.fixture
def lake(filled: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(filled, tmp_path / "lake"))


@pytest.fixture
def dear(tmp_path: Path) -> str:
    path = tmp_path / "checks.toml"
    path.write_text(DEAR)
    return str(path)


def test_sound_lake_passes_and_the_outcome_is_kept(lake: str) -> None:
    answer = trs("lake", "check", "--json", TRS_LAKE=lake)
    assert answer.code == 0
    told = json.loads(answer.out)
    assert told["passed"]
    kept = trs(
        "sql", "SELECT count(*) AS n, bool_and(passed) AS passed FROM quality_results", "--format", "csv", TRS_LAKE=lake
    )
    assert kept.out.splitlines()[1] == f"{len(told['checks'])},true"


def test_failed_check_is_told_kept_and_shown_by_status(lake: str, dear: str) -> None:
    answer = trs("lake", "check", "skus", TRS_LAKE=lake, TRS_QUALITY_CHECKS=dear)
    assert answer.code == 16
    assert "nothing costs more than one: 2 of 2 rows fail" in answer.out
    assert "1 of 3 checks failed: skus.cheap" in answer.err
    status = trs("status", TRS_LAKE=lake, TRS_KAFKA="127.0.0.1:1")
    assert "check skus.cheap failed" in status.out
    assert "folds wait" in status.out


def test_volume_is_judged_against_the_last_run_that_passed(lake: str) -> None:
    assert trs("lake", "check", "accounts", TRS_LAKE=lake).code == 0
    DeltaTable(f"{lake}/account_log").delete("kind = 'account' AND account_id = 8")
    for _ in range(2):
        answer = trs("lake", "check", "accounts.volume", TRS_LAKE=lake)
        assert (answer.code, "1 rows, 1 too few" in answer.out) == (16, True)


def test_fold_waits_while_a_check_fails_badly_and_other_tables_go_on(lake: str, dear: str) -> None:
    before = DeltaTable(f"{lake}/sku_log_folded").version()
    answer = trs("lake", "fold", TRS_LAKE=lake, TRS_QUALITY_CHECKS=dear, TRS_PARTITIONS="1")
    assert answer.code == 16
    assert "sku_log_folded: held back" in answer.out
    assert "account_log_folded: " in answer.out
    assert "skus.cheap" in answer.err
    kept = DeltaTable(f"{lake}/sku_log_folded").to_pyarrow_table()
    assert kept["is_mark"].to_pylist() == [True]
    assert DeltaTable(f"{lake}/sku_log_folded").version() <= before + 1  # its first marks
    assert trs("sql", "SELECT count(*) AS n FROM skus", "--format", "csv", TRS_LAKE=lake).out.splitlines()[1] == "2"
    answer = trs("lake", "fold", "--despite-checks", TRS_LAKE=lake, TRS_QUALITY_CHECKS=dear, TRS_PARTITIONS="1")
    assert (answer.code, "sku_log_folded: 2 new rows" in answer.out) == (0, True)


def test_gate_makes_the_checks_of_its_table_and_does_not_ask_again_at_once(lake: str, dear: str) -> None:
    settings = Settings(lake=lake, quality_checks=Path(dear))
    gate = FoldGate(settings, holds=True)
    reason = gate(SKUS_KEYED)
    assert reason is not None
    assert "skus.cheap" in reason
    assert gate(SKUS_KEYED) == reason
    asked = trs("sql", "SELECT check_name, reason FROM quality_results ORDER BY 1", "--format", "csv", TRS_LAKE=lake)
    assert asked.out.splitlines()[1:] == ["skus.cheap,fold", "skus.key,fold", "skus.prices,fold"]
    assert FoldGate(settings, holds=False)(SKUS_KEYED) is None


def test_unknown_check_is_named(lake: str) -> None:
    answer = trs("lake", "check", "invoces", TRS_LAKE=lake)
    assert (answer.code, "`invoces`" in answer.err) == (2, True)


def test_no_lake_is_said(tmp_path: Path) -> None:
    assert trs("lake", "check", TRS_LAKE=str(tmp_path / "none")).code == 4
