"""Rows of a bucket brought together, so that readers of some buckets skip row groups of a file.

A sort in DuckDB turns all columns into rows and back. Records come by partition, which is their bucket, so that mostly
whole runs need only be put in another order.
"""

import numpy as np
import pyarrow as pa

_SHORT_RUN = 1024
"""Rows; shorter runs on average are copied into one, for readers take an Arrow batch at a time."""


def by_bucket(rows: pa.Table) -> pa.Table:
    """The rows in the order of their `bucket`, those of one bucket in the order that they had."""
    if rows.num_rows < 2:
        return rows
    buckets = rows["bucket"].to_numpy()
    starts = np.flatnonzero(np.diff(buckets, prepend=buckets[0] - 1))
    order = np.argsort(buckets[starts], kind="stable")
    if (np.diff(order) == 1).all():
        return rows
    if len(starts) * _SHORT_RUN > rows.num_rows:
        # From one chunk: what is taken from many costs more, nested columns above all.
        return rows.combine_chunks().take(pa.array(np.argsort(buckets, kind="stable")))
    ends = np.append(starts[1:], rows.num_rows)
    return pa.concat_tables([rows.slice(starts[run], ends[run] - starts[run]) for run in order])
