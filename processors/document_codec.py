"""Invoice documents: what stage A derives and stage B reads, as blocks (processors/block_codec.py).

The owner is the account, so that a document lies in its account's partition.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from processors.block_codec import BlockKind
from processors.lake_tables import ACCOUNT_LOG

DOCUMENT_SCHEMA = pa.schema(
    [
        ACCOUNT_LOG.schema.field(name)
        for name in (
            "bucket",
            "row_offset",
            "account_id",
            "invoice_id",
            "document_state",
            "document_version",
            "account_since",
            "invoice_bucket",
            "date_issued",
            "payment_dates",
            "inv_total",
            "inv_items",
            "unpriced_lines",
            "lines",
            "source_ts",
        )
    ]
)
"""The columns of decoded documents."""

_NULLABLE = ("date_issued", "payment_dates", "source_ts")
_STATES = pa.array(["live", "left", "deleted"])


def _faulty(rows: pa.Table) -> pa.BooleanArray:
    """A value is missing, the state is none, or counts are not those of the lines."""
    lines = rows["lines"].combine_chunks()
    each = lines.flatten()
    item, quantity, price = (each.field(name) for name in ("item_id", "quantity", "price"))
    sizes = pc.fill_null(pc.list_value_length(lines), 0).to_numpy()
    unusable = pc.or_(pc.is_null(each), pc.or_(pc.is_null(item), pc.is_null(quantity)))
    wrong = pc.invert(pc.is_in(rows["document_state"], _STATES))
    for name in rows.schema.names:
        if name not in _NULLABLE:
            wrong = pc.or_(wrong, pc.is_null(rows[name]))
    for column, values in (
        (None, unusable.cast(pa.int64())),
        ("unpriced_lines", pc.is_null(price).cast(pa.int64())),
        ("inv_items", pc.fill_null(quantity, 0)),
    ):
        sums = pa.array(_sums(values.to_numpy(), sizes))
        wrong = pc.or_(wrong, pc.not_equal(sums, 0 if column is None else pc.fill_null(rows[column], 0)))
    return wrong.combine_chunks()


Integers = npt.NDArray[np.int64]


def _sums(values: Integers, sizes: Integers) -> Integers:
    """The sums of consecutive runs of these sizes."""
    through = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=through[1:])
    ends = np.cumsum(sizes)
    sums: Integers = through[ends] - through[ends - sizes]
    return sums


DOCUMENT_BLOCKS = BlockKind("invoice documents", DOCUMENT_SCHEMA, "account_id", _faulty)
