"""Rows of a source against those of a lake that was written by hand: every kind of difference, no other."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_bootstrap.compare import Comparison, Found, Workspace
from batch_bootstrap.source import Source, open_source
from connectors import mysql_parts
from connectors.mysql import Connection, DatabaseUrl, connect, current_position, ddl, execute, load_rows
from connectors.object_files import LakeReader
from connectors.row_digests import Parts
from connectors.source_rows import declared_schema
from processors.errors import SourceError
from processors.order import RowOrder, file_number
from processors.tables import ACCOUNTS, INVOICE_LINE_ITEMS, INVOICES, SKUS, TABLES, Table
from tests.small_lake import SmallLake

Change = tuple[str, tuple[Any, ...]]


@contextmanager
def workspace(lake: SmallLake) -> Iterator[Workspace]:
    with (
        tempfile.TemporaryDirectory() as folder,
        LakeReader(lake.uri) as reader,
        Workspace(Path(folder), reader, memory_mb=200, threads=1) as opened,
    ):
        yield opened


def found(source: Source, lake: SmallLake, table: Table, *, chunk_rows: int = 1000, **options: Any) -> list[Found]:
    source.preflight()
    with workspace(lake) as space:
        comparison = Comparison(source, space, source_epoch=1, run=9, chunk_rows=chunk_rows, **options)
        return list(comparison.of_table(table))


def changes(steps: list[Found]) -> list[Change]:
    """(op, values) of every change; of a deletion the key."""
    return sorted(
        (op, tuple(row.values())) for step in steps for op, rows in step.changes.items() for row in rows.to_pylist()
    )


def line(invoice: int, item: str, quantity: int, **values: Any) -> dict[str, Any]:
    return {"kind": "line", "invoice_id": invoice, "item_id": item, "quantity": quantity, "row_order": 5, **values}


@pytest.fixture
def lake(tmp_path: Path) -> SmallLake:
    return SmallLake(tmp_path / "lake")


@pytest.fixture
def database(fresh_database: str) -> Iterator[Connection]:
    """A connection to a database with the declared tables, empty."""
    with connect(DatabaseUrl.parse(fresh_database), autocommit=False) as opened:
        for table in TABLES:
            execute(opened, ddl(table))
        yield opened


def extracts(folder: Path, table: Table, *rows: str) -> Source:
    folder.mkdir(exist_ok=True)
    (folder / f"{table.name}.csv").write_text("\n".join([",".join(table.column_names), *rows, ""]))
    return open_source(f"csv:{folder}", tables=[table.name])


def test_extract_against_fold_and_tail_gives_every_kind_of_change(lake: SmallLake, tmp_path: Path) -> None:
    mark = {"is_mark": True, "mark_bucket": 0, "mark_date": date(2024, 5, 1), "epoch": 3}
    lake.append(
        "invoice_log_folded", mark, line(1, "same", 1), line(1, "changed", 1), line(1, "gone", 1), line(2, "x", 8)
    )
    lake.append("invoice_log", line(1, "tail", 2, epoch=4), line(2, "x", 8, epoch=4, deleted=True))
    lake.append("invoice_log", line(3, "old", 1, epoch=2), line(3, "again", 1, epoch=4, deleted=True))
    lake.append("invoice_log", {"kind": "invoice", "invoice_id": 1, "item_id": "", "epoch": 4, "row_order": 5})
    source = extracts(
        tmp_path / "csv", INVOICE_LINE_ITEMS, "1,same,1", "1,changed,-2", "1,tail,2", "3,again,1", "4,new,7"
    )
    assert changes(found(source, lake, INVOICE_LINE_ITEMS)) == [
        ("c", (3, "again", 1)),
        ("c", (4, "new", 7)),
        ("d", (1, "gone")),
        ("u", (1, "changed", -2)),
    ]


def test_personal_columns_are_compared_too(lake: SmallLake, tmp_path: Path) -> None:
    known = {"row_order": 5, "row_offset": 0}
    for number in (1, 2, 3):
        lake.append(
            "account_log",
            {"kind": "account", "account_id": number, "invoice_id": -1, "company_name": "A", **known}
            | {"joining_date": date(2020, 1, 1)},
        )
    private = {"company_address": "Road\nTown", "contact_person": "P", "contact_phone": "1", **known}
    lake.append("accounts_private_changes", *({"account_id": n, **private} for n in (1, 2, 3)))
    lake.append("accounts_private_changes", {"account_id": 3, **private, "contact_phone": "9", "row_order": 6})
    source = extracts(
        tmp_path / "csv",
        ACCOUNTS,
        '1,A,"Road\nTown",P,1,,2020-01-01',
        '2,A,"Road\nTown",P,1,F,2020-01-01',
        '3,A,"Road\nTown",P,9,,2020-01-01',
    )
    assert changes(found(source, lake, ACCOUNTS)) == [("u", (2, "A", "Road\nTown", "P", "1", "F", date(2020, 1, 1)))]


def test_keys_with_a_later_state_in_the_lake_are_left_alone(lake: SmallLake) -> None:
    lake.append(
        "invoice_log",
        line(1, "later", 1, row_order=11),
        line(1, "equal", 1, row_order=10),
        line(1, "deleted later", 1, row_order=11, deleted=True),
        line(1, "gone, later", 1, row_order=11),
        line(1, "gone", 1, row_order=10),
    )
    rows = pa.Table.from_pylist(
        [{"invoice_id": 1, "item_id": i, "quantity": 2} for i in ("later", "equal", "deleted later")],
        schema=declared_schema(INVOICE_LINE_ITEMS),
    )
    no_keys = rows.select(["invoice_id", "item_id"]).slice(0, 0)
    with workspace(lake) as space, space.lake_rows(INVOICE_LINE_ITEMS) as held:
        relation = held.of_parts(Parts.of(INVOICE_LINE_ITEMS, width=20, count=1), np.array([0]))
        kept, newer = held.differences(rows, no_keys, relation, 10)
    assert sorted(zip(kept["op"].to_pylist(), kept["item_id"].to_pylist(), strict=True)) == [
        ("d", "gone"),
        ("u", "equal"),
    ]
    assert newer == 3


def test_row_that_is_only_damaged_is_not_deleted(lake: SmallLake, tmp_path: Path) -> None:
    lake.append("invoice_log", line(1, "a", 1), line(1, "b", 1), line(1, "c", 3))
    told: list[str] = []
    source = extracts(tmp_path / "csv", INVOICE_LINE_ITEMS, "1,a,1", "1,b,one", "1,c,4")
    steps = found(source, lake, INVOICE_LINE_ITEMS, announce=told.append)
    assert changes(steps) == [("u", (1, "c", 4))]
    assert [r.reason for step in steps for r in step.rejects] == ["bad_value"]
    assert told[-1] == "invoice_line_items: 1 deletions wait until no row is rejected any more"


def test_database_row_that_is_only_damaged_is_not_deleted_and_others_are(
    lake: SmallLake, database: Connection, fresh_database: str
) -> None:
    sku = {"item_name": "n", "item_description": "d", "item_cost_price": Decimal(1), "item_retail_price": Decimal(2)}
    lake.append("sku_log", *({"item_id": i, "row_order": 5, **sku} for i in ("damaged", "gone", "same")))
    execute(database, "ALTER TABLE skus MODIFY item_name VARCHAR(300) NOT NULL")
    execute(database, "INSERT INTO skus VALUES ('damaged', REPEAT('x', 256), 'd', 1, 2), ('same', 'n', 'd', 1, 2)")
    database.commit()
    steps = found(open_source(fresh_database), lake, SKUS)
    assert changes(steps) == [("d", ("gone",))]
    assert [r.reason for step in steps for r in step.rejects] == ["too_long"]


def test_database_with_dates_as_text_is_read_whole(lake: SmallLake, database: Connection, fresh_database: str) -> None:
    dated = {"kind": "invoice", "item_id": "", "account_id": 7, "date_issued": date(2021, 2, 3), "row_order": 5}
    lake.append("invoice_log", *({"invoice_id": n, **dated} for n in (1, 2, 3)))
    execute(database, "ALTER TABLE invoices MODIFY date_issued VARCHAR(20) NOT NULL")
    execute(database, "INSERT INTO invoices VALUES (1, 7, '2021-02-03', NULL), (2, 7, ' 2021-02-04', NULL)")
    database.commit()
    told: list[str] = []
    steps = found(open_source(fresh_database), lake, INVOICES, announce=told.append)
    assert changes(steps) == [("d", (3,)), ("u", (2, 7, date(2021, 2, 4), None))]
    assert "date_issued (varchar)" in told[0]
    assert all(step.position is not None for step in steps)


@pytest.mark.parametrize("date_type", ["DATE", "VARCHAR(20)"], ids=["by digests", "read whole"])
def test_columns_that_are_not_declared_go_along_with_a_change_and_make_none(
    lake: SmallLake, database: Connection, fresh_database: str, date_type: str
) -> None:
    dated = {"kind": "invoice", "item_id": "", "account_id": 7, "date_issued": date(2021, 2, 3), "row_order": 5}
    lake.append("invoice_log", *({"invoice_id": n, **dated} for n in (1, 2)))
    execute(database, f"ALTER TABLE invoices MODIFY date_issued {date_type} NOT NULL, ADD `rate_%` VARCHAR(9) NULL")
    execute(
        database, "INSERT INTO invoices VALUES (1, 7, '2021-02-03', NULL, 'web'), (2, 8, '2021-02-03', NULL, 'app')"
    )
    database.commit()
    steps = found(open_source(fresh_database), lake, INVOICES)
    assert changes(steps) == [("u", (2, 8, date(2021, 2, 3), None, '{"rate_%": "app"}'))]
    source = open_source(fresh_database)
    source.preflight()
    whole = [row["extra"] for chunk in source.chunks(INVOICES) for row in chunk.rows.to_pylist()]
    assert whole == ['{"rate_%": "web"}', '{"rate_%": "app"}']


def test_rows_that_differ_as_they_did_are_told_from_others_by_their_declared_columns(lake: SmallLake) -> None:
    declared = pa.schema([("op", pa.string()), *declared_schema(INVOICE_LINE_ITEMS)])
    rows = [("u", 1, "as it was", 2), ("c", 2, "other now", 2), ("d", 3, "gone", None)]
    first = pa.Table.from_pylist([dict(zip(declared.names, row, strict=True)) for row in rows], schema=declared)
    second = first.slice(0, 1).append_column("extra", pa.array(['{"rate": 1}']))
    second = pa.concat_tables(
        [second, first.slice(2), first.slice(1, 1).set_column(3, "quantity", pa.array([9]))],
        promote_options="permissive",
    )
    with workspace(lake) as space:
        same, other = space.both(first, second)
    assert sorted(same.select(["item_id", "extra"]).to_pylist(), key=str) == [
        {"item_id": "as it was", "extra": '{"rate": 1}'},
        {"item_id": "gone", "extra": None},
    ]
    assert other["item_id"].to_pylist() == ["other now"]


def test_lake_that_is_ahead_of_the_binlog_is_refused(
    lake: SmallLake, database: Connection, fresh_database: str
) -> None:
    position = current_position(database)
    assert position is not None
    later = RowOrder(1, file_number(position.file), position.pos + 10**9, 0).packed()
    lake.append("invoice_log", line(1, "a", 1, row_order=later))
    with pytest.raises(SourceError, match=r"of a later place: it is another server"):
        found(open_source(fresh_database), lake, INVOICE_LINE_ITEMS)
    lake.append("invoice_log", line(1, "a", 1, row_order=5, epoch=1))
    with pytest.raises(SourceError, match=r"has no rows, but the lake has 1"):
        found(open_source(fresh_database), lake, INVOICE_LINE_ITEMS)


keys = st.tuples(st.one_of(st.integers(-90, 90), st.sampled_from([10**12, 10**12 + 1])), st.sampled_from("aAbé "))
lines = st.dictionaries(keys, st.integers(-2, 2), max_size=30)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mine=lines,
    its=lines,
    shared=lines,
    deleted=st.sets(keys, max_size=9),
    chunk_rows=st.sampled_from([2, 9, 1000]),
    most_parts=st.sampled_from([0, 2000]),
)
def test_differences_of_any_lines_are_those_of_the_sets(
    database: Connection,
    fresh_database: str,
    mine: dict[tuple[int, str], int],
    its: dict[tuple[int, str], int],
    shared: dict[tuple[int, str], int],
    deleted: set[tuple[int, str]],
    chunk_rows: int,
    most_parts: int,
) -> None:
    here, there = mine | shared, {k: v for k, v in (its | shared).items() if k not in deleted}
    rows = [{"invoice_id": i, "item_id": item, "quantity": n} for (i, item), n in here.items()]
    execute(database, "DELETE FROM invoice_line_items")
    load_rows(database, INVOICE_LINE_ITEMS, pa.Table.from_pylist(rows, schema=declared_schema(INVOICE_LINE_ITEMS)))
    with tempfile.TemporaryDirectory() as folder:
        lake = SmallLake(Path(folder))
        lake.append("invoice_log", line(0, "never there", 0, deleted=True))
        lake.append(
            "invoice_log", *(line(*key, n) for key, n in there.items()), *(line(*k, 0, deleted=True) for k in deleted)
        )
        with patch.object(mysql_parts, "_MOST_PARTS", most_parts):
            steps = found(
                open_source(fresh_database), lake, INVOICE_LINE_ITEMS, chunk_rows=chunk_rows, accept_empty=True
            )
    expected = [("c" if k not in there else "u", (*k, n)) for k, n in here.items() if k not in there or there[k] != n]
    expected += [("d", k) for k in there if k not in here]
    assert changes(steps) == sorted(expected)
    assert sum(step.compared for step in steps) >= len(here)
    assert all(step.read <= 2 * chunk_rows + 20 * 5 for step in steps)
