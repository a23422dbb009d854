"""A lake that an earlier version made: the columns that it lacks are added, and nothing else changes."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from connectors.delta_lake import DeltaLake
from connectors.fold import fold
from connectors.lake import FencedTable, LakeLocation, LakeStore
from processors.errors import StateUnknownError
from processors.fold import all_that_waits
from processors.keyed_table import current_sql
from processors.lake_tables import LAKE_TABLES, SKU_LOG, SKUS_KEYED

EPOCH = "epoch:skus:0"


def earlier(schema: pa.Schema, added: tuple[str, ...]) -> pa.Schema:
    return pa.schema([field for field in schema if field.name not in added])


@pytest.fixture
def location(tmp_path: Path) -> LakeLocation:
    """A lake without the columns that were added since, with one row of sku_log in it."""
    where = LakeLocation(str(tmp_path / "lake"))
    for table in LAKE_TABLES.values():
        schema = earlier(table.schema, table.added)
        DeltaTable.create(where.table(table.name), schema=schema, partition_by=list(table.partition_by) or None)
    return where


def opened(lake: DeltaLake, epoch: int) -> FencedTable:
    table = lake.fenced(SKU_LOG.name)
    table.open({EPOCH: epoch}, {}, seen=table.stored((EPOCH,)))
    return table


def sku(epoch: int, item: str, schema: pa.Schema = SKU_LOG.schema, **values: Any) -> pa.Table:
    blank = dict.fromkeys(schema.names)
    row = {"bucket": 0, "epoch": epoch, "item_id": item, "deleted": False, "known_date": datetime.now(UTC).date()}
    return pa.Table.from_pylist([blank | row | values], schema=schema)


def current(lake: DeltaLake, con: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    columns = tuple(SKU_LOG.schema.names)
    relations = {"log": lake.relation(SKUS_KEYED.log), "folded": lake.relation(SKUS_KEYED.folded)}
    query = current_sql(SKUS_KEYED, columns=columns, **relations)
    return con.sql(f"SELECT item_id, extra FROM {query} ORDER BY 1").fetchall()


def test_added_columns_are_null_in_old_rows_and_written_and_folded_from_now_on(
    location: LakeLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = earlier(SKU_LOG.schema, SKU_LOG.added)
    with monkeypatch.context() as before:
        before.setattr(LakeStore, "_add_columns", lambda self, table: None)
        former = DeltaLake(location)
        writer = former.fenced(SKU_LOG.name)
        before.setitem(LAKE_TABLES, SKU_LOG.name, SKU_LOG.__class__(SKU_LOG.name, SKU_LOG.doc, old))
        writer.open({EPOCH: 1}, {}, seen={})
        writer.append(sku(2, "old", old), {EPOCH: 2})

    lake = DeltaLake(location)
    for table in LAKE_TABLES.values():
        assert {f.name for f in lake.store.open(table.name).schema().fields} == set(table.schema.names)
    versions = {name: lake.store.open(name).version() for name in LAKE_TABLES}
    DeltaLake(location)
    assert versions == {name: lake.store.open(name).version() for name in LAKE_TABLES}, "added a second time"

    with pytest.raises(StateUnknownError):  # a worker of the earlier version, which cannot write it any more
        writer.append(sku(3, "old", old), {EPOCH: 3})

    table = opened(lake, 4)
    table.append(sku(5, "new", extra='{"x":1}'), {EPOCH: 5})
    with duckdb.connect() as con:
        lake.prepare(con)
        assert current(lake, con) == [("new", '{"x":1}'), ("old", None)]
        done = fold(lake, con, SKUS_KEYED, 1, all_that_waits())
        assert done is not None
        assert (done.committed, done.rows) == (True, 2)
        assert current(lake, con) == [("new", '{"x":1}'), ("old", None)]
        table.append(sku(6, "old", extra='{"x":2}'), {EPOCH: 6})
        assert current(lake, con) == [("new", '{"x":1}'), ("old", '{"x":2}')]


def test_column_that_no_version_declared_as_added_is_not_added(location: LakeLocation) -> None:
    """Of a feature set with other columns, which a worker is refused for: the lake stays as its writers know it."""
    wider = replace(SKU_LOG, schema=SKU_LOG.schema.append(pa.field("n", pa.int64())))
    store = LakeStore(location)
    store.ensure(wider)
    assert {f.name for f in store.open(SKU_LOG.name).schema().fields} == set(SKU_LOG.schema.names)


def test_files_to_load_are_counted_after_a_column_was_added_to_a_folded_table(location: LakeLocation) -> None:
    lake = DeltaLake(location)
    table = opened(lake, 1)
    table.append(sku(2, "a"), {EPOCH: 2})
    with duckdb.connect() as con:
        lake.prepare(con)
        fold(lake, con, SKUS_KEYED, 1, all_that_waits())
    lake.store.open(SKUS_KEYED.folded).alter.set_table_description("a commit without ids, as of an added column")
    table.append(sku(3, "b"), {EPOCH: 3})
    assert lake.keyed(SKUS_KEYED).log_rows == 1
