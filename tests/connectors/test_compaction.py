"""Compaction on Delta: the same rows in fewer files, whatever goes on beside it."""

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from app.settings import Settings
from app.wiring import lake_location
from connectors.compaction import Compacted, FileRewrite, compact, data_files, file_stats, unknown_columns
from connectors.delta_lake import DeltaLake
from connectors.lake import FencedTable, LakeLocation
from connectors.table_facts import table_facts
from connectors.table_folder import TableFolder
from connectors.table_upkeep import TableUpkeep
from processors.compaction import CompactionPolicy, compacted_tables, file_groups, sort_columns
from processors.errors import TrsError
from processors.lake_tables import (
    ACCOUNT_LOG,
    ACCOUNTS_PRIVATE,
    CONTROL_LOG,
    EPOCHS,
    LAKE_TABLES,
    SKU_LOG,
    LakeTable,
)

TODAY = datetime.now(UTC).date()
CLOSED = TODAY - timedelta(days=3)
EPOCH = "epoch:skus:0"
TABLES = pytest.mark.parametrize("table", compacted_tables(), ids=lambda t: t.name)


def some_value(kind: pa.DataType, chance: random.Random) -> Any:
    """A value of the type, now and then null or an extreme."""
    if chance.random() < 0.15:
        return None
    if pa.types.is_boolean(kind):
        return chance.random() < 0.5
    if pa.types.is_integer(kind):
        return chance.choice([0, -1, 7, 2 ** (kind.bit_width - 1) - 1, chance.randrange(1000)])
    if pa.types.is_floating(kind):
        return chance.random()
    if pa.types.is_decimal(kind):
        return Decimal(chance.randrange(10**kind.precision)).scaleb(-kind.scale)
    if pa.types.is_timestamp(kind):
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=chance.randrange(10**12))
    if pa.types.is_date(kind):
        return date(1, 1, 1) + timedelta(days=chance.randrange(3_000_000))
    if pa.types.is_binary(kind):
        return chance.randbytes(chance.randrange(5))
    if pa.types.is_string(kind):
        return chance.choice(["", "ä\n,\"'", "null", str(chance.randrange(1000))])
    if pa.types.is_list(kind):
        return [some_value(kind.value_type, chance) for _ in range(chance.randrange(3))]
    assert pa.types.is_struct(kind), kind
    return {f.name: some_value(f.type, chance) for f in kind}


def some_rows(table: LakeTable, day: date, chance: random.Random, count: int = 5) -> pa.Table:
    rows = [{f.name: some_value(f.type, chance) for f in table.schema} | {"known_date": day} for _ in range(count)]
    return pa.Table.from_pylist(rows, schema=table.schema)


class Tables:
    """A lake, a connection that reads it, and random commits."""

    def __init__(self, folder: Path | str, options: Mapping[str, str] | None = None) -> None:
        self.lake = DeltaLake(LakeLocation(str(folder), options or {}))
        self.chance = random.Random(5)
        self.con = duckdb.connect()
        self.lake.prepare(self.con)

    def grow(self, table: LakeTable, day: date, commits: int) -> None:
        for _ in range(commits):
            rows = some_rows(table, day, self.chance)
            write_deltalake(self.lake.store.open(table.name), rows, mode="append")

    def rows(self, name: str) -> Counter[str]:
        found = self.con.sql(f"FROM {self.lake.relation(name)}").to_arrow_table().to_pylist()
        return Counter(map(repr, found))

    def compact(self, table: LakeTable, **policy: int) -> list[Compacted]:
        files = data_files(self.lake.store.open(table.name))
        groups = file_groups(files, today=TODAY, policy=CompactionPolicy(**policy))
        return [compact(self.lake, self.con, table, group) for group in groups]

    def folder(self, name: str) -> Path:
        return Path(self.lake.store.location.table(name))

    def last_commit(self, name: str) -> list[dict[str, Any]]:
        last = sorted((self.folder(name) / "_delta_log").glob("*.json"))[-1]
        return [json.loads(line) for line in last.read_text().splitlines()]


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Tables]:
    made = Tables(tmp_path / "a lake")
    yield made
    made.con.close()


@TABLES
def test_compaction_of_any_table_keeps_each_row_and_value(tables: Tables, table: LakeTable) -> None:
    for day in (CLOSED, CLOSED - timedelta(days=1), TODAY):
        tables.grow(table, day, 3)
    before, files = tables.rows(table.name), len(data_files(tables.lake.store.open(table.name)))
    done = tables.compact(table, tier_files=3)
    assert all(d.committed and d.files_after == 1 for d in done)
    assert sum(d.files_before for d in done) == files
    assert tables.rows(table.name) == before
    assert tables.compact(table, tier_files=3) == []
    actions = tables.last_commit(table.name)
    changes = [a.get("add", a.get("remove"))["dataChange"] for a in actions if {"add", "remove"} & a.keys()]
    assert changes == [False] * (1 + done[-1].files_before)
    assert DeltaTable(tables.folder(table.name)).to_pyarrow_table().num_rows == before.total(), "as others read it"


@pytest.mark.parametrize("table", [SKU_LOG, EPOCHS, ACCOUNTS_PRIVATE, CONTROL_LOG], ids=lambda t: t.name)
def test_rows_of_a_compacted_day_are_sorted_over_all_its_files_and_fill_row_groups(
    tables: Tables, table: LakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.compaction._ROW_GROUP", 4)
    tables.grow(table, CLOSED, 4)
    files = data_files(tables.lake.store.open(table.name))
    (group,) = file_groups(files, today=TODAY, policy=CompactionPolicy()) if table.partition_by else [None]
    if group is None:
        (group,) = file_groups(files, today=TODAY, policy=CompactionPolicy(tier_files=2))
    compact(tables.lake, tables.con, table, type(group)(group.day, group.files, parts=2))
    written = sorted(tables.folder(table.name).glob("**/compacted-*.parquet"), key=lambda f: f.stat().st_mtime_ns)
    assert len(written) == 2
    rows = pa.concat_tables([pq.read_table(f, partitioning=None) for f in written])
    names = ", ".join(sort_columns(table))
    asked = f"SELECT {names} FROM rows ORDER BY {names}"
    assert rows.select(sort_columns(table)).to_pylist() == tables.con.sql(asked).to_arrow_table().to_pylist()


def sku(bucket: int, epoch: int, day: date) -> pa.Table:
    row = dict.fromkeys(SKU_LOG.schema.names) | {"bucket": bucket, "epoch": epoch, "item_id": "a", "known_date": day}
    return pa.Table.from_pylist([row | {"deleted": False}], schema=SKU_LOG.schema)


def writer(tables: Tables) -> FencedTable:
    """sku_log with three commits on a closed day, by a worker that owns bucket 0."""
    table = tables.lake.fenced(SKU_LOG.name)
    table.open({EPOCH: 1}, {}, seen={})
    for epoch in (2, 3, 4):
        table.append(sku(0, epoch, CLOSED), {EPOCH: epoch})
    return table


def amid(monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Does something after the files were written, right before the first attempt to commit them."""
    usual, done = FileRewrite._commit_on, []

    def interrupted(self: FileRewrite, *arguments: Any) -> None:
        if not done:
            done.append(True)
            act()
        usual(self, *arguments)

    monkeypatch.setattr(FileRewrite, "_commit_on", interrupted)


def test_worker_that_commits_amid_a_compaction_is_not_refused_nor_refuses_it(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = writer(tables)
    amid(monkeypatch, lambda: worker.append(sku(0, 5, CLOSED), {EPOCH: 5}))
    (done,) = tables.compact(SKU_LOG)
    assert (done.committed, done.files_before) == (True, 3)
    worker.append(sku(0, 6, TODAY), {EPOCH: 6})
    epochs = tables.con.sql(f"SELECT epoch FROM {tables.lake.relation(SKU_LOG.name)} ORDER BY 1").fetchall()
    assert epochs == [(2,), (3,), (4,), (5,), (6,)]
    assert tables.lake.fenced(SKU_LOG.name).stored((EPOCH,)) == {EPOCH: 6}


def test_of_two_compactions_of_the_same_files_the_later_changes_nothing_and_leaves_no_file(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer(tables)
    before, first = tables.rows(SKU_LOG.name), []
    amid(monkeypatch, lambda: first.extend(tables.compact(SKU_LOG)))
    (late,) = tables.compact(SKU_LOG)
    assert [late.committed, first[0].committed] == [False, True]
    assert tables.rows(SKU_LOG.name) == before
    assert len(list(tables.folder(SKU_LOG.name).glob("**/compacted-*"))) == 1


@pytest.mark.parametrize("other", ["optimize", "delete"])
def test_rewrite_by_another_program_amid_a_compaction_wins(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """delta-rs alone would let the second of two rewrites pass, and double the rows."""
    writer(tables)
    acts = {
        "optimize": lambda t: t.optimize.compact(),
        "delete": lambda t: t.delete("epoch = 3"),
    }
    amid(monkeypatch, lambda: acts[other](tables.lake.store.open(SKU_LOG.name)))
    (late,) = tables.compact(SKU_LOG)
    assert not late.committed
    assert tables.rows(SKU_LOG.name).total() == {"optimize": 3, "delete": 2}[other]


def test_commit_that_arrived_though_its_answer_did_not_counts_as_done(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer(tables)
    before, usual = tables.rows(SKU_LOG.name), FileRewrite._commit_on

    def deaf(self: FileRewrite, *arguments: Any) -> None:
        usual(self, *arguments)
        raise OSError("timed out")

    monkeypatch.setattr(FileRewrite, "_commit_on", deaf)
    (done,) = tables.compact(SKU_LOG)
    assert done.committed
    assert tables.rows(SKU_LOG.name) == before


@pytest.mark.parametrize("seen", [True, False], ids=["is looked for", "cannot be looked for"])
def test_files_of_a_commit_whose_outcome_is_unknown_are_not_deleted(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    """The store takes the commit only after everybody has given it up."""
    writer(tables)
    before, usual, late = tables.rows(SKU_LOG.name), FileRewrite._commit_on, []

    def lost(self: FileRewrite, *arguments: Any) -> None:
        late.append(lambda: usual(self, *arguments))
        raise OSError("timed out")

    def silent(self: FileRewrite) -> bool:
        raise OSError("timed out")

    monkeypatch.setattr(FileRewrite, "_commit_on", lost)
    if not seen:
        monkeypatch.setattr(FileRewrite, "_stands", silent)
    with pytest.raises(TrsError, match="does not answer"):
        tables.compact(SKU_LOG)
    assert tables.rows(SKU_LOG.name) == before
    late[0]()
    assert tables.rows(SKU_LOG.name) == before
    assert len(data_files(tables.lake.store.open(SKU_LOG.name))) == 1


def test_table_with_a_column_of_a_newer_program_is_told_apart(tables: Tables) -> None:
    handle = tables.lake.store.open(SKU_LOG.name)
    assert unknown_columns(handle, SKU_LOG) == []
    newer = pa.schema([*SKU_LOG.schema, pa.field("weight", pa.int64())])
    handle.alter.add_columns(DeltaTable.create(tables.folder("other"), newer).schema().fields[-1:])
    assert unknown_columns(tables.lake.store.open(SKU_LOG.name), SKU_LOG) == ["weight"]


def test_follower_gets_each_row_through_compactions_whenever_it_looks(tables: Tables) -> None:
    worker, followers = writer(tables), [tables.lake.follow(SKU_LOG.name) for _ in range(3)]
    seen: list[set[int]] = [set(), set(), set()]

    def look(number: int) -> None:
        files = followers[number].new_files()
        found = tables.con.sql(f"SELECT epoch FROM {tables.lake.relation(SKU_LOG.name, files)}").fetchall()
        seen[number] |= {epoch for (epoch,) in found}

    for epoch in range(5, 25):
        worker.append(sku(0, epoch, CLOSED), {EPOCH: epoch})
        look(0)
        if epoch % 3 == 0:
            look(1)
        if epoch % 5 == 0:
            tables.compact(SKU_LOG)
    for number in range(3):
        look(number)
    assert seen == [set(range(2, 25))] * 3


def test_statistics_of_a_file_enclose_its_values(tmp_path: Path) -> None:
    at = datetime(2026, 1, 1, 0, 0, 0, 123_456, tzinfo=UTC)
    rows = pa.table(
        {
            "n": pa.array([3, None, -2], pa.int64()),
            "at": pa.array([at, at + timedelta(seconds=1), None], pa.timestamp("us", "UTC")),
            "empty": pa.array([None, None, None], pa.int32()),
            "lines": pa.array([[1], [], None], pa.list_(pa.int64())),
        }
    )
    pq.write_table(rows, tmp_path / "f.parquet", row_group_size=2)
    assert file_stats(pq.read_metadata(tmp_path / "f.parquet")) == {
        "numRecords": 3,
        "minValues": {"n": -2, "at": "2026-01-01T00:00:00.123Z"},
        "maxValues": {"n": 3, "at": "2026-01-01T00:00:01.124Z"},
        "nullCount": {"n": 1, "at": 1, "empty": 3},
    }


def test_every_compacted_table_is_declared_and_sorted_by_its_bucket() -> None:
    for table in compacted_tables():
        assert table.name in LAKE_TABLES
        assert "bucket" not in table.schema.names or "bucket" in sort_columns(table)[:2]


def test_compaction_and_vacuum_on_an_object_store(stack_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    location = lake_location(stack_settings)
    tables = Tables(location.uri, location.storage_options)
    with closing(tables.con):
        worker = writer(tables)
        tables.grow(ACCOUNT_LOG, CLOSED, 3)
        before = {t.name: tables.rows(t.name) for t in (SKU_LOG, ACCOUNT_LOG)}
        amid(monkeypatch, lambda: worker.append(sku(0, 5, TODAY), {EPOCH: 5}))
        (done,), (other,) = tables.compact(SKU_LOG), tables.compact(ACCOUNT_LOG)
        assert (done.committed, done.files_before, other.committed, other.files_before) == (True, 3, True, 3)
        assert tables.rows(SKU_LOG.name).total() == 4
        assert tables.rows(ACCOUNT_LOG.name) == before[ACCOUNT_LOG.name]
        for name in before:
            upkeep = TableUpkeep(tables.lake.store, name, time_travel_days=7)
            upkeep.checkpoint()
            assert upkeep.vacuum() == 0, "all is younger than the retention"
            facts = table_facts(tables.lake.store, name, files_gone_before=None)
            assert facts.last_checkpoint == facts.version
            assert facts.oldest_version == 0
        folder = TableFolder(tables.lake.store.location, SKU_LOG.name)
        removed = [path for path, _ in folder.list(f"known_date={CLOSED}") if "compacted" not in path]
        assert len(removed) == 3
        folder.delete([f"known_date={CLOSED}/{path}" for path in (*removed, "absent")])
        assert tables.rows(SKU_LOG.name).total() == 4
