"""The newest row of each key, where all keys differ and where some do not."""

from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.newest import newest_sql

small = st.integers(0, 3)
rows = st.lists(st.tuples(small, small, small, small), unique=True, max_size=12)


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


@given(rows)
def test_row_with_the_greatest_rank_counts(
    con: duckdb.DuckDBPyConnection, rows: list[tuple[int, int, int, int]]
) -> None:
    columns = dict(zip("abvo", zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys("abvo", ())
    con.register("given_rows", pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()}))
    newest: dict[tuple[int, int], tuple[int, int]] = {}
    for a, b, v, o in rows:
        newest[a, b] = max(newest.get((a, b), (-1, -1)), (v, o))
    found = con.sql(f"FROM {newest_sql(con, 'given_rows', key=('a', 'b'), rank=('v', 'o'))}").fetchall()
    assert sorted(found) == sorted((*key, *rank) for key, rank in newest.items())
