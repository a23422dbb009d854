"""Exports of a snapshot: whole ones give their rows, in chunks that can be resumed; others are refused."""

import shutil
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from batch_bootstrap.generate import Generated
from batch_bootstrap.source import open_source
from connectors.source_rows import Resume
from processors.errors import SourceError, UsageError
from processors.tables import INVOICE_LINE_ITEMS, INVOICES, SKUS, TABLES
from tests.exports import rows_of, write_export

LOCAL = pafs.LocalFileSystem()
SKU = {"item_id": "a", "item_name": "A", "item_description": "", "item_cost_price": Decimal("1.5")}
SKU |= {"item_retail_price": Decimal("-2.0000000001")}
INVOICE = {"invoice_id": 1, "account_id": 7, "date_issued": "2018-07-16", "payment_dates": None}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    """Synthetic rows of all tables."""
    folder = tmp_path_factory.mktemp("csv")
    with Generated(700, seed=4) as data:
        for table in TABLES:
            data.write_csv(table, folder)
    return rows_of(open_source(f"csv:{folder}"))


def sorted_rows(table: pa.Table) -> list[Any]:
    return sorted(map(str, table.to_pylist()))


@pytest.mark.parametrize("batches", [True, False])
def test_export_gives_the_rows_of_all_tables(tables: dict[str, pa.Table], tmp_path: Path, batches: bool) -> None:
    place = write_export(LOCAL, str(tmp_path), tables, batches=batches)
    source = open_source(f"s3-export:{place}", chunk_rows=999)
    read = rows_of(source)
    assert {name: sorted_rows(rows) for name, rows in read.items()} == {n: sorted_rows(r) for n, r in tables.items()}
    assert (source.database, source.has_binlog) == ("trs", False)
    assert source.notices == ["the export is of Nov 25, 2026 3:00:00 AM"]
    estimate = source.row_estimate(INVOICE_LINE_ITEMS)
    assert estimate is not None and 0.7 < estimate / tables["invoice_line_items"].num_rows < 1.4


@pytest.mark.parametrize("chunk_rows", [1, 60, 1000])
def test_reading_goes_on_behind_any_chunk(tables: dict[str, pa.Table], tmp_path: Path, chunk_rows: int) -> None:
    some = {n: rows.slice(0, 12 if chunk_rows == 1 else 130) for n, rows in tables.items()}
    source = open_source(f"s3-export:{write_export(LOCAL, str(tmp_path), some)}", chunk_rows=chunk_rows)
    source.preflight()
    chunks = list(source.chunks(INVOICES))
    assert [c.number for c in chunks] == list(range(1, len(chunks) + 1))
    for done in range(len(chunks)):
        resumed = list(source.chunks(INVOICES, Resume(done, None)))
        assert [c.number for c in resumed] == [c.number for c in chunks[done:]]
        assert pa.concat_tables([c.rows for c in resumed]) == pa.concat_tables([c.rows for c in chunks[done:]])


def test_values_are_taken_exactly_and_rows_that_do_not_fit_are_rejected_with_their_place(tmp_path: Path) -> None:
    skus = pa.Table.from_pylist([SKU, SKU | {"item_id": "b", "item_name": "x" * 256}, SKU | {"item_id": "c"}])
    issued = [INVOICE, INVOICE | {"invoice_id": 2, "date_issued": "2018-02-30"}, INVOICE | {"invoice_id": 3}]
    place = write_export(LOCAL, str(tmp_path), {"skus": skus, "invoices": pa.Table.from_pylist(issued)}, parts=1)
    source = open_source(f"s3-export:{place}", tables=["skus", "invoices"])
    source.preflight()
    (chunk,) = source.chunks(SKUS)
    assert chunk.rows.to_pylist() == [SKU, SKU | {"item_id": "c"}]
    assert [(r.reason, r.line) for r in chunk.rejects] == [("too_long", 2)]
    (chunk,) = source.chunks(INVOICES)
    assert [r["date_issued"] for r in chunk.rows.to_pylist()] == [date(2018, 7, 16)] * 2
    (reject,) = chunk.rejects
    assert (reject.reason, reject.line) == ("bad_value", 2)
    assert reject.file == "trs/trs.invoices/1/part-00000-5f0c0.gz.parquet"


def test_types_of_the_export_are_cast_and_keys_that_are_numbers_are_told(tmp_path: Path) -> None:
    skus = pa.Table.from_pylist([SKU | {"item_id": 12, "item_cost_price": "1.50", "item_retail_price": 3, "new": 1}])
    source = open_source(f"s3-export:{write_export(LOCAL, str(tmp_path), {'skus': skus})}", tables=["skus"])
    source.preflight()
    (chunk,) = source.chunks(SKUS)
    assert chunk.rows.to_pylist() == [SKU | {"item_id": "12", "item_retail_price": Decimal(3)}]
    assert source.numeric_keys(SKUS) == {"item_id"}
    assert source.notices[-1] == "skus: columns that are not declared are left out: new"


def test_key_of_unsigned_numbers_is_told_as_numbers(tmp_path: Path) -> None:
    """BIGINT UNSIGNED is exported as DECIMAL(20,0)."""
    skus = pa.Table.from_pylist([SKU | {"item_id": Decimal(2**64 - 1)}])
    skus = skus.set_column(0, "item_id", skus["item_id"].cast(pa.decimal128(20, 0)))
    source = open_source(f"s3-export:{write_export(LOCAL, str(tmp_path), {'skus': skus})}", tables=["skus"])
    assert rows_of(source)["skus"]["item_id"].to_pylist() == ["18446744073709551615"]
    assert source.numeric_keys(SKUS) == {"item_id"}


@pytest.mark.parametrize("folder", ["item_name=zzz", "year=2026", "x*y", "x?y", "[x]zy", "it's"])
def test_folder_above_the_export_adds_and_replaces_no_values(tmp_path: Path, folder: str) -> None:
    write_export(LOCAL, f"{tmp_path}/xzy", {"skus": pa.Table.from_pylist([SKU | {"item_id": "of another export"}])})
    place = write_export(LOCAL, f"{tmp_path}/{folder}", {"skus": pa.Table.from_pylist([SKU])})
    source = open_source(f"s3-export:{place}", tables=["skus"])
    assert rows_of(source)["skus"].to_pylist() == [SKU]
    assert source.row_estimate(SKUS) == 1
    assert source.notices == ["the export is of Nov 25, 2026 3:00:00 AM"]


def test_status_of_another_databases_table_does_not_count(tmp_path: Path) -> None:
    skus = {"skus": pa.Table.from_pylist([SKU])}
    write_export(LOCAL, str(tmp_path), skus, database="old", table_status={"skus": "SKIPPED"}, infos="old")
    place = write_export(LOCAL, str(tmp_path), skus)
    assert rows_of(open_source(f"s3-export:{place}?database=trs", tables=["skus"]))["skus"].num_rows == 1
    with pytest.raises(SourceError, match=r"table old\.skus is SKIPPED in the export"):
        open_source(f"s3-export:{place}?database=old", tables=["skus"]).preflight()


def test_reason_is_told_where_all_tables_were_skipped(tmp_path: Path) -> None:
    rows = {"skus": pa.Table.from_pylist([SKU])}
    place = write_export(LOCAL, str(tmp_path), rows, table_status={"skus": "SKIPPED"})
    shutil.rmtree(Path(place, "trs"))
    with pytest.raises(SourceError, match=r"table trs\.skus is SKIPPED in the export"):
        open_source(f"s3-export:{place}", tables=["skus"]).preflight()


@pytest.mark.parametrize("place", ["", "s3://", "s3:/bucket/export", "s3:///export", "?database=trs"])
def test_address_without_bucket_or_folder_is_a_usage_error(place: str) -> None:
    with pytest.raises(UsageError, match=r"names no bucket and no folder"):
        open_source(f"s3-export:{place}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"status": "IN_PROGRESS"}, r"the export is IN_PROGRESS \(100 %\)"),
        ({"table_status": {"skus": "SKIPPED"}}, r"table trs\.skus is SKIPPED in the export"),
    ],
)
def test_export_that_is_not_complete_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    place = write_export(LOCAL, str(tmp_path), {"skus": pa.Table.from_pylist([SKU])}, **options)
    with pytest.raises(SourceError, match=message):
        open_source(f"s3-export:{place}", tables=["skus"]).preflight()


def test_export_that_was_copied_in_part_is_refused(tmp_path: Path) -> None:
    place = write_export(LOCAL, str(tmp_path), {"skus": pa.Table.from_pylist([SKU])})
    Path(place, "trs", "trs.skus", "1", "_success").unlink()
    with pytest.raises(SourceError, match=r"trs/trs\.skus/1 has no _success: it is not whole"):
        open_source(f"s3-export:{place}", tables=["skus"]).preflight()


def test_table_or_column_that_is_missing_and_files_that_are_damaged_are_told(tmp_path: Path) -> None:
    rows = pa.Table.from_pylist([SKU])
    place = write_export(LOCAL, str(tmp_path / "one"), {"skus": rows.drop_columns(["item_name"])})
    with pytest.raises(SourceError, match=r"column item_name is missing"):
        open_source(f"s3-export:{place}", tables=["skus"]).preflight()
    place = write_export(LOCAL, str(tmp_path / "two"), {"skus": rows})
    with pytest.raises(SourceError, match=r"lacks table accounts of database trs"):
        open_source(f"s3-export:{place}", tables=["skus", "accounts"]).preflight()
    next(Path(place).rglob("*.parquet")).write_bytes(b"PAR1 no more")
    with pytest.raises(SourceError, match=r"is no Parquet file"):
        open_source(f"s3-export:{place}", tables=["skus"]).preflight()


def test_table_without_rows_is_empty(tmp_path: Path) -> None:
    place = write_export(LOCAL, str(tmp_path), {"skus": pa.Table.from_pylist([SKU]).slice(1)})
    source = open_source(f"s3-export:{place}", tables=["skus"])
    source.preflight()
    assert list(source.chunks(SKUS)) == []
    assert source.notices[-1] == "skus has no rows in the export"


def test_other_places_are_refused_with_what_to_name(tmp_path: Path) -> None:
    write_export(LOCAL, f"{tmp_path}/exports", {"skus": pa.Table.from_pylist([SKU])}, name="nightly")
    with pytest.raises(SourceError, match=r"is not an export: it has no export_info") as above:
        open_source(f"s3-export:{tmp_path}/exports", tables=["skus"]).preflight()
    assert "exports are below it: nightly" in str(above.value)
    with pytest.raises(SourceError, match=r"is not a folder"):
        open_source(f"s3-export:{tmp_path}/nothing", tables=["skus"]).preflight()
    with pytest.raises(UsageError, match=r"--date-format is for CSV extracts"):
        open_source("s3-export:s3://b/x", date_formats={"invoices.date_issued": "%d/%m/%Y"})


def test_one_of_several_databases_must_be_named(tmp_path: Path) -> None:
    for database, cost in (("trs", "1"), ("old", "2")):
        sku = pa.Table.from_pylist([SKU | {"item_cost_price": Decimal(cost)}])
        place = write_export(LOCAL, str(tmp_path), {"skus": sku}, database=database)
    with pytest.raises(SourceError, match=r"tables of several databases: old, trs"):
        open_source(f"s3-export:{place}", tables=["skus"]).preflight()
    source = open_source(f"s3-export:{place}?database=old", tables=["skus"])
    assert [r["item_cost_price"] for r in rows_of(source)["skus"].to_pylist()] == [2]
