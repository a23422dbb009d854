"""How far a load is: seen from another thread while it runs."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from processors.loading import Loading
from processors.ports import KeyedFiles, LoadProgress
from tests.waiting import wait_until

ROWS = 1_000_000


class Gate:
    """A SQL function that stops at the row in the middle until it is opened."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        con.create_function("gate", self._pass, ["BIGINT"], "BIGINT", type="arrow")

    def _pass(self, numbers: pa.ChunkedArray) -> pa.ChunkedArray:
        if any(chunk[0].as_py() >= ROWS // 2 for chunk in numbers.chunks):
            self.reached.set()
            assert self.open.wait(60)
        return numbers


@pytest.fixture
def con(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        con.execute("SET threads = 1")
        con.execute(f"COPY (SELECT range AS id FROM range({ROWS})) TO '{tmp_path}/rows.parquet'")
        con.execute("CREATE TABLE state (id BIGINT)")
        yield con


def seen(loading: Loading) -> LoadProgress:
    found = loading.look()
    assert found is not None
    return found


def test_load_tells_its_steps_and_how_much_of_its_passes_is_read(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    gate = Gate(con)
    files = KeyedFiles("log", "folded", folded_rows=ROWS - 10, log_rows=10)
    small = KeyedFiles("log", "folded", folded_rows=0, log_rows=ROWS // 2)
    read = f"INSERT INTO state SELECT gate(id) FROM '{tmp_path}/rows.parquet'"
    loading = Loading(con, "invoices")
    assert loading.look() is None
    with ThreadPoolExecutor(1) as pool, loading.of(8):
        began = seen(loading)
        assert (began.stage, began.buckets, began.step, began.share) == ("invoices", 8, "opening tables", 0)
        passes = [
            (small, "INSERT INTO state VALUES (-1), (-2)"),
            (files, read),
            (files, "INSERT INTO state VALUES (-3)"),
        ]
        load = pool.submit(loading.run, passes)
        try:
            assert gate.reached.wait(60)
            # DuckDB looks up between two portions of a pass.
            wait_until(lambda: seen(loading).share > 0.2, timeout_s=10, what="a part of the second pass is read")
            amid = seen(loading)
        finally:
            gate.open.set()
        load.result(60)
        assert amid.step == "reading rows"
        assert (amid.folded_rows, amid.log_rows) == (ROWS - 10, ROWS // 2 + 10)
        assert 0.3 < amid.share < 0.65, "half of the second of passes over 0.5, 1 and 1 million rows"
        assert amid.seconds >= began.seconds
        assert (seen(loading).step, seen(loading).share) == ("deriving", 1.0)
    assert loading.look() is None
    assert loading.rows == ROWS + 3


def test_load_that_fails_is_over(con: duckdb.DuckDBPyConnection) -> None:
    loading = Loading(con, "skus")
    with pytest.raises(duckdb.Error), loading.of(1):
        loading.run([(KeyedFiles("log", "folded", 1, 0), "INSERT INTO nothing VALUES (1)")])
    assert loading.look() is None


def test_load_of_nothing_is_no_share_of_anything(con: duckdb.DuckDBPyConnection) -> None:
    loading = Loading(con, "skus")
    with loading.of(1):
        loading.run([])
        assert (seen(loading).share, seen(loading).folded_rows) == (1.0, 0)
