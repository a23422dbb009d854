"""Rows brought together by bucket: the same rows in a stable order, long runs without a copy."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from processors.bucket_runs import by_bucket

runs = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40)), max_size=12)


def table(runs: list[tuple[int, int]], *, times: int = 1) -> pa.Table:
    """Runs of (bucket, rows), each an Arrow batch of its own; `number` counts the rows."""
    sizes = [rows * times for _, rows in runs]
    buckets = np.repeat([bucket for bucket, _ in runs], sizes).astype(np.int32)
    whole = pa.table({"bucket": buckets, "number": np.arange(sum(sizes)), "text": buckets.astype(str)})
    starts = np.cumsum([0, *sizes])[:-1]
    return pa.concat_tables([whole.slice(*place) for place in zip(starts, sizes, strict=True)] or [whole])


@given(runs, st.sampled_from([1, 100]))
def test_rows_come_by_bucket_and_within_it_as_they_were(runs: list[tuple[int, int]], times: int) -> None:
    rows = table(runs, times=times)
    assert by_bucket(rows).combine_chunks() == rows.sort_by([("bucket", "ascending"), ("number", "ascending")])


def test_long_runs_are_put_in_order_and_not_copied() -> None:
    rows = table([(1, 2000), (0, 2000), (1, 2000)])
    sorted_rows = by_bucket(rows)
    assert [chunk["number"][0].as_py() for chunk in sorted_rows.to_batches()] == [2000, 0, 4000]
    addresses = {chunk.buffers()[1].address for chunk in rows["number"].chunks}
    assert {chunk.buffers()[1].address for chunk in sorted_rows["number"].chunks} <= addresses
    assert by_bucket(sorted_rows) is sorted_rows


def test_short_runs_become_one_batch() -> None:
    (batch,) = by_bucket(table([(n % 3, 5) for n in range(30)])).to_batches()
    assert batch["bucket"].to_pylist() == sorted(batch["bucket"].to_pylist())


def test_of_short_runs_beside_long_ones_only_they_are_copied() -> None:
    rows = table([*((n % 3, 1) for n in range(900)), (1, 4000), (0, 4000), (2, 4000)])
    rows = pa.concat_tables([rows.slice(0, 900).combine_chunks(), rows.slice(900)])
    found = by_bucket(rows)
    assert found.combine_chunks() == rows.sort_by([("bucket", "ascending"), ("number", "ascending")])
    assert [(len(chunk), chunk["bucket"][0].as_py()) for chunk in found.to_batches()] == [
        (size, bucket) for bucket in range(3) for size in (300, 4000)
    ]
    given = {chunk.buffers()[1].address for chunk in rows["number"].chunks if len(chunk) == 4000}
    assert given < {chunk.buffers()[1].address for chunk in found["number"].chunks}
