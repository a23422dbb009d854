"""CSV extracts: what is read, what is rejected with its line, what stops before anything is read."""

import csv
import io
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.csv_blocks import read_blocks, read_header
from connectors.csv_extracts import CsvSource
from connectors.source_rows import Chunk, Reject, Resume
from processors.errors import SourceError, UsageError
from processors.tables import ACCOUNTS, INVOICE_LINE_ITEMS, INVOICES, SKUS, TABLES, Table

GOOD = {
    "accounts.csv": "account_id,company_name,company_address,contact_person,contact_phone,gender,joining_date\n"
    '1,"A, Ltd","1 Rd\nTown",P,+1,F,2016-10-23\n'
    '2,"B ""b""",2 Rd,Q,+2,,2017-11-09\n',
    "skus.csv": "item_id,item_name,item_description,item_cost_price,item_retail_price\nx,X,d,1.50,0.0000000001\n",
    "invoices.csv": "invoice_id,account_id,date_issued,payment_dates\n1,1,2021-04-06,2021-05-11\n2,1,2021-04-07,\n",
    "invoice_line_items.csv": "invoice_id,item_id,quantity\n1,x,4\n2,x,1\n",
}


def write(folder: Path, **files: str | bytes) -> Path:
    """The good extracts with some files replaced."""
    for name, text in {**GOOD, **{f"{k}.csv": v for k, v in files.items()}}.items():
        (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def source(
    folder: Path,
    *,
    tables: tuple[Table, ...] = TABLES,
    chunk_rows: int = 1000,
    formats: Mapping[str, str] | None = None,
) -> CsvSource:
    opened = CsvSource(str(folder), tables, date_formats=formats or {}, chunk_rows=chunk_rows)
    opened.preflight()
    return opened


def read(folder: Path, table: Table, **options: Any) -> tuple[list[dict[str, Any]], list[Reject], list[Chunk]]:
    chunks = list(source(folder, **options).chunks(table))
    rows = [row for chunk in chunks for row in chunk.rows.to_pylist()]
    return rows, [reject for chunk in chunks for reject in chunk.rejects], chunks


def places(rejects: list[Reject]) -> list[tuple[str | None, int | None, str]]:
    return [(r.file, r.line, r.reason) for r in rejects]


def test_csv_quoted_multi_line_fields_are_one_value(tmp_path: Path) -> None:
    rows, rejects, _ = read(write(tmp_path), ACCOUNTS)
    assert rejects == []
    assert [(r["company_name"], r["company_address"], r["gender"]) for r in rows] == [
        ("A, Ltd", "1 Rd\nTown", "F"),
        ('B "b"', "2 Rd", None),
    ]
    assert rows[0]["joining_date"] == date(2016, 10, 23)


def test_csv_with_mark_windows_lines_other_header_order_alias_and_extra_column_reads_the_same(tmp_path: Path) -> None:
    header = "\ufeffpayment_date,Note,date_issued, account_id ,invoice_id"
    text = "\r\n".join([header, "2021-05-11,n,2021-04-06,1,1", ",n,2021-04-07,1,2"])
    opened = source(write(tmp_path, invoices=text))
    rows = [row for chunk in opened.chunks(INVOICES) for row in chunk.rows.to_pylist()]
    (tmp_path / "plain").mkdir()
    assert rows == read(write(tmp_path / "plain"), INVOICES)[0]
    assert opened.notices == ["invoices.csv: unknown columns are ignored: Note"]


def test_csv_without_the_optional_column_has_nulls_and_a_notice(tmp_path: Path) -> None:
    opened = source(write(tmp_path, invoices="invoice_id,account_id,date_issued\n1,1,2021-04-06\n"))
    assert [row["payment_dates"] for chunk in opened.chunks(INVOICES) for row in chunk.rows.to_pylist()] == [None]
    assert opened.notices == ["invoices.csv has no column payment_dates: every value is null"]


@pytest.mark.parametrize("name", ["skus", "invoices"])
def test_csv_missing_file_stops_the_preflight(tmp_path: Path, name: str) -> None:
    (write(tmp_path) / f"{name}.csv").unlink()
    with pytest.raises(SourceError, match=rf"lacks {name}\.csv"):
        source(tmp_path)


def test_csv_missing_required_column_stops_the_preflight(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"invoices\.csv: column account_id is missing"):
        source(write(tmp_path, invoices="invoice_id,date_issued\n1,2021-04-06\n"))


def test_csv_column_under_two_names_stops_the_preflight(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="payment_dates twice"):
        source(write(tmp_path, invoices="invoice_id,account_id,date_issued,payment_dates,payment_date\n"))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["25/12/2020", "01/02/2021"], [date(2020, 12, 25), date(2021, 2, 1)]),
        (["12/25/2020", "01/02/2021"], [date(2020, 12, 25), date(2021, 1, 2)]),
        (["2020/12/25", "2021/02/01"], [date(2020, 12, 25), date(2021, 2, 1)]),
        (["25.12.2020", "1.2.2021"], [date(2020, 12, 25), date(2021, 2, 1)]),
        (["20201225", "20210201"], [date(2020, 12, 25), date(2021, 2, 1)]),
        (["25 Dec 2020", "01 Feb 2021"], [date(2020, 12, 25), date(2021, 2, 1)]),
        (["05/05/2020", "06/06/2020"], [date(2020, 5, 5), date(2020, 6, 6)]),
        (["2020-12-25 00:00:00", "2021-02-01T00:00"], [date(2020, 12, 25), date(2021, 2, 1)]),
    ],
)
def test_csv_consistent_dates_are_recognised(tmp_path: Path, cells: list[str], expected: list[date]) -> None:
    text = "invoice_id,account_id,date_issued\n" + "".join(f"{i},1,{cell}\n" for i, cell in enumerate(cells))
    rows, rejects, _ = read(write(tmp_path, invoices=text), INVOICES)
    assert ([r["date_issued"] for r in rows], rejects) == (expected, [])


def test_csv_ambiguous_dates_name_the_option_that_settles_them(tmp_path: Path) -> None:
    text = "invoice_id,account_id,date_issued\n1,1,01/02/2021\n2,1,12/11/2021\n"
    with pytest.raises(SourceError) as raised:
        source(write(tmp_path, invoices=text))
    assert "invoices.csv: the dates of column date_issued are ambiguous" in str(raised.value)
    assert "--date-format invoices.date_issued=%d/%m/%Y" in str(raised.value)
    rows, _, _ = read(tmp_path, INVOICES, formats={"invoices.date_issued": "%m/%d/%Y"})
    assert [r["date_issued"] for r in rows] == [date(2021, 1, 2), date(2021, 12, 11)]


def test_csv_mixed_date_formats_stop_the_preflight(tmp_path: Path) -> None:
    text = "invoice_id,account_id,date_issued\n1,1,25/12/2020\n2,1,12/25/2020\n3,1,13/01/2020\n"
    with pytest.raises(SourceError, match=r"date_issued mixes date formats \(%d/%m/%Y, but also '12/25/2020'\)"):
        source(write(tmp_path, invoices=text))


def test_csv_unknown_dates_stop_the_preflight(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="date_issued are not recognised"):
        source(write(tmp_path, invoices="invoice_id,account_id,date_issued\n1,1,yesterday\n"))


@pytest.mark.parametrize("given_format", ["%d/%m", "day", "%Q%d"])
def test_csv_impossible_date_format_is_a_usage_error(tmp_path: Path, given_format: str) -> None:
    with pytest.raises(UsageError, match="is no date format"):
        source(write(tmp_path), formats={"invoices.date_issued": given_format})
    with pytest.raises(UsageError, match="no such date column"):
        source(write(tmp_path), formats={"invoices.account_id": "%d/%m/%Y"})


def test_csv_bad_rows_are_rejected_with_the_line_on_which_they_start(tmp_path: Path) -> None:
    text = (
        "account_id,company_name,company_address,contact_person,contact_phone,gender,joining_date\n"  # 1
        '1,A,"1 Rd\nTown\nLand",P,+1,F,2016-10-23\n'  # 2-4
        "2,B,too few\n"  # 5
        "\n"  # 6: an empty line is no record
        '3,C,"4 Rd\nTown",P,+1,F,2016-13-23\n'  # 7-8
        ",D,r,P,+1,F,2016-10-23\n"  # 9
        f'5,{"x" * 256},"r\nr",P,+1,F,2016-10-23\n'  # 10-11
        "1,again,r,P,+1,F,2016-10-23\n"  # 12
        "1.5,half,r,P,+1,F,2016-10-23\n"  # 13
        "7.0,G,r,P,+1,\\N,2016-10-23\n"  # 14: 7.0 is exactly 7
        "8,H,r,\\N,+1,F,2016-10-23\n"  # 15
    )
    rows, rejects, _ = read(write(tmp_path, accounts=text), ACCOUNTS)
    assert [(r["account_id"], r["gender"]) for r in rows] == [(1, "F"), (7, None)]
    assert places(rejects) == [
        ("accounts.csv", 5, "malformed"),
        ("accounts.csv", 7, "bad_value"),
        ("accounts.csv", 9, "null"),
        ("accounts.csv", 10, "too_long"),
        ("accounts.csv", 12, "duplicate_key"),
        ("accounts.csv", 13, "bad_value"),
        ("accounts.csv", 15, "null"),
    ]
    assert rejects[1].raw == '3,C,"4 Rd\nTown",P,+1,F,2016-13-23'
    assert rejects[1].detail == "joining_date is not a date in the format of its column"


def test_csv_lost_quote_costs_its_own_line_only(tmp_path: Path) -> None:
    text = (
        "account_id,company_name,company_address,contact_person,contact_phone,gender,joining_date\n"
        '1,"A,1 Rd,P,+1,F,2016-10-23\n'
        '2,B,"2 Rd\nTown",P,+1,F,2016-10-23\n'
        '3,C"c,3 Rd,P,+1,F,2016-10-23\n'
        '4,"D"d,4 Rd,P,+1,F,2016-10-23\n'
        "5,E,5 Rd,P,+1,F,2016-10-23\n"
        '6,"F,6 Rd,P,+1,F,2016-10-23\n'
    )
    rows, rejects, _ = read(write(tmp_path, accounts=text), ACCOUNTS)
    assert [r["account_id"] for r in rows] == [2, 3, 5]
    assert [r.line for r in rejects] == [2, 6, 8]


def test_csv_bytes_that_are_not_utf8_reject_their_row_only(tmp_path: Path) -> None:
    text = GOOD["skus.csv"].encode() + b"y,caf\xe9,d,1.5,2.5\nz,Z,d,1.5,2.5\n"
    rows, rejects, _ = read(write(tmp_path, skus=text), SKUS)
    assert [r["item_id"] for r in rows] == ["x", "z"]
    assert places(rejects) == [("skus.csv", 3, "encoding")]


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        ("0.0000000001", Decimal("0.0000000001")),
        ("1234567890.1234567890", Decimal("1234567890.1234567890")),
        ("-1.5", Decimal("-1.5")),
        ("+7", Decimal(7)),
        (" 2.5 ", Decimal("2.5")),
        ("1.10000000000000", Decimal("1.1")),
        ("0.00000000001", None),
        ("12345678901", None),
        ("1e3", None),
        ("1,5", None),
        ("£2", None),
        ("", None),
    ],
)
def test_csv_prices_are_exact_or_rejected(tmp_path: Path, price: str, expected: Decimal | None) -> None:
    text = f'item_id,item_name,item_description,item_cost_price,item_retail_price\nx,X,d,1,"{price}"\n'
    rows, rejects, _ = read(write(tmp_path, skus=text), SKUS)
    assert [r["item_retail_price"] for r in rows] == ([] if expected is None else [expected])
    assert len(rejects) == (expected is None)


def test_csv_orphans_and_returns_are_counted_shown_and_kept(tmp_path: Path) -> None:
    text = "invoice_id,item_id,quantity\n1,x,4\n9,x,1\n2,x,0\n2,y,-3\n"
    rows, rejects, chunks = read(write(tmp_path, invoice_line_items=text), INVOICE_LINE_ITEMS)
    assert (len(rows), rejects) == (4, [])
    assert (chunks[0].orphans, chunks[0].returns) == (1, 2)
    assert [(f.kind, f.file, f.line) for f in chunks[0].findings] == [
        ("orphan", "invoice_line_items.csv", 3),
        ("return", "invoice_line_items.csv", 4),
        ("return", "invoice_line_items.csv", 5),
    ]


def test_csv_duplicate_key_in_a_later_block_and_chunk_is_rejected(tmp_path: Path) -> None:
    numbers = [*range(200_000), 17, 200_001, 17]
    text = "invoice_id,item_id,quantity\n" + "".join(f"{n},item-{n:020d},1\n" for n in numbers)
    rows, rejects, chunks = read(write(tmp_path, invoice_line_items=text), INVOICE_LINE_ITEMS, chunk_rows=30_000)
    assert [r.line for r in rejects] == [200_002, 200_004]
    assert [c.rows.num_rows for c in chunks] == [30_000] * 6 + [20_001]
    assert [c.number for c in chunks] == [1, 2, 3, 4, 5, 6, 7]
    assert len({r["invoice_id"] for r in rows}) == 200_001


def test_csv_resumed_chunks_are_the_ones_not_read_before(tmp_path: Path) -> None:
    text = "invoice_id,item_id,quantity\n" + "".join(f"{n % 3},i{n},1\n" for n in range(25)) + "0,i0,9\n"
    write(tmp_path, invoice_line_items=text)
    whole = list(source(tmp_path, chunk_rows=10).chunks(INVOICE_LINE_ITEMS))
    rest = list(source(tmp_path, chunk_rows=10).chunks(INVOICE_LINE_ITEMS, Resume(2, None)))
    assert [c.number for c in rest] == [3]
    assert rest[0].rows == whole[2].rows
    assert [r.reason for c in whole for r in c.rejects] == ["duplicate_key"]
    assert (rest[0].orphans, whole[2].orphans) == (whole[2].orphans, rest[0].orphans)


def test_csv_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    before = source(write(tmp_path)).fingerprint()
    assert source(tmp_path).fingerprint() == before
    write(tmp_path, skus=GOOD["skus.csv"] + "y,Y,d,1,1\n")
    assert source(tmp_path).fingerprint() != before


cell = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=80)
@given(
    rows=st.lists(st.tuples(cell, cell, cell), max_size=25),
    line_end=st.sampled_from(["\n", "\r\n"]),
    block_bytes=st.integers(1, 200),
)
def test_csv_blocks_of_any_size_read_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], line_end: str, block_bytes: int
) -> None:
    written = io.StringIO()
    carriage_return = any("\r" in text for row in rows for text in row)  # which the writer quotes for \r\n only
    quoting = csv.QUOTE_ALL if carriage_return else csv.QUOTE_MINIMAL
    writer = csv.writer(written, lineterminator=line_end, quoting=quoting)
    writer.writerow(["a", "b", "c"])
    starts = []
    for row in rows:
        starts.append(written.getvalue().count("\n") + 1)
        writer.writerow(row)
    path = tmp_path_factory.mktemp("csv") / "any.csv"
    path.write_bytes(written.getvalue().encode())
    blocks = list(read_blocks(path, read_header(path), block_bytes=block_bytes))
    assert [b for block in blocks for b in block.bad] == []
    assert [tuple(row.values()) for block in blocks for row in block.cells.to_pylist()] == rows
    assert [line for block in blocks for line in block.lines] == starts


@pytest.mark.parametrize("content", [b"a\rb\r", b"item_id," + b"x" * 200_000, b"\x00\xff\rPK\x03\x04"])
def test_file_that_is_no_csv_stops_before_anything_is_read(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SourceError, match=r"skus\.csv"):
        source(write(tmp_path, skus=content))
