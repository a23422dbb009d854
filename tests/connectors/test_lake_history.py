"""Handles that lag behind their table: what they show is what stood at their version, never what came later."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from connectors.delta_lake import DeltaLake
from connectors.delta_log import last_commits
from connectors.fold import fold
from connectors.lake import FencedTable, KnownIds, LakeLocation, LakeStore
from processors.fold import all_that_waits
from processors.lake_tables import SKU_LOG, SKUS_KEYED

EPOCH = "epoch:skus:0"


@pytest.fixture
def lake(tmp_path: Path) -> DeltaLake:
    return DeltaLake(LakeLocation(str(tmp_path / "lake")))


@pytest.fixture
def table(lake: DeltaLake) -> FencedTable:
    """sku_log, opened for bucket 0 at epoch 1."""
    table = lake.fenced(SKU_LOG.name)
    table.open({EPOCH: 1}, {}, seen={})
    return table


def sku(epoch: int) -> pa.Table:
    blank = dict.fromkeys(SKU_LOG.schema.names)
    row = {"bucket": 0, "epoch": epoch, "item_id": "a", "deleted": False, "known_date": 19_000}
    return pa.Table.from_pylist([blank | row], schema=SKU_LOG.schema)


def lagging(lake: DeltaLake, table: FencedTable, *, at_epoch: int) -> DeltaTable:
    """A handle that shows `at_epoch`, while the table is at twice that epoch."""
    for epoch in range(2, at_epoch + 1):
        table.append(sku(epoch), {EPOCH: epoch})
    handle = lake.store.open(SKU_LOG.name)
    for epoch in range(at_epoch + 1, 2 * at_epoch + 1):
        table.append(sku(epoch), {EPOCH: epoch})
    return handle


@pytest.mark.parametrize("at_epoch", [2, 5, 60])
def test_ids_through_a_handle_that_lags_are_those_of_its_version(
    lake: DeltaLake, table: FencedTable, at_epoch: int
) -> None:
    handle = lagging(lake, table, at_epoch=at_epoch)
    assert KnownIds().read(handle, [EPOCH]) == {EPOCH: at_epoch}


def test_commits_of_a_handle_that_lags_have_their_own_numbers(lake: DeltaLake, table: FencedTable) -> None:
    handle = lagging(lake, table, at_epoch=5)
    numbers = {c["version"]: c.get("trs_ids") for c in last_commits(handle, 3)}
    assert numbers == {5: '{"epoch:skus:0": 5}', 4: '{"epoch:skus:0": 4}', 3: '{"epoch:skus:0": 3}'}
    assert [c["version"] for c in last_commits(handle, 100)] == [5, 4, 3, 2, 1, 0]


def test_fold_of_a_log_that_goes_on_meanwhile_marks_no_more_than_it_read(
    lake: DeltaLake, table: FencedTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, usual = lagging(lake, table, at_epoch=5), LakeStore.open
    with duckdb.connect() as con, monkeypatch.context() as slow:
        lake.prepare(con)
        slow.setattr(LakeStore, "open", lambda s, name: handle if name == SKU_LOG.name else usual(s, name))
        fold(lake, con, SKUS_KEYED, 1, all_that_waits())
        marks = con.sql(f"SELECT is_mark, epoch FROM {lake.relation(SKUS_KEYED.folded)} ORDER BY 1").fetchall()
    assert marks == [(False, 5), (True, 5)]
