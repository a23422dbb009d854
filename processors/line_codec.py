"""Charged lines: what stage A derives and stage C, the one by article, reads, as blocks (processors/block_codec.py).

The owner is the article, so that all lines of an article lie in one partition: that of its SKU, where the source's
article ids are texts. Of a line that is gone (`deleted`) account, day, quantity and price are null.
"""

import pyarrow as pa
import pyarrow.compute as pc

from processors.block_codec import BlockKind
from processors.lake_tables import ITEM_LOG

LINE_SCHEMA = pa.schema([f for f in ITEM_LOG.schema if f.name not in ("epoch", "known_date")])
"""The columns of decoded lines."""

_ALWAYS = ("item_id", "invoice_id", "deleted", "line_version", "invoice_bucket")
_OF_LIVE_LINES = ("account_id", "date_issued", "quantity")


def _faulty(rows: pa.Table) -> pa.BooleanArray:
    """A value is missing, or a line that is gone has some."""
    wrong = pc.and_(rows["deleted"], pc.is_valid(rows["price"]))
    for name in _OF_LIVE_LINES:
        wrong = pc.or_(wrong, pc.equal(pc.is_valid(rows[name]), rows["deleted"]))
    for name in _ALWAYS:
        wrong = pc.or_kleene(wrong, pc.is_null(rows[name]))
    return wrong.combine_chunks()


LINE_BLOCKS = BlockKind("charged lines", LINE_SCHEMA, "item_id", _faulty)
