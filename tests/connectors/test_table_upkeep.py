"""Checkpoints, vacuum and the clean-up of logs: what is old enough goes, and nothing else breaks."""

import os
import time
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from connectors.compaction import compact, data_files
from connectors.delta_lake import DeltaLake
from connectors.delta_log import last_commits
from connectors.lake import FencedTable, table_properties
from connectors.lake_positions import LakePositions
from connectors.table_upkeep import CHECKPOINT_EVERY, TableUpkeep
from processors.compaction import CompactionPolicy, file_groups
from processors.lake_tables import LAKE_TABLES, SKU_LOG
from tests.connectors.test_compaction import CLOSED, TODAY, Tables, sku

NAME = SKU_LOG.name
IDS = {"epoch:skus:0": 1, "offset:aurora.trs.skus:0": 10}


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "lake")


@pytest.fixture
def worker(tables: Tables) -> FencedTable:
    """sku_log with 12 rows of a closed day."""
    table = tables.lake.fenced(NAME)
    table.open(IDS, {}, seen={})
    for epoch in range(2, 14):
        append(table, epoch)
    return table


def append(table: FencedTable, epoch: int) -> None:
    table.append(sku(0, epoch, CLOSED), {"epoch:skus:0": epoch, "offset:aurora.trs.skus:0": 10 * epoch})


def upkeep(lake: DeltaLake, days: int = 7) -> TableUpkeep:
    return TableUpkeep(lake.store, NAME, time_travel_days=days)


def compact_all(tables: Tables) -> None:
    files = data_files(tables.lake.store.open(NAME))
    for group in file_groups(files, today=TODAY, policy=CompactionPolicy()):
        assert compact(tables.lake, tables.con, SKU_LOG, group).committed


def age(tables: Tables, days: float) -> None:
    """As if all that was done so far had been done days ago: the files' times, and those that the log tells."""
    folder, then = tables.folder(NAME), days * 86_400
    for file in folder.glob("**/*"):
        if file.suffix == ".json":
            text = file.read_text()
            for key in ("deletionTimestamp", "timestamp", "modificationTime"):
                text = _earlier(text, key, int(then * 1000))
            file.write_text(text)
        if file.is_file():
            os.utime(file, (time.time() - then, time.time() - then))


def _earlier(text: str, key: str, by_ms: int) -> str:
    first, *others = text.split(f'"{key}":')
    moved = []
    for other in others:
        digits = other[: len(other) - len(other.lstrip("0123456789"))]
        moved.append(str(int(digits) - by_ms) + other[len(digits) :])
    return f'"{key}":'.join([first, *moved])


def rows_at(tables: Tables, version: int) -> int:
    handle = tables.lake.store.open(NAME, version)
    ((count,),) = tables.con.sql(f"SELECT count(epoch) FROM {tables.lake.relation_of(NAME, handle)}").fetchall()
    return int(count)


def test_version_within_the_retention_stays_readable_and_what_lies_beyond_is_gone(
    tables: Tables, worker: FencedTable
) -> None:
    old = tables.lake.store.open(NAME).version()
    compact_all(tables)
    age(tables, 8.0)
    append(worker, 14)
    compact_all(tables)  # the file that it replaces was removed just now
    recent = tables.lake.store.open(NAME).version() - 1
    reader = tables.lake.store.open(NAME, recent)
    orphan = tables.folder(NAME) / f"known_date={CLOSED}" / "compacted-of-a-killed-process.parquet"
    orphan.write_bytes(b"half")
    os.utime(orphan, (time.time() - 8 * 86_400,) * 2)
    assert upkeep(tables.lake).vacuum(dry_run=True) == 13
    assert orphan.exists()
    assert upkeep(tables.lake).vacuum() == 13
    assert not orphan.exists()
    assert rows_at(tables, recent) == 13
    ((count,),) = tables.con.sql(f"SELECT count(*) FROM {tables.lake.relation_of(NAME, reader)}").fetchall()
    assert count == 13, "a reader that had opened it goes on"
    with pytest.raises(Exception, match=r"No files in log segment|No files found"):
        rows_at(tables, old)
    assert upkeep(tables.lake).vacuum() == 0


def test_young_files_that_no_commit_names_are_left_alone(tables: Tables, worker: FencedTable) -> None:
    young = tables.folder(NAME) / f"known_date={CLOSED}" / "being-written.parquet"
    young.write_bytes(b"half")
    shortest = upkeep(tables.lake, days=1)
    shortest.set_properties(shortest.wrong_properties())
    assert shortest.vacuum() == 0
    assert young.exists()


def test_worker_and_its_successor_find_all_ids_after_compaction_vacuum_and_clean_up(
    tables: Tables, worker: FencedTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    compact_all(tables)
    upkeep(tables.lake).checkpoint()
    age(tables, 8.0)
    upkeep(tables.lake).vacuum()
    kept = last_commits(tables.lake.store.open(NAME), 500)
    assert all("trs_ids" not in c for c in kept), "the clean-up took away every commit that names the ids"
    monkeypatch.setattr("connectors.lake.REOPEN_AFTER_S", 0.0)  # its last commit was days ago
    at_13 = {"epoch:skus:0": 13, "offset:aurora.trs.skus:0": 130}
    assert tables.lake.fenced(NAME).stored((*IDS, "absent")) == at_13
    append(worker, 14)
    successor = tables.lake.fenced(NAME)
    assert successor.stored(tuple(IDS)) == {"epoch:skus:0": 14, "offset:aurora.trs.skus:0": 140}
    assert tables.rows(NAME).total() == 13


def test_checkpoint_holds_the_application_ids(tables: Tables, worker: FencedTable) -> None:
    upkeep(tables.lake).checkpoint()
    log = tables.folder(NAME) / "_delta_log"
    version = tables.lake.store.open(NAME).version()
    checkpoint = pa.parquet.read_table(log / f"{version:020}.checkpoint.parquet")
    found = {row["appId"]: row["version"] for row in checkpoint["txn"].to_pylist() if row is not None}
    assert found.items() >= {"epoch:skus:0": 13, "offset:aurora.trs.skus:0": 130}.items()
    assert upkeep(tables.lake).last_checkpoint() == version


def test_checkpoint_is_due_when_those_of_the_writers_failed(tables: Tables, worker: FencedTable) -> None:
    assert not upkeep(tables.lake).checkpoint_due()
    log = tables.folder(NAME) / "_delta_log"
    for file in (*log.glob("*.checkpoint.parquet"), log / "_last_checkpoint"):
        file.unlink()
    assert CHECKPOINT_EVERY > 14
    for epoch in range(14, CHECKPOINT_EVERY + 1):
        append(worker, epoch)
        for file in (*log.glob("*.checkpoint.parquet"), log / "_last_checkpoint"):
            file.unlink(missing_ok=True)
    assert upkeep(tables.lake).checkpoint_due()
    upkeep(tables.lake).checkpoint()
    assert not upkeep(tables.lake).checkpoint_due()


def test_retention_is_set_once_beside_a_worker_that_goes_on(tables: Tables, worker: FencedTable) -> None:
    assert upkeep(tables.lake).wrong_properties() == {}
    longer = upkeep(tables.lake, days=30)
    wrong = longer.wrong_properties()
    assert wrong == {
        "delta.logRetentionDuration": "interval 30 days",
        "delta.deletedFileRetentionDuration": "interval 30 days",
    }
    longer.set_properties(wrong)
    assert longer.wrong_properties() == {}
    append(worker, 14)
    assert tables.lake.store.open(NAME).metadata().configuration == table_properties(LAKE_TABLES[NAME], 30)


def test_every_table_of_a_new_lake_can_be_vacuumed(tables: Tables) -> None:
    for name in LAKE_TABLES:
        each = TableUpkeep(tables.lake.store, name, time_travel_days=7)
        assert (each.wrong_properties(), each.vacuum()) == ({}, 0)
        assert DeltaTable(tables.folder(name)).version() >= 0


def test_last_commit_of_a_stage_is_told_whatever_upkeep_commits_after_it(tables: Tables, worker: FencedTable) -> None:
    positions = LakePositions(tables.lake.store, "aurora.trs", 8)
    before = positions.last_commit()
    assert before is not None
    compact_all(tables)
    upkeep(tables.lake).set_properties({"delta.logRetentionDuration": "interval 8 days"})
    assert positions.last_commit() == before


def test_looks_that_rested_longer_than_the_log_is_kept_go_on(tables: Tables, worker: FencedTable) -> None:
    """A worker that waits for buckets has such handles."""
    follower, look = tables.lake.follow(NAME), tables.lake.fenced(NAME)
    assert len(follower.new_files()) == 12
    assert look.stored(("epoch:skus:0",)) == {"epoch:skus:0": 13}
    for epoch in range(14, 30):
        append(worker, epoch)
    upkeep(tables.lake).checkpoint()
    age(tables, 8.0)
    upkeep(tables.lake).vacuum()
    assert min(c["version"] for c in last_commits(tables.lake.store.open(NAME), 500)) > 13
    assert len(follower.new_files()) == 16
    assert look.stored(("epoch:skus:0",)) == {"epoch:skus:0": 29}
