"""Rows of a bucket brought together, so that readers of some buckets skip row groups of a file.

A sort in DuckDB turns all columns into rows and back. Records come by partition, which is their bucket, so that mostly
whole runs need only be put in another order.
"""

from collections.abc import Sequence
from itertools import chain
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_SHORT_RUN = 1024
"""Rows; shorter runs on average are copied into one, for readers take an Arrow batch at a time."""


def by_bucket(rows: pa.Table) -> pa.Table:
    """The rows in the order of their `bucket`, those of one bucket in the order that they had."""
    buckets = rows["bucket"].to_numpy()
    if (np.diff(buckets) >= 0).all():
        return rows
    batches = rows.to_batches()
    pieces = list(chain.from_iterable(map(_pieces, batches))) if _are_long(batches, rows) else []
    if not pieces or not _are_long(pieces, rows):
        # From one chunk: what is taken from many costs more, nested columns above all.
        return rows.combine_chunks().take(pa.array(np.argsort(buckets, kind="stable")))
    return pa.Table.from_batches([batch for _, batch in sorted(pieces, key=itemgetter(0))], rows.schema)


def _are_long(parts: Sequence[object], rows: pa.Table) -> bool:
    return bool(len(parts) * _SHORT_RUN <= rows.num_rows)


def _pieces(batch: pa.RecordBatch) -> list[tuple[int, pa.RecordBatch]]:
    """The runs of a batch with their buckets. Where they are short the batch is sorted first."""
    buckets = batch["bucket"].to_numpy()
    starts = _starts(buckets)
    if len(starts) * _SHORT_RUN > batch.num_rows:
        order = np.argsort(buckets, kind="stable")
        batch, buckets = batch.take(pa.array(order)), buckets[order]
        starts = _starts(buckets)
    ends = np.append(starts[1:], batch.num_rows)
    return [(int(buckets[start]), batch.slice(start, end - start)) for start, end in zip(starts, ends, strict=True)]


def _starts(buckets: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Where runs of equal buckets begin."""
    return np.flatnonzero(np.diff(buckets, prepend=buckets[:1] - 1))
