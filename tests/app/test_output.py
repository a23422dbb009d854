"""Files that are written whole or not at all, and numbers as text."""

from pathlib import Path

import duckdb
import pytest

from app.output import io_error, replacing, write_query
from processors.errors import FullDiskError


def test_block_that_fails_leaves_the_earlier_file_and_no_other(tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    out.write_text("earlier")
    with pytest.raises(RuntimeError), replacing(out) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["x.csv"]
    assert out.read_text() == "earlier"


def test_full_disk_is_recognised(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full, the device that is always full")
    with duckdb.connect() as con, pytest.raises(duckdb.IOException) as caught:
        con.execute("COPY (FROM range(1000000)) TO '/dev/full' (FORMAT csv, USE_TMP_FILE false)")
    assert isinstance(io_error(caught.value, tmp_path), FullDiskError)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("12.5::DECIMAL(38,10)", "12.50"),
        ("0.125::DECIMAL(38,10)", "0.125"),
        ("0::DECIMAL(38,10)", "0.00"),
        ("-0.0000000001::DECIMAL(38,10)", "-0.0000000001"),
        ("1000::DECIMAL(38,10)", "1000.00"),
        ("100.10::DECIMAL(10,2)", "100.10"),
        ("1000::DECIMAL(38,0)", "1000"),
        ("0.5::DOUBLE", "0.5"),
        ("1e-5::DOUBLE", "0.00001"),
        ("1e16::DOUBLE", "10000000000000000"),
        ("0.1::DOUBLE + 0.2::DOUBLE", "0.30000000000000004"),
        ("NULL::DECIMAL(38,10)", ""),
        ("NULL::DOUBLE", ""),
    ],
)
def test_number_in_csv_is_plain(tmp_path: Path, value: str, text: str) -> None:
    out = tmp_path / "x.csv"
    with duckdb.connect() as con:
        assert write_query(con, f"SELECT 1 AS one, {value} AS n", out) == 1
    assert out.read_text() == f"one,n\n1,{text}\n"


def test_rows_keep_the_order_of_the_query(tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    with duckdb.connect() as con:
        write_query(con, "SELECT range AS n, 1.5::DECIMAL(20,10) AS d FROM range(500000) ORDER BY range DESC", out)
    assert [int(line.split(",")[0]) for line in out.read_text().splitlines()[1:]] == list(range(499_999, -1, -1))
